"""Bring what harmonization changes from the slices back into the space of the scan."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from ddae_app.errors import ImageError
from ddae_app.files import staged

ROUNDS = 4
"""Rounds of refinement. On phantoms, the first round gains most and the fourth about 1 dB."""

REACH_VOXELS = (1.0, 3.0, 8.0)
"""Interpolation at the edge of the brain needs values outside it. They are extrapolated with
Gaussians of these standard deviations, one after the other, further and further out."""


def native_difference(
    difference: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    matrix: np.ndarray,
    scan: nib.Nifti1Image,
) -> np.ndarray:
    """The difference in the voxels of the scan that, resampled to the grid, is the given one.

    A difference that was merely interpolated back would be blurred twice, once on each way.
    Instead, the result is resampled to the grid as the scan was, and what it lacks there is added
    to it, a few times (iterative back-projection: Irani and Peleg 1991,
    doi:10.1016/1049-9652(91)90045-L).

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
        0 wherever less than half of the voxel is brain or the scan is 0, and everywhere if the
        difference is 0.
    """
    to_native = np.linalg.inv(scan.affine) @ matrix @ affine
    box = _around(brain, to_native, scan.shape)
    start = [part.start for part in box]
    to_native = nib.affines.from_matvec(np.eye(3), np.negative(start)) @ to_native
    to_grid = np.linalg.inv(to_native)
    shown = np.asarray(scan.dataobj)[box] > 0
    inside = (_resample(brain.astype(np.float32), to_grid, shown.shape) > 0.5) & shown
    # At the edge, the grid mixes in voxels that stay as they are. The weight corrects for them.
    seen = np.maximum(_resample(inside.astype(np.float32), to_native, brain.shape), 0.1)
    native = np.zeros(shown.shape, np.float32)
    lacking = np.where(brain, difference, 0).astype(np.float32)
    for _ in range(ROUNDS):
        if not lacking.any():
            break
        native += inside * _resample(_extended(lacking, brain), to_grid, shown.shape)
        lacking = difference - _resample(native, to_native, brain.shape) / seen
        lacking = np.where(brain, lacking, 0).astype(np.float32)
    out = np.zeros(scan.shape, np.float32)
    out[box] = native
    return out


def _around(
    brain: np.ndarray, to_native: np.ndarray, shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    """The box of the scan that holds the brain, with a small margin."""
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
    """The values of the brain, continued beyond its edge by smoothed values from nearby."""
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
    """A difference of preprocessed intensities in the intensity units of the scan.

    Preprocessing divides the scan by its bias field and by a scale. The ratio of the resampled
    scan to the preprocessed one contains both. Multiplied by it, the difference keeps the bias
    field of the scan, and there is no step at the edge of the brain.

    Parameters
    ----------
    before, change : np.ndarray, shape (X, Y, Z)
        The preprocessed scan, 0 outside the brain, and what harmonization adds to it.
    scan : nib.Nifti1Image
        The conformed scan.
    matrix : np.ndarray, shape (4, 4)
        Template mm to scan mm.
    affine : np.ndarray, shape (4, 4)
        Grid index to template mm.

    Returns
    -------
    np.ndarray, shape (X, Y, Z), float32
        0 outside the brain.
    """
    to_scan = np.linalg.inv(scan.affine) @ matrix @ affine
    raw = _resample(np.asarray(scan.dataobj, dtype=np.float32), to_scan, before.shape)
    brain = before > 0
    return np.where(brain, change * raw / np.where(brain, before, 1), 0).astype(np.float32)


def write_changed(
    scan: nib.spatialimages.SpatialImage, change: np.ndarray, path: Path
) -> np.ndarray:
    """Write a scan with a change added to its intensities and an unchanged header.

    The header is copied as it is, comments in it included. Voxels that do not change are stored as
    before, to the bit. Changed voxels are rounded if the scan is stored as integers. None becomes
    darker than the darkest voxel above 0 that the scan has: below that, brain would be background,
    and below 0 it would be nothing that a scanner writes.

    Parameters
    ----------
    scan : nib.spatialimages.SpatialImage
        As :func:`ddae_app.imaging.conform.read_nifti` gives it.
    change : np.ndarray, shape (X, Y, Z)
        In the voxel order and the intensity units of the file; 0 where the scan is not above 0.
    path : Path
        ``.nii.gz``; the file is written whole or not at all.

    Returns
    -------
    np.ndarray, of the file's shape
        The change that was made, but for rounding.

    Raises
    ------
    ImageError
        The change is not finite.
    """
    if bad := np.count_nonzero(~np.isfinite(change)):
        raise ImageError(
            f'harmonization would change {bad} voxels by NaN or infinity; expected finite '
            'changes; inspect the scan and its harmonized slices'
        )
    proxy: Any = scan.dataobj
    stored = proxy.get_unscaled()
    change = change.reshape(stored.shape)
    least, darkest = _darkest(stored, proxy)
    # Of the changed voxels alone, a seventh of a scan: one of 0.5 mm has a hundred million.
    changed = change != 0
    old, made = stored[changed], np.zeros_like(change)
    wanted = np.maximum(change[changed], least - _scaled(old, proxy))
    step = wanted / proxy.slope
    kind = stored.dtype
    if kind.kind in 'iu':
        low, high = (_as_float(limit) for limit in (np.iinfo(kind).min, np.iinfo(kind).max))
        step = np.rint(step)
        asked = old.astype(np.float64) + step
        stays = np.clip(asked, low, high)
        # What does not fit into the numbers of the scan is not made.
        wanted = wanted + (stays - asked) * proxy.slope
        new = stays.astype(kind)
    else:
        new = (old + step).astype(kind)
    made[changed] = wanted
    # Rounding may go below it again.
    new = np.where(_scaled(new, proxy) < least, darkest, new)
    data = stored.copy(order='K')
    data[changed] = np.where(step == 0, old, new)
    _write_after_header(scan, data, path)
    return made


def _write_after_header(
    scan: nib.spatialimages.SpatialImage, stored: np.ndarray, path: Path
) -> None:
    """Write stored numbers after what the file of a scan holds before its own, to the bit.

    Nibabel mends what it reads of a header, and would write another one.
    """
    proxy: Any = scan.dataobj
    with scan.file_map['image'].get_prepare_fileobj('rb') as file:
        file.seek(0)
        header = file.read(proxy.offset)
    with staged(path) as temporary, nib.openers.Opener(str(temporary), 'wb') as out:
        out.write(header)
        for part in stored.T:  # the first axis runs fastest
            out.write(part.tobytes())


def _scaled(stored: np.ndarray, proxy: Any) -> np.ndarray:
    """Stored numbers as intensities, float64."""
    return stored.astype(np.float64) * proxy.slope + proxy.inter


def _darkest(stored: np.ndarray, proxy: Any) -> tuple[float, Any]:
    """The least intensity above 0, or 0 where there is none, and the number that stores it."""
    least, darkest = np.inf, stored.flat[0]
    for part in stored:  # one plane at a time, for memory
        values = _scaled(part, proxy)
        values[~(values > 0)] = np.inf
        if values.min() < least:
            least, darkest = values.min(), part.flat[values.argmin()]
    return (float(least) if np.isfinite(least) else 0.0), darkest


def _as_float(limit: int) -> float:
    """The float nearest to a limit of an integer type that is within it."""
    value = float(limit)
    return value if abs(value) <= abs(limit) else float(np.nextafter(value, 0))


def write_like(scan: nib.spatialimages.SpatialImage, data: np.ndarray, path: Path) -> None:
    """Write an image on the voxels of a scan, with its header, as float32.

    Parameters
    ----------
    scan : nib.spatialimages.SpatialImage
    data : np.ndarray, shape (X, Y, Z)
        In the voxel order of the file.
    path : Path
        ``.nii.gz``; the file is written whole or not at all.
    """
    out = scan.__class__(data.reshape(scan.shape).astype(np.float32), None, scan.header)
    out.set_data_dtype(np.float32)
    with staged(path) as temporary:
        nib.save(out, temporary)


def in_file_order(change: np.ndarray, scan: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Reorder the voxels of a conformed scan as in the file that it was read from.

    Parameters
    ----------
    change : np.ndarray, shape (X, Y, Z)
        In the voxel order of the conformed scan.
    scan : nib.spatialimages.SpatialImage
        The scan before :func:`ddae_app.imaging.conform.conform`, which took its axes to RAS.
    """
    # Not by the affine of the conformed scan, of which rounding decides what it tells where two
    # directions are as near to an axis.
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt('RAS'), nib.io_orientation(scan.affine)
    )
    return nib.orientations.apply_orientation(change, turn)
