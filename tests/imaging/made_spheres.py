"""A TEMPLATEFLOW_HOME with spheres of fsLR that are made up."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def even_places(count: int, turn: float = 0.0) -> np.ndarray:
    """Points that are spread evenly over the unit sphere, shape (count, 3): a Fibonacci lattice.

    Parameters
    ----------
    count : int
    turn : float
        By which angle they are turned around the axis.
    """
    i = np.arange(count) + 0.5
    z, around = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i + turn
    r = np.sqrt(1 - z**2)
    return np.column_stack([r * np.cos(around), r * np.sin(around), z])


def sphere_path(home: Path, hemisphere: str, den: str = '32k') -> Path:
    """Where TemplateFlow has the sphere of a hemisphere."""
    return (
        home / 'tpl-fsLR' / f'tpl-fsLR_space-fsaverage_hemi-{hemisphere}_den-{den}_sphere.surf.gii'
    )


def write_sphere(path: Path, places: np.ndarray, structure: str = '') -> None:
    """Write a surface of radius 100 mm; `structure` is the hemisphere that the file tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {'AnatomicalStructurePrimary': structure} if structure else {}
    arrays = [
        nib.gifti.GiftiDataArray(values, intent=intent, datatype=kind, meta=meta)
        for values, intent, kind in (
            (100 * places.astype(np.float32), 'NIFTI_INTENT_POINTSET', 'NIFTI_TYPE_FLOAT32'),
            (np.array([[0, 1, 2]], dtype=np.int32), 'NIFTI_INTENT_TRIANGLE', 'NIFTI_TYPE_INT32'),
        )
    ]
    nib.save(nib.GiftiImage(darrays=arrays), path)


def write_spheres(home: Path, count: int = 32492, den: str = '32k') -> np.ndarray:
    """Write those of both hemispheres, which differ; their places, shape (2, count, 3)."""
    places = np.stack([even_places(count, turn) for turn in (0.0, 1.0)])
    for hemisphere, side in zip('LR', places, strict=True):
        structure = {'L': 'CortexLeft', 'R': 'CortexRight'}[hemisphere]
        write_sphere(sphere_path(home, hemisphere, den), side, structure)
    return places
