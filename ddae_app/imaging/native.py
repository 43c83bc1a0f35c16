"""What harmonisation changes, brought from the slices back into the scan's own space."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from ddae_app.files import staged

ROUNDS = 4
"""Of refinement; measured on phantoms, the first gains most and the fourth about 1 dB."""

REACH_VOXELS = (1.0, 3.0, 8.0)
"""Values outside the brain, which interpolation at its edge needs, come from ever further in."""


def native_difference(
    difference: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    matrix: np.ndarray,
    scan: nib.Nifti1Image,
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
    scan : nib.Nifti1Image

    Returns
    -------
    np.ndarray, of the scan's shape, float32
        0 wherever less than half of the voxel is brain, or the scan itself is 0; everywhere, if
        the difference is 0.
    """
    to_native = np.linalg.inv(scan.affine) @ matrix @ affine
    box = _around(brain, to_native, scan.shape)
    start = [part.start for part in box]
    to_native = nib.affines.from_matvec(np.eye(3), np.negative(start)) @ to_native
    to_grid = np.linalg.inv(to_native)
    shown = np.asarray(scan.dataobj)[box] > 0
    inside = (_resample(brain.astype(np.float32), to_grid, shown.shape) > 0.5) & shown
    # At the edge the grid sees voxels that stay as they are; the others need not make up for it.
    seen = np.maximum(_resample(inside.astype(np.float32), to_native, brain.shape), 0.1)
    found = np.zeros(shown.shape, np.float32)
    lacking = np.where(brain, difference, 0).astype(np.float32)
    for _ in range(ROUNDS):
        if not lacking.any():
            break
        found += inside * _resample(_extended(lacking, brain), to_grid, shown.shape)
        lacking = difference - _resample(found, to_native, brain.shape) / seen
        lacking = np.where(brain, lacking, 0).astype(np.float32)
    out = np.zeros(scan.shape, np.float32)
    out[box] = found
    return out


def _around(
    brain: np.ndarray, to_native: np.ndarray, shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    """The part of the scan that holds the brain, and a little around it."""
    edges = [(i.min() - 2, i.max() + 2) if i.size else (0, 0) for i in np.nonzero(brain)]
    corners = np.array(list(itertools.product(*edges)))
    there = nib.affines.apply_affine(to_native, corners)
    low = np.clip(np.floor(there.min(axis=0)).astype(int), 0, np.array(shape) - 1)
    high = np.clip(np.ceil(there.max(axis=0)).astype(int) + 1, low + 1, shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


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


def in_scan_units(
    before: np.ndarray,
    change: np.ndarray,
    scan: nib.Nifti1Image,
    matrix: np.ndarray,
    affine: np.ndarray,
) -> np.ndarray:
    """A difference of preprocessed intensities as one of the scan's.

    Preprocessing has divided the scan by its bias field and by a number; the ratio of the scan,
    resampled likewise, to what came of it holds both. So the harmonised scan keeps its own field,
    as a scan has one, and runs on beyond the edge of the brain without a step.

    Parameters
    ----------
    before, change : np.ndarray, shape (X, Y, Z)
        Preprocessed, 0 outside the brain, and what is added to that.
    scan : nib.Nifti1Image
        Conformed.
    matrix : np.ndarray, shape (4, 4)
        Template mm to scan mm.
    affine : np.ndarray, shape (4, 4)
        Grid index to template mm.
    """
    to_scan = np.linalg.inv(scan.affine) @ matrix @ affine
    raw = _resample(np.asarray(scan.dataobj, dtype=np.float32), to_scan, before.shape)
    brain = before > 0
    return np.where(brain, change * raw / np.where(brain, before, 1), 0).astype(np.float32)


def write_changed(scan: Path, change: np.ndarray, path: Path) -> None:
    """Write a scan with something added to it, and its header as it is.

    Where nothing is added its voxels are stored as before, to the bit; elsewhere whole numbers are
    rounded, if the scan is stored as such.

    Parameters
    ----------
    scan : Path
        NIfTI file.
    change : np.ndarray, shape (X, Y, Z)
        In the file's own order of voxels, and in the units that its intensities have.
    path : Path
        ``.nii.gz``; written whole or not at all.
    """
    image: Any = nib.load(scan)
    stored, proxy = image.dataobj.get_unscaled(), image.dataobj
    step = change.reshape(stored.shape) / proxy.slope
    kind = stored.dtype
    if kind.kind in 'iu':
        limits = np.iinfo(kind)
        step = np.rint(step)
        new = np.clip(stored.astype(np.float64) + step, limits.min, limits.max)
    else:
        new = stored + step
    out = image.__class__(np.where(step == 0, stored, new.astype(kind)), None, image.header)
    out.header.set_slope_inter(proxy.slope, proxy.inter)
    with staged(path) as temporary:
        nib.save(out, temporary)


def write_like(scan: Path, data: np.ndarray, path: Path) -> None:
    """Write an image that lies where a scan does, voxel by voxel, as float32.

    Parameters as :func:`write_changed` takes them.
    """
    image: Any = nib.load(scan)
    out = image.__class__(data.reshape(image.shape).astype(np.float32), None, image.header)
    out.set_data_dtype(np.float32)
    with staged(path) as temporary:
        nib.save(out, temporary)


def in_file_order(change: np.ndarray, conformed: nib.Nifti1Image, scan: Path) -> np.ndarray:
    """Voxels of a conformed scan in the order of the file that it was read from."""
    image: Any = nib.load(scan)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(conformed.affine), nib.io_orientation(image.affine)
    )
    return nib.orientations.apply_orientation(change, turn)
