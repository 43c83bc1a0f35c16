"""The paper's baselines that are networks, as harmonisers: the cVAE and the style-encoding GAN."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

from ddae_app.errors import ModelError, UsageError
from ddae_app.files import write_atomically
from ddae_app.methods.base import check_request, model_info, training_data
from ddae_app.methods.baseline_training import Course, train_cvae, train_style_gan
from ddae_app.methods.cvae import CVAE
from ddae_app.methods.data import SliceData, make_condition
from ddae_app.methods.ddae.config import CVAEConfig, StyleGANConfig
from ddae_app.methods.device import resolve_device
from ddae_app.methods.modelfile import (
    ADVICE,
    CVAEInfo,
    SliceNetworkInfo,
    StyleGANInfo,
    metadata_of,
    open_bundle,
    parse_info,
)
from ddae_app.methods.style_gan import StyleGAN
from ddae_app.settings import Protocol

IMAGES = 64_000

Network = TypeVar('Network', CVAE, StyleGAN)
Info = TypeVar('Info', bound=SliceNetworkInfo)


@dataclass(frozen=True)
class NetworkHarmonizer(ABC, Generic[Network, Info]):
    """A network that draws a slice anew when it is told another site.

    Attributes
    ----------
    model : CVAE or StyleGAN or None
        None before :meth:`fit` or :meth:`load`.
    known : SliceNetworkInfo or None
    protocol : Protocol
        How the images that it is fitted to were preprocessed.
    images : int
        To be seen in training.
    batch_size : int
        Slices at once.
    device : str
        See :func:`~ddae_app.methods.device.resolve_device`.
    seed : int
    progress : callable, optional
        Told the images seen, the loss and the seconds left in training.
    """

    method: ClassVar[str]
    label_blind: ClassVar[bool]
    """Whether age and sex play no part."""

    model: Network | None = None
    known: Info | None = None
    protocol: Protocol = field(default_factory=Protocol)
    images: int = IMAGES
    batch_size: int = 8
    device: str = 'auto'
    seed: int = 0
    progress: Callable[[int, float, float], None] | None = None

    @staticmethod
    @abstractmethod
    def build(info: Info) -> Network:
        """A network of these sizes."""

    @staticmethod
    @abstractmethod
    def train(data: SliceData, course: Course) -> tuple[Network, dict[str, Any]]:
        """A trained network, and what its model file tells beside what all tell."""

    @property
    def info(self) -> Info:
        """What the model file tells of itself."""
        return self._ready()[0]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that it was trained on; any of them can be a target."""
        return self.info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> Self:
        """A copy with a network trained on these slices.

        Raises
        ------
        UsageError
            If the scans have more than one slice.
        """
        data = training_data(images, cohort)
        if data.depth > 1:
            raise UsageError(
                f'scans of {data.depth} slices, and a {self.method} takes one; give --slices '
                'medial'
            )
        course = Course(self.images, resolve_device(self.device), self.seed, self.progress)
        model, own = self.train(data, course)
        plain = dict(vars(model_info(self.method, data, self.protocol)))
        plain['training'] = replace(plain['training'], images_seen=self.images, seed=self.seed)
        plain['versions'] = plain['versions'] | {'torch': torch.__version__}
        kind: Any = INFOS[self.method]
        return replace(self, model=model, known=kind(**plain, **own))

    @torch.inference_mode()
    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.methods.base.Harmonizer`.

        Raises
        ------
        UsageError
            If a source site is not one that it was trained on, or the images have another size.
        """
        info, model = self._ready()
        labels = check_request(images, cohort, target_site, info.sites)
        unseen = sorted(set(labels.sites) - set(info.sites))
        if unseen:
            raise UsageError(
                f'source site {", ".join(unseen)} is not among those that the {self.method} was '
                f'trained on: {", ".join(info.sites)}; give --source-site, or another model'
            )
        size = info.config.image_size
        x = torch.from_numpy(
            np.ascontiguousarray(images).reshape(len(images), -1, *images.shape[-2:])
        )
        if x.shape[1:] != (1, size, size):
            raise UsageError(
                f'images are {tuple(x.shape[1:])} (slices, rows, columns), the {self.method} '
                f'takes {(1, size, size)}; preprocess with the protocol of the model'
            )
        device = next(model.parameters()).device
        numbers = [info.sites.index(site) for site in labels.sites]
        source = make_condition(labels.ages.tolist(), labels.sexes, numbers)
        wanted = [info.sites.index(target_site)] * len(images)
        target = make_condition(labels.ages.tolist(), labels.sexes, wanted)
        out = np.empty(tuple(x.shape), np.float32)
        for i in range(0, len(x), self.batch_size):
            rows = slice(i, i + self.batch_size)
            facts = (condition[rows].to(device) for condition in (source, target))
            out[rows] = model.render(x[rows].to(device), *facts).cpu().numpy()
        return np.where(images > 0, out.reshape(images.shape).clip(0), 0).astype(np.float32)

    def prepared(
        self, *, unseen_site: str, keep_noise: bool, batch_size: int, steps: int | None = None
    ) -> Self:
        """A copy for one request."""
        return replace(self, batch_size=batch_size)

    def facts(self) -> dict[str, Any]:
        """What was done, for sidecars."""
        return {'LabelBlind': self.label_blind}

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file."""
        info, model = self._ready()
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        write_atomically(Path(path), save(weights, metadata_of(info)))

    @classmethod
    def load(cls, path: str | Path, device: str = 'auto') -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelError
            If the file is no such thing, or its weights do not fit its sizes.
        UsageError
            If the device is not there.
        """
        path = Path(path)
        with open_bundle(path, 'pt') as file:
            info: Any = parse_info(path, file.metadata() or {})
            if info.method != cls.method:
                raise ModelError(
                    f'{path}: a model of {info.method}, where a {cls.method} is expected'
                )
            found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            with torch.device('meta'):  # shapes only: a hostile configuration costs nothing
                expected = {k: tuple(v.shape) for k, v in cls.build(info).state_dict().items()}
            if found != expected:
                raise ModelError(f'{path}: weights that do not fit the sizes it tells; {ADVICE}')
            weights = {k: file.get_tensor(k) for k in found}
        if not all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values()):
            raise ModelError(f'{path}: weights that are not finite float32; {ADVICE}')
        model = cls.build(info)
        model.load_state_dict(weights)
        model = model.to(resolve_device(device)).eval().requires_grad_(False)
        return cls(model, info, info.protocol, device=device)

    def _ready(self) -> tuple[Info, Network]:
        if self.known is None or self.model is None:
            raise UsageError(f'this {self.method} has no network yet; call fit or load first')
        return self.known, self.model


INFOS: dict[str, type[SliceNetworkInfo]] = {'cvae': CVAEInfo, 'style-gan': StyleGANInfo}


class CVAEHarmonizer(NetworkHarmonizer[CVAE, CVAEInfo]):
    """What a conditional variational autoencoder makes of a slice when it is told another site.

    It is as blurred as such autoencoders are: what the output shows is what its 128 numbers
    remember of the scan.
    """

    method = 'cvae'
    label_blind = False

    @staticmethod
    def build(info: CVAEInfo) -> CVAE:
        """A network of these sizes."""
        return CVAE(info.config, len(info.sites), info.age_mean, info.age_sd)

    @staticmethod
    def train(data: SliceData, course: Course) -> tuple[CVAE, dict[str, Any]]:
        """A trained network, and what its model file tells beside what all tell."""
        config = CVAEConfig(image_size=data.images.shape[-1])
        model = train_cvae(data, config, course)
        return model, {'config': config, 'age_mean': model.age_mean, 'age_sd': model.age_sd}


class StyleGANHarmonizer(NetworkHarmonizer[StyleGAN, StyleGANInfo]):
    """What a style-encoding GAN makes of a slice in the mean style of another site."""

    method = 'style-gan'
    label_blind = True

    @staticmethod
    def build(info: StyleGANInfo) -> StyleGAN:
        """A network of these sizes."""
        return StyleGAN(info.config, len(info.sites))

    @staticmethod
    def train(data: SliceData, course: Course) -> tuple[StyleGAN, dict[str, Any]]:
        """A trained network, and what its model file tells beside what all tell."""
        config = StyleGANConfig(image_size=data.images.shape[-1])
        return train_style_gan(data, config, course), {'config': config}
