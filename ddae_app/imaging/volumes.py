"""Read and write the images of this program."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from ddae_app.errors import ImageError
from ddae_app.files import staged, sync

SHEAR_VOXELS = 0.1
"""An image is sheared if that moves a voxel by more than this; what is less is rounding."""

MNI_CODE = 4
"""NIfTI code of coordinates in MNI152 space."""

MAX_VOXELS = 1024**3
"""An image whose header claims more voxels is refused before memory is allocated."""

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,  # from a type of data that the format does not have
    OverflowError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.freesurfer.mghformat.MGHError,
)
"""What nibabel raises on files that are truncated, overwritten or not images."""


def reason(error: BaseException) -> str:
    """What an error of nibabel says, in one line."""
    return ' '.join(str(error).split()) or type(error).__name__


def straight(affine: np.ndarray) -> np.ndarray:
    """An affine without shear: the one that the quaternion of a header can represent.

    Parameters
    ----------
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm.
    """
    header = nib.Nifti1Header()
    header.set_qform(affine, code=1)
    return header.get_qform()


def is_sheared(affine: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether the axes of an image are not at right angles."""
    off = np.abs(straight(affine) - affine)[:3, :3] @ np.array(shape)
    return bool(off.max() > SHEAR_VOXELS * nib.affines.voxel_sizes(affine).min())


def is_oriented(image: nib.spatialimages.SpatialImage) -> bool:
    """Whether the header says where left and right are; nibabel would guess."""
    header = image.header
    codes = ('qform_code', 'sform_code')
    return not isinstance(header, nib.Nifti1Header) or any(header[code] for code in codes)


def spans_space(affine: np.ndarray) -> bool:
    """Whether the axes of an image have a length and lead in three directions.

    Parameters
    ----------
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm.
    """
    if not np.isfinite(affine).all():
        return False
    sizes = nib.affines.voxel_sizes(affine)
    return bool(sizes.min() > 0 and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3)


def read(path: Path | str) -> nib.Nifti1Image:
    """Read an image that an earlier step wrote, with its data in memory.

    Raises
    ------
    ImageError
        The file is missing or damaged.
    """
    try:
        image: Any = nib.load(path)
        return nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine)
    except DAMAGED as e:
        raise ImageError(f'{path}: not readable ({reason(e)}); run the preprocessing again') from e


def write(
    path: Path | str, data: np.ndarray, affine: np.ndarray, *, durable: bool = False
) -> None:
    """Write an image in template space, whole or not at all; the bytes are reproducible.

    Parameters
    ----------
    path : Path or str
        ``.nii``, or ``.nii.gz`` for compression.
    data : np.ndarray, shape (X, Y, Z)
        Booleans are stored as uint8, all other types as float32.
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm, RAS.
    durable : bool
        Whether its content has reached the disk when its name appears there, which takes time.
    """
    kind = np.uint8 if data.dtype == bool else np.float32
    image = nib.Nifti1Image(np.ascontiguousarray(data, dtype=kind), affine)
    image.set_sform(affine, MNI_CODE)
    image.set_qform(affine, MNI_CODE)
    image.header.set_xyzt_units('mm')
    with staged(Path(path)) as temporary:
        nib.save(image, temporary)
        if durable:
            with temporary.open('r+b') as file:
                sync(file)


def resample(
    image: nib.Nifti1Image, matrix: np.ndarray, shape: tuple[int, ...], affine: np.ndarray
) -> np.ndarray:
    """Resample an image to other voxels: trilinear, 0 outside the image.

    Parameters
    ----------
    image : nib.Nifti1Image
    matrix : np.ndarray, shape (4, 4)
        mm of the result to mm of the image.
    shape : tuple of int, length 3
    affine : np.ndarray, shape (4, 4)
        Voxel index of the result to mm.

    Returns
    -------
    np.ndarray, float32
        Of the given shape.
    """
    to_voxels = np.linalg.inv(image.affine) @ matrix @ affine
    data = np.asarray(image.dataobj, dtype=np.float32)
    return ndimage.affine_transform(data, to_voxels, output_shape=shape, order=1)


def largest_voxel_edge(path: Path) -> float | None:
    """The longest edge of the voxels of an image, in mm, from its header; None if unreadable."""
    try:
        header: Any = nib.load(path)
        return float(nib.affines.voxel_sizes(header.affine).max())
    except DAMAGED:
        return None
