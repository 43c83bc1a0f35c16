"""What harmonisation changes, brought from the slices back into the scan's own space."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

ROUNDS = 4
"""Of refinement; measured on phantoms, the first gains most and the fourth about 1 dB."""

REACH_VOXELS = (1.0, 3.0, 8.0)
"""Values outside the brain, which interpolation at its edge needs, come from ever further in."""


def native_difference(
    difference: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    matrix: np.ndarray,
    native_shape: tuple[int, int, int],
    native_affine: np.ndarray,
) -> np.ndarray:
    """The difference in the scan's own voxels that shows on the grid as the given one.

    Interpolated back it would be blurred twice, once on each way. So what the result lacks when
    it is resampled as the scan was is added to it, a few times over (iterative back-projection:
    Irani and Peleg 1991, doi:10.1016/1049-9652(91)90045-L).

    Parameters
    ----------
    difference : np.ndarray, shape (X, Y, Z)
        On the grid; 0 outside the brain.
    brain : np.ndarray, shape (X, Y, Z), bool
    affine : np.ndarray, shape (4, 4)
        Grid index to template mm.
    matrix : np.ndarray, shape (4, 4)
        Template mm to scan mm, as :func:`ddae_app.imaging.registration.read_itk_affine` reads it.
    native_shape, native_affine
        Of the scan.

    Returns
    -------
    np.ndarray, shape `native_shape`, float32
        0 wherever less than half of the voxel is brain; everywhere, if the difference is 0.
    """
    to_native = np.linalg.inv(native_affine) @ matrix @ affine
    to_grid = np.linalg.inv(to_native)
    inside = _resample(brain.astype(np.float32), to_grid, native_shape) > 0.5
    # At the edge the grid sees voxels that stay as they are; the others need not make up for it.
    seen = np.maximum(_resample(inside.astype(np.float32), to_native, brain.shape), 0.1)
    found = np.zeros(native_shape, np.float32)
    lacking = np.where(brain, difference, 0).astype(np.float32)
    for _ in range(ROUNDS):
        if not lacking.any():
            break
        found += inside * _resample(_extended(lacking, brain), to_grid, native_shape)
        shown = _resample(found, to_native, brain.shape) / seen
        lacking = np.where(brain, difference - shown, 0).astype(np.float32)
    return found


def _resample(data: np.ndarray, to_data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return ndimage.affine_transform(data, to_data, output_shape=shape, order=1)


def _extended(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The values of the brain, and beyond it those of the nearest part of it, smoothed."""
    out, known = values, brain
    for sigma in REACH_VOXELS:
        weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
        mean = ndimage.gaussian_filter(values, sigma) / np.maximum(weight, 1e-6)
        out = np.where(known, out, mean)
        known = known | (weight > 1e-3)
    return out
