"""How well the scanners agree on a measure of the same people."""

from __future__ import annotations

import numpy as np


def agreement(values: np.ndarray) -> tuple[float, float]:
    """ICC and coefficient of variation of one measure.

    Parameters
    ----------
    values : np.ndarray, shape (N, K)
        Of N people at K scanners.

    Returns
    -------
    icc : float
        For absolute agreement of single scans, two-way (ICC(A,1), McGraw and Wong 1996,
        doi:10.1037/1082-989X.1.1.30): 1 where all scanners measure the same.
    cv : float
        Standard deviation within people (root mean square over them), divided by the mean.
    """
    n, k = values.shape
    total = values.mean()
    between_people = k * np.square(values.mean(axis=1) - total).sum() / (n - 1)
    between_scanners = n * np.square(values.mean(axis=0) - total).sum() / (k - 1)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + total
    error = np.square(rest).sum() / ((n - 1) * (k - 1))
    below = between_people + (k - 1) * error + k / n * (between_scanners - error)
    within = np.sqrt(values.var(axis=1, ddof=1).mean())
    return float((between_people - error) / below), float(within / total)
