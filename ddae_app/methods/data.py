"""Scans with their labels, the split into training and held-out subjects, and batches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.imaging.similarity import brain_quantiles
from ddae_app.methods.modelfile import SiteQuantiles
from ddae_app.settings import Protocol

SEXES = {'M': 0, 'F': 1, None: -1}
"""The code of each sex."""

CHUNK = 256
"""Slices read at once from an array that may lie on disk."""

LEAST_BRAIN = 0.005
"""Part of a slice that is brain, for it to be trained on."""


@dataclass(frozen=True)
class SliceData:
    """Scans, of one slice or of many, and what is known of each.

    Attributes
    ----------
    images : np.ndarray, shape (N, D, H, W), float32
        0 outside the brain, brain in [0, 1] (a few pixels may exceed 1); may be a memmap.
    sites : tuple of str, length N
    ages : np.ndarray, shape (N,), float64
        Years; NaN where unknown.
    sexes : tuple of {'M', 'F', None}, length N
    subjects : tuple of str, length N
        One subject has one name at all sites and sessions.

    Raises
    ------
    UsageError
        If lengths differ, an image is not finite, or a label is none of the above.
    """

    images: np.ndarray
    sites: tuple[str, ...]
    ages: np.ndarray
    sexes: tuple[str | None, ...]
    subjects: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.images)
        lengths = [len(v) for v in (self.sites, self.ages, self.sexes, self.subjects)]
        if self.images.ndim != 4 or n == 0 or lengths != [n] * 4:
            raise UsageError(
                f'images of shape {self.images.shape} with {lengths} sites, ages, sexes and '
                'subjects; give (N, D, H, W) images and N of each label'
            )
        if self.images.dtype != np.float32:
            raise UsageError(f'images are {self.images.dtype}; give float32')
        for some in self.chunks(np.arange(n)):
            part = self.images[some[0] : some[-1] + 1]
            if not (np.isfinite(part).all() and part.min() >= 0):
                raise UsageError(f'images {some[0]} to {some[-1]} are not all finite and >= 0')
        unknown = set(self.sexes) - set(SEXES)
        if unknown:
            raise UsageError(f'sexes {sorted(map(str, unknown))}; give M, F or None')
        if '' in self.sites or '' in self.subjects:
            raise UsageError('an empty site or subject name; every image needs both')
        if np.isinf(self.ages).any():
            raise UsageError('an infinite age; give years, or NaN where unknown')

    def __len__(self) -> int:
        return len(self.images)

    @property
    def site_names(self) -> tuple[str, ...]:
        """The distinct sites, sorted; the order of the network's site codes."""
        return tuple(sorted(set(self.sites)))

    @property
    def depth(self) -> int:
        """Slices of a scan, D."""
        return self.images.shape[1]

    def subjects_per_site(self) -> tuple[int, ...]:
        """How many subjects each of ``site_names`` has."""
        counts = Counter(site for site, _ in set(zip(self.sites, self.subjects, strict=True)))
        return tuple(counts[site] for site in self.site_names)

    def chunks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows in parts of which the scans fit into memory."""
        return chunks(rows, self.depth)

    def with_brain(self, rows: np.ndarray) -> np.ndarray:
        """Row and position of every slice that shows enough brain, shape (M, 2)."""
        least = LEAST_BRAIN * math.prod(self.images.shape[2:])
        slices = [np.empty((0, 2), dtype=int)]
        for some in self.chunks(rows):
            row, position = np.nonzero((self.images[some] > 0).sum(axis=(2, 3)) >= least)
            slices.append(np.column_stack([some[row], position]))
        return np.concatenate(slices)

    def fingerprint(self) -> str:
        """SHA-256 of the images and labels."""
        digest = hashlib.sha256(repr((self.images.shape, self.sites, self.sexes)).encode())
        digest.update(repr((self.ages.tolist(), self.subjects)).encode())
        for some in self.chunks(np.arange(len(self))):
            digest.update(np.ascontiguousarray(self.images[some]).data)
        return digest.hexdigest()


def check_shape(shape: tuple[int, ...], protocol: Protocol) -> None:
    """Refuse scans of another shape than the protocol that is to be stored with their model.

    Raises
    ------
    UsageError
    """
    expected = protocol.depth, *protocol.slice_shape
    if shape != expected:
        raise UsageError(
            f'scans have (slices, rows, columns) {shape}, and the protocol of the model is for '
            f'{expected}; give the protocol by which they were preprocessed (protocol=...)'
        )


def chunks(rows: np.ndarray, depth: int) -> list[np.ndarray]:
    """Rows of scans of so many slices, in parts of which the scans fit into memory."""
    step = max(1, CHUNK // depth)
    return [rows[i : i + step] for i in range(0, len(rows), step)]


def sex_numbers(sexes: Sequence[str | None]) -> np.ndarray:
    """The code of each sex as a number, NaN where it is unknown; shape (N,)."""
    return np.array([SEXES[sex] if sex is not None else np.nan for sex in sexes], dtype=float)


def split_subjects(data: SliceData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and rows held out; no subject is on both sides.

    Parameters
    ----------
    data : SliceData
    fraction : float
        Part of each site's subjects to hold out, rounded. Every site keeps a training image, so
        small sites may hold out no subject.
    seed : int

    Returns
    -------
    train, validation : np.ndarray of int
        Ascending.
    """
    rng = np.random.default_rng((seed, 0))
    home: dict[str, str] = {}  # a traveling subject belongs to the first of its sites
    for subject, site in zip(data.subjects, data.sites, strict=True):
        home[subject] = min(home.get(subject, site), site)
    held_out: set[str] = set()
    for site in data.site_names:
        subjects = sorted(s for s, h in home.items() if h == site)
        n = min(round(fraction * len(subjects)), max(len(subjects) - 1, 0))
        held_out |= {subjects[i] for i in rng.permutation(len(subjects))[:n]}
    for site in data.site_names:  # a site of traveling subjects only may have lost them all
        subjects_here = {p for p, s in zip(data.subjects, data.sites, strict=True) if s == site}
        if subjects_here <= held_out:
            held_out -= subjects_here
    out = np.array([s in held_out for s in data.subjects])
    return np.flatnonzero(~out), np.flatnonzero(out)


def balanced_rows(
    site_rows: Sequence[np.ndarray], batch_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of one batch: every site equally often (give or take one), slices at random.

    Parameters
    ----------
    site_rows : sequence of np.ndarray
        Of each site, what there is to choose from, along the first axis.
    batch_size : int
    rng : np.random.Generator
        Its seed must hold the step, so that a resumed run draws what it would have drawn.
    """
    order = rng.permutation(len(site_rows))
    return np.array([rng.choice(site_rows[order[i % len(order)]]) for i in range(batch_size)])


def site_quantiles(data: SliceData, n_levels: int = 101) -> SiteQuantiles:
    """Median and quartiles, across the scans of each site, of the brain's intensity quantiles.

    Rounded to 5 decimals, enough for a figure.
    """
    levels = np.linspace(0, 1, n_levels)
    per_scan = np.stack([brain_quantiles(x, levels) for x in data.images])
    sites = np.array(data.sites)

    def table(q: float) -> tuple[tuple[float, ...], ...]:
        rows = [np.quantile(per_scan[sites == s], q, axis=0).round(5) for s in data.site_names]
        return tuple(tuple(row.tolist()) for row in rows)

    rounded = tuple(levels.round(5).tolist())
    return SiteQuantiles(rounded, table(0.25), table(0.5), table(0.75))
