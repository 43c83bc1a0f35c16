"""Parts of the images that are shown to a site probe one by one, so that it shows what it uses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from ddae_app.evaluation.probes import IMAGES_AT_ONCE
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
    np.ndarray, shape (N, P)
        Of ``site_tissues``, 0 is CSF, 1 gray and 2 white matter: the anatomy, as far as contrast
        lets tell.
    """
    yield 'site_interior', images[:, inside]
    yield 'site_tissues', np.stack([_classes(image[inside]) for image in images])
    broad = _smoothed(images, inside, BROAD_PIXELS)
    yield 'site_broad', broad
    fine = _smoothed(images, inside, FINE_PIXELS)
    # In place, since all of them together take much memory.
    yield 'site_middle', np.subtract(fine, broad, out=broad)
    yield 'site_fine', np.subtract(images[:, inside], fine, out=fine)


def _smoothed(images: np.ndarray, inside: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the interior, at the pixels of the interior, shape (N, P)."""
    weight = gaussian_filter(inside.astype(np.float32), sigma)[inside]
    smoothed = np.empty((len(images), len(weight)), np.float32)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        some = slice(start, start + IMAGES_AT_ONCE)
        seen = np.where(inside, images[some], 0).astype(np.float32)
        smoothed[some] = gaussian_filter(seen, (0, sigma, sigma))[:, inside] / weight
    return smoothed


def _classes(values: np.ndarray) -> np.ndarray:
    """Tissue classes; 1 everywhere if there are too few intensities."""
    thresholds = tissue_thresholds(values)
    if thresholds is None:
        return np.ones(values.shape, np.float32)
    return np.digitize(values, thresholds).astype(np.float32)
