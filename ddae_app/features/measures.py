"""How much of the variance of each feature the site explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddae_app.features.people import CovariateDesign, RowLabels
from ddae_app.methods.location_scale import blocks, patterns


def variance_explained_by_site(
    values: np.ndarray,
    labels: RowLabels,
    design: CovariateDesign,
    parts: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Share of the variance of each feature that the site explains, at equal age and sex.

    The estimator is partial omega squared (Hays 1963), which is about 0 without site effects. Rows
    of one person are taken as those of several.

    Parameters
    ----------
    values : np.ndarray, shape (N, F)
        NaN where missing.
    labels : RowLabels, N rows
    design : CovariateDesign
        How age is modeled.
    parts : sequence of np.ndarray of int, optional
        Rows within which it is estimated, and then averaged: the halves of an evaluation, as in
        :func:`ddae_app.evaluation.fidelity.variance_explained_by_site`.

    Returns
    -------
    np.ndarray, shape (F,), 0 to 1
        0 where nothing varies, and where no rows are left to tell what does by chance.
    """
    covariates = design.columns(labels)
    member = (labels.sites[:, None] == np.array(labels.site_names)).astype(float)
    parts = [np.arange(len(values))] if parts is None else parts
    shares = [
        np.mean(
            [
                _explained(values[rows, block].astype(np.float64), member[rows], covariates[rows])
                for rows in parts
            ],
            axis=0,
        )
        for block in blocks(values.shape[1])
    ]
    return np.concatenate(shares).clip(0, 1)


def mean_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mean absolute change of each feature, in its standard deviations; shape (F,).

    Parameters
    ----------
    before, after : np.ndarray, shape (N, F)
        NaN where missing, in both.
    """
    found = np.empty(before.shape[1])
    for block in blocks(before.shape[1]):
        values = before[:, block].astype(np.float64)
        known = ~np.isnan(values)
        n = np.maximum(known.sum(axis=0), 1)
        change = np.abs(np.where(known, after[:, block] - values, 0)).sum(axis=0) / n
        mean = np.where(known, values, 0).sum(axis=0) / n
        sd = np.sqrt(np.square(np.where(known, values - mean, 0)).sum(axis=0) / n)
        found[block] = np.divide(change, sd, out=np.zeros_like(sd), where=sd > 0)
    return found


def became_negative(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How many values of each feature are negative, where none was before; shape (F,)."""
    none_before = ~(before < 0).any(axis=0)
    return (after < 0).sum(axis=0) * none_before


def _explained(values: np.ndarray, member: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    share = np.zeros(values.shape[1])
    for rows, columns in patterns(~np.isnan(values)):
        if not rows.any():
            continue
        here = values[rows][:, columns]
        here = here - here.mean(axis=0)
        alone = np.column_stack([np.ones(rows.sum()), covariates[rows]])
        with_site = np.hstack([member[rows], covariates[rows]])
        (left_alone, rank_alone), (left, rank) = (_left(here, x) for x in (alone, with_site))
        if len(here) == rank:
            continue
        error = left / (len(here) - rank)
        total = left_alone + error
        between = left_alone - left - (rank - rank_alone) * error
        share[columns] = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    return share


def _left(values: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, int]:
    """Squares that regression leaves, summed, shape (F,), and the rank of the design."""
    beta, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    return np.square(values - design @ beta).sum(axis=0), int(rank)
