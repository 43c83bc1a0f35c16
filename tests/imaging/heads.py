"""Brains to test with: nilearn's packaged one, moved by a known affine."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import resample_to_grid
from ddae_app.imaging.templates import Template, load_template


def packaged() -> Template:
    return load_template('MNI152NLin2009aSym', None)


def known_affine() -> np.ndarray:
    """Template mm to scan mm: turned, stretched, sheared and moved, no two axes alike."""
    turn = Rotation.from_euler('xyz', [9, -6, 7], degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.array([[0.9, 0.03, 0], [0, 0.95, 0.02], [0, 0, 0.85]])
    matrix[:3, 3] = 6, -9, 12
    return matrix


def moved(matrix: np.ndarray, voxel_mm: float = 3.0) -> nib.Nifti1Image:
    """The packaged brain where `matrix` puts it, 100 times as bright."""
    affine = np.diag([voxel_mm] * 3 + [1])
    affine[:3, 3] = -102, -132, -90
    grid = Grid(tuple(np.array([204, 252, 210]) // int(voxel_mm)), affine)
    scan = resample_to_grid(packaged().brain, np.linalg.inv(matrix), grid)
    return nib.Nifti1Image(100 * np.asarray(scan.dataobj), affine)
