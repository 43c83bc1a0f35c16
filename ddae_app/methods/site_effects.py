"""What a site adds to a measure of its scans, at equal age and sex."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from ddae_app.methods.data import SliceData, sex_numbers

COVARIATES = 3
"""Columns of the design beside those of the sites: age, age squared and sex."""

KNOWN_SCANS = 10
"""For how many scans at hand all that counts that is known from elsewhere: what scans of another
dataset say of age and sex, and what a prior says of the scans of one site. Datasets differ."""

UNLIKE_PRIOR, ALIKE_LEVELS = 0.02, 0.16
"""A real scanner is not quite one of those that a prior was measured in: it may differ by this
share of their variance in any smooth way, over this share of a measure's values."""


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

        What is unknown is the mean of what is known of these scans; or that of the site, where
        only sites differ in it.
        """
        (ages, sexes), sites = _covariates(data, rows), np.array(data.sites)[rows]
        age = (_filled(ages, sites, self.age) - self.age) / self.age_scale
        sex = _filled(sexes, sites, self.sex) - self.sex
        return np.column_stack([age, age**2 - self.squared, sex])


@dataclass(frozen=True)
class Sums:
    """What is needed of a measure for its regression on a design; sums of datasets add up.

    Attributes
    ----------
    cross : np.ndarray, shape (P, ...)
        The measure times each column of the design, summed over the scans.
    square : np.ndarray
        The measure times itself, summed: every value times every other, shape (K, K), of a measure
        of shape (K,); the square of each value, shape (...), of one with more axes.
    """

    cross: np.ndarray
    square: np.ndarray

    def left(self, beta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """What `beta` leaves of ``square``: that of the residuals of the scans, summed."""
        fitted = np.tensordot(gram, beta, axes=1)
        if self.cross.ndim == 2:
            explained = beta.T @ self.cross
            return self.square - explained - explained.T + beta.T @ fitted
        return self.square - (beta * (2 * self.cross - fitted)).sum(axis=0)


@dataclass(frozen=True)
class Prior:
    """How a measure differs between scanners, and between the scans of one.

    Attributes
    ----------
    between, within : np.ndarray
        Covariance, shape (K, K), of a measure of shape (K,); the variance of each value, shape
        (...), of one with more axes.
    """

    between: np.ndarray
    within: np.ndarray

    @classmethod
    def of_scanners(cls, values: np.ndarray, within: np.ndarray) -> Prior:
        """How several scanners differ that scanned the same people.

        Then it does not matter who these are, but for what a scanner makes of one of them and not
        of another, whose part of the difference is taken off.

        Parameters
        ----------
        values : np.ndarray, shape (S, n, ...)
            A measure of n people at S scanners.
        within : np.ndarray
            Between the scans of one, as the attribute.
        """
        at_site = values.mean(axis=1)
        effects = at_site - at_site.mean(axis=0)
        of_pair = values - at_site[:, None] - values.mean(axis=0) + values.mean(axis=(0, 1))
        n_sites, n = values.shape[:2]
        freedom = (n_sites - 1) * (n - 1) * n
        if values.ndim > 3:
            by_chance = np.square(of_pair).sum(axis=(0, 1)) / freedom
            between = np.square(effects).sum(axis=0) / (n_sites - 1) - by_chance
            return cls(gaussian_filter(np.maximum(between, 0), 1.0), within)
        by_chance = np.einsum('snk,snl->kl', of_pair, of_pair) / freedom
        found, vectors = np.linalg.eigh(effects.T @ effects / (n_sites - 1) - by_chance)
        between = (vectors * np.maximum(found, 0)) @ vectors.T
        sd, place = np.sqrt(np.diag(between)), np.linspace(0, 1, len(between))
        alike = np.exp(-np.square((place[:, None] - place) / ALIKE_LEVELS) / 2)
        return cls(between + UNLIKE_PRIOR * sd[:, None] * sd * alike, within)

    def shrunk(self, effect: np.ndarray, left: np.ndarray, freedom: int, n: int) -> np.ndarray:
        """The mean of what a site may add, given its scans (Efron and Morris 1973).

        Parameters
        ----------
        effect : np.ndarray, shape (...)
            What the scans of the site show.
        left : np.ndarray
            Of scans at hand, as :meth:`Sums.left` gives it.
        freedom : int
            Their degrees of freedom.
        n : int
            Subjects of the site.

        Returns
        -------
        np.ndarray, shape (...)
        """
        within = (left + KNOWN_SCANS * self.within) / (freedom + KNOWN_SCANS)
        total = self.between + within / n
        if effect.ndim == 1:
            return self.between @ np.linalg.solve(total, effect)
        return effect * self.between / np.maximum(total, 1e-12)


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
    priors : dict of str to Prior
        Of the measures of which one is known.
    """

    sites: tuple[str, ...]
    subjects: tuple[int, ...]
    scans: int
    center: Center
    gram: np.ndarray
    sums: dict[str, Sums]
    priors: Mapping[str, Prior] = field(default_factory=dict)

    def within(self, name: str) -> np.ndarray:
        """How a measure differs between the scans of a site, as :class:`Prior` has it."""
        sums = self.sums[name]
        beta = solved(self.gram, self.scans, sums.cross)
        return sums.left(beta, self.gram) / (self.scans - len(self.gram))


