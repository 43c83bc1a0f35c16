"""Whether a change of a volume shows as stripes between its slices."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion


def stripe_index(
    difference: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float]
) -> float:
    """How much rougher a difference is between slices than within them.

    It is the mean squared slope across the slices over that within them, well inside the brain. It
    is about 1 for a difference without a preferred direction. It is larger if each slice was
    changed independently, which shows as stripes in the other two planes.

    Parameters
    ----------
    difference : np.ndarray, shape (D, H, W)
    brain : np.ndarray, shape (D, H, W), bool
    spacing : tuple of float
        Voxel size along these axes, mm.

    Returns
    -------
    float
        NaN if there is no difference.
    """
    inside = binary_erosion(brain, iterations=2)
    slopes = [
        np.square(np.diff(difference, axis=axis) / step)[_pairs(inside, axis)].mean()
        for axis, step in enumerate(spacing)
    ]
    within = (slopes[1] + slopes[2]) / 2
    return float(slopes[0] / within) if within > 0 else float('nan')


def _pairs(inside: np.ndarray, axis: int) -> np.ndarray:
    """Pairs of neighbors along an axis that are both inside."""
    first = np.take(inside, range(inside.shape[axis] - 1), axis)
    return first & np.take(inside, range(1, inside.shape[axis]), axis)
