"""Estimation of the noise of an image."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
"""Mask that does not respond to intensities that change linearly along either axis.

Immerkaer 1996, doi:10.1006/cviu.1996.0060."""

SD_OF_RESPONSE = 6.0
"""Standard deviation of its response to noise of unit variance: the norm of the mask."""

MAD_TO_SD = 1 / 0.6745
MARGIN_PIXELS = 3


def noise_sd(images: np.ndarray) -> float:
    """Standard deviation of the noise of one slice or of several together, in their units.

    It is estimated from the median absolute response to ``LAPLACIAN`` well inside the brain
    (Immerkaer 1996). The median, unlike the mean, is robust to the few edges.

    Parameters
    ----------
    images : np.ndarray, shape (..., H, W)
        0 outside the brain.

    Returns
    -------
    float
        NaN if no brain lies deep enough for an estimate.
    """
    stack = images.reshape(-1, *images.shape[-2:])
    cross = ndimage.generate_binary_structure(2, 1)[None]  # within each slice
    inside = ndimage.binary_erosion(stack > 0, cross, iterations=MARGIN_PIXELS)
    if not inside.any():
        return float('nan')
    response = ndimage.convolve(stack.astype(np.float64), LAPLACIAN[None])[inside]
    return float(np.median(np.abs(response)) * MAD_TO_SD / SD_OF_RESPONSE)
