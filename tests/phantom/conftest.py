from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.phantom.scanner import Scanner, draw_scanner


def coarse(site: str, voxel_mm: float) -> Scanner:
    """The scanner of a site with large voxels."""
    return replace(draw_scanner(site), voxel_mm=(voxel_mm, voxel_mm, voxel_mm))


@pytest.fixture(scope='session')
def whole_brain() -> np.ndarray:
    """Points every 3 mm over the template's brain and some margin, shape (X, Y, Z, 3)."""
    axes = [np.arange(low, high, 3.0) for low, high in ((-88, 89), (-122, 89), (-84, 96))]
    return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)


@pytest.fixture(scope='session')
def axial_slice() -> np.ndarray:
    """Points every 2 mm of the axial plane at z = 18 mm, shape (H, W, 3)."""
    axes = [np.arange(-90, 91, 2.0), np.arange(-126, 91, 2.0), np.array([18.0])]
    return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)[:, :, 0]