class Regression:
    """Regression of measures of scans on site, age, age squared and sex.

    As in ComBat (Johnson et al. 2007; Fortin et al. 2018). What a site adds is shrunk by the part
    that chance alone would make: by what is known of scanners where there is a prior of the
    measure, in all its values alike where there is none (James and Stein 1961).

    Parameters
    ----------
    data : SliceData
    rows : np.ndarray of int, length N
        The scans that are measured.
    earlier : Evidence, optional
        Scans of other sites that were measured before. They add to what is known of age and sex,
        as ``KNOWN_SCANS`` scans at most, and what their sites add is estimated with that of these.

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
        self._own_gram = self._design.T @ self._design
        self._subjects = (*subjects_per_site(data, rows), *(earlier.subjects if earlier else ()))
        self._gram, self._scans, self._weight = self._own_gram, float(len(rows)), 0.0
        if earlier:
            self._weight = min(1.0, KNOWN_SCANS / max(earlier.scans, 1))
            self._gram = self._gram + self._weight * self._earlier_gram()
            self._scans += self._weight * earlier.scans
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
        self._sums[name] = own = _summed(self._design, parts)
        known = self._with_earlier(name, self._weight)
        beta = solved(self._gram, self._scans, known.cross)
        variance = _diagonal(known.left(beta, self._gram), own) / self._scans
        variance = np.maximum(variance, 0)
        n_sites = len(self._columns)
        common = beta[:n_sites].mean(axis=0)
        effects = beta[:n_sites] - common
        prior = self._earlier.priors.get(name) if self._earlier else None
        if prior:
            left = own.left(beta, self._own_gram)
            at_hand = int((np.diag(self._own_gram)[:n_sites] > 0).sum())
            freedom = max(len(self._design) - at_hand - COVARIATES, 0)
        for i, n in enumerate(self._subjects):
            effects[i] = (
                prior.shrunk(effects[i], left, freedom, n)
                if prior
                else _shrunk(effects[i], variance / n)
            )
        return effects[self._reported], common, variance

    def evidence(self) -> Evidence:
        """What all scans say of the measures so far, for a later regression."""
        earlier, gram, scans = self._earlier, self._own_gram, len(self._design)
        if earlier:
            gram, scans = gram + self._earlier_gram(), scans + earlier.scans
        return Evidence(
            self._columns,
            self._subjects,
            scans,
            self._center,
            gram,
            {name: self._with_earlier(name, 1.0) for name in self._sums},
            earlier.priors if earlier else {},
        )

    def _earlier_gram(self) -> np.ndarray:
        assert self._earlier is not None
        n = len(self._columns) - len(self._earlier.sites)
        return _widened(_widened(self._earlier.gram, n).T, n).T

    def _with_earlier(self, name: str, weight: float) -> Sums:
        """The sums of the scans at hand, and with a weight those of the earlier ones."""
        own = self._sums[name]
        if not self._earlier:
            return own
        before = self._earlier.sums[name]
        cross = _widened(before.cross, len(self._columns) - len(self._earlier.sites))
        return Sums(own.cross + weight * cross, own.square + weight * before.square)


def site_effects(
    data: SliceData, rows: np.ndarray, parts: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each site of ``data.site_names`` adds to one measure; see :class:`Regression`."""
    return Regression(data, rows).effects('measure', parts)


