"""What a site adds to a measure of its scans, at equal age and sex."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.methods.data import SliceData, sex_numbers

COVARIATES = 3
"""Columns of the design beside those of the sites: age, age squared and sex."""


@dataclass(frozen=True)
class Center:
    """Where the covariates of a design are zero, so that designs of several datasets agree.

    Attributes
    ----------
    age, age_scale : float
        Years; mean and standard deviation.
    squared : float
        Mean of the squared standardized age.
    sex : float
        Mean of the codes of sexes.
    """

    age: float
    age_scale: float
    squared: float
    sex: float

    @classmethod
    def of(cls, data: SliceData, rows: np.ndarray) -> Center:
        """The mean of some scans."""
        ages, sexes = _covariates(data, rows)
        known = ages[~np.isnan(ages)]
        scale = max(float(known.std()), 1.0) if known.size else 1.0
        mean = float(known.mean()) if known.size else 0.0
        standardized = np.where(np.isnan(ages), 0, (ages - mean) / scale)
        known_sexes = sexes[~np.isnan(sexes)]
        sex = float(known_sexes.mean()) if known_sexes.size else 0.0
        return cls(mean, scale, float(np.square(standardized).mean()), sex)

    def columns(self, data: SliceData, rows: np.ndarray) -> np.ndarray:
        """Age, age squared and sex of some scans, shape (N, COVARIATES).

        What is unknown is the mean of what is known of these scans.
        """
        ages, sexes = _covariates(data, rows)
        age = (_filled(ages, self.age) - self.age) / self.age_scale
        return np.column_stack([age, age**2 - self.squared, _filled(sexes, self.sex) - self.sex])


@dataclass(frozen=True)
class Sums:
    """What is needed of a measure for its regression on a design; sums of datasets add up.

    Attributes
    ----------
    cross : np.ndarray, shape (P, ...)
        The measure times each column of the design, summed over the scans.
    square : np.ndarray, shape (...)
        The squared measure, summed.
    """

    cross: np.ndarray
    square: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What scans that are no longer at hand say of some measures.

    Attributes
    ----------
    sites : tuple of str, length S
        Those of its columns; empty for a site that was measured again since.
    subjects : tuple of int, length S
    scans : int
    center : Center
    gram : np.ndarray, shape (S + COVARIATES,) * 2
        The columns of the design times each other, summed over the scans.
    sums : dict of str to Sums
        By the name of the measure.
    """

    sites: tuple[str, ...]
    subjects: tuple[int, ...]
    scans: int
    center: Center
    gram: np.ndarray
    sums: dict[str, Sums]


class Regression:
    """Regression of measures of scans on site, age, age squared and sex.

    As in ComBat (Johnson et al. 2007; Fortin et al. 2018). What a site adds is shrunk (James and
    Stein 1961) by the part that chance alone would make.

    Parameters
    ----------
    data : SliceData
    rows : np.ndarray of int, length N
        The scans that are measured.
    earlier : Evidence, optional
        Scans of other sites that were measured before. They add to what is known of age and sex,
        and what their sites add is estimated with that of these.

    Attributes
    ----------
    sites : tuple of str
        Those of ``data.site_names``, and then those of `earlier` that are not among them.
    """

    def __init__(self, data: SliceData, rows: np.ndarray, earlier: Evidence | None = None) -> None:
        names = data.site_names
        self._earlier = earlier
        self._center = earlier.center if earlier else Center.of(data, rows)
        old = earlier.sites if earlier else ()
        kept = [i for i, site in enumerate(old) if site and site not in names]
        self.sites = (*names, *(old[i] for i in kept))
        self._columns = (*names, *(site if site not in names else '' for site in old))
        self._reported = [*range(len(names)), *(len(names) + i for i in kept)]
        member = np.array(data.sites)[rows][:, None] == np.array(names)
        others = np.zeros((len(rows), len(old)))
        covariates = self._center.columns(data, rows)
        self._design = np.concatenate([member, others, covariates], axis=1).astype(np.float64)
        self._gram = self._design.T @ self._design
        self._subjects = (*_subjects(data, rows), *(earlier.subjects if earlier else ()))
        self._scans = len(rows)
        if earlier:
            self._gram = self._gram + _widened(_widened(earlier.gram, len(names)).T, len(names)).T
            self._scans += earlier.scans
        self._sums: dict[str, Sums] = {}

    def effects(
        self, name: str, parts: Iterable[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each site adds to a measure.

        Parameters
        ----------
        name : str
            Of the measure. If `earlier` has it, it is part of the regression.
        parts : iterable of np.ndarray, each of shape (n, ...)
            What was measured, N in all and in the order of the rows; in parts, for not all images
            may fit into memory.

        Returns
        -------
        effects : np.ndarray, shape (S, ...)
            Of each of ``sites``.
        common : np.ndarray, shape (...)
            The average site, at the center of the covariates.
        variance : np.ndarray, shape (...)
            Among subjects, given all these.
        """
        cross, square, start = np.zeros(()), np.zeros(()), 0
        for part in parts:
            values = part.astype(np.float64)
            if not start:
                cross = np.zeros((len(self._gram), *values.shape[1:]))
                square = np.zeros(values.shape[1:])
            for row, value in zip(self._design[start:], values, strict=False):
                for column in np.flatnonzero(row):  # one of the sites, and the covariates
                    cross[column] += row[column] * value
                square += np.square(value)
            start += len(part)
        gram, scans = self._gram, self._scans
        if self._earlier:
            before = self._earlier.sums[name]
            cross = cross + _widened(before.cross, len(self._columns) - len(self._earlier.sites))
            square = square + before.square
        self._sums[name] = Sums(cross, square)
        ridge = 1e-6 * scans * np.eye(len(gram))  # for columns that say nothing
        beta = np.tensordot(np.linalg.inv(gram + ridge), cross, axes=1)
        variance = np.maximum(square - (beta * cross).sum(axis=0), 0) / scans
        n_sites = len(self._columns)
        common = beta[:n_sites].mean(axis=0)
        effects = beta[:n_sites] - common
        for effect, n in zip(effects, self._subjects, strict=True):
            by_chance = variance.sum() / n
            effect *= max(0.0, 1 - by_chance / max(float(np.square(effect).sum()), 1e-12))
        return effects[self._reported], common, variance

    def evidence(self) -> Evidence:
        """What all scans say of the measures so far, for a later regression."""
        return Evidence(
            self._columns, self._subjects, self._scans, self._center, self._gram, self._sums
        )


def site_effects(
    data: SliceData, rows: np.ndarray, parts: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each site of ``data.site_names`` adds to one measure; see :class:`Regression`."""
    return Regression(data, rows).effects('measure', parts)


def _widened(columns: np.ndarray, n: int) -> np.ndarray:
    """`n` more columns of sites before those of a gram or of sums, all 0."""
    return np.concatenate([np.zeros((n, *columns.shape[1:])), columns])


def _covariates(data: SliceData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return data.ages[rows], sex_numbers([data.sexes[i] for i in rows])


def _filled(values: np.ndarray, otherwise: float) -> np.ndarray:
    """Values, with their mean where they are NaN."""
    known = values[~np.isnan(values)]
    return np.where(np.isnan(values), known.mean() if known.size else otherwise, values)


def _subjects(data: SliceData, rows: Sequence[int] | np.ndarray) -> list[int]:
    pairs = {(data.sites[i], data.subjects[i]) for i in rows}
    return [max(1, sum(site == named for named, _ in pairs)) for site in data.site_names]
