"""Read and write the images of this program."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import ImageError
from ddae_app.files import staged

MNI_CODE = 4
"""NIfTI code of coordinates in MNI152 space."""

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
)
"""What nibabel raises on files that are truncated, overwritten or not images."""


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
        raise ImageError(f'{path}: not readable ({e}); run the preprocessing again') from e


def write(path: Path | str, data: np.ndarray, affine: np.ndarray) -> None:
    """Write an image in template space, whole or not at all; the bytes are reproducible.

    Parameters
    ----------
    path : Path or str
        ``.nii``, or ``.nii.gz`` for compression.
    data : np.ndarray, shape (X, Y, Z)
        Booleans are stored as uint8, all other types as float32.
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm, RAS.
    """
    kind = np.uint8 if data.dtype == bool else np.float32
    image = nib.Nifti1Image(np.ascontiguousarray(data, dtype=kind), affine)
    image.set_sform(affine, MNI_CODE)
    image.set_qform(affine, MNI_CODE)
    image.header.set_xyzt_units('mm')
    with staged(Path(path)) as temporary:
        nib.save(image, temporary)
