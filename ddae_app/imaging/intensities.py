"""Scales of intensities that a few extreme voxels, or bright vessels, do not move."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BRIGHT_PERCENTILE = 99.5
"""Of the foreground: the brightest tissue. A few thousand voxels lie above it."""

MOST_TIMES_BRIGHT = 4.0
"""Brighter voxels are no tissue. In 125 of 126 real scans, the brightest voxel is 1.7 to 3.9 times
as bright as the percentile above; it is fat near the coil, or a vessel. In one, 7 voxels of such
fat are up to 4.9 times as bright, and are limited (``benchmarks/intensities.py``)."""

CEILING = 1.2
"""Where brain tissue is 0 to 1, what is brighter is a vessel or a spike, apart from noise. It is
clipped to this wherever it would otherwise count for more than tissue does."""

SPREAD_VOXELS = 2
"""How far interpolation spreads an extreme voxel."""

BRAIN_PERCENTILE = 95.0
MOST_TIMES_BRAIN = 1.2
"""Brain tissue is no brighter than so many times the percentile above. In 126 real brains, the
99.5th percentile is 1.04 to 1.07 times it (``benchmarks/intensities.py``). Vessels after contrast
agent are about twice."""


def foreground_range(data: np.ndarray) -> tuple[float, float]:
    """The darkest and brightest intensity of what an image shows, whatever a few voxels hold.

    Parameters
    ----------
    data : np.ndarray, any shape
        Finite; any unit, any background.

    Returns
    -------
    low, high : float
        The 0.5th percentile, which is the background in most images, and the 99.5th of what is
        brighter; equal if nothing is.
    """
    low = float(np.percentile(data, 100 - BRIGHT_PERCENTILE))
    above = data[data > low]
    return low, float(np.percentile(above, BRIGHT_PERCENTILE)) if above.size else low


def without_hot_voxels(data: np.ndarray) -> np.ndarray:
    """An image without the few voxels that are far brighter than all tissue, such as spikes.

    Parameters
    ----------
    data : np.ndarray, any shape
        Finite.

    Returns
    -------
    np.ndarray
        Voxels that are farther above the darkest than ``MOST_TIMES_BRIGHT`` times the brightest
        tissue, and bright ones beside them, are as bright as that tissue. An image without such
        voxels is returned as it is.
    """
    low, high = foreground_range(data)
    hot = data > low + MOST_TIMES_BRIGHT * (high - low)
    if not hot.any() or high <= low:
        return data
    near = ndimage.binary_dilation(hot, iterations=SPREAD_VOXELS)
    return np.where(near, np.minimum(data, high), data).astype(data.dtype)


def brain_scale(values: np.ndarray, percentile: float) -> tuple[float, float]:
    """A percentile of the brain's intensities, not moved by vessels that outshine the tissue.

    Parameters
    ----------
    values : np.ndarray, shape (N,)
        Intensities of the brain.
    percentile : float
        Of the brain, 0 to 100.

    Returns
    -------
    scale : float
        The percentile of all values, if it is that of tissue, else of those that are; 0 without
        any.
    left_out : float
        Share of the values that were left out for this; 0 for ordinary scans.
    """
    if not values.size:
        return 0.0, 0.0
    scale = float(np.percentile(values, percentile))
    most = MOST_TIMES_BRAIN * float(np.percentile(values, BRAIN_PERCENTILE))
    if scale <= most:
        return scale, 0.0
    tissue = values[values <= most]
    return float(np.percentile(tissue, percentile)), 1 - tissue.size / values.size
