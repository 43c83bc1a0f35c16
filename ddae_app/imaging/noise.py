"""How noisy an image is."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
"""Blind to intensities that change evenly along either axis (Immerkaer 1996)."""

SD_OF_RESPONSE = 6.0
"""Its response to noise of unit variance: the root of the summed squares."""

MAD_TO_SD = 1 / 0.6745
MARGIN_PIXELS = 3


def noise_sd(images: np.ndarray) -> float:
    """Standard deviation of the noise of one slice, or of several together, in their own units.

    From the median size of the response to a mask that sees neither level nor slope (Immerkaer
    1996; the median, because edges are few), well inside the brain.

    Parameters
    ----------
    images : np.ndarray, shape (..., H, W)
        0 outside the brain.

    Returns
    -------
    float
        0 where there is too little brain to tell.
    """
    stack = images.reshape(-1, *images.shape[-2:])
    cross = ndimage.generate_binary_structure(2, 1)[None]  # within each slice
    inside = ndimage.binary_erosion(stack > 0, cross, iterations=MARGIN_PIXELS)
    if not inside.any():
        return 0.0
    response = ndimage.convolve(stack.astype(np.float64), LAPLACIAN[None])[inside]
    return float(np.median(np.abs(response)) * MAD_TO_SD / SD_OF_RESPONSE)
