"""By how much a site scales what the sessions of a person differ by, beside what people differ by.

The scale of a site is that between its rows, most of which is between people. A site that scales
measurement error alone, as longitudinal ComBat takes it (Beer et al. 2020,
doi 10.1016/j.neuroimage.2020.117129), scales what is within people otherwise than this; one that
stretches all values scales both alike. Which of the two it is, the people say: the ratio is shrunk
towards 1 by how much sites differ in it and by how uncertain it is (empirical Bayes, as in
:mod:`ddae_app.methods.feature_ddae.appearance`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import digamma, polygamma

from ddae_app.methods.feature_ddae.bands import Bands
from ddae_app.methods.location_scale import SiteRegression, blocks

FEWEST = 2
"""Differences of a site, from which on it says how much sites differ."""

LEAST = 1e-4
"""Of the variance of all sites, that is told from none."""


@dataclass(frozen=True)
class SessionScales:
    """Scales of S sites within people, for P features.

    Attributes
    ----------
    ratio : np.ndarray, shape (S, P)
        Scale of a site between rows over that within people; 1 if it scales both alike.
    variance : np.ndarray, shape (P,)
        Within people, of all sites.
    between, within : np.ndarray, shape (K,)
        Variance of the logarithm of a variance within people in each band: between sites, beside
        that between rows; and within a site, of one difference.
    """

    ratio: np.ndarray
    variance: np.ndarray
    between: np.ndarray
    within: np.ndarray

    @classmethod
    def fit(
        cls,
        regression: SiteRegression,
        bands: Bands,
        scale: np.ndarray,
        y: np.ndarray,
        sites: np.ndarray,
        covariates: np.ndarray,
        persons: np.ndarray,
    ) -> SessionScales | None:
        """Measure them in the rows that a regression was fitted to.

        Parameters
        ----------
        regression : SiteRegression
        bands : Bands
        scale : np.ndarray, shape (S, P)
            Of each site, between rows.
        y : np.ndarray, shape (N, P)
            NaN where a value is missing.
        sites, persons : np.ndarray of int, shape (N,)
        covariates : np.ndarray, shape (N, C)

        Returns
        -------
        SessionScales or None
            None if the regression has no intercepts of people.
        """
        if not regression.ratio.any():
            return None
        found = _Differences.of(y, covariates, regression.slopes, sites, persons)
        squares, counts = found.sums(len(scale))
        total = counts.sum(axis=0)
        variance = squares.sum(axis=0) / np.maximum(total, 1)
        within = found.within(bands, squares, counts)
        measured = _logarithms(squares, counts, variance) - 2 * np.log(scale) * (counts > 0)
        rows = counts.mean(axis=1)
        enough = rows >= FEWEST
        between = np.zeros_like(within)
        if enough.any():
            noise = within * _noise(rows[enough]).mean()
            between = np.maximum(bands.power(measured[enough]) - noise, 0)
        unknown = cls(np.ones_like(scale), variance, between, within)
        return replace(unknown, ratio=unknown._shrunk(bands, measured, rows))

    def calibrated(
        self,
        regression: SiteRegression,
        bands: Bands,
        scale: np.ndarray,
        y: np.ndarray,
        covariates: np.ndarray,
        persons: np.ndarray,
    ) -> SessionScales:
        """With one more site, measured in some of its rows; nothing else changes.

        Parameters are those of :meth:`fit`, but for the sites; `scale` is of the new one alone,
        shape (1, P).
        """
        one = np.zeros(len(y), dtype=int)
        found = _Differences.of(y, covariates, regression.slopes, one, persons)
        squares, counts = found.sums(1)
        measured = _logarithms(squares, counts, self.variance)
        measured -= 2 * np.log(scale) * (counts > 0)
        new = self._shrunk(bands, measured, counts.mean(axis=1))
        return replace(self, ratio=np.vstack([self.ratio, new]))

    def _shrunk(self, bands: Bands, measured: np.ndarray, rows: np.ndarray) -> np.ndarray:
        noise = _noise(np.maximum(rows, LEAST))[:, None] * self.within
        return np.exp(-bands.shrunk(measured, self.between, noise) / 2)

    def change(self, away: np.ndarray, sites: np.ndarray, target: int | None) -> np.ndarray:
        """What is added to rows, so that their sessions differ as at the target, or at no site.

        Parameters
        ----------
        away : np.ndarray, shape (N, P)
            From the mean of the sessions of the person, without the scale of the site.
        sites : np.ndarray of int, shape (N,)
        target : int or None
        """
        ratio = self.ratio[sites] / (1 if target is None else self.ratio[target])
        return away * (ratio - 1)


@dataclass(frozen=True)
class _Differences:
    """Of each row, how far it is from the earlier ones of its person at its site.

    Independent of each other and of what the person is, and scaled to the variance within people
    (Helmert contrasts). NaN where nothing is earlier, or missing.
    """

    values: np.ndarray  # (M, P), float32
    sites: np.ndarray

    @classmethod
    def of(
        cls,
        y: np.ndarray,
        covariates: np.ndarray,
        slopes: np.ndarray,
        sites: np.ndarray,
        persons: np.ndarray,
    ) -> _Differences:
        cell = np.unique(np.stack([persons, sites]), axis=1, return_inverse=True)[1].ravel()
        counts = np.bincount(cell)
        rank = np.empty_like(cell)
        rank[np.argsort(cell, kind='stable')] = np.concatenate([np.arange(n) for n in counts])
        out = np.full(y.shape, np.nan, dtype=np.float32)
        for block in blocks(y.shape[1]):
            left = y[:, block] - covariates @ slopes[:, block]
            total, known = np.zeros((2, len(counts), left.shape[1]))
            for k in range(counts.max()):
                here = np.flatnonzero(rank == k)
                who, values = cell[here], left[here]
                n = known[who]
                mean = np.divide(total[who], n, out=np.full(n.shape, np.nan), where=n > 0)
                out[here, block] = (values - mean) * np.sqrt(n / (n + 1))
                total[who] += np.nan_to_num(values)
                known[who] += ~np.isnan(values)
        later = rank > 0
        return cls(out[later], sites[later])

    def sums(self, n_sites: int) -> tuple[np.ndarray, np.ndarray]:
        """Squares of each site, summed, and how many there are; shape (S, P) each."""
        member = (self.sites[:, None] == np.arange(n_sites)).astype(float)
        squares, counts = np.empty((2, n_sites, self.values.shape[1]))
        for block in blocks(self.values.shape[1]):
            values = self.values[:, block].astype(float)
            squares[:, block] = member.T @ np.square(np.nan_to_num(values))
            counts[:, block] = member.T @ ~np.isnan(values)
        return squares, counts

    def within(self, bands: Bands, squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """How much the square of one difference varies about that of its site, shape (K,)."""
        n = len(self.sites)
        own = squares / np.maximum(counts, 1)
        own[own == 0] = 1
        coefficients, total = np.zeros((n, bands.basis.shape[1])), 0.0
        for block in blocks(self.values.shape[1]):
            values = self.values[:, block].astype(float)
            away = (np.square(values) / own[self.sites, block] - 1) * ~np.isnan(values)
            away = np.nan_to_num(away)
            coefficients += away @ bands.basis[block]
            total += float(np.square(away).sum())
        known = counts.sum(axis=0).mean()  # of the differences of a feature
        return bands.variances(coefficients, total) / max(known - len(np.unique(self.sites)), 1)


def _logarithms(squares: np.ndarray, counts: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Logarithm of the variance of each site over that of all, without its bias; shape (S, P).

    0 where a site has nothing to say.
    """
    n = np.maximum(counts, 1)
    share = squares / n / np.where(variance > 0, variance, 1)
    found = np.log(np.maximum(share, LEAST)) - digamma(n / 2) + np.log(n / 2)
    return np.where((counts > 0) & (variance > 0), found, 0.0)


def _noise(rows: np.ndarray) -> np.ndarray:
    """Variance of the logarithm of a variance of so many rows, over that of a square of one."""
    return polygamma(1, rows / 2) / 2
