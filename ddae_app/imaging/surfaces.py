"""Maps on the cortex, one number a vertex, in the formats of GIFTI, CIFTI and FreeSurfer.

Formats: GIFTI 1.0 and CIFTI-2 (www.nitrc.org/projects/gifti, /cifti), FreeSurfer's MGH volumes
and "curv" files (surfer.nmr.mgh.harvard.edu/fswiki/FileFormats), as nibabel reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def read_maps(path: Path, hemispheres: str) -> dict[str, np.ndarray]:
    """The values of the hemispheres that a file holds, which is read once.

    Parameters
    ----------
    path : Path
        GIFTI or CIFTI by its ending, MGH or MGZ; any other is FreeSurfer's format of curvature.
    hemispheres : str
        ``L`` or ``R``; of a CIFTI file also ``LR``.

    Returns
    -------
    dict of str to np.ndarray, shape (V,), float32
        By hemisphere, in the order of `hemispheres` and the units of the file. Vertices that a
        CIFTI file leaves out are NaN.

    Raises
    ------
    UsageError
        It cannot be read, holds anything but one map of each hemisphere, or says that it is of the
        other one.
    """
    if message := not_fetched(path):
        raise UsageError(message)
    try:
        image: Any = None if _is_morph(path) else nib.load(path)
        found: Mapping[str, np.ndarray | None] = (
            _of_cifti(image) if path.name.endswith(CIFTI) else {hemispheres: _of_one(path, image)}
        )
        other = other_structure(image, hemispheres) if path.name.endswith(GIFTI) else ''
    except Exception as e:  # nibabel raises many kinds for what is damaged
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UsageError(
            f'{path}: not readable as a map on the cortex, or damaged ({reason}); make it again'
        ) from e
    if other:
        raise UsageError(
            f'{path}: of {other}, as the file says, and not of the {HEMISPHERES[hemispheres]} '
            'hemisphere, as its name says; make it again'
        )
    maps = {}
    for hemisphere in hemispheres:
        values = found.get(hemisphere)
        if values is None or values.ndim != 1 or values.size == 0:
            raise UsageError(
                f'{path}: expected one number for each vertex of the {HEMISPHERES[hemisphere]} '
                'hemisphere, and no other maps or time points'
            )
        with np.errstate(over='ignore'):
            maps[hemisphere] = values.astype(np.float32)
    return maps


def other_structure(image: nib.GiftiImage, hemisphere: str) -> str:
    """What a GIFTI file says that it is of, if that is the other hemisphere; else empty."""
    said = {part.meta.get('AnatomicalStructurePrimary') for part in (image, *image.darrays)}
    return ', '.join(said & {*STRUCTURES.values()} - {STRUCTURES[hemisphere]})


def gifti_of(values: np.ndarray, hemisphere: str) -> bytes:
    """A GIFTI file of the values of one hemisphere, shape (V,)."""
    array = nib.gifti.GiftiDataArray(
        values.astype(np.float32), intent='NIFTI_INTENT_SHAPE', datatype='NIFTI_TYPE_FLOAT32'
    )
    meta = nib.gifti.GiftiMetaData({'AnatomicalStructurePrimary': STRUCTURES[hemisphere]})
    return nib.GiftiImage(darrays=[array], meta=meta).to_bytes()


def written_like(source: Path, hemispheres: str, values: dict[str, np.ndarray]) -> bytes:
    """A file like another, with other values on the cortex, all of them float32.

    Parameters
    ----------
    source : Path
        It is read once. Of CIFTI, its axes are kept, and what it has outside of the cortex; any
        other becomes GIFTI.
    hemispheres : str
        As that of :func:`read_maps`.
    values : dict of str to np.ndarray, shape (V,)
        By hemisphere; where one is NaN, the value of the source stays.
    """
    if not source.name.endswith(CIFTI):
        old = read_maps(source, hemispheres)[hemispheres]
        return gifti_of(_filled(values[hemispheres], old), hemispheres)
    image: Any = nib.load(source)
    data = np.asarray(image.dataobj, dtype=np.float32).copy()
    for hemisphere, part, vertices, _ in _cortex(image):
        data[0, part] = _filled(values[hemisphere][vertices], data[0, part])
    new = nib.Cifti2Image(data, header=image.header, nifti_header=image.nifti_header)
    new.set_data_dtype(np.float32)
    return new.to_bytes()


def _filled(values: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), old, values)


def _is_morph(path: Path) -> bool:
    """Whether a file is of FreeSurfer's format of curvature."""
    return not path.name.endswith((GIFTI, CIFTI, '.mgh', '.mgz'))


def _of_one(path: Path, image: Any) -> np.ndarray | None:
    """The map of a file of one hemisphere; None where it holds several."""
    if image is None:
        return nib.freesurfer.read_morph_data(path)
    if path.name.endswith(GIFTI):
        return image.darrays[0].data if len(image.darrays) == 1 else None
    return _of_volume(np.asanyarray(image.dataobj))


def _of_volume(data: np.ndarray) -> np.ndarray | None:
    """FreeSurfer writes a map as a volume of one row."""
    return data.ravel(order='F') if max(data.shape) == data.size else None


def _of_cifti(image: Any) -> dict[str, np.ndarray]:
    """The map of each hemisphere that is there; none where the file holds several maps."""
    cortex = _cortex(image)
    if image.shape[0] != 1:
        return {}
    data = np.asarray(image.dataobj)[0]
    found: dict[str, np.ndarray] = {}
    for hemisphere, part, vertices, size in cortex:
        found[hemisphere] = np.full(size, np.nan, dtype=np.float32)
        found[hemisphere][vertices] = data[part]
    return found


def _cortex(image: Any) -> list[tuple[str, slice, np.ndarray, int]]:
    """Of each hemisphere, its columns, their vertices, and the size of its mesh."""
    by_structure = {f'CIFTI_STRUCTURE_CORTEX_{v.upper()}': k for k, v in HEMISPHERES.items()}
    return [
        (by_structure[name], part, model.vertex, model.nvertices[name])
        for name, part, model in image.header.get_axis(1).iter_structures()
        if name in by_structure
    ]
