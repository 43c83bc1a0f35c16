"""Location and scale of each site: the statistics of ComBat, whatever is harmonized.

Johnson et al. 2007 (doi 10.1093/biostatistics/kxj037); for MRI, Fortin et al. 2018
(doi 10.1016/j.neuroimage.2017.11.024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.methods.data import sex_numbers
from ddae_app.methods.random_intercept import (
    ALIKE,
    FEWEST_REPEATED,
    row_weights,
    slopes_and_ratio,
)
from ddae_app.methods.suitability import People

CONVERGED = 1e-4
"""As in the reference implementations."""

ROUNDING = 1e-10
"""Of the largest value; residuals that are smaller are those of computing in double precision."""

FREE = 10
"""Rows of a value beside the unknowns, from which on its standard deviation is known well enough
to tell in it by how much sites differ."""

BLOCK = 4096
"""Values that are computed at once, in double precision; all that bounds the memory of maps."""


@dataclass(frozen=True)
class SiteRegression:
    """Regression of P values on site and covariates; what ComBat estimates follows from it.

    Attributes
    ----------
    intercepts : np.ndarray, shape (S, P)
        Expected at each site where all covariates are 0.
    slopes : np.ndarray, shape (C, P)
        Of each covariate.
    squares : np.ndarray, shape (S, P)
        Squared residuals, summed over the rows of each site; without the intercepts of people.
    counts : np.ndarray, shape (S, P)
        Rows of each site that have the value.
    ratio : np.ndarray, shape (P,)
        Variance of the intercept of a person, over that of the residuals; 0 without.
    """

    intercepts: np.ndarray
    slopes: np.ndarray
    squares: np.ndarray
    counts: np.ndarray
    ratio: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation between rows of a site, of people and within them, shape (P,)."""
        return np.sqrt(self.squares.sum(axis=0) / self.counts.sum(axis=0) * (1 + self.ratio))

    @property
    def telling(self) -> np.ndarray:
        """Which values say by how much sites differ in others, shape (P,).

        Those of few rows do not, unless most are of as few: by a standard deviation of one or two
        degrees of freedom, a shift may seem many times larger than any other.
        """
        free = self.counts.sum(axis=0) - len(self.counts) - len(self.slopes)
        free = np.maximum(free, 0)
        return (free >= FREE) | (2 * free >= np.median(free))

    @classmethod
    def fit(
        cls,
        y: np.ndarray,
        member: np.ndarray,
        covariates: np.ndarray,
        persons: np.ndarray | None = None,
    ) -> SiteRegression:
        """Fit to rows, of each value to those that have it.

        Parameters
        ----------
        y : np.ndarray, shape (N, P), float64 or float32
            NaN where a value is missing. Each site has two rows or more of each value.
        member : np.ndarray, shape (N, S)
            1 in the column of the site of each row, else 0.
        covariates : np.ndarray, shape (N, C)
            Centered.
        persons : np.ndarray of int, shape (N,), optional
            Who each row is of, for an intercept of each person that is drawn at random; its
            variance is estimated by restricted maximum likelihood (longitudinal ComBat, Beer et
            al. 2020, doi 10.1016/j.neuroimage.2020.117129). Rows of a value that too few people
            have more than once are taken as of different people.
        """
        parts = [
            cls._fit(y[:, block].astype(np.float64), member, covariates, persons)
            for block in blocks(y.shape[1])
        ]
        arrays = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
        return cls(**{name: np.concatenate(v, axis=-1) for name, v in arrays.items()})

    @classmethod
    def _fit(
        cls,
        y: np.ndarray,
        member: np.ndarray,
        covariates: np.ndarray,
        persons: np.ndarray | None,
    ) -> SiteRegression:
        n_sites, n_values = member.shape[1], y.shape[1]
        design = np.hstack([member, covariates])
        beta, ratio = np.empty((design.shape[1], n_values)), np.zeros(n_values)
        squares, counts = np.empty((2, n_sites, n_values))
        for known, columns in patterns(~np.isnan(y)):
            here = y if known.all() and len(columns) == n_values else y[np.ix_(known, columns)]
            x, site = design[known], member[known]
            who = None if persons is None else np.unique(persons[known], return_inverse=True)[1]
            if who is None or len(who) - len(np.unique(who)) < FEWEST_REPEATED:
                beta[:, columns] = np.linalg.pinv(x) @ here
                # In place: beside these, nothing of the size of the values is in memory.
                left = x @ beta[:, columns]
                np.square(np.subtract(here, left, out=left), out=left)
            else:
                beta[:, columns], ratio[columns] = slopes_and_ratio(here, x, who)
                residuals = here - x @ beta[:, columns]
                left = np.square(residuals - intercepts_of(residuals, who, ratio[columns]))
                # In the rows of a person, the intercept takes up a part of the residuals; of a
                # value that does not differ between them, all.
                left /= row_weights(who, ratio[columns])
                alike = ratio[columns] > ALIKE
                left[:, alike] = np.square(residuals[:, alike]) / (1 + ratio[columns][alike])
            squares[:, columns] = site.T @ left
            counts[:, columns] = site.sum(axis=0)[:, None]
            # What varies by rounding alone does not vary: else scales would be made of it.
            largest = np.maximum(here.max(axis=0, initial=0), -here.min(axis=0, initial=0))
            rounding = counts[:, columns] * np.square(ROUNDING * largest)
            squares[:, columns] *= squares[:, columns] > rounding
        return cls(beta[:n_sites], beta[n_sites:], squares, counts, ratio)

    def with_site(self, y: np.ndarray, covariates: np.ndarray) -> SiteRegression:
        """With one more site, of some of its rows, and slopes that stay as they are.

        Parameters
        ----------
        y : np.ndarray, shape (N, P)
            NaN where a value is missing. A value that fewer than two rows have is taken for that
            of an average site.
        covariates : np.ndarray, shape (N, C)
            Centered as those of the fit.
        """
        left = y - covariates @ self.slopes
        known = (~np.isnan(left)).sum(axis=0)
        enough = known >= 2
        total = self.counts.sum(axis=0)
        average = (self.counts * self.intercepts).sum(axis=0) / total
        intercept = np.where(enough, np.nansum(left, axis=0) / np.maximum(known, 1), average)
        # Without the intercepts of people, as those of the other sites are.
        squares = np.nansum(np.square(left - intercept), axis=0) / (1 + self.ratio)
        usual = self.squares.sum(axis=0) / total
        squares = np.where(enough, squares, usual)
        rows = (
            (self.intercepts, intercept),
            (self.squares, squares),
            (self.counts, np.where(enough, known, 1)),
        )
        intercepts, all_squares, counts = (np.vstack([old, new]) for old, new in rows)
        return SiteRegression(intercepts, self.slopes, all_squares, counts, self.ratio)

    def effects(self, reference: int | None = None) -> SiteEffects:
        """What each site adds, shrunk towards what it adds to all values.

        Parameters
        ----------
        reference : int, optional
            The site that the others are brought to, which does not change (reference batch);
            without, all sites are brought to their mean, weighted by their rows.
        """
        if reference is None:
            mean = (self.counts * self.intercepts).sum(axis=0) / self.counts.sum(axis=0)
            variance = self.squares.sum(axis=0) / self.counts.sum(axis=0)
        else:
            mean = self.intercepts[reference]
            variance = self.squares[reference] / self.counts[reference]
        sd = np.sqrt(variance)
        sd[sd == 0] = 1
        shift_hat = (self.intercepts - mean) / sd
        variance_hat = self.squares / np.maximum(self.counts - 1, 1) / sd**2
        # Where the rows of a person hold one value, or the design explains it, there is nothing to
        # scale, and no unit in which the shift could be told beside those of others: it is what
        # was measured.
        varies = (self.ratio < ALIKE) & (variance > 0)
        telling = self.telling[varies]
        shift, scale = np.where(varies, 0, shift_hat), np.ones_like(shift_hat)
        for site in range(len(shift)):
            if site != reference:
                n, d, v = (a[site, varies] for a in (self.counts, shift_hat, variance_hat))
                shift[site, varies], scale[site, varies] = posterior(n, d, v, telling)
        return SiteEffects(mean, sd, self.slopes, shift, scale, self.ratio)


