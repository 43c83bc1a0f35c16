"""Reading a T1w image and bringing it to one form: RAS, 3D, float32, not negative."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import ImageError
from ddae_app.files import digest_of

MAX_VOXELS = 1024**3
"""A header that claims more voxels than this is refused before anything is allocated."""

VOXEL_SIZE_MM = (0.1, 10.0)
"""Smallest and largest voxel edge of a plausible head scan."""

MIN_EXTENT_MM = 80.0
"""Field of view, along each axis, that is needed to register a head."""

MAX_NEGATIVE_FRACTION = 0.01
"""Resampling leaves a few small negative values; more than this means normalised intensities."""


def load_t1w(path: Path, sha256: str | None = None) -> nib.Nifti1Image:
    """Read a T1w image and refuse what cannot be one.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 file, ``.nii`` or ``.nii.gz``.
    sha256 : str, optional
        Of the file when the run was planned.

    Returns
    -------
    nib.Nifti1Image
        The image with its data in memory: float32, three dimensions, finite, not constant.

    Raises
    ------
    ImageError
        Unreadable or truncated file; not 3D; NaN or infinite, constant or mostly negative
        intensities; no orientation; implausible voxel sizes or field of view; or the file is
        another by now.
    """
    try:
        image: Any = nib.load(path)
    except FileNotFoundError:
        raise ImageError(f'{path}: no such file; is a link broken or data not fetched?') from None
    except (
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        OSError,
        ValueError,  # of a header that holds no numbers
        OverflowError,
    ) as e:
        raise ImageError(f'{path}: not a readable NIfTI image ({_first_line(e)})') from e
    shape = _checked_shape(path, image)
    _check_affine(path, image)
    try:
        data = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape)
        _check_to_the_end(path)
    except (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error) as e:
        raise ImageError(
            f'{path}: the image data cannot be read ({_first_line(e)}); '
            'is the file truncated or damaged?'
        ) from e
    check_unchanged(path, sha256)
    return nib.Nifti1Image(_checked_intensities(path, data), image.affine)


def check_unchanged(path: Path, sha256: str | None) -> None:
    """Refuse a file, once it was read, that is not the one of which the digest was taken.

    Parameters
    ----------
    path : Path
    sha256 : str or None
        None if nothing is known of the file.

    Raises
    ------
    ImageError
        It has another digest; one line.
    """
    if sha256 is not None and digest_of(path) != sha256:
        raise ImageError(f'{path}: the file changed while the run went on; run again')


def conform(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Reorient to the closest RAS axes, without resampling; qform and sform agree afterwards."""
    canonical = nib.as_closest_canonical(image)
    out = nib.Nifti1Image(np.asarray(canonical.dataobj, dtype=np.float32), canonical.affine)
    out.set_qform(out.affine, code=1)
    # The quaternion cannot hold shear, and ITK reads the qform first: let both say the same.
    out.set_sform(out.get_qform(), code=1)
    return out


def _check_to_the_end(path: Path) -> None:
    # nibabel stops reading after the last voxel, but gzip's checksum comes after that.
    if path.suffix == '.gz':
        with gzip.open(path) as file:
            while file.read(2**20):
                pass


def _checked_shape(path: Path, image: nib.spatialimages.SpatialImage) -> tuple[int, ...]:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise ImageError(
            f'{path}: image has shape {image.shape}; expected one 3D volume. '
            'Exclude the file with --bids-filter-file or extract the volume first'
        )
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise ImageError(
            f'{path}: header claims {shape} voxels; expected at most 1024 x 1024 x 1024'
        )
    if image.get_data_dtype().kind not in 'iuf':
        raise ImageError(
            f'{path}: data type {image.get_data_dtype()}; expected integers or real numbers'
        )
    return shape


def _check_affine(path: Path, image: nib.spatialimages.SpatialImage) -> None:
    header = image.header
    if isinstance(header, nib.Nifti1Header) and not (header['qform_code'] or header['sform_code']):
        raise ImageError(
            f'{path}: qform_code and sform_code are 0, so left and right cannot be told; '
            'set the orientation in the header'
        )
    affine = image.affine
    zooms = nib.affines.voxel_sizes(affine)
    low, high = VOXEL_SIZE_MM
    if not (zooms.min() >= low and zooms.max() <= high):  # so that NaN fails, too
        raise ImageError(
            f'{path}: voxel size {_mm(zooms)} mm; expected {low} to {high} mm (is the unit mm?)'
        )
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3] / zooms)) > 1e-3):
        raise ImageError(f'{path}: the orientation matrix is not invertible; repair the header')
    extent = zooms * image.shape[:3]
    if extent.min() < MIN_EXTENT_MM:
        raise ImageError(
            f'{path}: field of view {_mm(extent)} mm; '
            f'expected a whole brain, at least {MIN_EXTENT_MM:.0f} mm along every axis'
        )


def _checked_intensities(path: Path, data: np.ndarray) -> np.ndarray:
    bad = np.size(data) - np.count_nonzero(np.isfinite(data))
    if bad:
        raise ImageError(f'{path}: {bad} voxels are NaN or infinite; expected finite intensities')
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
