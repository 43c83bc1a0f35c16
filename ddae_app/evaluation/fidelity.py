"""How close images are to a reference: the truth where it is known, or what they came from."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from ddae_app.imaging import similarity


def psnr(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, dB; the peak is 1.

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


def ssim(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity of each image, shape (N,); see :mod:`ddae_app.imaging.similarity`."""
    return similarity.slice_ssim(images, reference)


def gradient_correlation(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Gradient correlation of each image, shape (N,); see :mod:`ddae_app.imaging.similarity`.

    The brain is where the reference is above 0.
    """
    return np.array(
        [
            similarity.gradient_correlation(image[None], other[None], other[None] > 0)
            for image, other in zip(images, reference, strict=True)
        ]
    )


def rank_agreement(images: np.ndarray, reference: np.ndarray, sites: np.ndarray) -> float:
    """Whether people who differed still differ: within-site agreement of pairwise distances.

    Spearman correlation, over all pairs of one site, of the Euclidean distances between images
    and of those between their references; mean over sites. Averages of 4 x 4 pixels are
    compared, in which noise plays no part.

    Parameters
    ----------
    images, reference : np.ndarray, shape (N, H, W)
    sites : np.ndarray, shape (N,), str

    Raises
    ------
    ValueError
        If no site has three images.
    """
    found = []
    for site in np.unique(sites):
        rows = sites == site
        if rows.sum() >= 3:
            pairs = [pdist(_coarse(x[rows])) for x in (images, reference)]
            found.append(spearmanr(*pairs).statistic)
    if not found:
        raise ValueError('no site has three images; rank agreement needs pairs to compare')
    return float(np.mean(found))


def _coarse(images: np.ndarray) -> np.ndarray:
    n, height, width = images.shape
    cut = images[:, : height // 4 * 4, : width // 4 * 4]
    return cut.reshape(n, height // 4, 4, width // 4, 4).mean(axis=(2, 4)).reshape(n, -1)


def rank_agreements(images: np.ndarray, reference: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """For each image, whether those of its site are as near and far from it as they were.

    Spearman correlation over the others of the site, of distances as in :func:`rank_agreement`; 0
    where all are equally far, NaN where fewer than three others are there. Shape (N,).
    """
    found = np.full(len(images), np.nan)
    for site in np.unique(sites):
        rows = np.flatnonzero(sites == site)
        if len(rows) < 4:
            continue
        near = [squareform(pdist(_coarse(x[rows]))) for x in (images, reference)]
        for i, row in enumerate(rows):
            others = np.arange(len(rows)) != i
            pair = near[0][i, others], near[1][i, others]
            found[row] = spearmanr(*pair).statistic if min(map(np.ptp, pair)) > 0 else 0
    return found


def identified(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1 where an image is most like its own reference, among all references, else 0; shape (N,).

    By the correlation of what is left of each when the mean over all is taken off, in averages of
    4 x 4 pixels.
    """
    parts = [_coarse(x) - _coarse(x).mean(axis=0) for x in (images, reference)]
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in parts]
    return (np.argmax(unit[0] @ unit[1].T, axis=1) == np.arange(len(images))).astype(float)


def own_variance(images: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Mean squared distance, per pixel, of each image from the mean of its site; shape (N,).

    Averages of 4 x 4 pixels are compared, in which noise plays no part.
    """
    coarse = _coarse(images)
    for site in np.unique(sites):
        coarse[sites == site] -= coarse[sites == site].mean(axis=0)
    return np.square(coarse, dtype=np.float64).mean(axis=1)


def explained_by_site(images: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Share of the variance at each pixel that the site explains, shape (H, W).

    Less what chance explains (omega squared: Hays 1963), so about 0 where there is no site; 0
    where nothing varies.
    """
    names, n = np.unique(sites), len(images)
    grand = images.mean(axis=0, dtype=np.float64)
    between, within = np.zeros_like(grand), np.zeros_like(grand)
    for site in names:
        own = images[sites == site]
        mean = own.mean(axis=0, dtype=np.float64)
        between += len(own) * np.square(mean - grand)
        within += np.square(own - mean, dtype=np.float64).sum(axis=0)
    error = within / (n - len(names))
    total = between + within + error
    share = np.divide(
        between - (len(names) - 1) * error, total, out=np.zeros_like(grand), where=total > 0
    )
    return share.clip(0, 1)


def distance_to_site(images: np.ndarray, sites: np.ndarray, target: str) -> np.ndarray:
    """Wasserstein-1 distance of each image's brain intensities to the median image of a site.

    By 101 quantiles; shape (N,).
    """
    levels = np.linspace(0, 1, 101)
    quantiles = np.stack([similarity.brain_quantiles(image, levels) for image in images])
    typical = np.median(quantiles[sites == target], axis=0)
    return np.trapezoid(np.abs(quantiles - typical), levels, axis=1)
