"""A two-dimensional embedding of latents."""

from __future__ import annotations

import warnings

import numpy as np

NEIGHBORS = 15


def umap_embedding(latents: np.ndarray, seed: int = 0) -> np.ndarray:
    """Embed latents in a plane that keeps their neighborhoods (UMAP: McInnes et al. 2018).

    Parameters
    ----------
    latents : np.ndarray, shape (N, F)
        Each feature is scaled to unit variance first.
    seed : int

    Returns
    -------
    np.ndarray, shape (N, 2)
    """
    from umap import UMAP  # its import takes seconds, and only this figure needs it

    spread = latents.std(axis=0)
    scaled = (latents - latents.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    n_neighbors = min(NEIGHBORS, len(latents) - 1)
    with warnings.catch_warnings():
        # UMAP warns that a seed rules out threads, and that some points are isolated.
        warnings.simplefilter('ignore')
        return UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(scaled)
