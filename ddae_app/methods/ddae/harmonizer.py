"""The Disentangled Diffusion Autoencoder as a harmoniser."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.base import check_request, training_data
from ddae_app.methods.data import make_condition
from ddae_app.methods.ddae.appearance import Look, stack_looks
from ddae_app.methods.ddae.appearance_fit import measure_look
from ddae_app.methods.ddae.bundle import Bundle, load_bundle, save_bundle
from ddae_app.methods.ddae.config import PRESETS, Preset
from ddae_app.methods.ddae.render import STEPS, render
from ddae_app.methods.ddae.train import train
from ddae_app.methods.device import resolve_device
from ddae_app.methods.find import FEWEST_PEOPLE, too_few_to_adapt
from ddae_app.methods.modelfile import BundleInfo
from ddae_app.settings import Protocol

UNSEEN_SITE = ('refuse', 'agnostic', 'adapt')


@dataclass(frozen=True)
class DDAEHarmonizer:
    """Images plus what a DDAE changes between the source site and the target site.

    Deterministic: there is no random draw in :meth:`transform`.

    Attributes
    ----------
    bundle : Bundle, optional
        The trained model; :meth:`fit` or :meth:`load` supply it.
    steps : int
        Noise levels; there are two network evaluations per level and slice.
    unseen_site : {'refuse', 'agnostic', 'adapt'}
        What to do with a source site that the model does not know: an error; or the code of an
        unknown site, and the look of each scan by itself, at the price of some of what tells
        people apart; or the look of the site, which :meth:`adapted` measures from its scans.
    looks : mapping of str to Look
        Sites that :meth:`adapted` measured.
    keep_noise : bool
        Whether to leave each scan the noise it has. By default the rendered slices are denoised as
        much as they are noisy, those of the target site too: noise tells the scanner.
    use_covariates : bool
        Whether age and sex, where given, enter both decodes. By default they do not: a decoder
        that is told the age writes it into the image.
    batch_size : int
        Slices at once.
    device : str
        See :func:`~ddae_app.methods.device.resolve_device`.
    preset, protocol, seed
        What :meth:`fit` trains, how its images were preprocessed, and its random seed.
    """

    bundle: Bundle | None = None
    steps: int = STEPS
    unseen_site: str = 'refuse'
    looks: Mapping[str, Look] = field(default_factory=dict)
    keep_noise: bool = False
    use_covariates: bool = False
    batch_size: int = 8
    device: str = 'auto'
    preset: Preset = PRESETS['tiny']
    protocol: Protocol = field(default_factory=Protocol)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unseen_site not in UNSEEN_SITE:
            raise UsageError(
                f'--unseen-site {self.unseen_site!r}; choose among {", ".join(UNSEEN_SITE)}'
            )
        if self.steps < 1 or self.batch_size < 1:
            raise UsageError(
                f'steps is {self.steps} and batch_size {self.batch_size}; give at least 1'
            )

    @property
    def info(self) -> BundleInfo:
        """What the model file tells of itself."""
        return self._fitted().info

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the model; any of them can be a target."""
        return self._fitted().info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> DDAEHarmonizer:
        """A copy with a model trained on these slices."""
        device = resolve_device(self.device)
        with tempfile.TemporaryDirectory() as folder:
            path = train(
                training_data(images, cohort),
                self.preset.model,
                self.preset.train,
                self.protocol,
                folder,
                device=device,
                seed=self.seed,
            )
            assert path is not None  # there is no deadline
            return replace(self, bundle=load_bundle(path, device))

    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.methods.base.Harmonizer`.

        Raises
        ------
        UsageError
            If the target is unknown, a source is unknown and ``unseen_site`` is ``refuse``, or
            shapes do not fit.
        ModelError
            If the model was trained without condition dropout, so that it cannot do without the
            covariates or the site.
        """
        bundle = self._fitted()
        info, n, config = bundle.info, len(images), bundle.info.config
        labels = check_request(images, cohort, target_site, info.sites)
        scans = images[:, None] if images.ndim == 3 else images
        expected = config.depth, config.image_size, config.image_size
        if scans.shape[1:] != expected:
            raise UsageError(
                f'images are {scans.shape[1:]} (slices, rows, columns), the model {info.name!r} '
                f'takes {expected}; preprocess with the protocol of the model'
            )
        ages = labels.ages if self.use_covariates else np.full(n, np.nan)
        sexes = labels.sexes if self.use_covariates else (None,) * n
        numbers = self._source_numbers(labels.sites)
        self._check_null_tokens(ages, sexes, numbers)
        source = make_condition(ages.tolist(), sexes, numbers)
        target = make_condition(ages.tolist(), sexes, [info.sites.index(target_site)] * n)
        device = bundle.model.alpha_bar.device
        out, at_once = np.empty_like(scans), max(1, self.batch_size // config.depth)
        for i in range(0, n, at_once):
            rows = slice(i, i + at_once)
            y = render(
                bundle.model,
                torch.tensor(scans[rows], device=device),
                source[rows].to(device),
                target[rows].to(device),
                self.steps,
                self._looks(scans[rows], labels.sites[rows]),
                keep_noise=self.keep_noise,
                batch_size=self.batch_size,
            )
            out[rows] = y.cpu().numpy()
        return out.reshape(images.shape)

    def adapted(self, images: np.ndarray, site: str, subjects: Sequence[str]) -> DDAEHarmonizer:
        """A copy that also knows how a site looks which the model was not trained on.

        Nothing is trained. :func:`~ddae_app.methods.ddae.appearance_fit.measure_look` takes the
        mean of the site's scans for its look, so they should be of people like those of the training sites.

        Parameters
        ----------
        images : np.ndarray, shape (N, H, W) or (N, D, H, W), float32, range [0, 1]
            Of the site.
        site : str
        subjects : sequence of str, length N
            Whose they are.

        Raises
        ------
        UsageError
            If they are of fewer than ``FEWEST_PEOPLE`` people.
        """
        people = len(set(subjects))
        if people < FEWEST_PEOPLE:
            raise UsageError(too_few_to_adapt(site, people))
        scans = images[:, None] if images.ndim == 3 else images
        look = measure_look(self._fitted().model, scans, people)
        return replace(self, looks={**self.looks, site: look})

    def prepared(
        self, *, unseen_site: str, keep_noise: bool, batch_size: int, steps: int | None = None
    ) -> DDAEHarmonizer:
        """A copy for one request; without `steps` it keeps its own.

        A model without null tokens, such as preset ``paper``, cannot do without age and sex: it
        is given them, and its outputs say so (``LabelBlind: false``).
        """
        dropout = self._fitted().info.config.condition_dropout
        return replace(
            self,
            unseen_site=unseen_site,
            keep_noise=keep_noise,
            batch_size=batch_size,
            steps=steps or self.steps,
            use_covariates=dropout == 0,
        )

    def facts(self) -> dict[str, Any]:
        """What was done, for sidecars."""
        return {
            'SamplingSteps': self.steps,
            'Denoised': not self.keep_noise,
            'LabelBlind': not self.use_covariates,
        }

    def save(self, path: str | Path) -> None:
        """Write the model as a bundle."""
        bundle = self._fitted()
        save_bundle(path, bundle.model, bundle.info)

    @classmethod
    def load(cls, path: str | Path, device: str = 'auto') -> DDAEHarmonizer:
        """From a bundle; each file is read once per process and device.

        Raises
        ------
        ModelError
            If the bundle is unusable.
        UsageError
            If the device is not there.
        """
        path = Path(path)
        version: tuple[int, int] = (0, 0)
        if path.is_file():  # if not, load_bundle says so
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
        bundle = _cached_bundle(str(path.resolve()), version, str(resolve_device(device)))
        return cls(bundle=bundle, device=device)

    def _fitted(self) -> Bundle:
        if self.bundle is None:
            raise UsageError('this DDAE has no model yet; call fit or load first')
        return self.bundle

    def _source_numbers(self, sources: Sequence[str]) -> list[int]:
        known = self.sites
        unseen = sorted(set(sources) - set(known))
        if unseen and self.unseen_site == 'refuse':
            raise UsageError(
                f'source site {", ".join(unseen)} was not seen in training; the model knows '
                f'{", ".join(known)}; give --source-site, or --unseen-site agnostic or adapt'
            )
        unmeasured = sorted(set(unseen) - set(self.looks))
        if unmeasured and self.unseen_site == 'adapt':
            raise UsageError(
                f'source site {", ".join(unmeasured)} was not seen in training, nor were its '
                'scans given to adapt to; give them, or --unseen-site agnostic'
            )
        return [known.index(s) if s in known else -1 for s in sources]

    def _looks(self, scans: np.ndarray, sources: Sequence[str]) -> Look:
        """How each scan looks, by its site or, where that is unknown, by itself."""
        model, known, looks = self._fitted().model, self.sites, []
        for scan, source in zip(scans, sources, strict=True):
            if source in known:
                site = make_condition([np.nan], [None], [known.index(source)])
                looks.append(model.look(site.to(model.alpha_bar.device), scans.shape[1]))
            elif self.unseen_site == 'adapt':
                looks.append(self.looks[source])
            else:
                looks.append(measure_look(model, scan[None], 1))
        return stack_looks(looks)

    def _check_null_tokens(
        self, ages: np.ndarray, sexes: Sequence[str | None], sites: Sequence[int]
    ) -> None:
        info = self._fitted().info
        needs = bool(np.isnan(ages).any()) or None in sexes or -1 in sites
        if needs and info.config.condition_dropout == 0:
            raise ModelError(
                f'the model {info.name!r} was trained without condition dropout, so it cannot '
                'do without age, sex and site; give all three (use_covariates) or another model'
            )


@lru_cache(maxsize=2)
def _cached_bundle(path: str, version: tuple[int, int], device: str) -> Bundle:
    """``version`` (modification time and size) makes a file that changed be read again."""
    return load_bundle(path, device)
