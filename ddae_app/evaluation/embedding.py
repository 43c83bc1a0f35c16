"""Codes of many numbers as points on a plane."""

from __future__ import annotations

import warnings

import numpy as np

NEIGHBOURS = 15


def embedded(codes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points whose neighbours are those of the codes (UMAP: McInnes et al. 2018).

    Parameters
    ----------
    codes : np.ndarray, shape (N, F)
        Each number counts alike, whatever its spread.
    seed : int

    Returns
    -------
    np.ndarray, shape (N, 2)
    """
    from umap import UMAP  # takes seconds, and is wanted once

    spread = codes.std(axis=0)
    alike = (codes - codes.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    near = min(NEIGHBOURS, len(codes) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of what a seed costs, and of lone groups
        return UMAP(n_neighbors=near, random_state=seed, n_jobs=1).fit_transform(alike)
