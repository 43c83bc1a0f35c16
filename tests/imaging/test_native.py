"""The difference on the grid, brought back into the scan."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from ddae_app.imaging.native import native_difference

GRID = (40, 44, 36)
AFFINE = nib.affines.from_matvec(np.diag([1.5, 1.7, 1.5]), [-29, -37, -26])
NATIVE = (60, 58, 50)
NATIVE_AFFINE = nib.affines.from_matvec(np.diag([1.2, 1.4, 1.3]), [-35, -40, -33])


@pytest.fixture
def matrix():
    turn = Rotation.from_euler('xyz', [4, -3, 6], degrees=True).as_matrix()
    return nib.affines.from_matvec(turn @ np.diag([0.9, 0.95, 0.92]), [1.5, -2, 1])


@pytest.fixture
def brain():
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in GRID], indexing='ij')
    return x**2 + y**2 + z**2 < 0.6


def onto_the_grid(native, matrix):
    to_native = np.linalg.inv(NATIVE_AFFINE) @ matrix @ AFFINE
    return affine_transform(native, to_native, output_shape=GRID, order=1)


def back(difference, brain, matrix):
    scan = nib.Nifti1Image(np.ones(NATIVE, np.float32), NATIVE_AFFINE)
    return native_difference(difference, brain, AFFINE, matrix, scan)


def test_resampled_as_the_scan_was_it_is_the_difference_again(brain, matrix):
    rng = np.random.default_rng(0)
    difference = np.where(brain, gaussian_filter(rng.normal(size=GRID), 1.2), 0)
    found = back(difference, brain, matrix)
    assert found.shape == NATIVE and found.dtype == np.float32
    deep = gaussian_filter(brain.astype(float), 2) > 0.999
    error = (onto_the_grid(found, matrix) - difference)[deep]
    assert np.sqrt(np.mean(error**2)) < 0.05 * difference[deep].std()


def test_a_constant_is_that_constant_in_the_brain_and_zero_outside(brain, matrix):
    found = back(np.where(brain, 3.0, 0), brain, matrix)
    there = found != 0
    np.testing.assert_allclose(found[there], 3, rtol=0.1)
    volume = there.sum() * np.prod(np.diag(NATIVE_AFFINE)[:3]) / np.linalg.det(matrix[:3, :3])
    assert volume == pytest.approx(brain.sum() * np.prod(np.diag(AFFINE)[:3]), rel=0.03)


def test_no_difference_is_exactly_none(brain, matrix):
    assert not back(np.zeros(GRID), brain, matrix).any()
    outside = np.where(brain, 0, 5.0)
    assert not back(outside, brain, matrix).any()
