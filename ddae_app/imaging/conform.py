"""Read a T1w image and conform it: RAS, 3D, float32, no negative intensities."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import ImageError
from ddae_app.files import digest_of
from ddae_app.imaging import volumes

VOXEL_SIZE_MM = (0.1, 10.0)
"""Smallest and largest plausible voxel size of a head scan."""

MIN_EXTENT_MM = 80.0
"""Least field of view along each axis with which a head can be registered."""

MAX_NEGATIVE_FRACTION = 0.01
"""Resampling leaves a few small negative values; a larger share means normalized intensities."""


def load_t1w(path: Path, sha256: str | None = None) -> nib.Nifti1Image:
    """Read a T1w image, and refuse files that cannot be one.

    Parameters and errors are those of :func:`read_nifti` and :func:`checked_t1w`.
    """
    return checked_t1w(path, read_nifti(path, sha256))


def read_nifti(path: Path, sha256: str | None = None) -> nib.spatialimages.SpatialImage:
    """Read the header of a NIfTI file; the whole file is in memory afterwards.

    What is decoded is thus what the digest is of, and the file is read from the disk once.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 file, ``.nii`` or ``.nii.gz``.
    sha256 : str, optional
        SHA-256 of the file when the run was planned.

    Returns
    -------
    nib.spatialimages.SpatialImage
        With intensities as they are stored, which are decoded from memory when they are needed.

    Raises
    ------
    ImageError
        There is no such file, it is not readable, or it has another digest.
    """
    try:
        content = path.read_bytes()
        if not content:
            raise ImageError(f'{path}: the file is empty; copy it again, or exclude it')
        _check_digest(path, hashlib.sha256(content).hexdigest(), sha256)
        stream: Any = io.BytesIO(content)
        stream = gzip.GzipFile(fileobj=stream) if path.suffix == '.gz' else stream
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            if kind.header_class.may_contain_header(start):
                return kind.from_file_map({'image': nib.FileHolder(fileobj=stream)})
    except FileNotFoundError:
        raise ImageError(
            f'{path}: no such file; is it a broken link, or data that was not fetched?'
        ) from None
    except volumes.DAMAGED as e:
        raise ImageError(f'{path}: not a readable NIfTI image ({_first_line(e)})') from e
    raise ImageError(f'{path}: not a readable NIfTI image (it has no NIfTI header)')


def count_voxels(path: Path) -> int:
    """Voxels of an image, by its header alone; 0 where that cannot be read."""
    try:
        with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
            start = file.read(nib.Nifti2Header.sizeof_hdr)
        for kind in (nib.Nifti1Header, nib.Nifti2Header):
            if kind.may_contain_header(start):
                header = kind(start[: kind.sizeof_hdr], check=False)
                return max(0, math.prod(map(int, header.get_data_shape())))
    except volumes.DAMAGED:
        pass
    return 0


def checked_t1w(path: Path, image: nib.spatialimages.SpatialImage) -> nib.Nifti1Image:
    """The intensities of a T1w image; files that cannot be one are refused.

    Parameters
    ----------
    path : Path
        For messages.
    image : nib.spatialimages.SpatialImage
        As :func:`read_nifti` gives it.

    Returns
    -------
    nib.Nifti1Image
        float32, three dimensions, finite, not constant, 0 or more.

    Raises
    ------
    ImageError
        The data are truncated, damaged or not 3D; intensities are NaN, infinite, constant or
        negative; there is no orientation; or the voxel size or field of view is implausible.
    """
    shape = _checked_shape(path, image)
    _check_affine(path, image)
    try:
        data = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape)
        # The checksum of gzip comes after the last voxel.
        stream: Any = image.file_map['image'].fileobj
        while stream.read(2**20):
            pass
    except volumes.DAMAGED as e:
        raise ImageError(
            f'{path}: the image data cannot be read ({_first_line(e)}); '
            'is the file truncated or damaged?'
        ) from e
    return nib.Nifti1Image(_checked_intensities(path, data), image.affine)


def check_unchanged(path: Path, sha256: str | None) -> None:
    """Refuse a file that has changed since its digest was taken; called after it was read.

    Parameters
    ----------
    path : Path
    sha256 : str or None
        The digest, or None to accept any file.

    Raises
    ------
    ImageError
        The file has another digest.
    """
    if sha256 is not None:
        _check_digest(path, digest_of(path), sha256)


def conform(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Reorient to the closest RAS axes without resampling.

    Where qform and sform differ, the sform holds, as in nibabel. The axes may be sheared, which
    the quaternion of a header cannot represent; see :func:`ddae_app.imaging.volumes.straight`.
    """
    canonical = nib.as_closest_canonical(image)
    data = np.asarray(canonical.dataobj, dtype=np.float32)
    affine = canonical.affine
    if not volumes.is_sheared(affine, data.shape):
        affine = volumes.straight(affine)  # both forms of the header say the same, to the bit
    out = nib.Nifti1Image(data, affine)
    out.set_qform(affine, code=1)
    out.set_sform(affine, code=1)
    return out


