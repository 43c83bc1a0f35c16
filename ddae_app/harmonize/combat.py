"""ComBat: per pixel, each site's shift and scale, shrunk towards what is common to all pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ddae_app.errors import UsageError
from ddae_app.harmonize.base import check_request, training_data

CONVERGED = 1e-4


@dataclass(frozen=True)
class ComBatFit:
    """What ComBat learnt, for the P pixels that vary.

    Attributes
    ----------
    pixels : np.ndarray, shape (H, W), bool
    mean, sd : np.ndarray, shape (P,)
        Grand mean, and pooled standard deviation of the residuals.
    slopes : np.ndarray, shape (2, P)
        Of age (years from `age`) and sex (from `sex`).
    shift, scale : np.ndarray, shape (S, P)
        Of each site, in standard deviations; posterior means.
    age, sex : float
        Training means; they stand in for what is missing.
    """

    pixels: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    slopes: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    age: float
    sex: float


@dataclass(frozen=True)
class ComBat:
    """Empirical-Bayes site correction per pixel, age and sex protected (Johnson et al. 2007;
    for MRI, Fortin et al. 2018).

    The target site's own shift and scale are put back, so that the output looks like the target.

    Attributes
    ----------
    sites : tuple of str
    fitted : ComBatFit or None
    """

    sites: tuple[str, ...] = ()
    fitted: ComBatFit | None = None

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> ComBat:
        """A copy fitted to these slices.

        Raises
        ------
        UsageError
            If a site has fewer than two images.
        """
        data = training_data(images, cohort)
        values = np.asarray(images, dtype=np.float64)
        pixels = values.std(axis=0) > 0
        y, sites = values[:, pixels], np.array(data.sites)
        member = np.stack([sites == site for site in data.site_names], axis=1).astype(float)
        few = [site for site, n in zip(data.site_names, member.sum(0), strict=True) if n < 2]
        if few:
            raise UsageError(f'ComBat needs two images of each site; {", ".join(few)} has fewer')
        age, sex = (_mean(values) for values in _covariates(data.ages, data.sexes))
        design = np.hstack([member, self._centred(data.ages, data.sexes, age, sex)])
        beta = np.linalg.lstsq(design, y, rcond=None)[0]
        n_sites = len(data.site_names)
        mean = member.mean(axis=0) @ beta[:n_sites]
        sd = np.sqrt(np.square(y - design @ beta).mean(axis=0))
        sd[sd == 0] = 1  # pixels that the design explains; nothing is left to scale
        slopes = beta[n_sites:]
        z = (y - mean - design[:, n_sites:] @ slopes) / sd
        shift, scale = zip(*(_posterior(z[sites == s]) for s in data.site_names), strict=True)
        found = ComBatFit(pixels, mean, sd, slopes, np.array(shift), np.array(scale), age, sex)
        return ComBat(data.site_names, found)

    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.harmonize.base.Harmonizer`.

        Raises
        ------
        UsageError
            If a source site is not one that it was fitted to.
        """
        if self.fitted is None:
            raise UsageError('this ComBat knows no sites yet; call fit first')
        labels = check_request(images, cohort, target_site, self.sites)
        unseen = sorted(set(labels.sites) - set(self.sites))
        if unseen:
            raise UsageError(
                f'source site {", ".join(unseen)} is not among those that ComBat was fitted to: '
                f'{", ".join(self.sites)}; it cannot harmonise a site that it has not seen'
            )
        fit = self.fitted
        known = self._centred(labels.ages, labels.sexes, fit.age, fit.sex)
        rows = [self.sites.index(site) for site in labels.sites]
        target = self.sites.index(target_site)
        expected = fit.mean + known @ fit.slopes
        z = (images[:, fit.pixels] - expected) / fit.sd
        z = (z - fit.shift[rows]) / fit.scale[rows] * fit.scale[target] + fit.shift[target]
        out = images.copy()
        out[:, fit.pixels] = np.maximum(expected + z * fit.sd, 0)
        return np.where(images > 0, out, 0).astype(np.float32)

    @staticmethod
    def _centred(ages, sexes, age: float, sex: float) -> np.ndarray:
        columns = zip(_covariates(ages, sexes), (age, sex), strict=True)
        return np.stack([np.where(np.isnan(v), 0, v - mean) for v, mean in columns], axis=1)


def _covariates(ages, sexes) -> tuple[np.ndarray, np.ndarray]:
    numbers = {'M': 0.0, 'F': 1.0, None: np.nan}
    return np.asarray(ages, dtype=float), np.array([numbers[sex] for sex in sexes])


def _mean(values: np.ndarray) -> float:
    return 0.0 if np.isnan(values).all() else float(np.nanmean(values))


def _posterior(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of one site, shrunk by priors that all pixels share (Johnson et al. 2007).

    The shift has a normal prior and the variance an inverse gamma; their moments give the
    hyper-parameters, and the two posterior means are found in turn.
    """
    n = len(z)
    shift_hat, variance_hat = z.mean(axis=0), z.var(axis=0, ddof=1)
    centre, spread = shift_hat.mean(), shift_hat.var(ddof=1)
    m, s2 = variance_hat.mean(), variance_hat.var(ddof=1)
    if min(spread, s2, m) <= 0:
        return shift_hat, np.sqrt(np.where(variance_hat > 0, variance_hat, 1))
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    shift, variance, change = shift_hat, variance_hat, np.inf
    floor = np.finfo(float).tiny
    while change > CONVERGED:
        new_shift = (n * spread * shift_hat + variance * centre) / (n * spread + variance)
        rest = np.square(z - new_shift).sum(axis=0)
        new_variance = (0.5 * rest + b) / (n / 2 + a - 1)
        change = max(
            np.abs((new_shift - shift) / np.maximum(np.abs(shift), floor)).max(),
            np.abs((new_variance - variance) / np.maximum(variance, floor)).max(),
        )
        shift, variance = new_shift, new_variance
    return shift, np.sqrt(variance)
