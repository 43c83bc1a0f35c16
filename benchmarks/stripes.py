"""Whether a change of a volume shows as stripes between its slices."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion


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
