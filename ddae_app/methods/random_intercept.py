"""Regression with an intercept of each person that is drawn at random.

The variances are estimated by restricted maximum likelihood (Laird and Ware 1982,
doi 10.2307/2529876), each value by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FEWEST_REPEATED = 10
"""Rows beyond the first of each person, from which the variance of people can be estimated."""

MOST_SHARED = 0.9999
"""Of the variance that the design leaves, the largest share that the intercepts may have."""

ALIKE = 0.999 * MOST_SHARED / (1 - MOST_SHARED)
"""Ratio of the two variances, from which on the rows of a person hold one value."""

SINGULAR = 1e-10
"""Of the largest eigenvalue; directions of the design below say nothing."""

GOLDEN, STEPS = (np.sqrt(5) - 1) / 2, 44
"""Of the interval, what each step keeps; so many leave less than 1e-9."""


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
    share, lowest = _lowest(lambda share: sums.deviance(share / (1 - share)), y.shape[1])
    # The search never reaches the end of its interval, where there is no variance of persons.
    share = np.where(sums.deviance(np.zeros_like(share)) <= lowest, 0, share)
    ratio = share / (1 - share)
    return sums.beta(ratio), ratio


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


def _lowest(
    function: Callable[[np.ndarray], np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where so many functions are lowest between 0 and ``MOST_SHARED``, and how low.

    Golden-section search (Kiefer 1953, doi 10.1090/S0002-9939-1953-0055639-3) of all together: one
    by one takes many times as long, minutes for the vertices of fsaverage.
    """
    low, high = np.zeros(count), np.full(count, MOST_SHARED)
    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(STEPS):
        left = at_a <= at_b
        low, high = np.where(left, low, a), np.where(left, b, high)
        new = np.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_new = function(new)
        a, b = np.where(left, new, b), np.where(left, a, new)
        at_a, at_b = np.where(left, at_new, at_b), np.where(left, at_a, at_new)
    return np.where(at_a <= at_b, a, b), np.minimum(at_a, at_b)


@dataclass(frozen=True)
class _Sums:
    """Sums over all rows, and over the people of the same number of rows, of design and values.

    With W = I - ratio / (1 + n ratio) 11' in the n rows of a person, all that the likelihood needs
    is a sum over all rows less one over persons, of which those with as many rows have one weight.
    The design is that of its own principal axes, all of length 1: V makes it of the given one.
    """

    axes: np.ndarray  # V: (design, K)
    count: np.ndarray  # (M,): rows of a person
    people: np.ndarray  # (M,): persons with so many
    grams: np.ndarray  # (M, K, K)
    crosses: np.ndarray  # (M, K, P)
    squares: np.ndarray  # (M, P)
    cross: np.ndarray  # (K, P)
    square: np.ndarray  # (P,)

    @classmethod
    def of(cls, y: np.ndarray, design: np.ndarray, persons: np.ndarray) -> _Sums:
        size, vectors = np.linalg.eigh(design.T @ design)
        use = size > SINGULAR * size[-1]
        axes = vectors[:, use] / np.sqrt(size[use])
        x = design @ axes
        n = int(persons.max()) + 1
        of_person = np.zeros((n, x.shape[1])), np.zeros((n, y.shape[1]))
        for total, part in zip(of_person, (x, y), strict=True):
            np.add.at(total, persons, part)
        count, kind = np.unique(np.bincount(persons), return_inverse=True)
        parts = [tuple(total[kind == m] for total in of_person) for m in range(len(count))]
        return cls(
            axes,
            count,
            np.bincount(kind),
            np.array([part.T @ part for part, _ in parts]),
            np.array([part.T @ values for part, values in parts]),
            np.array([np.square(values).sum(axis=0) for _, values in parts]),
            x.T @ y,
            np.square(y).sum(axis=0),
        )

    def _solved(self, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weighted gram matrices, shape (P, K, K), slopes, (P, K), and squares left, (P,)."""
        weight = ratio / (1 + self.count[:, None] * ratio)
        gram = np.eye(len(self.cross)) - np.einsum('mp,mkl->pkl', weight, self.grams)
        cross = (self.cross - np.einsum('mp,mkp->kp', weight, self.crosses)).T
        slopes = np.linalg.solve(gram, cross[..., None])[..., 0]
        square = self.square - (weight * self.squares).sum(axis=0)
        left = square - np.einsum('pk,pk->p', slopes, cross)
        return gram, slopes, np.maximum(left, np.finfo(float).tiny)

    def beta(self, ratio: np.ndarray) -> np.ndarray:
        """Slopes of the given design, shape (design, P); what it does not tell is 0."""
        return self.axes @ self._solved(ratio)[1].T

    def deviance(self, ratio: np.ndarray) -> np.ndarray:
        """Twice the negative restricted log-likelihoods, but for a constant; shape (P,)."""
        gram, _, left = self._solved(ratio)
        freedom = int(self.count @ self.people) - len(self.cross)
        persons = self.people @ np.log1p(self.count[:, None] * ratio)
        return freedom * np.log(left) + persons + np.linalg.slogdet(gram)[1]