def _check_digest(path: Path, found: str | None, sha256: str | None) -> None:
    if sha256 not in (None, found):
        raise ImageError(f'{path}: the file changed while the run went on; run again')


def _checked_shape(path: Path, image: nib.spatialimages.SpatialImage) -> tuple[int, ...]:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise ImageError(
            f'{path}: image has shape {image.shape}; expected one 3D volume. '
            'Exclude the file with --bids-filter-file, or extract one volume'
        )
    if np.prod(shape, dtype=float) > volumes.MAX_VOXELS:
        raise ImageError(
            f'{path}: header claims {shape} voxels; expected at most 1024 x 1024 x 1024'
        )
    if image.get_data_dtype().kind not in 'iuf':
        raise ImageError(
            f'{path}: data type {image.get_data_dtype()}; expected integers or real numbers'
        )
    return shape


def _check_affine(path: Path, image: nib.spatialimages.SpatialImage) -> None:
    if not volumes.is_oriented(image):
        raise ImageError(
            f'{path}: qform_code and sform_code are 0, so left and right are unknown; '
            'set the orientation in the header'
        )
    affine = image.affine
    zooms = nib.affines.voxel_sizes(affine)
    low, high = VOXEL_SIZE_MM
    if not (zooms.min() >= low and zooms.max() <= high):  # so that NaN fails as well
        raise ImageError(
            f'{path}: voxel size {_mm(zooms)} mm; expected {low} to {high} mm (is the unit mm?)'
        )
    if not volumes.spans_space(affine):
        raise ImageError(f'{path}: the affine matrix is not invertible; repair the header')
    extent = zooms * image.shape[:3]
    if extent.min() < MIN_EXTENT_MM:
        raise ImageError(
            f'{path}: field of view {_mm(extent)} mm; '
            f'expected a whole brain, at least {MIN_EXTENT_MM:.0f} mm along every axis'
        )


def _checked_intensities(path: Path, data: np.ndarray) -> np.ndarray:
    bad = np.size(data) - np.count_nonzero(np.isfinite(data))
    if bad:
        raise ImageError(
            f'{path}: {bad} voxels are NaN or infinite; expected finite intensities. Write 0 '
            'where the scan has no data, or export the scan again'
        )
    if data.min() == data.max():
        raise ImageError(f'{path}: every voxel is {data.flat[0]:g}; expected an image of a head')
    negative = np.count_nonzero(data < 0) / data.size
    if negative > MAX_NEGATIVE_FRACTION:
        raise ImageError(
            f'{path}: {negative:.0%} of the voxels are negative; expected intensities from 0 '
            'upwards, as the scanner wrote them (not z-scores)'
        )
    return np.maximum(data, 0)


def _mm(values: np.ndarray) -> str:
    return ' x '.join(f'{value:.3g}' for value in values)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
