"""Reading the brain masks that users have."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import ImageError
from ddae_app.imaging import volumes

COMPRESSED = '.gz', '.mgz'


def read_given_mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which voxels of a mask are brain, and where they lie.

    Parameters
    ----------
    path : Path
        An image of one value above 0, or FreeSurfer's ``brainmask.mgz``.

    Returns
    -------
    inside : np.ndarray, shape (X, Y, Z), bool
        True somewhere.
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm.

    Raises
    ------
    ImageError
        The file is not readable, damaged, not 3D, no mask, or has no orientation.
    """
    try:
        loaded: Any = nib.load(path)
        shape = loaded.shape
        if len(shape) < 3 or min(shape[:3]) < 2 or math.prod(shape[3:]) != 1:
            raise ImageError(f'{path}: the brain mask has shape {shape}; expected one 3D volume')
        if math.prod(shape) > volumes.MAX_VOXELS:
            raise ImageError(
                f'{path}: the header of the brain mask claims {shape} voxels; expected at most '
                '1024 x 1024 x 1024'
            )
        data = np.asanyarray(loaded.dataobj).reshape(shape[:3])
        if path.name.endswith(COMPRESSED):
            _check_to_the_end(path)
    except volumes.DAMAGED as e:
        raise ImageError(
            f'{path}: the brain mask is not a readable image ({volumes.reason(e)}); copy it '
            'again, or make it anew'
        ) from e
    if data.dtype.kind not in 'biuf':
        raise ImageError(f'{path}: the brain mask has data of {data.dtype}; expected numbers')
    if not (volumes.is_oriented(loaded) and volumes.spans_space(loaded.affine)):
        raise ImageError(
            f'{path}: the header of the brain mask does not say where it lies (qform_code and '
            'sform_code are 0, or the affine matrix is not invertible); copy the orientation of '
            'the scan into it'
        )
    return _inside(path, data), loaded.affine


def _check_to_the_end(path: Path) -> None:
    """Read a file to its checksum, which comes after the last voxel."""
    with gzip.open(path) as file:
        while file.read(2**20):
            pass


def _inside(path: Path, data: np.ndarray) -> np.ndarray:
    """Which voxels of a brain mask are brain."""
    values = np.unique(data[data > 0])
    if values.size == 0:
        raise ImageError(f'{path}: the brain mask is empty')
    if values.size == 1:
        return data > 0
    if path.name == 'brainmask.mgz':
        # It holds the intensities of the brain. FreeSurfer's editor leaves 1 where it erased.
        return data > 1
    raise ImageError(
        f'{path}: the brain mask has {values.size} values above 0, from {values[0]:g} to '
        f'{values[-1]:g}; expected one. Of probabilities or labels, write a mask of 0 and 1'
    )