@dataclass(frozen=True)
class SiteEffects:
    """What ComBat takes away from P values.

    Attributes
    ----------
    mean, sd : np.ndarray, shape (P,)
        Expected where all covariates are 0, and standard deviation of the residuals.
    slopes : np.ndarray, shape (C, P)
    shift, scale : np.ndarray, shape (S, P)
        Of each site, in standard deviations; posterior means.
    ratio : np.ndarray, shape (P,)
        As that of :class:`SiteRegression`.
    """

    mean: np.ndarray
    sd: np.ndarray
    slopes: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    ratio: np.ndarray

    def removed(
        self, y: np.ndarray, sites: np.ndarray, covariates: np.ndarray, persons: np.ndarray
    ) -> np.ndarray:
        """The values without what their site adds.

        Parameters
        ----------
        y : np.ndarray, shape (N, P), float64 or float32
            NaN where a value is missing, and missing in the result.
        sites, persons : np.ndarray of int, shape (N,)
            The site of each row, and who it is of; all rows of a person take part in the estimate
            of the intercept of that person.
        covariates : np.ndarray, shape (N, C)

        Returns
        -------
        np.ndarray, shape (N, P), dtype of `y`
        """
        out = np.empty_like(y)
        for block in blocks(y.shape[1]):
            part = self.part(block)
            expected = part.mean + covariates @ part.slopes
            left = y[:, block] - expected - part.sd * part.shift[sites]
            own = intercepts_of(left, persons, part.ratio)
            out[:, block] = expected + own + (left - own) / part.scale[sites]
        return out

    def part(self, columns: slice | np.ndarray) -> SiteEffects:
        """Those of some values."""
        return SiteEffects(*(v[..., columns] for v in vars(self).values()))


