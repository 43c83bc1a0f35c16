"""The interface of all harmonizers, and the checks that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pandas as pd

import ddae_app
from ddae_app.errors import DdaeError, UsageError
from ddae_app.methods.data import SEXES, SliceData, site_quantiles
from ddae_app.methods.modelfile import ModelIdentity, ModelInfo, TrainingRecord
from ddae_app.settings import Protocol as ImageProtocol

DARKEST = 1e-4
"""Of the brain in an output: a voxel of 0 would count as background from then on."""

Info = TypeVar('Info', bound=ModelInfo)


class Harmonizer(Protocol):
    """Learns sites from images, then renders images as if acquired at one of them.

    Images are ``np.ndarray``, float32, range [0, 1]: 0 outside the brain, and a few pixels may
    exceed 1. They have the shape (N, H, W), or (N, D, H, W) for scans of D slices each. A cohort
    is a table with a row to each: ``site``, and where known ``subject``, ``age`` (years) and
    ``sex`` (M or F).

    Examples
    --------
    Two sites, one of which makes everything darker:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from ddae_app.methods.histogram import HistogramMatching
    >>> rng = np.random.default_rng(0)
    >>> images = rng.uniform(0.5, 1, (20, 16, 16)).astype(np.float32)
    >>> images[10:] *= 0.6
    >>> cohort = pd.DataFrame({'subject': [f'{i:02d}' for i in range(20)],
    ...                        'site': ['bright'] * 10 + ['dark'] * 10,
    ...                        'age': 50.0, 'sex': ['M', 'F'] * 10})
    >>> harmonizer = HistogramMatching().fit(images, cohort)
    >>> harmonizer.sites
    ('bright', 'dark')
    >>> out = harmonizer.transform(images, cohort, target_site='bright')
    >>> f'{images[10:].mean():.2f} -> {out[10:].mean():.2f}'
    '0.45 -> 0.75'
    """

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites it was fitted on; any of them can be a target."""

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> Self:
        """A copy fitted to these slices; the harmonizer itself does not change.

        Raises
        ------
        UsageError
            If a slice has no site or no subject.
        """

    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site.

        Parameters
        ----------
        images : np.ndarray, shape (N, H, W) or (N, D, H, W), float32, range [0, 1]
        cohort : pandas.DataFrame, N rows
            ``site`` is where an image was acquired; ``subject`` plays no part.
        target_site : str
            One of ``sites``.

        Returns
        -------
        np.ndarray, shape of `images`, float32
            Above 0 where the input is, and exactly 0 elsewhere; :func:`in_brain` sees to it.

        Raises
        ------
        UsageError
            If the target site is unknown, or the lengths differ.
        """


class StoredHarmonizer(Harmonizer, Protocol):
    """A harmonizer whose model is a file; :mod:`ddae_app.methods.registry` lists them."""

    @property
    def info(self) -> ModelInfo:
        """What its file says of itself."""

    def save(self, path: str | Path) -> None:
        """Write the fitted harmonizer to one file, whole or not at all."""

    def facts(self) -> dict[str, Any]:
        """What it does, for sidecars; ``LabelBlind`` among them."""


class AdaptableHarmonizer(StoredHarmonizer, Protocol):
    """One that supports the option ``unseen_site``."""

    def measure_site(
        self, images: np.ndarray, site: str, subjects: Sequence[str], path: Path
    ) -> None:
        """Measure the appearance of a site that the model does not know, and write it."""

    def with_site(self, site: str, path: Path) -> Self:
        """A copy that also knows a site that was measured."""


@dataclass(frozen=True)
class Progress:
    """Where a training run stands, after each step.

    Attributes
    ----------
    images_seen, images : int
        So far, and in all.
    loss : float
        Of the last batch.
    validation_loss : float or None
        The latest; None before the first, or if no subject is held out.
    seconds_left : float
        At the pace so far.
    """

    images_seen: int
    images: int
    loss: float
    validation_loss: float | None
    seconds_left: float


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class TrainingRequest:
    """What the train level asks of a method.

    Attributes
    ----------
    data : SliceData
    protocol : Protocol
        How the scans were preprocessed.
    folder : Path
        For the model and intermediate files; the same in a run that resumes.
    identity : ModelIdentity
        Name and origin of the model.
    seed : int
    device : str
        See :func:`~ddae_app.methods.device.resolve_device`.
    images : int or None
        To be seen in training; None for the method's own number.
    preset : str
        Size of the network, for methods that have several.
    initial : Path or None
        Model to start from, for methods that can.
    deadline : float
        When to stop, as ``time.monotonic`` counts, for methods that can resume.
    progress : callable, optional
        Called with a :class:`Progress` after each step.
    draw : callable, optional
        Draws a :class:`~ddae_app.methods.samples.Samples` to a path, with a title.
    fabric : Fabric, optional
        The processes that train together, for methods that are trained so.
    """

    data: SliceData
    protocol: ImageProtocol
    folder: Path
    identity: ModelIdentity
    seed: int = 0
    device: str = 'auto'
    images: int | None = None
    preset: str = 'base'
    initial: Path | None = None
    deadline: float = math.inf
    progress: ProgressCallback | None = None
    draw: Callable[[Any, Path, str], None] | None = None
    fabric: Any = None

    def identified(self, info: Info) -> Info:
        """What a model file says of itself, with the name and origin that were asked for."""
        identity = self.identity
        record = replace(info.training, dataset=identity.dataset)
        return replace(
            info,
            name=identity.name,
            training=record,
            phantom=identity.phantom,
            notes=identity.notes,
        )

    def saved(self, harmonizer: StoredHarmonizer) -> TrainedModel:
        """Write a harmonizer that was fitted to all scans."""
        path = self.folder / f'{self.identity.name}.safetensors'
        harmonizer.save(path)
        return TrainedModel(path)


@dataclass(frozen=True)
class TrainedModel:
    """What a training wrote.

    Attributes
    ----------
    path : Path
        The model file.
    held_out : np.ndarray of int
        Rows of the data that training did not see.
    losses, samples : Path or None
        Table of the losses, and a picture of the model's renderings, where the method makes them.
    """

    path: Path
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    losses: Path | None = None
    samples: Path | None = None


@dataclass(frozen=True)
class Labels:
    """The columns of a cohort.

    Attributes
    ----------
    sites : tuple of str, length N
    ages : np.ndarray, shape (N,), float64
        Years; NaN where unknown.
    sexes : tuple of {'M', 'F', None}, length N
    """

    sites: tuple[str, ...]
    ages: np.ndarray
    sexes: tuple[str | None, ...]


def read_labels(cohort: pd.DataFrame, n: int) -> Labels:
    """The labels of `n` images; without a column of ages or sexes none is known.

    Raises
    ------
    UsageError
        If there is no site to each image, an age is no number, or a sex is neither M nor F nor
        missing.
    """
    if len(cohort) != n:
        raise UsageError(f'{n} images with a cohort of {len(cohort)} rows; give one to each')
    if 'site' not in cohort or cohort['site'].isna().any():
        raise UsageError('a cohort without the site of each image; fill in the column site')
    ages = cohort['age'] if 'age' in cohort else pd.Series(np.nan, cohort.index)
    sexes = cohort['sex'] if 'sex' in cohort else pd.Series(None, cohort.index, dtype=object)
    known = tuple(None if pd.isna(sex) else str(sex) for sex in sexes)
    if unknown := set(known) - set(SEXES):
        raise UsageError(f'sex {", ".join(map(repr, unknown))}; give M, F or nothing')
    return Labels(tuple(map(str, cohort['site'])), _years(ages), known)


def _years(ages: pd.Series) -> np.ndarray:
    try:
        years = ages.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UsageError(f'an age that is no number ({error}); give years or nothing') from error
    if np.isinf(years).any():
        raise UsageError('an infinite age; give years or nothing')
    return years


def training_data(images: np.ndarray, cohort: pd.DataFrame) -> SliceData:
    """Images and cohort as training takes them: single slices as scans of one.

    Raises
    ------
    UsageError
        As :func:`read_labels`, or if a subject is missing.
    """
    labels = read_labels(cohort, len(images))
    if 'subject' not in cohort or cohort['subject'].isna().any():
        raise UsageError('a cohort without the subject of each image; fill in the column subject')
    subjects = tuple(map(str, cohort['subject']))
    scans = images[:, None] if images.ndim == 3 else images
    return SliceData(scans, labels.sites, labels.ages, labels.sexes, subjects)


def cohort_of(data: SliceData) -> pd.DataFrame:
    """The cohort of training data."""
    columns = {'subject': data.subjects, 'site': data.sites, 'age': data.ages, 'sex': data.sexes}
    return pd.DataFrame(columns)


def model_info(method: str, data: SliceData, protocol: ImageProtocol) -> ModelInfo:
    """What the file of a model that was fitted to these scans says of it."""
    return ModelInfo(
        method=method,
        name=method,
        sites=data.site_names,
        protocol=protocol,
        quantiles=site_quantiles(data),
        training=TrainingRecord('unknown', data.subjects_per_site(), 0, len(data), None, None),
        versions={'ddae-app': ddae_app.__version__, 'numpy': np.__version__},
        phantom=False,
    )


def check_images(images: np.ndarray) -> None:
    """Refuse what no method takes.

    Raises
    ------
    UsageError
        If the images are not float32 (N, H, W) or (N, D, H, W), finite and non-negative.
    """
    if images.ndim not in (3, 4) or images.dtype != np.float32:
        raise UsageError(
            f'images are {images.dtype} {images.shape}; give float32 (N, H, W) or (N, D, H, W)'
        )
    if not (np.isfinite(images).all() and (images >= 0).all()):
        raise UsageError('images hold negative or non-finite values; give finite values from 0')


def check_request(
    images: np.ndarray, cohort: pd.DataFrame, target_site: str, known: Sequence[str]
) -> Labels:
    """The labels of each image, after checking a request to ``transform``.

    Raises
    ------
    UsageError
        As :func:`check_images`, or if the cohort does not fit the images, or the target is not a
        known site.
    """
    check_images(images)
    if target_site not in known:
        raise UsageError(
            f'--target-site {target_site!r} is not a site of the model; it knows '
            f'{", ".join(known)}'
        )
    return read_labels(cohort, len(images))


def in_brain(rendered: np.ndarray, images: np.ndarray) -> np.ndarray:
    """What a method rendered, with exactly the brain of the images: none is lost or added.

    Parameters
    ----------
    rendered : np.ndarray
        Any finite values.
    images : np.ndarray, same shape
        What it was given; 0 outside the brain.

    Returns
    -------
    np.ndarray, same shape, float32
        0 where the images are 0; elsewhere at least ``DARKEST``, or what it was if that is less.

    Raises
    ------
    DdaeError
        If a value in the brain is not finite.
    """
    brain = images > 0
    if bad := np.count_nonzero(~np.isfinite(rendered[brain])):
        raise DdaeError(
            f'harmonization made {bad} voxels of the brain NaN or infinite; expected finite '
            'intensities; inspect the scan, or try --device cpu or another model'
        )
    return np.where(brain, np.maximum(rendered, np.minimum(images, DARKEST)), 0).astype(np.float32)


def known_sites(sites: Sequence[str], info: ModelInfo) -> list[int]:
    """The index of each source site in a model that takes no other sites.

    Raises
    ------
    UsageError
        If the model was not trained on one of them.
    """
    unseen = sorted(set(sites) - set(info.sites))
    if unseen:
        raise UsageError(
            f'source site {", ".join(unseen)} is unknown to the model {info.name!r} of '
            f'{info.method}, which knows {", ".join(info.sites)} and cannot harmonize other '
            'sites; give a model trained with this site'
        )
    return [info.sites.index(site) for site in sites]
