"""What a site does to each feature, measured without a network: shift, scale, skew and tails.

As :mod:`ddae_app.methods.location_scale`, with two differences. What is estimated of a feature is
shrunk towards what its neighbors say, by how much sites differ and by how much people do, at each
spatial frequency (empirical Bayes; Efron and Morris 1973, doi 10.1080/01621459.1973.10481350). And
besides location and scale there is the bend of the values, from their third and fourth cumulants
(Cornish and Fisher 1938, doi 10.2307/1400905).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ddae_app.methods.feature_ddae.bands import Bands
from ddae_app.methods.feature_ddae.cumulants import RowCumulants
from ddae_app.methods.location_scale import SiteRegression, blocks, posterior

FARTHEST = 3.0
"""Standard deviations: beyond, the bend no longer grows."""

LEAST_SLOPE = 0.25
"""Of the bend: the order of the values stays what it is."""


@dataclass(frozen=True)
class FeatureAppearance:
    """The appearance of S sites in P features; for all of them, age and sex have C columns.

    Attributes
    ----------
    mean, sd : np.ndarray, shape (P,)
        Of all sites, at average age and sex; `sd` is that between rows, of people and within
        them.
    slopes : np.ndarray, shape (C, P)
        Of age and sex.
    shift, scale, skew, tails : np.ndarray, shape (S, P)
        How much larger the values of a site are, in ``sd``; their standard deviation over that of
        all sites; and third and fourth cumulant, less ``usual``.
    unit : np.ndarray, shape (P,)
        In which shifts are smooth, in ``sd``; 1 of features without neighbors.
    usual : np.ndarray, shape (2, P)
        Third and fourth cumulant of all sites.
    share : np.ndarray, shape (1,)
        0 if the scale of a site is that of what age and sex leave, as in ComBat; 1 if the site
        scales what age and sex do just as well.
    between, within : np.ndarray, shape (4, K)
        Variance of each of ``STATISTICS`` in each band, between sites, and within a site between
        rows; of shifts in ``unit``.
    """

    mean: np.ndarray
    sd: np.ndarray
    slopes: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    skew: np.ndarray
    tails: np.ndarray
    unit: np.ndarray
    usual: np.ndarray
    share: np.ndarray
    between: np.ndarray
    within: np.ndarray

    @classmethod
    def fit(
        cls,
        regression: SiteRegression,
        bands: Bands,
        y: np.ndarray,
        sites: np.ndarray,
        covariates: np.ndarray,
        unit: np.ndarray | None = None,
    ) -> FeatureAppearance:
        """Measure sites in the rows that a regression was fitted to.

        Parameters
        ----------
        regression : SiteRegression
        bands : Bands
        y : np.ndarray, shape (N, P)
            NaN where a value is missing.
        sites : np.ndarray of int, shape (N,)
        covariates : np.ndarray, shape (N, C)
        unit : np.ndarray, shape (P,), optional
            In which shifts are smooth, in the unit of `y`; without, the rows say it.
        """
        counts = regression.counts
        mean = (counts * regression.intercepts).sum(axis=0) / counts.sum(axis=0)
        squares = _squares(regression, y, sites, covariates)
        sd = np.sqrt(squares.sum(axis=0) / counts.sum(axis=0))
        sd[sd == 0] = 1  # age and sex explain the value
        own = np.sqrt(squares / np.maximum(counts - 1, 1))
        measured = RowCumulants.of(
            y, sites, covariates, regression.intercepts, own, regression.slopes
        )
        rows = counts.mean(axis=1)
        shift = (regression.intercepts - mean) / sd
        if unit is None:
            unit = measured.unit_of_shifts(bands, shift, rows, mean, sd)
        unit = unit / sd / np.median(unit / sd)
        of_rows = measured.of_rows(bands, (0,), 1 / unit) + measured.of_rows(bands, (1, 2, 3))
        within = np.stack([bands.variances(c, s) for c, s in of_rows]) / measured.rows
        statistics = measured.statistics(shift / unit, own / sd)
        usual = np.average(statistics[2:], axis=1, weights=rows)
        statistics[2:] -= usual[:, None]
        between = np.stack(
            [
                np.maximum(bands.power(d) - w * (1 / rows).mean(), 0)
                for d, w in zip(statistics, within, strict=True)
            ]
        )
        shrunk = _shrunk(bands, unit, statistics, between, within, regression)
        share = np.array([measured.share(shrunk[1])])
        return cls(mean, sd, regression.slopes, *shrunk, unit, usual, share, between, within)

    def calibrated(
        self, regression: SiteRegression, bands: Bands, y: np.ndarray, covariates: np.ndarray
    ) -> FeatureAppearance:
        """With one more site, measured in some of its rows; nothing else changes.

        Parameters
        ----------
        regression : SiteRegression
            Its last site is the new one (:meth:`SiteRegression.with_site`).
        bands : Bands
        y : np.ndarray, shape (N, P)
            NaN where a value is missing.
        covariates : np.ndarray, shape (N, C)
        """
        sites = np.zeros(len(y), dtype=int)
        intercept, counts = regression.intercepts[-1:], regression.counts[-1:]
        squares = regression.squares[-1:] * (1 + regression.ratio)  # of people and within them
        own = np.sqrt(squares / np.maximum(counts - 1, 1))
        unknown = counts[0] < 2
        own[:, unknown] = self.sd[unknown]
        measured = RowCumulants.of(y, sites, covariates, intercept, own, self.slopes)
        shift = (intercept - self.mean) / self.sd / self.unit
        found = measured.statistics(shift, own / self.sd)
        found[2:] -= self.usual[:, None]
        found[2:, :, unknown] = 0
        new = _shrunk(bands, self.unit, found, self.between, self.within, regression)
        old = self.shift, self.scale, self.skew, self.tails
        shift, scale, skew, tails = map(np.concatenate, zip(old, new, strict=True))
        return replace(self, shift=shift, scale=scale, skew=skew, tails=tails)

    def against(self, target: int | None) -> FeatureAppearance:
        """The same, with shift and scale of each site as seen from a target, in its unit."""
        if target is None:
            return self
        shift, scale = self.shift[target], self.scale[target]
        return replace(self, shift=(self.shift - shift) / scale, scale=self.scale / scale)

    def standardized(
        self, y: np.ndarray, sites: np.ndarray, covariates: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The values without location and scale of their site.

        Parameters
        ----------
        y : np.ndarray, shape (N, P)
        sites : np.ndarray of int, shape (N,)
        covariates : np.ndarray, shape (N, C)

        Returns
        -------
        x, protected : np.ndarray, shape (N, P)
            In ``sd``; `protected` is what age and sex do that the site does not scale, and is
            not in `x`.
        """
        protected = (1 - self.share) * (covariates @ self.slopes) / self.sd
        x = (y - self.mean) / self.sd - protected - self.shift[sites]
        return x / self.scale[sites], protected

    def unbent(self, x: np.ndarray, sites: np.ndarray, target: int | None = None) -> np.ndarray:
        """Standardized values with the skew and tails of all sites, or of a target.

        The first terms of Cornish and Fisher 1938, which keep the order of the values.
        """
        skew, tails = self.skew[sites], self.tails[sites]
        if target is not None:
            skew, tails = skew - self.skew[target], tails - self.tails[target]
        # The slope of the bend is a parabola, steepest at an end or at its vertex.
        top = np.divide(-4 * skew, 3 * tails, out=np.zeros_like(skew), where=tails != 0)
        places = (-FARTHEST, FARTHEST, np.clip(top, -FARTHEST, FARTHEST))
        slopes = [skew / 3 * a + tails / 8 * (a * a - 1) for a in places]
        steepest = np.maximum(np.maximum(slopes[0], slopes[1]), slopes[2])
        share = (1 - LEAST_SLOPE) / np.maximum(steepest, 1 - LEAST_SLOPE)
        near = np.clip(x, -FARTHEST, FARTHEST)
        bend = skew / 6 * (near**2 - 1) + tails / 24 * (near**3 - 3 * near)
        return x - share * bend

    def left(self, y: np.ndarray, sites: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """What the appearance of the sites, age and sex do not explain of values, in ``sd``.

        Parameters are those of :meth:`standardized`.
        """
        x, protected = self.standardized(y, sites, covariates)
        return self.unbent(x, sites) + protected - (covariates @ self.slopes) / self.sd

    def back(self, x: np.ndarray, protected: np.ndarray, target: int | None) -> np.ndarray:
        """From standardized values to those of a target, or of the mean of all sites."""
        if target is not None:
            x = x * self.scale[target] + self.shift[target]
        return (x + protected) * self.sd + self.mean


def _squares(
    regression: SiteRegression, y: np.ndarray, sites: np.ndarray, covariates: np.ndarray
) -> np.ndarray:
    """What site, age and sex do not explain, squared and summed over rows, shape (S, P).

    The regression leaves out of its own what differs between people who have several rows.
    """
    squares = np.empty_like(regression.squares)
    member = (sites[:, None] == np.arange(len(squares))).astype(float)
    for block in blocks(squares.shape[1]):
        away = covariates @ regression.slopes[:, block]
        left = y[:, block] - regression.intercepts[sites, block] - away
        squares[:, block] = member.T @ np.square(np.nan_to_num(left))
    return squares


def _shrunk(
    bands: Bands,
    unit: np.ndarray,
    statistics: np.ndarray,
    between: np.ndarray,
    within: np.ndarray,
    regression: SiteRegression,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shift, scale, skew and tails, each its mean given its rows; shape (S, P) each.

    Of `statistics`, the shift is in `unit`; of what is returned, in standard deviations. They are
    of the last sites of the regression.
    """
    counts = regression.counts[-statistics.shape[1] :]
    rows = counts.mean(axis=1, keepdims=True)
    shift, variance, skew, tails = (
        bands.shrunk(d, b, w / rows) for d, b, w in zip(statistics, between, within, strict=True)
    )
    if bands.smooth:
        return shift * unit, np.exp(variance / 2), skew, tails
    # Features without neighbors: as in ComBat, which needs no other sites for its priors.
    scale = np.empty_like(shift)
    for site, n in enumerate(counts):
        measured = statistics[0, site], np.exp(statistics[1, site])
        shift[site], scale[site] = posterior(n, *measured, regression.telling)
    return shift, scale, skew, tails
