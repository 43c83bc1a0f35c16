"""A measured number with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

REPEATS = 1000
EDGES = 0.025, 0.975

Score = Callable[[np.ndarray], np.ndarray]
"""From weights of the images, shape (R, N), to the score under each set of weights, shape (R,)."""


@dataclass(frozen=True)
class Estimate:
    """What a measure came to.

    Attributes
    ----------
    value : float
    low, high : float
        Ends of the 95 % bootstrap interval over people.
    n : int
        Images that it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def estimate(
    score: Score, rows: np.ndarray, subjects: np.ndarray, strata: np.ndarray, seed: int = 0
) -> Estimate:
    """A score over some rows, with the interval that other people of the same sites would give.

    People are drawn with replacement within their stratum, each with all images (percentile
    bootstrap: Efron and Tibshirani 1993, ch. 13).

    Parameters
    ----------
    score : callable
    rows : np.ndarray of int
    subjects, strata : np.ndarray, shape (N,)
        Of all images, those left out too.
    seed : int
    """
    rng = np.random.default_rng((seed, len(rows)))
    weights = np.zeros((1 + REPEATS, len(subjects)))
    weights[0, rows] = 1
    for stratum in np.unique(strata[rows]):
        own = rows[strata[rows] == stratum]
        names, person = np.unique(subjects[own], return_inverse=True)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPEATS)
        weights[1:, own] = drawn[:, person]
    values = score(weights)
    return percentile(float(values[0]), values[1:], len(rows))


def percentile(value: float, drawn: np.ndarray, n: int) -> Estimate:
    """A score, and the interval that holds 95 % of others that were drawn from the same scans.

    Parameters
    ----------
    value : float
    drawn : np.ndarray, shape (R,)
        Those that are not finite are left out.
    n : int
        Images that it rests on.
    """
    found = drawn[np.isfinite(drawn)]
    low, high = np.quantile(found, EDGES) if len(found) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), n)


def centred(value: float, drawn: np.ndarray, n: int) -> Estimate:
    """As :func:`percentile`, for scores that drawing anew moves to one side.

    The interval is moved to where the score itself is its middle.
    """
    return percentile(value, value + drawn - np.median(drawn), n)


def balanced_accuracy(labels: np.ndarray, guess: np.ndarray) -> Score:
    """Mean over the labels of how often each is told."""
    right = (labels == guess).astype(float)

    def score(weights: np.ndarray) -> np.ndarray:
        shares = []
        for label in np.unique(labels):
            own = labels == label
            count = weights[:, own].sum(axis=1)
            with np.errstate(invalid='ignore'):
                shares.append((weights[:, own] @ right[own]) / count)
        return np.nanmean(shares, axis=0)

    return score


def correlation(values: np.ndarray, guess: np.ndarray) -> Score:
    """Pearson's r; NaN where either does not vary. What has no weight may be NaN."""

    def score(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1)

        def moment(values: np.ndarray) -> np.ndarray:
            return weights @ np.nan_to_num(values) / total

        covariance = moment(values * guess) - moment(values) * moment(guess)
        spread = [moment(x**2) - moment(x) ** 2 for x in (values, guess)]
        with np.errstate(invalid='ignore', divide='ignore'):
            return covariance / np.sqrt(spread[0] * spread[1])

    return score


def cohens_d(values: np.ndarray, group: np.ndarray) -> Score:
    """Difference of means of a group and the rest, over the standard deviation within both."""

    def score(weights: np.ndarray) -> np.ndarray:
        parts = []
        for own in (group, ~group):
            total = weights[:, own].sum(axis=1)
            with np.errstate(invalid='ignore', divide='ignore'):
                middle = weights[:, own] @ values[own] / total
                square = weights[:, own] @ values[own] ** 2 / total
            parts.append((middle, square - middle**2, total))
        (one, spread, n), (other, other_spread, m) = parts
        with np.errstate(invalid='ignore', divide='ignore'):
            return (one - other) / np.sqrt((spread * n + other_spread * m) / (n + m))

    return score


def within_sites(values: np.ndarray, sites: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows less the mean of those of their site."""
    out = values.astype(np.float64).copy()
    for site in np.unique(sites[rows]):
        own = rows[sites[rows] == site]
        out[own] -= out[own].mean()
    return out


def mean(values: np.ndarray) -> Score:
    """The mean, NaN left out."""
    return ratio(np.nan_to_num(values), (~np.isnan(values)).astype(float))


def ratio(values: np.ndarray, by: np.ndarray) -> Score:
    """The sum of some numbers over that of others; NaN where the second is 0."""

    def score(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid='ignore', divide='ignore'):
            return (weights @ values) / (weights @ by)

    return score
