"""The conditional variational autoencoder as a harmoniser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

from ddae_app.errors import ModelError, UsageError
from ddae_app.files import write_atomically
from ddae_app.harmonize.base import check_request, model_info, training_data
from ddae_app.harmonize.device import resolve_device
from ddae_app.model.cvae import CVAE
from ddae_app.model.info import ADVICE, CVAEInfo, metadata_of, open_bundle, parse_info
from ddae_app.model.presets import CVAEConfig
from ddae_app.settings import Protocol
from ddae_app.training.baselines import train_cvae
from ddae_app.training.dataset import make_condition

IMAGES = 64_000


@dataclass(frozen=True)
class CVAEHarmonizer:
    """What a conditional variational autoencoder makes of a slice when it is told another site.

    It is the paper's baseline, and as blurred as such autoencoders are: what the output shows is
    what its 128 numbers remember of the scan.

    Attributes
    ----------
    network : CVAE or None
        None before :meth:`fit` or :meth:`load`.
    known : CVAEInfo or None
    protocol : Protocol
        How the images that it is fitted to were preprocessed.
    images : int
        To be seen in training.
    batch_size : int
        Slices at once.
    device : str
        See :func:`~ddae_app.harmonize.device.resolve_device`.
    seed : int
    progress : callable, optional
        Told the images seen, the loss and the seconds left in training.
    """

    network: CVAE | None = None
    known: CVAEInfo | None = None
    protocol: Protocol = field(default_factory=Protocol)
    images: int = IMAGES
    batch_size: int = 8
    device: str = 'auto'
    seed: int = 0
    progress: Callable[[int, float, float], None] | None = None

    @property
    def info(self) -> CVAEInfo:
        """What the model file tells of itself."""
        return self._ready()[0]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that it was trained on; any of them can be a target."""
        return self.info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> CVAEHarmonizer:
        """A copy with a network trained on these slices.

        Raises
        ------
        UsageError
            If the scans have more than one slice.
        """
        data = training_data(images, cohort)
        if data.depth > 1:
            raise UsageError(
                f'scans of {data.depth} slices, and a cVAE takes one; give --slices medial'
            )
        config = CVAEConfig(image_size=data.images.shape[-1])
        network = train_cvae(
            data, config, self.images, device=resolve_device(self.device), seed=self.seed,
            progress=self.progress,
        )  # fmt: skip
        plain = vars(model_info('cvae', data, self.protocol))
        known = CVAEInfo(
            **plain | {
                'training': replace(plain['training'], images_seen=self.images, seed=self.seed),
                'versions': plain['versions'] | {'torch': torch.__version__},
            },
            config=config,
            age_mean=network.age_mean,
            age_sd=network.age_sd,
        )  # fmt: skip
        return replace(self, network=network, known=known)

    @torch.inference_mode()
    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.harmonize.base.Harmonizer`.

        Raises
        ------
        UsageError
            If a source site is not one that it was trained on, or the images have another size.
        """
        info, network = self._ready()
        labels = check_request(images, cohort, target_site, info.sites)
        unseen = sorted(set(labels.sites) - set(info.sites))
        if unseen:
            raise UsageError(
                f'source site {", ".join(unseen)} is not among those that the cVAE was trained '
                f'on: {", ".join(info.sites)}; give --source-site, or another model'
            )
        size = info.config.image_size
        x = torch.from_numpy(
            np.ascontiguousarray(images).reshape(len(images), -1, *images.shape[-2:])
        )
        if x.shape[1:] != (1, size, size):
            raise UsageError(
                f'images are {tuple(x.shape[1:])} (slices, rows, columns), the cVAE takes '
                f'{(1, size, size)}; preprocess with the protocol of the model'
            )
        device = next(network.parameters()).device
        numbers = [info.sites.index(site) for site in labels.sites]
        source = make_condition(labels.ages.tolist(), labels.sexes, numbers)
        wanted = [info.sites.index(target_site)] * len(images)
        target = make_condition(labels.ages.tolist(), labels.sexes, wanted)
        out = np.empty(tuple(x.shape), np.float32)
        for i in range(0, len(x), self.batch_size):
            rows = slice(i, i + self.batch_size)
            z, _ = network.encode(x[rows].to(device), source[rows].to(device))
            out[rows] = network.decode(z, target[rows].to(device)).cpu().numpy()
        return np.where(images > 0, out.reshape(images.shape).clip(0), 0).astype(np.float32)

    def prepared(
        self, *, unseen_site: str, keep_noise: bool, batch_size: int, steps: int | None = None
    ) -> CVAEHarmonizer:
        """A copy for one request."""
        return replace(self, batch_size=batch_size)

    def facts(self) -> dict[str, Any]:
        """What was done, for sidecars: encoder and decoder are told age and sex."""
        return {'LabelBlind': False}

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file."""
        info, network = self._ready()
        weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        write_atomically(Path(path), save(weights, metadata_of(info)))

    @classmethod
    def load(cls, path: str | Path, device: str = 'auto') -> CVAEHarmonizer:
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
            info = parse_info(path, file.metadata() or {})
            if not isinstance(info, CVAEInfo):
                raise ModelError(f'{path}: a model of {info.method}, where a cVAE is expected')
            found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            sizes = info.config, len(info.sites), info.age_mean, info.age_sd
            with torch.device('meta'):  # shapes only: a hostile configuration costs nothing
                expected = {k: tuple(v.shape) for k, v in CVAE(*sizes).state_dict().items()}
            if found != expected:
                raise ModelError(f'{path}: weights that do not fit the sizes it tells; {ADVICE}')
            weights = {k: file.get_tensor(k) for k in found}
        if not all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values()):
            raise ModelError(f'{path}: weights that are not finite float32; {ADVICE}')
        network = CVAE(*sizes)
        network.load_state_dict(weights)
        network = network.to(resolve_device(device)).eval().requires_grad_(False)
        return cls(network, info, info.protocol, device=device)

    def _ready(self) -> tuple[CVAEInfo, CVAE]:
        if self.known is None or self.network is None:
            raise UsageError('this cVAE has no network yet; call fit or load first')
        return self.known, self.network
