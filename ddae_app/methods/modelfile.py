"""What a model file says of itself: read without PyTorch, which takes memory and seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from ddae_app.errors import ModelError
from ddae_app.files import not_fetched
from ddae_app.methods.registry import METHODS, imported, trainable
from ddae_app.settings import CHOICES, MAX_NAME, Protocol, is_name

FORMAT_VERSION = 12
"""Raised whenever an older program could no longer read a model file correctly."""

METADATA_KEY = 'ddae'
MAX_METADATA = 4_000_000
MAX_SITES = 1000
MAX_GRID = 512
"""Voxels along an axis: half a gigabyte for a cube of them."""
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
class ModelIdentity:
    """What distinguishes a model that is to be trained from others.

    Attributes
    ----------
    name : str
        Also the stem of its file.
    dataset : str
        Name of the training dataset.
    phantom : bool
        Trained on simulated images; not suitable for real ones.
    notes : str
        Provenance, for human readers.
    """

    name: str
    dataset: str = 'unknown'
    phantom: bool = False
    notes: str = ''


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained.

    Attributes
    ----------
    dataset : str
        Name of the training dataset.
    subjects_per_site : tuple of int, length S
        Of the training scans, without those held out for validation.
    seed : int
    images_seen : int
    train_loss, validation_loss : float or None
        Last row of ``losses.tsv``; there is no validation loss if no subject was held out.
    """

    dataset: str
    subjects_per_site: tuple[int, ...]
    seed: int
    images_seen: int
    train_loss: float | None
    validation_loss: float | None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What every model file says of itself, whatever the method.

    Attributes
    ----------
    method : str
        A key of :data:`ddae_app.methods.registry.METHODS`.
    name : str
    sites : tuple of str, length S
        In the order of the model's site codes.
    protocol : Protocol
        The preprocessing that the model expects of its input.
    quantiles : SiteQuantiles
    training : TrainingRecord
    versions : dict of str
        Of ``ddae-app`` and the libraries that matter, at training time.
    phantom : bool
        Trained on simulated images; not suitable for real ones.
    notes : str
        License and provenance, for human readers.

    Raises
    ------
    ModelError
        If the parts contradict each other or are out of range.
    """

    method: str
    name: str
    sites: tuple[str, ...]
    protocol: Protocol
    quantiles: SiteQuantiles
    training: TrainingRecord
    versions: dict[str, str]
    phantom: bool
    notes: str = ''

    def __post_init__(self) -> None:
        for problem, fine in self._checks().items():
            if not fine:
                raise ModelError(f'the model {self.name!r} has {problem}')

    @property
    def network(self) -> dict[str, object]:
        """Sizes and options of its network; empty if it has none."""
        return {}

    @property
    def uses_covariates(self) -> bool:
        """Whether age and sex of a scan change how it is harmonized."""
        return METHODS[self.method].uses_covariates

    @property
    def source_sites(self) -> tuple[str, ...]:
        """The sites whose scans it knows; the others can only be targets."""
        return self.sites

    def typical_intensities(self, site: str) -> tuple[list[float], list[float]]:
        """Quantile levels and a site's median brain intensity at each, length Q."""
        row = self.sites.index(site)
        return list(self.quantiles.levels), list(self.quantiles.median[row])

    def _checks(self) -> dict[str, bool]:
        n, q = len(self.sites), len(self.quantiles.levels)
        tables = (self.quantiles.low, self.quantiles.median, self.quantiles.high)
        return {
            f'the method {self.method!r}, which this program does not know': (
                self.method in trainable()
            ),
            f'{n} sites; 1 to {MAX_SITES} are allowed': 1 <= n <= MAX_SITES,
            'sites of the same name': len(set(self.sites)) == n,
            'intensity quantiles that do not fit its sites': all(
                len(table) == n and all(len(row) == q for row in table) for table in tables
            ),
            'counts of subjects that do not fit its sites': len(self.training.subjects_per_site)
            == n,
            f'names that are empty, over {MAX_NAME} characters or hold control characters': all(
                map(is_name, (self.name, *self.sites))
            ),
            **_protocol_checks(self.protocol),
        }

    def _slice_checks(self, size: int) -> dict[str, bool]:
        """Of a network that takes slices of ``size`` squared."""
        return {
            f'slices of {self.protocol.slice_shape} for a network of {size}': (
                tuple(self.protocol.slice_shape) == (size, size)
            )
        }


