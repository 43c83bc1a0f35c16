"""Who the rows of a table are of, and what age and sex say of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.features.matrix import FeatureMatrix
from ddae_app.methods.data import sex_numbers

KNOT_LEVELS = (0.05, 0.35, 0.65, 0.95)
"""Quantiles of the known ages at which the pieces of the spline meet (Harrell 2001, ch. 2.4)."""


@dataclass(frozen=True)
class RowLabels:
    """What is known of each row of a table.

    Attributes
    ----------
    sites, subjects : np.ndarray, shape (N,), str
        Where the person was scanned, and who that is.
    ages : np.ndarray, shape (N,), float64
        Years; NaN where unknown.
    sexes : np.ndarray, shape (N,), object
        ``M``, ``F`` or None.
    """

    sites: np.ndarray
    subjects: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray

    @property
    def site_names(self) -> tuple[str, ...]:
        """The distinct sites, sorted."""
        return tuple(map(str, np.unique(self.sites)))

    @property
    def persons(self) -> np.ndarray:
        """A number for the person of each row, shape (N,)."""
        return np.unique(self.subjects, return_inverse=True)[1]

    def people_of(self, site: str) -> int:
        """How many people have a row of a site."""
        return len(np.unique(self.subjects[self.sites == site]))

    def rows(self, rows: np.ndarray) -> RowLabels:
        """Those of some rows."""
        return RowLabels(*(v[rows] for v in (self.sites, self.subjects, self.ages, self.sexes)))


def digest_of_rows(table: FeatureMatrix, labels: RowLabels) -> str:
    """A SHA-256 of all that a fit depends on, whatever the order of rows and columns.

    Vertices of maps at which these rows have nothing but 0 or no value take no part: whether they
    are there depends on the model by which the maps were read.

    Parameters
    ----------
    table : FeatureMatrix
    labels : RowLabels
        Of its rows.
    """
    columns = np.argsort(table.features)
    if table.maps:
        seen = np.zeros(len(columns), dtype=bool)
        for values in table.values:  # one by one, since a mask of all would be large
            seen |= (values != 0) & ~np.isnan(values)
        columns = columns[seen[columns]]
    digest = sha256('\n'.join(table.features[i] for i in columns).encode())
    names = table.names
    for row in np.argsort(names):
        said = names[row], labels.sites[row], float(labels.ages[row]), labels.sexes[row]
        digest.update('\t'.join(map(str, said)).encode())
        digest.update(table.values[row, columns].tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CovariateDesign:
    """The columns of a regression on age and sex.

    Attributes
    ----------
    centers : tuple of float
        Mean of each column where it is known; what is not known counts as the mean.
    knots : tuple of float
        Years; empty where age is a straight line.
    """

    centers: tuple[float, ...]
    knots: tuple[float, ...] = ()

    @classmethod
    def fit(cls, labels: RowLabels, *, spline: bool) -> CovariateDesign:
        """Centers, and knots of a spline, of some rows.

        Raises
        ------
        UsageError
            If the known ages are too few for a spline.
        """
        knots: tuple[float, ...] = ()
        if spline:
            known = labels.ages[~np.isnan(labels.ages)]
            places = np.quantile(known, KNOT_LEVELS) if known.size else np.zeros(1)
            if len(np.unique(places)) < len(KNOT_LEVELS):
                raise UsageError(
                    f'--age-spline: {known.size} ages are known, of {len(np.unique(known))} '
                    'different values; a spline needs more: leave the flag out'
                )
            knots = tuple(places.tolist())
        columns = cls((), knots)._columns(labels)
        counts = np.maximum((~np.isnan(columns)).sum(axis=0), 1)
        return cls(tuple((np.nansum(columns, axis=0) / counts).tolist()), knots)

    @property
    def names(self) -> tuple[str, ...]:
        """What each column is of."""
        return (*('age',) * (len(self.knots) - 1 if self.knots else 1), 'sex')

    def columns(self, labels: RowLabels) -> np.ndarray:
        """Centered, 0 where unknown; shape (N, C)."""
        columns = self._columns(labels)
        return np.where(np.isnan(columns), 0, columns - self.centers)

    def _columns(self, labels: RowLabels) -> np.ndarray:
        parts = [labels.ages, *natural_spline(labels.ages, self.knots)]
        return np.column_stack([*parts, sex_numbers(labels.sexes.tolist())])


def natural_spline(ages: np.ndarray, knots: Sequence[float]) -> list[np.ndarray]:
    """What a cubic spline that is straight beyond its outer knots adds to a straight line.

    Parameters
    ----------
    ages : np.ndarray, shape (N,)
    knots : sequence of float, length K
        Ascending.

    Returns
    -------
    list of np.ndarray, shape (N,)
        K - 2 columns: truncated powers (Harrell 2001, equation 2.25).
    """
    if not knots:
        return []
    first, before, last = knots[0], knots[-2], knots[-1]

    def cube(knot: float) -> np.ndarray:
        return np.maximum(ages - knot, 0) ** 3

    return [
        (
            cube(knot)
            - cube(before) * (last - knot) / (last - before)
            + cube(last) * (before - knot) / (last - before)
        )
        / (last - first) ** 2
        for knot in knots[:-2]
    ]
