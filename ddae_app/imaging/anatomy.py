"""What a volume shows of anatomy, as numbers: how much tissue, and how smooth between slices."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion
from skimage.filters import threshold_multiotsu

TISSUES = ('csf', 'grey', 'white')
HISTOGRAM_BINS = 256
CEILING = 1.2
"""Vessels and other bright spots count as no brighter, so that they make no class of their own."""


def tissue_shares(scan: np.ndarray) -> dict[str, float]:
    """Shares of the brain that are CSF, grey and white matter.

    Three classes of intensity with the least variance within them (Otsu 1979,
    doi:10.1109/TSMC.1979.4310076), from dark to bright as T1-weighted images show them.

    Parameters
    ----------
    scan : np.ndarray, shape (D, H, W)
        0 outside the brain, brain about 0 to 1.

    Returns
    -------
    dict of str to float
        By the names in ``TISSUES``; they sum to 1, or are 0 where there are not three classes.
    """
    brain = np.minimum(scan[scan > 0], CEILING)
    if np.unique(brain).size < 3:
        return dict.fromkeys(TISSUES, 0.0)
    low, high = threshold_multiotsu(brain, classes=3, nbins=HISTOGRAM_BINS)
    shares = np.bincount(np.digitize(brain, (low, high)), minlength=3) / brain.size
    return dict(zip(TISSUES, shares.tolist(), strict=True))


def stripe_index(
    difference: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float]
) -> float:
    """How much rougher a difference is from slice to slice than within its slices.

    Mean squared slope through the slices over that within them, well inside the brain: about 1
    for a difference without a preferred direction, and more where slices were changed without
    regard to each other, which shows as stripes in the other two planes.

    Parameters
    ----------
    difference : np.ndarray, shape (D, H, W)
    brain : np.ndarray, shape (D, H, W), bool
    spacing : tuple of float
        Of the voxels along these axes, mm.

    Returns
    -------
    float
        NaN where nothing differs.
    """
    inside = binary_erosion(brain, iterations=2)
    slopes = [
        np.square(np.diff(difference, axis=axis) / step)[_pairs(inside, axis)].mean()
        for axis, step in enumerate(spacing)
    ]
    within = (slopes[1] + slopes[2]) / 2
    return float(slopes[0] / within) if within > 0 else float('nan')


def _pairs(inside: np.ndarray, axis: int) -> np.ndarray:
    """Neighbours along an axis that are both inside."""
    first = np.take(inside, range(inside.shape[axis] - 1), axis)
    return first & np.take(inside, range(1, inside.shape[axis]), axis)
