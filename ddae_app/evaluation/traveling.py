"""Traveling subjects, who were scanned at several sites: how similar their images are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ddae_app.evaluation.estimates import Estimate, centered_interval
from ddae_app.evaluation.fidelity import psnr, ssim

BLOCK = 8
"""Pixels along each side of the blocks whose mean intensities are compared."""

BOOTSTRAP_SAMPLES = 500


def rows_of_travelers(sites: np.ndarray, subjects: np.ndarray) -> list[np.ndarray]:
    """Rows of each subject who was scanned at more than one site."""
    rows = [np.flatnonzero(subjects == subject) for subject in np.unique(subjects)]
    return [visits for visits in rows if len(set(sites[visits])) > 1]


def paired_similarity(
    images: np.ndarray, sites: np.ndarray, subjects: np.ndarray
) -> dict[str, np.ndarray]:
    """Compare the first image of each traveling subject with those from other sites.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    sites, subjects : np.ndarray, shape (N,)

    Returns
    -------
    dict of str to np.ndarray, shape (N,)
        ``paired_psnr`` (dB) and ``paired_ssim``, mean over the subject's images at other sites;
        NaN in all rows but the first of each traveling subject.
    """
    similarity = {name: np.full(len(images), np.nan) for name in ('paired_psnr', 'paired_ssim')}
    for first, *rest in rows_of_travelers(sites, subjects):
        elsewhere = [row for row in rest if sites[row] != sites[first]]
        repeated = np.repeat(images[first][None], len(elsewhere), axis=0)
        similarity['paired_psnr'][first] = psnr(images[elsewhere], repeated).mean()
        similarity['paired_ssim'][first] = ssim(images[elsewhere], repeated).mean()
    return similarity


def intraclass_correlation(
    images: np.ndarray, sites: np.ndarray, subjects: np.ndarray, seed: int = 0
) -> Estimate | None:
    """Share of the variance of traveling subjects' scans that lies between subjects.

    One-way intraclass correlation, ICC(1) (Shrout and Fleiss 1979, for unequal numbers of
    visits), of the mean intensity of each block of 8 x 8 brain pixels, averaged over the blocks.
    The interval is shifted so that the value is in its middle.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
        0 outside the brain.
    sites, subjects : np.ndarray, shape (N,)
    seed : int

    Returns
    -------
    Estimate or None
        None if fewer than three subjects traveled.
    """
    travelers = rows_of_travelers(sites, subjects)
    if len(travelers) < 3:
        return None
    rows = np.concatenate(travelers)
    blocks = _brain_blocks(images[rows])
    starts = np.cumsum([0, *map(len, travelers)])
    visits = [blocks[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    counts = np.array([len(values) for values in visits], dtype=float)
    means = np.stack([values.mean(axis=0) for values in visits])
    within = np.stack([np.square(v - v.mean(axis=0)).sum(axis=0) for v in visits])

    def icc(weights: np.ndarray) -> float:
        number, total = weights.sum(), weights @ counts
        grand = (weights * counts) @ means / total
        between = (weights * counts) @ np.square(means - grand) / (number - 1)
        error = (weights @ within) / (total - number)
        size = (total - (weights @ counts**2) / total) / (number - 1)
        spread = between + (size - 1) * error
        known = spread > 0
        return float(np.mean((between - error)[known] / spread[known])) if known.any() else np.nan

    rng, n = np.random.default_rng(seed), len(travelers)
    samples = rng.multinomial(n, np.full(n, 1 / n), BOOTSTRAP_SAMPLES).astype(float)
    resampled = [icc(weights) for weights in samples if (weights > 0).sum() > 1]
    # Who is drawn twice does not differ from themselves: all bootstrap values are too low.
    found = centered_interval(icc(np.ones(n)), np.array(resampled), len(rows))
    return replace(found, high=min(found.high, 1.0))


def _brain_blocks(images: np.ndarray) -> np.ndarray:
    """Means of the blocks that are brain in every image, shape (N, B)."""
    n, height, width = images.shape
    cropped = images[:, : height // BLOCK * BLOCK, : width // BLOCK * BLOCK]
    parts = cropped.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    brain = (parts > 0).all(axis=(0, 2, 4))
    return parts.mean(axis=(2, 4), dtype=np.float64)[:, brain]
