"""The first four cumulants of each site, in which rows differ, and how smooth they are.

What a site adds may be smooth over the cortex in the unit of the map, in standard deviations of
people, or as a share of the mean, and it is not in more than one of these: the mean and the
deviations follow the folds. In which one it is, the data say, by Stein's estimate of the error
(Stein 1981, doi 10.1214/aos/1176345632).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.methods.feature_ddae.bands import Bands
from ddae_app.methods.location_scale import blocks

log = logging.getLogger('ddae_app')

STATISTICS = ('shift', 'variance', 'skew', 'tails')
"""What is measured of each site: the first four cumulants."""

LEAST_SCALE = 0.1


@dataclass(frozen=True)
class RowCumulants:
    """What each of N rows says of the cumulants of its site.

    Attributes
    ----------
    residuals : np.ndarray, shape (N, P), float32
        In the standard deviation of the site; NaN where missing.
    sites : np.ndarray of int, shape (N,)
    covariates : np.ndarray, shape (N, C)
    slopes : np.ndarray, shape (C, P)
    own : np.ndarray, shape (S, P)
        Standard deviation of each site.
    """

    residuals: np.ndarray
    sites: np.ndarray
    covariates: np.ndarray
    slopes: np.ndarray
    own: np.ndarray

    @classmethod
    def of(
        cls,
        y: np.ndarray,
        sites: np.ndarray,
        covariates: np.ndarray,
        intercepts: np.ndarray,
        own: np.ndarray,
        slopes: np.ndarray,
    ) -> RowCumulants:
        residuals, own = np.empty(y.shape, dtype=np.float32), np.where(own > 0, own, 1)
        for block in blocks(y.shape[1]):
            left = y[:, block] - intercepts[sites, block] - covariates @ slopes[:, block]
            residuals[:, block] = left / own[sites, block]
        return cls(residuals, sites, covariates, slopes, own)

    @property
    def rows(self) -> float:
        """How many rows have a feature, on average."""
        known = sum(np.count_nonzero(~np.isnan(row)) for row in self.residuals)
        return known / self.residuals.shape[1]

    def hermite(self, block: slice) -> list[np.ndarray]:
        """What each row adds to the first four cumulants; 0 where missing."""
        r = np.nan_to_num(self.residuals[:, block].astype(float))
        square = r * r
        known = ~np.isnan(self.residuals[:, block])
        return [r, (square - 1) * known, r * (square - 3), (square * (square - 6) + 3) * known]

    def of_rows(
        self, bands: Bands, which: Sequence[int], factor: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, float]]:
        """Of some statistics, the coefficients in the bands, shape (N, M), and all squares.

        Parameters
        ----------
        bands : Bands
        which : sequence of int
            Of ``STATISTICS``.
        factor : np.ndarray, shape (P,), optional
            By which they are multiplied before.
        """
        n, p = self.residuals.shape
        factor = np.ones(p) if factor is None else factor
        found = [(np.zeros((n, bands.basis.shape[1])), 0.0) for _ in which]
        member = (self.sites[:, None] == np.unique(self.sites)).astype(float)
        member /= member.sum(axis=0)
        for block in blocks(p):
            hermite = self.hermite(block)
            for i, statistic in enumerate(which):
                h = hermite[statistic]
                h = (h - (member > 0) @ (member.T @ h)) * factor[block]
                coefficients, squares = found[i]
                found[i] = (
                    coefficients + h @ bands.basis[block],
                    squares + float(np.square(h).sum()),
                )
        return found

    def unit_of_shifts(
        self, bands: Bands, shift: np.ndarray, rows: np.ndarray, mean: np.ndarray, sd: np.ndarray
    ) -> np.ndarray:
        """The unit in which shrunken shifts are expected to be nearest to the true ones.

        Let :math:`F` be the shrinkage, which is linear, :math:`d` a measured shift, and :math:`r`
        the residuals of the rows. Stein's estimate of the squared error, less what is the same in
        all units, is :math:`|d - F d|^2 + 2 E[r' F r] / n` of a site of :math:`n` rows; here in
        `sd`, or in the median of `sd` where that is larger.

        Parameters
        ----------
        bands : Bands
        shift : np.ndarray, shape (S, P)
            As measured, in `sd`.
        rows : np.ndarray, shape (S,)
        mean, sd : np.ndarray, shape (P,)
            Of all sites, in the unit of the rows.

        Returns
        -------
        np.ndarray, shape (P,)
            `sd`, 1 or `mean`.
        """
        if not bands.smooth:
            return sd
        units = {'standard deviations of people': sd, 'the unit of the maps': np.ones_like(sd)}
        if mean.min() > 0:
            units['shares of the mean'] = mean
        # Of few vertices at which people hardly differ, errors in sd would outweigh all others.
        weight = np.minimum(sd / np.median(sd), 1)
        _, everything = self.of_rows(bands, (0,), weight)[0]
        errors = []
        for unit in (unit / sd for unit in units.values()):
            (divided, squares), (multiplied, _) = (
                self.of_rows(bands, (0,), factor)[0] for factor in (1 / unit, weight**2 * unit)
            )
            within = bands.variances(divided, squares) / self.rows
            between = np.maximum(bands.power(shift / unit) - within * (1 / rows).mean(), 0)
            noise = within / rows[:, None]
            left = weight * (shift - unit * bands.shrunk(shift / unit, between, noise))
            kept = bands.factors(between, noise) @ bands.sums(
                (divided * multiplied).sum(axis=0), everything
            )
            errors.append(np.square(left).sum() + 2 * (kept / rows).sum() / self.rows)
        name = list(units)[int(np.argmin(errors))]
        log.info('what sites add is smoothest in %s', name)
        return units[name]

    def statistics(self, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The cumulants of each site, shape (4, S, P), of given shift and scale."""
        found = np.zeros((len(STATISTICS), *shift.shape))
        found[0], found[1] = shift, 2 * np.log(np.maximum(scale, LEAST_SCALE))
        member = (self.sites[:, None] == np.arange(len(shift))).astype(float)
        for block in blocks(shift.shape[1]):
            known = np.maximum(member.T @ ~np.isnan(self.residuals[:, block]), 1)
            for i, h in enumerate(self.hermite(block)[2:], 2):
                found[i, :, block] = member.T @ h / known
        return found

    def share(self, scale: np.ndarray) -> float:
        """By how much sites scale what age and sex do, 0 to 1."""
        moved, squared = np.zeros((2, len(self.sites)))
        for block in blocks(scale.shape[1]):
            r = np.nan_to_num(self.residuals[:, block].astype(float))
            known = ~np.isnan(self.residuals[:, block])
            expected = self.covariates @ self.slopes[:, block] / self.own[self.sites, block]
            change = (scale[self.sites, block] - 1) * expected * known
            moved += (r * change).sum(axis=1)
            squared += np.square(change).sum(axis=1)
        return shown_share(moved, squared)


def shown_share(moved: np.ndarray, squared: np.ndarray) -> float:
    """A factor by least squares, ``sum(moved) / sum(squared)``, within 0 and 1.

    Parameters
    ----------
    moved, squared : np.ndarray, shape (N,)
        Of each row: effect times what is to be explained, and effect squared.

    Returns
    -------
    float
        0 where the rows do not show it: below two standard errors (of a ratio estimator).
    """
    total = squared.sum()
    if total == 0:
        return 0.0
    share = moved.sum() / total
    error = np.sqrt(np.square(moved - share * squared).sum()) / total
    return float(min(share, 1.0)) if share > 2 * error else 0.0