def _summed(design: np.ndarray, parts: Iterable[np.ndarray]) -> Sums:
    cross, square, start = np.zeros(()), np.zeros(()), 0
    for part in parts:
        values = part.astype(np.float64)
        vector = values.ndim == 2
        if not start:
            cross = np.zeros((design.shape[1], *values.shape[1:]))
            square = np.zeros((values.shape[1],) * 2 if vector else values.shape[1:])
        for row, value in zip(design[start:], values, strict=False):
            for column in np.flatnonzero(row):  # one of the sites, and the covariates
                cross[column] += row[column] * value
            square += np.outer(value, value) if vector else np.square(value)
        start += len(part)
    return Sums(cross, square)


def solved(gram: np.ndarray, scans: float, cross: np.ndarray) -> np.ndarray:
    """What each column of the design adds to a measure, shape (C, ...).

    Parameters
    ----------
    gram : np.ndarray, shape (C, C)
        Products of the columns, summed over so many scans.
    scans : float
    cross : np.ndarray, shape (C, ...)
        Products of the columns and the measure.
    """
    ridge = 1e-6 * scans * np.eye(len(gram))  # for columns that say nothing
    return np.tensordot(np.linalg.inv(gram + ridge), cross, axes=1)


def _diagonal(square: np.ndarray, sums: Sums) -> np.ndarray:
    """That of each value, where `square` is as that of the sums."""
    return np.diag(square).copy() if sums.cross.ndim == 2 else square


def _shrunk(effect: np.ndarray, by_chance: np.ndarray) -> np.ndarray:
    """All values alike."""
    size = max(float(np.square(effect).sum()), 1e-12)
    return effect * max(0.0, 1 - float(by_chance.sum()) / size)


def _widened(columns: np.ndarray, n: int) -> np.ndarray:
    """`n` more columns of sites before those of a gram or of sums, all 0."""
    return np.concatenate([np.zeros((n, *columns.shape[1:])), columns])


def _covariates(data: SliceData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return data.ages[rows], sex_numbers([data.sexes[i] for i in rows])


def _filled(values: np.ndarray, sites: np.ndarray, otherwise: float) -> np.ndarray:
    """Values, with their mean where they are NaN, or that of the site if only sites differ.

    Else those who lack a value would be the only ones of their site who differ, and the slope
    would be made of them alone.
    """
    known = ~np.isnan(values)
    if not known.any():
        return np.full(len(values), otherwise)
    filled = np.where(known, values, values[known].mean())
    of_sites = {site: values[known & (sites == site)] for site in np.unique(sites[known])}
    if np.ptp(values[known]) > 0 and not any(map(np.ptp, of_sites.values())):
        for site, of_site in of_sites.items():
            filled[~known & (sites == site)] = of_site[0]
    return filled


def subjects_per_site(data: SliceData, rows: Sequence[int] | np.ndarray) -> list[int]:
    """How many people of each of ``data.site_names`` these rows are of; at least 1."""
    pairs = {(data.sites[i], data.subjects[i]) for i in rows}
    return [max(1, sum(site == named for named, _ in pairs)) for site in data.site_names]
