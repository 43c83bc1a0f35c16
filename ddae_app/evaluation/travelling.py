"""People who were scanned at several sites: how alike their images are."""

from __future__ import annotations

import numpy as np

from ddae_app.evaluation.estimates import Estimate, percentile
from ddae_app.evaluation.fidelity import psnr, ssim

BLOCK = 8
"""Pixels along each side of the blocks whose mean intensities are compared."""

DRAWS = 500


def travellers(sites: np.ndarray, subjects: np.ndarray) -> list[np.ndarray]:
    """Rows of each person who was at several sites."""
    rows = [np.flatnonzero(subjects == person) for person in np.unique(subjects)]
    return [own for own in rows if len(set(sites[own])) > 1]


def paired(images: np.ndarray, sites: np.ndarray, subjects: np.ndarray) -> dict[str, np.ndarray]:
    """How alike the images of one person at several sites are, by the first of each.

    Returns
    -------
    dict of str to np.ndarray, shape (N,)
        ``paired_psnr`` (dB) and ``paired_ssim``, mean over the person's images at other sites; NaN
        for who was at one site only, and in all images of a person but the first.
    """
    found = {name: np.full(len(images), np.nan) for name in ('paired_psnr', 'paired_ssim')}
    for first, *rest in travellers(sites, subjects):
        elsewhere = [row for row in rest if sites[row] != sites[first]]
        here = np.repeat(images[first][None], len(elsewhere), axis=0)
        found['paired_psnr'][first] = psnr(images[elsewhere], here).mean()
        found['paired_ssim'][first] = ssim(images[elsewhere], here).mean()
    return found


def intraclass_correlation(
    images: np.ndarray, sites: np.ndarray, subjects: np.ndarray, seed: int = 0
) -> Estimate | None:
    """How much of what differs among scans differs among people, and not among their visits.

    One-way intraclass correlation (ICC(1), Shrout and Fleiss 1979, for unequal numbers of visits)
    of the mean intensity of each block of 8 x 8 pixels of the brain; mean over blocks. None where
    fewer than three people travelled.
    """
    people = travellers(sites, subjects)
    if len(people) < 3:
        return None
    rows = np.concatenate(people)
    blocks = _blocks(images[rows])
    starts = np.cumsum([0, *map(len, people)])
    visits = [blocks[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    counts = np.array([len(own) for own in visits], dtype=float)
    means = np.stack([own.mean(axis=0) for own in visits])
    within = np.stack([np.square(own - own.mean(axis=0)).sum(axis=0) for own in visits])

    def icc(weights: np.ndarray) -> float:
        number, total = weights.sum(), weights @ counts
        grand = (weights * counts) @ means / total
        between = (weights * counts) @ np.square(means - grand) / (number - 1)
        error = (weights @ within) / (total - number)
        size = (total - (weights @ counts**2) / total) / (number - 1)
        spread = between + (size - 1) * error
        known = spread > 0
        return float(np.mean((between - error)[known] / spread[known])) if known.any() else np.nan

    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), DRAWS)
    enough = [weights for weights in drawn.astype(float) if (weights > 0).sum() > 1]
    return percentile(icc(np.ones(len(people))), np.array([icc(w) for w in enough]), len(rows))


def _blocks(images: np.ndarray) -> np.ndarray:
    """Means of the blocks that are brain in every image, shape (N, B)."""
    n, height, width = images.shape
    cut = images[:, : height // BLOCK * BLOCK, : width // BLOCK * BLOCK]
    parts = cut.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    brain = (parts > 0).all(axis=(0, 2, 4))
    return parts.mean(axis=(2, 4), dtype=np.float64)[:, brain]
