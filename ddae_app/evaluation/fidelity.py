"""Similarity of images to a reference, and the variance between subjects and between sites.

The reference is the truth where that is known, and else the scan that an output was made of.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from ddae_app.imaging import similarity

QUANTILE_LEVELS = np.linspace(0, 1, 101)


def psnr(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, dB, for a peak of 1.

    Parameters
    ----------
    images, reference : np.ndarray, shape (N, H, W) or (N, D, H, W), brain about 0 to 1

    Returns
    -------
    np.ndarray, shape (N,)
        Infinite where an image equals its reference.
    """
    axes = tuple(range(1, images.ndim))
    error = np.square(images.astype(np.float64) - reference).mean(axis=axes)
    with np.errstate(divide='ignore'):
        return -10 * np.log10(error)


def ssim(images: Iterable[np.ndarray], reference: Iterable[np.ndarray]) -> np.ndarray:
    """Structural similarity of each image, shape (N,); see :mod:`ddae_app.imaging.similarity`."""
    return similarity.slice_ssim(images, reference)


def gradient_correlation(
    images: Iterable[np.ndarray], reference: Iterable[np.ndarray]
) -> np.ndarray:
    """Gradient correlation of each image, shape (N,); see :mod:`ddae_app.imaging.similarity`.

    The brain is where the reference is above 0.
    """
    return np.array(
        [
            similarity.gradient_correlation(image[None], other[None], other[None] > 0)
            for image, other in zip(images, reference, strict=True)
        ]
    )


def block_means(images: np.ndarray) -> np.ndarray:
    """Means of blocks of 4 x 4 pixels, in which noise has little influence; shape (N, B)."""
    n, height, width = images.shape
    cropped = images[:, : height // 4 * 4, : width // 4 * 4]
    return cropped.reshape(n, height // 4, 4, width // 4, 4).mean(axis=(2, 4)).reshape(n, -1)


def distance_rank_correlations(
    blocks: np.ndarray, reference: np.ndarray, sites: np.ndarray
) -> np.ndarray:
    """Whether the subjects that were most similar to each other still are, for each image.

    Spearman correlation, over the other images of the site, of the distances to them before and
    after harmonization. Distances are Euclidean.

    Parameters
    ----------
    blocks, reference : np.ndarray, shape (N, B)
        Of the images and of their references; see :func:`block_means`.
    sites : np.ndarray, shape (N,), str

    Returns
    -------
    np.ndarray, shape (N,)
        0 where all distances are equal; NaN where a site has fewer than four images.
    """
    correlations = np.full(len(blocks), np.nan)
    for site in np.unique(sites):
        rows = np.flatnonzero(sites == site)
        if len(rows) < 4:
            continue
        distances = [squareform(pdist(x[rows])) for x in (blocks, reference)]
        for i, row in enumerate(rows):
            others = np.arange(len(rows)) != i
            pair = distances[0][i, others], distances[1][i, others]
            correlations[row] = spearmanr(*pair).statistic if min(map(np.ptp, pair)) > 0 else 0
    return correlations


def matches_reference(
    blocks: np.ndarray, reference: np.ndarray, subjects: np.ndarray | None = None
) -> np.ndarray:
    """1 where an image correlates best with a reference of its subject, among all, else 0.

    The mean over all images is subtracted first.

    Parameters
    ----------
    blocks, reference : np.ndarray, shape (N, B)
        Of the images and of their references; see :func:`block_means`.
    subjects : np.ndarray, shape (N,), optional
        Without it, each image is of another subject.

    Returns
    -------
    np.ndarray, shape (N,)
    """
    subjects = np.arange(len(blocks)) if subjects is None else subjects
    residuals = [x - x.mean(axis=0) for x in (blocks, reference)]
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in residuals]
    most_alike = np.argmax(unit[0] @ unit[1].T, axis=1)
    return (subjects[most_alike] == subjects).astype(float)


def between_subject_variance(blocks: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Mean squared difference of each image to the mean of its site, shape (N,).

    Parameters
    ----------
    blocks : np.ndarray, shape (N, B)
        See :func:`block_means`.
    sites : np.ndarray, shape (N,)
    """
    differences = blocks.copy()
    for site in np.unique(sites):
        differences[sites == site] -= blocks[sites == site].mean(axis=0)
    return np.square(differences, dtype=np.float64).mean(axis=1)


def variance_explained_by_site(images: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Share of the variance at each pixel that the site explains, shape (H, W), at most 1.

    The estimator is omega squared (Hays 1963), which is about 0 without site effects, so that it
    may be below 0, and which is set to 0 where nothing varies.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    sites : np.ndarray, shape (N,)
    """
    names, n = np.unique(sites), len(images)
    grand = images.mean(axis=0, dtype=np.float64)
    between, within = np.zeros_like(grand), np.zeros_like(grand)
    for site in names:
        in_site = images[sites == site]
        mean = in_site.mean(axis=0, dtype=np.float64)
        between += len(in_site) * np.square(mean - grand)
        within += np.square(in_site - mean, dtype=np.float64).sum(axis=0)
    error = within / (n - len(names))
    total = between + within + error
    return np.divide(
        between - (len(names) - 1) * error, total, out=np.zeros_like(grand), where=total > 0
    )


def intensity_quantiles(images: np.ndarray) -> np.ndarray:
    """101 evenly spaced quantiles of the brain's intensities in each image, shape (N, 101)."""
    return np.stack([similarity.brain_quantiles(image, QUANTILE_LEVELS) for image in images])


def intensity_distance_to_site(
    quantiles: np.ndarray, sites: np.ndarray, target: str
) -> np.ndarray:
    """Wasserstein-1 distance of each image's brain intensities to the median scan of a site.

    Parameters
    ----------
    quantiles : np.ndarray, shape (N, 101)
        See :func:`intensity_quantiles`.
    sites : np.ndarray, shape (N,)
    target : str

    Returns
    -------
    np.ndarray, shape (N,)
    """
    typical = np.median(quantiles[sites == target], axis=0)
    return np.trapezoid(np.abs(quantiles - typical), QUANTILE_LEVELS, axis=1)
