"""Regression with an intercept of each person that is drawn at random.

The variances are estimated by restricted maximum likelihood (Laird and Ware 1982,
doi 10.2307/2529876), each value by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

MOST_SHARED = 0.9999
"""Of the variance that the design leaves, the largest share that the intercepts may have."""

SINGULAR = 1e-10
"""Of the largest eigenvalue; directions of the design below say nothing."""


def slopes_and_ratio(
    y: np.ndarray, design: np.ndarray, persons: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Generalized least squares, the ratio of the two variances of each value estimated.

    Parameters
    ----------
    y : np.ndarray, shape (N, P), float64
    design : np.ndarray, shape (N, K)
    persons : np.ndarray of int, shape (N,)
        Numbers from 0 on, each of which occurs.

    Returns
    -------
    beta : np.ndarray, shape (K, P)
    ratio : np.ndarray, shape (P,)
        Variance of the intercepts over that of the residuals.
    """
    sums = _Sums.of(y, design, persons)
    beta, ratio = np.empty((design.shape[1], y.shape[1])), np.empty(y.shape[1])
    for column in range(y.shape[1]):
        best = minimize_scalar(
            lambda share, column=column: sums.deviance(share / (1 - share), column),
            bounds=(0, MOST_SHARED),
            method='bounded',
            options={'xatol': 1e-9},
        )
        share = float(best.x)
        # The search never reaches the end of its interval, where there is no variance of persons.
        if sums.deviance(0.0, column) <= best.fun:
            share = 0.0
        ratio[column] = share / (1 - share)
        beta[:, column] = sums.beta(ratio[column], column)
    return beta, ratio


def row_weights(persons: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Variance of what the predicted intercept leaves in each row, over that of the residuals.

    Parameters
    ----------
    persons : np.ndarray of int, shape (N,)
    ratio : np.ndarray, shape (P,)

    Returns
    -------
    np.ndarray, shape (N, P)
        1 where the ratio is 0.
    """
    rows = np.bincount(persons)[persons][:, None]
    return 1 - ratio / (1 + rows * ratio)


@dataclass(frozen=True)
class _Sums:
    """Sums over all rows, and over the rows of each person, of design and values.

    With W = I - ratio / (1 + n ratio) 11' in the rows of a person, all that the likelihood needs
    is a sum over all rows less a weighted sum over persons.
    """

    rows: np.ndarray  # of each person
    design: np.ndarray  # (persons, K)
    values: np.ndarray  # (persons, P)
    gram: np.ndarray  # (K, K)
    cross: np.ndarray  # (K, P)
    square: np.ndarray  # (P,)

    @classmethod
    def of(cls, y: np.ndarray, design: np.ndarray, persons: np.ndarray) -> _Sums:
        n = int(persons.max()) + 1
        by_person = np.zeros((n, design.shape[1])), np.zeros((n, y.shape[1]))
        for total, part in zip(by_person, (design, y), strict=True):
            np.add.at(total, persons, part)
        square = np.square(y).sum(axis=0)
        return cls(np.bincount(persons), *by_person, design.T @ design, design.T @ y, square)

    def _solved(self, ratio: float, column: int) -> tuple[np.ndarray, float, float, int]:
        weight = ratio / (1 + self.rows * ratio)
        weighted = self.design * weight[:, None]
        values = self.values[:, column]
        gram = self.gram - self.design.T @ weighted
        cross = self.cross[:, column] - weighted.T @ values
        square = self.square[column] - weight @ np.square(values)
        size, vectors = np.linalg.eigh(gram)
        use = size > SINGULAR * size[-1]
        beta = vectors[:, use] @ (vectors[:, use].T @ cross / size[use])
        left = max(float(square - beta @ cross), np.finfo(float).tiny)
        return beta, left, float(np.log(size[use]).sum()), int(use.sum())

    def beta(self, ratio: float, column: int) -> np.ndarray:
        return self._solved(ratio, column)[0]

    def deviance(self, ratio: float, column: int) -> float:
        """Twice the negative restricted log-likelihood, but for a constant."""
        _, left, determinant, rank = self._solved(ratio, column)
        freedom = int(self.rows.sum()) - rank
        return freedom * np.log(left) + np.log1p(self.rows * ratio).sum() + determinant