def _protocol_checks(protocol: Protocol) -> dict[str, bool]:
    """What every scan is resampled to: memory is given to it before any weight is used."""
    grid, cut, percentile = protocol.grid, protocol.slice_shape, protocol.intensity_percentile
    return {
        f'a grid of {grid}; 1 to {MAX_GRID} voxels an axis are allowed': all(
            1 <= n <= MAX_GRID for n in grid
        ),
        f'slices of {cut} on a grid of {grid}': all(
            1 <= n <= room for n, room in zip(cut, grid, strict=False)
        ),
        f'slices that are {protocol.slices!r}': protocol.slices in CHOICES['slices'],
        f'an intensity percentile of {percentile}': 0 < percentile <= 100,
    }


def read_model_info(path: str | os.PathLike) -> ModelInfo:
    """Everything but the weights, of any method; reads only the head of the file.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not a model, of another format version or
        inconsistent; one line, with what to do.
    """
    path = Path(path)
    with open_model(path, 'np') as file:
        return parse_info(path, file.metadata() or {})


def open_model(path: Path, framework: str):  # noqa: ANN201 - safetensors exports no type
    """Open a safetensors file for the arrays of a framework, ``np`` or ``pt``."""
    if message := not_fetched(path):
        raise ModelError(message)
    if not path.is_file():
        raise ModelError(f'{path}: no such model file; check the path')
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f'{path}: not a safetensors file, or truncated ({error}); {ADVICE}'
        ) from error


def read_array(path: Path, file: Any, name: str) -> np.ndarray:
    """An array of a file that was opened for NumPy.

    Raises
    ------
    ModelError
        If it is of a type that NumPy does not have.
    """
    try:
        return file.get_tensor(name)
    except (TypeError, AttributeError) as error:
        kind = file.get_slice(name).get_dtype()
        raise ModelError(
            f'{path}: array {name!r} is of type {kind}, where one of NumPy is expected; {ADVICE}'
        ) from error


def metadata_of(info: ModelInfo) -> dict[str, str]:
    """The metadata of a model file; the same content gives the same text."""
    header = {'format_version': FORMAT_VERSION, 'info': info}
    # One key only: safetensors does not promise an order among several.
    text = msgspec.json.encode(header, order='deterministic', enc_hook=_plain).decode()
    return {METADATA_KEY: text}


def _plain(value: Any) -> Any:
    """A number or text of NumPy or PyTorch as one of Python."""
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise NotImplementedError(f'{type(value)} in the information of a model')


def parse_info(path: Path, metadata: dict[str, str], method: str | None = None) -> ModelInfo:
    """Check the metadata of a model file.

    Parameters
    ----------
    path : Path
        Named in messages.
    metadata : dict of str
        Of the safetensors file.
    method : str, optional
        What the model has to be of.

    Raises
    ------
    ModelError
        As :func:`read_model_info`, or if the model is of another method.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f'{path}: safetensors, but not a ddae-app model (no {METADATA_KEY!r} metadata); '
            'give a file written by ddae-app train'
        )
    try:
        if len(text) > MAX_METADATA:
            raise ModelError(f'metadata of {len(text)} bytes; at most {MAX_METADATA} are allowed')
        info = _info_from(msgspec.json.decode(text))
    except ModelError as error:
        raise ModelError(f'{path}: {error}; {ADVICE}') from error
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f'{path}: metadata that cannot be read ({error!r}); {ADVICE}') from error
    if method not in (None, info.method):
        raise ModelError(f'{path}: a model of {info.method}, where one of {method} is expected')
    return info


def _info_from(header: Any) -> ModelInfo:
    version = header['format_version']
    if version != FORMAT_VERSION:
        raise ModelError(f'format version {version}, but this ddae-app reads {FORMAT_VERSION}')
    name = header['info']['method']
    kind = imported(METHODS[name].info) if name in trainable() else ModelInfo
    info = msgspec.convert(header['info'], kind)
    if msgspec.json.decode(msgspec.json.encode(info)) != header['info']:
        raise ModelError('the metadata has unknown entries, or lacks required ones')
    return info
