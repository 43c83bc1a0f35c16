"""Maps on the cortex, one number a vertex, in the formats of GIFTI, CIFTI and FreeSurfer.

Formats: GIFTI 1.0 and CIFTI-2 (www.nitrc.org/projects/gifti, /cifti), FreeSurfer's MGH volumes
and "curv" files (surfer.nmr.mgh.harvard.edu/fswiki/FileFormats), as nibabel reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import UsageError
from ddae_app.files import not_fetched

HEMISPHERES = {'L': 'left', 'R': 'right'}
"""The labels of BIDS, and what they mean."""

GIFTI, CIFTI = '.shape.gii', '.dscalar.nii'

STRUCTURES = {'L': 'CortexLeft', 'R': 'CortexRight'}
"""In GIFTI; CIFTI writes them in capitals."""


def read_map(path: Path, hemisphere: str) -> np.ndarray:
    """The values of one hemisphere.

    Parameters
    ----------
    path : Path
        GIFTI or CIFTI by its ending, MGH or MGZ; any other is FreeSurfer's format of curvature.
    hemisphere : str
        ``L`` or ``R``; only a CIFTI file holds both.

    Returns
    -------
    np.ndarray, shape (V,), float32
        In the units of the file. Vertices that a CIFTI file leaves out are NaN.

    Raises
    ------
    UsageError
        It cannot be read, or holds anything but one map.
    """
    if message := not_fetched(path):
        raise UsageError(message)
    try:
        is_image = path.name.endswith((GIFTI, CIFTI, '.mgh', '.mgz'))
        image: Any = nib.load(path) if is_image else None
        if path.name.endswith(CIFTI):
            values = _of_cifti(image, hemisphere)
        elif path.name.endswith(GIFTI):
            arrays = image.darrays
            values = arrays[0].data if len(arrays) == 1 else None
        elif is_image:
            values = _of_volume(np.asanyarray(image.dataobj))
        else:
            values = nib.freesurfer.read_morph_data(path)
    except Exception as e:  # nibabel raises many kinds for what is damaged
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UsageError(
            f'{path}: not readable as a map on the cortex, or damaged ({reason}); make it again'
        ) from e
    if values is None or values.ndim != 1 or values.size == 0:
        raise UsageError(
            f'{path}: expected one number for each vertex of the {HEMISPHERES[hemisphere]} '
            'hemisphere, and no other maps or time points'
        )
    with np.errstate(over='ignore'):
        return values.astype(np.float32)


def gifti_of(values: np.ndarray, hemisphere: str) -> bytes:
    """A GIFTI file of the values of one hemisphere, shape (V,)."""
    array = nib.gifti.GiftiDataArray(
        values.astype(np.float32), intent='NIFTI_INTENT_SHAPE', datatype='NIFTI_TYPE_FLOAT32'
    )
    meta = nib.gifti.GiftiMetaData({'AnatomicalStructurePrimary': STRUCTURES[hemisphere]})
    return nib.GiftiImage(darrays=[array], meta=meta).to_bytes()


def cifti_of(source: Path, values: dict[str, np.ndarray]) -> bytes:
    """A CIFTI file like another, with other values on the cortex, all of them float32.

    Parameters
    ----------
    source : Path
        Its axes are kept, and what it has outside of the cortex.
    values : dict of str to np.ndarray, shape (V,)
        By hemisphere, as :func:`read_map` returns them.
    """
    image: Any = nib.load(source)
    data = np.asarray(image.dataobj, dtype=np.float32).copy()
    for hemisphere, part, vertices, _ in _cortex(image):
        data[0, part] = values[hemisphere][vertices]
    new = nib.Cifti2Image(data, header=image.header, nifti_header=image.nifti_header)
    new.set_data_dtype(np.float32)
    return new.to_bytes()


def _of_volume(data: np.ndarray) -> np.ndarray | None:
    """FreeSurfer writes a map as a volume of one row."""
    return data.ravel(order='F') if max(data.shape) == data.size else None


def _of_cifti(image: Any, hemisphere: str) -> np.ndarray | None:
    for found, part, vertices, size in _cortex(image):
        if found == hemisphere and image.shape[0] == 1:
            values = np.full(size, np.nan, dtype=np.float32)
            values[vertices] = np.asarray(image.dataobj)[0, part]
            return values
    return None


def _cortex(image: Any) -> list[tuple[str, slice, np.ndarray, int]]:
    """Of each hemisphere, its columns, their vertices, and the size of its mesh."""
    by_structure = {f'CIFTI_STRUCTURE_CORTEX_{v.upper()}': k for k, v in HEMISPHERES.items()}
    return [
        (by_structure[name], part, model.vertex, model.nvertices[name])
        for name, part, model in image.header.get_axis(1).iter_structures()
        if name in by_structure
    ]
