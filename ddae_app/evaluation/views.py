"""Parts of the images that are shown to a site probe one by one, so that it shows what it uses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from ddae_app.imaging.anatomy import tissue_thresholds

EDGE_PIXELS = 6
"""Pixels nearer to the edge of the brain are not of the interior."""

NEARLY_ALL = 0.99
"""Share of the scans in which a pixel of the interior is brain: one bad mask must not empty it."""

FINE_PIXELS, BROAD_PIXELS = 1.5, 4.0
"""Standard deviations of the Gaussians that separate three spatial scales."""

LEAST_PIXELS = 200
"""Of an interior that is worth to be looked at."""

VIEWS = 'site_interior', 'site_broad', 'site_middle', 'site_fine', 'site_tissues'
"""Measures of the probes that see one view each."""


def interior(images: np.ndarray) -> np.ndarray:
    """The pixels that are brain in nearly all images, and far from the edge.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
        0 outside the brain.

    Returns
    -------
    np.ndarray, shape (H, W), bool
        Empty where fewer than ``LEAST_PIXELS`` are left.
    """
    common = (images > 0).mean(axis=0) >= NEARLY_ALL
    inside = binary_erosion(common, iterations=EDGE_PIXELS)
    return inside if inside.sum() >= LEAST_PIXELS else np.zeros_like(inside)


def views(images: np.ndarray, inside: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What each probe sees, one after another, each until the next is asked for.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    inside : np.ndarray, shape (H, W), bool
        See :func:`interior`.

    Yields
    ------
    str
        The name of the measure of the probe that sees this view alone, of ``VIEWS``.
    np.ndarray, shape (N, P), float32
        The same array each time, since all of them together take much memory. Of
        ``site_tissues``, 0 is CSF, 1 gray and 2 white matter: the anatomy, as far as contrast lets
        tell.
    """
    seen = np.empty((len(images), np.count_nonzero(inside)), np.float32)
    for image, row in zip(images, seen, strict=True):
        row[...] = image[inside]
    yield 'site_interior', seen
    for image, row in zip(images, seen, strict=True):
        row[...] = _classes(image[inside])
    yield 'site_tissues', seen
    _smooth(images, inside, BROAD_PIXELS, seen)
    yield 'site_broad', seen
    fine = np.empty_like(seen)
    _smooth(images, inside, FINE_PIXELS, fine)
    np.subtract(fine, seen, out=seen)
    yield 'site_middle', seen
    for image, smoothed, row in zip(images, fine, seen, strict=True):
        np.subtract(image[inside], smoothed, out=row)
    yield 'site_fine', seen


def _smooth(images: np.ndarray, inside: np.ndarray, sigma: float, out: np.ndarray) -> None:
    """Write the Gaussian mean over the interior, at its pixels, to an array, shape (N, P)."""
    weight = gaussian_filter(inside.astype(np.float32), sigma)[inside]
    for image, row in zip(images, out, strict=True):
        seen = np.where(inside, image, 0).astype(np.float32)
        row[...] = gaussian_filter(seen, sigma)[inside] / weight


def _classes(values: np.ndarray) -> np.ndarray:
    """Tissue classes; 1 everywhere if there are too few intensities."""
    thresholds = tissue_thresholds(values)
    if thresholds is None:
        return np.ones(values.shape, np.float32)
    return np.digitize(values, thresholds).astype(np.float32)
