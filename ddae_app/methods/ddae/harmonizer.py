"""The Disentangled Diffusion Autoencoder as a harmonizer."""

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
from ddae_app.methods.base import check_images, check_request, in_brain, training_data
from ddae_app.methods.compatibility import FEWEST_TO_ADAPT, too_few_to_adapt
from ddae_app.methods.condition import label_blind, make_condition
from ddae_app.methods.data import check_shape
from ddae_app.methods.ddae.appearance import Appearance, measure_appearance, stack_appearances
from ddae_app.methods.ddae.bundle import (
    Bundle,
    load_appearance,
    load_bundle,
    save_appearance,
    save_bundle,
)
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.ddae.presets import PRESETS, Preset
from ddae_app.methods.ddae.render import STEPS, render
from ddae_app.methods.device import resolve_device
from ddae_app.settings import CHOICES, Protocol


@dataclass(frozen=True)
class DDAEHarmonizer:
    """Scans plus what a DDAE changes between the source site and the target site.

    Deterministic: there is no random draw in :meth:`transform`.

    Attributes
    ----------
    bundle : Bundle, optional
        The trained model; :meth:`fit` or :meth:`load` supply it.
    steps : int
        Noise levels; there are two network evaluations per level and slice.
    unseen_site : {'refuse', 'agnostic', 'adapt'}
        What to do with a source site that the model does not know. ``refuse`` is an error.
        ``agnostic`` uses the code of an unknown site and the appearance of each scan alone, which
        removes some between-subject variation. ``adapt`` uses the appearance of the site, which
        :meth:`adapted` measures in its scans.
    appearances : mapping of str to Appearance
        Sites that :meth:`adapted` measured.
    keep_noise : bool
        Whether to leave each scan the noise that it has. By default the rendered slices are
        denoised by as much noise as they have, those of the target site too, since noise shows the
        scanner.
    use_covariates : bool
        Whether age and sex, where given, enter both renderings. By default they do not: a decoder
        that is given the age writes it into the image.
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
    appearances: Mapping[str, Appearance] = field(default_factory=dict)
    keep_noise: bool = False
    use_covariates: bool = False
    batch_size: int = 8
    device: str = 'auto'
    preset: Preset = PRESETS['tiny']
    protocol: Protocol = field(default_factory=Protocol)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unseen_site not in CHOICES['unseen_site']:
            raise UsageError(
                f'--unseen-site {self.unseen_site!r}; choose among '
                f'{", ".join(CHOICES["unseen_site"])}'
            )
        if self.steps < 1 or self.batch_size < 1:
            raise UsageError(
                f'steps is {self.steps} and batch_size {self.batch_size}; give at least 1'
            )

    @property
    def info(self) -> DDAEInfo:
        """What the model file says of itself."""
        return self._fitted().info

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the model; any of them can be a target."""
        return self.info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> DDAEHarmonizer:
        """A copy with a model trained on these slices.

        Raises
        ------
        UsageError
            If a slice has no site or no subject, or the scans are of another shape than
            ``protocol`` says or ``preset`` takes.
        """
        from ddae_app.methods.ddae.train import train  # which harmonizing does not need

        data, device = training_data(images, cohort), resolve_device(self.device)
        check_shape(data.images.shape[1:], self.protocol)
        with tempfile.TemporaryDirectory() as folder:
            path = train(
                data,
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
        scans = self._scans(images)
        ages = labels.ages if self.use_covariates else np.full(n, np.nan)
        sexes = labels.sexes if self.use_covariates else (None,) * n
        sites = self._site_indices(labels.sites)
        self._check_null_tokens(ages, sexes, sites)
        source = make_condition(ages, sexes, sites)
        target = make_condition(ages, sexes, [info.sites.index(target_site)] * n)
        device = bundle.model.device
        out, at_once = np.empty_like(scans), max(1, self.batch_size // config.depth)
        for i in range(0, n, at_once):
            rows = slice(i, i + at_once)
            y = render(
                bundle.model,
                # Contiguous, for PyTorch takes no images that are turned round.
                torch.tensor(np.ascontiguousarray(scans[rows]), device=device),
                source[rows].to(device),
                target[rows].to(device),
                self.steps,
                self._appearances_of(scans[rows], labels.sites[rows]),
                keep_noise=self.keep_noise,
                batch_size=self.batch_size,
            )
            out[rows] = y.cpu().numpy()
        return in_brain(out.reshape(images.shape), images)

    def adapted(self, images: np.ndarray, site: str, subjects: Sequence[str]) -> DDAEHarmonizer:
        """A copy that also knows the appearance of a site that the model was not trained on.

        Nothing is trained. :func:`~ddae_app.methods.ddae.appearance.measure_appearance` attributes
        the mean of the scans to the site, so their subjects should be like those of the training
        sites.

        Parameters
        ----------
        images : np.ndarray, shape (N, H, W) or (N, D, H, W), float32, range [0, 1]
            Of the site.
        site : str
        subjects : sequence of str, length N
            The subject of each image.

        Raises
        ------
        UsageError
            If they are of fewer than ``FEWEST_TO_ADAPT`` subjects, the lengths differ, or the
            images are none that :meth:`transform` takes.
        """
        appearance = self._measured_site(images, site, subjects)
        return replace(self, appearances={**self.appearances, site: appearance})

    def measure_site(
        self, images: np.ndarray, site: str, subjects: Sequence[str], path: Path
    ) -> None:
        """Write the appearance of a site to a file; parameters and errors as :meth:`adapted`."""
        save_appearance(path, self._measured_site(images, site, subjects))

    def with_site(self, site: str, path: Path) -> DDAEHarmonizer:
        """A copy that also knows a site that :meth:`measure_site` measured."""
        appearance = load_appearance(path, self._fitted().model.device)
        return replace(self, appearances={**self.appearances, site: appearance})

    def facts(self) -> dict[str, Any]:
        """What was done, for sidecars."""
        return {
            'SamplingSteps': self.steps,
            'Denoised': not self.keep_noise,
            'LabelBlind': not self.use_covariates,
        }

    def save(self, path: str | Path) -> None:
        """Write the model to one file."""
        bundle = self._fitted()
        save_bundle(path, bundle.model, bundle.info)

    @classmethod
    def load(cls, path: str | Path, *, device: str = 'auto', **options: Any) -> DDAEHarmonizer:
        """From a model file; each file is read once per process and device.

        A model without null tokens, such as preset ``paper``, cannot do without age and sex: it
        is given them, and its outputs say so (``LabelBlind: false``).

        Parameters
        ----------
        path : path
        device : str
        **options
            ``steps``, ``unseen_site``, ``keep_noise`` and ``batch_size``, as the attributes.

        Raises
        ------
        ModelError
            If the file is unusable.
        UsageError
            If the device is not there.
        """
        path = Path(path)
        version: tuple[int, int] = (0, 0)
        if path.is_file():  # if not, load_bundle says so
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
        bundle = _cached_bundle(str(path.resolve()), version, str(resolve_device(device)))
        needs_labels = bundle.info.uses_covariates
        return cls(bundle=bundle, device=device, use_covariates=needs_labels, **options)

    def _fitted(self) -> Bundle:
        if self.bundle is None:
            raise UsageError('this DDAE has no model yet; call fit or load first')
        return self.bundle

    def _scans(self, images: np.ndarray) -> np.ndarray:
        """Images as scans (N, D, H, W) of the size that the model takes."""
        info = self._fitted().info
        scans = images[:, None] if images.ndim == 3 else images
        expected = info.config.depth, info.config.image_size, info.config.image_size
        if scans.shape[1:] != expected:
            raise UsageError(
                f'images are {scans.shape[1:]} (slices, rows, columns), the model {info.name!r} '
                f'takes {expected}; preprocess with the protocol of the model'
            )
        return scans

    def _measured_site(self, images: np.ndarray, site: str, subjects: Sequence[str]) -> Appearance:
        check_images(images)
        if len(subjects) != len(images):
            raise UsageError(
                f'{len(images)} images of {len(subjects)} subjects; give the subject of each image'
            )
        count = len(set(subjects))
        if count < FEWEST_TO_ADAPT:
            raise UsageError(too_few_to_adapt(site, count))
        return self._measured(self._scans(images), count)

    def _measured(self, scans: np.ndarray, subjects: int) -> Appearance:
        model = self._fitted().model
        return measure_appearance(model.config, model.appearance, scans, subjects)

    def _site_indices(self, sources: Sequence[str]) -> list[int]:
        known = self.info.source_sites
        unseen = sorted(set(sources) - set(known))
        if unseen and self.unseen_site == 'refuse':
            raise UsageError(
                f'source site {", ".join(unseen)} was not seen in training; the model knows '
                f'{", ".join(known) or "none"}; give --unseen-site agnostic or adapt'
            )
        unmeasured = sorted(set(unseen) - set(self.appearances))
        if unmeasured and self.unseen_site == 'adapt':
            raise UsageError(
                f'source site {", ".join(unmeasured)} was not seen in training, nor were its '
                'scans given to adapt to; give them, or --unseen-site agnostic'
            )
        return [self.sites.index(s) if s in known else -1 for s in sources]

    def _appearances_of(self, scans: np.ndarray, sources: Sequence[str]) -> Appearance:
        """The appearance of each scan: that of its site or, where that is unknown, its own."""
        model, known, rows = self._fitted().model, self.info.source_sites, []
        for scan, source in zip(scans, sources, strict=True):
            if source in known:
                site = label_blind([self.sites.index(source)]).to(model.device)
                rows.append(model.appearance_of(site, scans.shape[1]))
            elif self.unseen_site == 'adapt':
                rows.append(self.appearances[source])
            else:
                rows.append(self._measured(scan[None], 1))
        return stack_appearances(rows)

    def _check_null_tokens(
        self, ages: np.ndarray, sexes: Sequence[str | None], sites: Sequence[int]
    ) -> None:
        info = self._fitted().info
        needs = bool(np.isnan(ages).any()) or None in sexes or -1 in sites
        if needs and info.config.condition_dropout == 0:
            raise ModelError(
                f'the model {info.name!r} was trained without condition dropout, so it cannot '
                'do without age, sex and site; fill in all three in participants.tsv, or give '
                'another model'
            )


@lru_cache(maxsize=2)
def _cached_bundle(path: str, version: tuple[int, int], device: str) -> Bundle:
    """``version`` (modification time and size) makes a file that changed be read again."""
    return load_bundle(path, device)