def refuse_confounding(people: People) -> None:
    """Refuse age or sex if it differs between sites, and within none.

    Who it is not known of says nothing of it.

    Parameters
    ----------
    people : People

    Raises
    ------
    UsageError
    """
    sites = np.asarray(people.sites)
    for name, values in (('age', people.ages), ('sex', sex_numbers(list(people.sexes)))):
        known = ~np.isnan(values)
        if not known.any() or np.ptp(values[known]) == 0:
            continue
        within = [np.ptp(values[known & (sites == site)]) for site in np.unique(sites[known])]
        if max(within) == 0:
            where = '' if known.all() else f' whose {name} is known'
            raise UsageError(
                f'{name} is confounded with site: all subjects of each site{where} have '
                f'the same {name}, so that ComBat cannot separate the two; leave {name} out of '
                'participants.tsv, or add subjects'
            )


def blocks(count: int) -> list[slice]:
    """So many values, in the order in which they are, in pieces that fit into memory."""
    return [slice(start, start + BLOCK) for start in range(0, max(count, 1), BLOCK)]


def patterns(known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that have a value, and the values that are missing in the same rows.

    Values of one pattern are regressed together.
    """
    if known.all():
        yield np.ones(len(known), dtype=bool), np.arange(known.shape[1])
        return
    patterns, of_value = np.unique(known, axis=1, return_inverse=True)
    for i, rows in enumerate(patterns.T):
        yield rows, np.flatnonzero(of_value.ravel() == i)


def intercepts_of(residuals: np.ndarray, persons: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The intercept of the person of each row, shape (N, P): the best linear unbiased predictor.

    Parameters
    ----------
    residuals : np.ndarray, shape (N, P)
        NaN where a value is missing.
    persons : np.ndarray of int, shape (N,)
    ratio : np.ndarray, shape (P,)
        Variance of the intercepts over that of the residuals.
    """
    if not ratio.any():
        return np.zeros_like(residuals)
    sums = np.zeros((persons.max() + 1, residuals.shape[1]))
    rows = np.zeros_like(sums)
    np.add.at(sums, persons, np.nan_to_num(residuals))
    np.add.at(rows, persons, (~np.isnan(residuals)).astype(float))
    return (sums * ratio / (1 + rows * ratio))[persons]


def posterior(
    n: int | np.ndarray,
    shift_hat: np.ndarray,
    variance_hat: np.ndarray,
    telling: np.ndarray | slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of one site, shrunk by priors that all values share (Johnson et al. 2007).

    The shift has a normal prior and the variance an inverse gamma; their moments give the
    hyper-parameters, and the two posterior means are found in turn. Relative changes are taken as
    in the reference implementations, by the signed value, so that it stops when they do.

    Parameters
    ----------
    n : int, or np.ndarray of shape (P,)
        Scans or rows of the site.
    shift_hat, variance_hat : np.ndarray, shape (P,)
    telling : np.ndarray of bool, shape (P,), optional
        The values that the priors are made of; all, if it is not given.
    """
    squares = (n - 1) * variance_hat
    variance_hat = np.where(variance_hat == 0, 1, variance_hat)
    shifts, variances = shift_hat[telling], variance_hat[telling]
    if len(shifts) < 2:
        return shift_hat, np.sqrt(variance_hat)
    center, spread = shifts.mean(), shifts.var(ddof=1)
    m, s2 = variances.mean(), variances.var(ddof=1)
    if min(spread, s2) <= 0:
        return shift_hat, np.sqrt(variance_hat)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    shift, variance, change = shift_hat, variance_hat, np.inf
    while change > CONVERGED:
        new_shift = (n * spread * shift_hat + variance * center) / (n * spread + variance)
        rest = squares + n * np.square(new_shift - shift_hat)
        new_variance = (0.5 * rest + b) / (n / 2 + a - 1)
        change = max(_change(new_shift, shift), _change(new_variance, variance))
        shift, variance = new_shift, new_variance
    return shift, np.sqrt(variance)


def _change(new: np.ndarray, old: np.ndarray) -> float:
    ratio = np.divide(np.abs(new - old), old, out=np.zeros_like(old), where=old != 0)
    return float(ratio.max())
