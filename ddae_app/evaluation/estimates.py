"""Point estimates of measures, with bootstrap intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SAMPLES = 1000
INTERVAL = 0.025, 0.975

Score = Callable[[np.ndarray], np.ndarray]
"""Takes R sets of weights of the images, shape (R, N), to R scores, shape (R,)."""


@dataclass(frozen=True)
class Estimate:
    """The value of a measure, with its 95 % interval.

    Attributes
    ----------
    value : float
    low, high : float
        Ends of the 95 % bootstrap interval over subjects.
    n : int
        Number of images that the value was computed from.
    """

    value: float
    low: float
    high: float
    n: int


def bootstrap_estimate(
    score: Score, rows: np.ndarray, subjects: np.ndarray, strata: np.ndarray, seed: int = 0
) -> Estimate:
    """Compute a score over some rows, with its stratified bootstrap interval over subjects.

    Subjects are drawn with replacement within their stratum, each with all of their images
    (percentile bootstrap: Efron and Tibshirani 1993, ch. 13). Who has images in several strata
    belongs to that of the first of them.

    Parameters
    ----------
    score : callable
    rows : np.ndarray of int
    subjects, strata : np.ndarray, shape (N,)
        Of all images, those outside of `rows` too.
    seed : int
    """
    rng = np.random.default_rng((seed, len(rows)))
    weights = np.zeros((1 + BOOTSTRAP_SAMPLES, len(subjects)))
    weights[0, rows] = 1
    names, first, number = np.unique(subjects[rows], return_index=True, return_inverse=True)
    home = strata[rows][first]
    counts = np.zeros((BOOTSTRAP_SAMPLES, len(names)))
    for stratum in np.unique(home):
        members = np.flatnonzero(home == stratum)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), share, BOOTSTRAP_SAMPLES)
    weights[1:, rows] = counts[:, number]
    values = score(weights)
    return percentile_interval(float(values[0]), values[1:], len(rows))


def percentile_interval(value: float, resampled: np.ndarray, n: int) -> Estimate:
    """A score with the interval that holds 95 % of the scores of bootstrap samples.

    Parameters
    ----------
    value : float
    resampled : np.ndarray, shape (R,)
        Scores of the bootstrap samples; those that are not finite are left out.
    n : int
        Number of images that the score was computed from.
    """
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, INTERVAL) if len(finite) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), n)


def centered_interval(value: float, resampled: np.ndarray, n: int) -> Estimate:
    """As :func:`percentile_interval`, for scores that are biased in bootstrap samples.

    The interval is shifted so that the score itself is the median of the bootstrap scores, of
    those that are finite.
    """
    finite = resampled[np.isfinite(resampled)]
    middle = np.median(finite) if len(finite) else 0.0
    return percentile_interval(value, value + finite - middle, n)


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> Score:
    """Mean, over the labels, of the share of its images that are classified correctly."""
    correct = (labels == predicted).astype(float)

    def score(weights: np.ndarray) -> np.ndarray:
        recalls = []
        for label in np.unique(labels):
            in_class = labels == label
            count = weights[:, in_class].sum(axis=1)
            with np.errstate(invalid='ignore'):
                recalls.append((weights[:, in_class] @ correct[in_class]) / count)
        return np.nanmean(recalls, axis=0)

    return score


def correlation(values: np.ndarray, predicted: np.ndarray) -> Score:
    """Pearson's r, NaN where either side does not vary; images of weight 0 may be NaN."""

    def score(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1)

        def moment(values: np.ndarray) -> np.ndarray:
            return weights @ np.nan_to_num(values) / total

        covariance = moment(values * predicted) - moment(values) * moment(predicted)
        variances = [moment(x**2) - moment(x) ** 2 for x in (values, predicted)]
        with np.errstate(invalid='ignore', divide='ignore'):
            return covariance / np.sqrt(variances[0] * variances[1])

    return score


def cohens_d(values: np.ndarray, group: np.ndarray) -> Score:
    """Difference of the means of a group and of the rest, over the pooled standard deviation.

    Parameters
    ----------
    values : np.ndarray, shape (N,)
    group : np.ndarray, shape (N,), bool
    """

    def score(weights: np.ndarray) -> np.ndarray:
        moments = []
        for members in (group, ~group):
            total = weights[:, members].sum(axis=1)
            with np.errstate(invalid='ignore', divide='ignore'):
                mean = weights[:, members] @ values[members] / total
                mean_square = weights[:, members] @ values[members] ** 2 / total
            moments.append((mean, mean_square - mean**2, total))
        (mean_1, variance_1, n_1), (mean_2, variance_2, n_2) = moments
        with np.errstate(invalid='ignore', divide='ignore'):
            pooled = (variance_1 * n_1 + variance_2 * n_2) / (n_1 + n_2)
            return (mean_1 - mean_2) / np.sqrt(pooled)

    return score


def subtract_site_means(values: np.ndarray, sites: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Subtract from each of some rows the mean over those rows of its site.

    Parameters
    ----------
    values, sites : np.ndarray, shape (N,)
    rows : np.ndarray of int

    Returns
    -------
    np.ndarray, shape (N,), float64
        All other rows are unchanged.
    """
    residuals = values.astype(np.float64).copy()
    for site in np.unique(sites[rows]):
        in_site = rows[sites[rows] == site]
        residuals[in_site] -= residuals[in_site].mean()
    return residuals


def mean(values: np.ndarray) -> Score:
    """Mean of the values that are not NaN."""
    return ratio(np.nan_to_num(values), (~np.isnan(values)).astype(float))


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Score:
    """Sum of the numerators over the sum of the denominators; NaN where the latter is 0."""

    def score(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid='ignore', divide='ignore'):
            return (weights @ numerators) / (weights @ denominators)

    return score
