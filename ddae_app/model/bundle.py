"""A trained model as one safetensors file: weights, and all that is needed to use them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ddae_app.errors import ModelError
from ddae_app.files import write_atomically
from ddae_app.model.ddae import DDAE
from ddae_app.model.presets import ModelConfig
from ddae_app.model.records import from_json
from ddae_app.settings import Protocol

FORMAT_VERSION = 1
"""Raised whenever an older program could no longer read a bundle correctly."""

METADATA_KEY = 'ddae'
MAX_METADATA = 4_000_000
MAX_SITES = 1000
ADVICE = 'give another model, or copy or train this one again'


@dataclass(frozen=True)
class SiteQuantiles:
    """Brain intensities of each site, for figures.

    Attributes
    ----------
    levels : tuple of float, length Q
        Quantile levels, 0 to 1, of the non-zero pixels of one scan.
    low, median, high : tuple of tuple of float, shape (S, Q)
        25th, 50th and 75th percentile, across the site's scans, of each quantile.
    """

    levels: tuple[float, ...]
    low: tuple[tuple[float, ...], ...]
    median: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TrainingRecord:
    """How a model came about.

    Attributes
    ----------
    dataset : str
        Name of the training dataset.
    scans_per_site : tuple of int, length S
        Training scans, without those held out for validation.
    seed : int
    images_seen : int
    train_loss, validation_loss : float or None
        Last row of ``losses.tsv``; there is no validation loss if no subject was held out.
    """

    dataset: str
    scans_per_site: tuple[int, ...]
    seed: int
    images_seen: int
    train_loss: float | None
    validation_loss: float | None


@dataclass(frozen=True)
class BundleInfo:
    """Everything in a bundle but the weights.

    Attributes
    ----------
    name : str
    config : ModelConfig
    sites : tuple of str, length S
        In the order of the network's site codes.
    age_mean, age_sd : float
        Years.
    protocol : Protocol
        The preprocessing that the model expects of its input.
    quantiles : SiteQuantiles
    training : TrainingRecord
    versions : dict of str
        Of ``ddae-app`` and ``torch`` at training time.
    phantom : bool
        Trained on simulated images; no use for real ones.
    notes : str
        Licence and provenance, for people.

    Raises
    ------
    ModelError
        If the parts contradict each other or are out of range.
    """

    name: str
    config: ModelConfig
    sites: tuple[str, ...]
    age_mean: float
    age_sd: float
    protocol: Protocol
    quantiles: SiteQuantiles
    training: TrainingRecord
    versions: dict[str, str]
    phantom: bool
    notes: str = ''

    def __post_init__(self) -> None:
        n, q, size = len(self.sites), len(self.quantiles.levels), self.config.image_size
        tables = (self.quantiles.low, self.quantiles.median, self.quantiles.high)
        checks = {
            f'{n} sites; 1 to {MAX_SITES} are allowed': 1 <= n <= MAX_SITES,
            'site names that are empty or repeated': len({s for s in self.sites if s}) == n,
            f'an age_sd of {self.age_sd}; it must be above 0': self.age_sd > 0,
            f'slices of {self.protocol.slice_shape} for a network of {size}': (
                tuple(self.protocol.slice_shape) == (size, size)
            ),
            'intensity quantiles that do not fit its sites': all(
                len(table) == n and all(len(row) == q for row in table) for table in tables
            ),
            'scan counts that do not fit its sites': len(self.training.scans_per_site) == n,
        }
        for found, fine in checks.items():
            if not fine:
                raise ModelError(f'the model {self.name!r} has {found}')

    def build(self) -> DDAE:
        """A network of this shape, with random weights."""
        return DDAE(self.config, len(self.sites), self.age_mean, self.age_sd)


@dataclass(frozen=True)
class Bundle:
    """A model ready for use.

    Attributes
    ----------
    model : DDAE
        In evaluation mode.
    info : BundleInfo
    path : Path
    sha256 : str
        Of the whole file.
    """

    model: DDAE
    info: BundleInfo
    path: Path
    sha256: str


def save_bundle(path: str | os.PathLike, model: DDAE, info: BundleInfo) -> None:
    """Write a bundle, whole or not at all; the same content gives the same bytes.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    model : DDAE
        Its (moving-average) weights are stored as float32.
    info : BundleInfo
    """
    weights = {k: v.detach().cpu().float().contiguous() for k, v in model.state_dict().items()}
    header = {'format_version': FORMAT_VERSION, 'info': asdict(info)}
    # One key only: safetensors does not promise an order among several.
    metadata = {METADATA_KEY: json.dumps(header, sort_keys=True, allow_nan=False)}
    write_atomically(Path(path), save(weights, metadata))


def read_bundle_info(path: str | os.PathLike) -> BundleInfo:
    """Everything but the weights; reads only the head of the file.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not a bundle, of another format version or
        inconsistent; one line, with what to do.
    """
    path = Path(path)
    with _open(path) as file:
        return _parse(path, file.metadata() or {})


def load_bundle(path: str | os.PathLike, device: torch.device | str = 'cpu') -> Bundle:
    """Read a model, checking everything before memory is given to it.

    Parameters
    ----------
    path : path
    device : torch.device

    Raises
    ------
    ModelError
        As :func:`read_bundle_info`, or if the weights do not fit the configuration or are not
        finite.
    """
    path = Path(path)
    with _open(path) as file:
        info = _parse(path, file.metadata() or {})
        found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
        with torch.device('meta'):  # shapes only, so that a hostile configuration costs nothing
            expected = {k: tuple(v.shape) for k, v in info.build().state_dict().items()}
        if found != expected:
            wrong = sorted(found.items() ^ expected.items())[0][0]
            raise ModelError(
                f'{path}: weight {wrong!r} has shape {found.get(wrong)}, but the configuration '
                f'in the file needs {expected.get(wrong)}; {ADVICE}'
            )
        weights = {k: file.get_tensor(k) for k in found}
    for name, weight in weights.items():
        if weight.dtype != torch.float32 or not weight.isfinite().all():
            raise ModelError(f'{path}: weight {name!r} is not finite float32; {ADVICE}')
    model = info.build()
    model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    with path.open('rb') as raw:
        sha256 = hashlib.file_digest(raw, 'sha256').hexdigest()
    # Channels last: measured 15 % faster on a CPU.
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Bundle(model, info, path, sha256)


def _open(path: Path):  # noqa: ANN202 - safetensors does not export the type
    if not path.is_file():
        raise ModelError(f'{path}: no such model file; check the path given as --model')
    try:
        return safe_open(path, framework='pt')
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f'{path}: not a safetensors file, or truncated ({error}); {ADVICE}'
        ) from error


def _parse(path: Path, metadata: dict[str, str]) -> BundleInfo:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f'{path}: safetensors, but not a ddae-app model (no {METADATA_KEY!r} metadata); '
            'give a file written by ddae-app train'
        )
    try:
        if len(text) > MAX_METADATA:
            raise ModelError(f'metadata of {len(text)} bytes; at most {MAX_METADATA} are allowed')
        header = json.loads(text)
        version = header['format_version']
        if version != FORMAT_VERSION:
            raise ModelError(
                f'format version {version}, but this ddae-app reads {FORMAT_VERSION}; '
                'use the ddae-app that wrote the model, or train it again'
            )
        return from_json(BundleInfo, header['info'], 'info')
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f'{path}: metadata that cannot be read ({error!r}); {ADVICE}') from error
