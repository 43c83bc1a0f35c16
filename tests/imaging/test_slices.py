from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.errors import ImageError
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import (
    TRAINING_NEIGHBORS,
    crop_start,
    extract_slices,
    slice_indices,
    training_stacks,
)
from ddae_app.settings import Protocol

MEDIAL = Protocol(grid=(40, 50, 36), slice_shape=(32, 48))
ALL = replace(MEDIAL, slices='all')
GRID = model_grid(MEDIAL.template, MEDIAL.grid)
BOX = (slice(4, 36), slice(1, 49))  # the center crop along x and y


@pytest.fixture
def mask() -> np.ndarray:
    """An ellipsoid inside the crop, with its poles inside the grid."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in MEDIAL.grid], indexing='ij')
    return (x / 0.7) ** 2 + (y / 0.8) ** 2 + (z / 0.9) ** 2 < 1


@pytest.fixture
def volume() -> np.ndarray:
    """Different in every voxel, also outside the brain."""
    return np.random.default_rng(0).uniform(50, 900, MEDIAL.grid).astype(np.float32)


def test_medial_is_the_middle_of_the_grid():
    assert slice_indices(MEDIAL) == (18,)


def test_medial_slice_of_the_papers_grid():
    """Where the docstring and the manual say that it is."""
    grid = model_grid('MNI152NLin2009cAsym', (130, 130, 130))
    (index,) = slice_indices(Protocol())
    assert (grid.affine @ [0, 0, index, 1])[2] == pytest.approx(18.7, abs=0.1)


def test_all_are_every_slice_of_the_grid_with_or_without_brain(volume, mask):
    assert slice_indices(ALL) == tuple(range(36))
    stack = extract_slices(volume, mask, GRID, ALL)
    assert stack.data.shape == (ALL.depth, 32, 48)
    assert not stack.data[0].any() and stack.data[18].any()


def test_crop_is_in_the_center():
    assert crop_start((40, 50, 36), (32, 48)) == (4, 1)
    assert crop_start((130, 130, 130), (128, 128)) == (1, 1)


@pytest.mark.parametrize('protocol', [MEDIAL, ALL])
def test_scaled_back_the_data_are_the_volume(volume, mask, protocol):
    stack = extract_slices(volume, mask, GRID, protocol)
    planes = list(stack.indices)
    assert stack.data.shape == (len(planes), 32, 48)
    assert stack.data.dtype == np.float32
    expected = np.where(mask, volume, 0)[BOX][:, :, planes]
    assert np.count_nonzero(expected)
    np.testing.assert_allclose(np.moveaxis(stack.data, 0, 2) * stack.scale, expected, rtol=1e-6)


def test_scale_is_the_percentile_of_the_whole_brain(volume, mask):
    for percentile in (99.9, 50.0, 100.0):
        stack = extract_slices(
            volume, mask, GRID, replace(MEDIAL, intensity_percentile=percentile)
        )
        assert stack.scale == pytest.approx(np.percentile(volume[mask], percentile))


def test_bright_vessels_do_not_move_the_scale(volume, mask):
    plain = extract_slices(volume, mask, GRID, MEDIAL)
    assert plain.bright_share == 0
    bright = volume.copy()
    bright[18:21, 20:30, 8:28] = 2.2 * 900
    stack = extract_slices(bright, mask, GRID, MEDIAL)
    assert stack.scale == pytest.approx(plain.scale, rel=0.01)
    assert stack.bright_share == pytest.approx(600 / mask.sum(), rel=0.01)
    # The vessels are as bright as they are.
    assert stack.data.max() == pytest.approx(2.2 * 900 / stack.scale)
    (one,) = training_stacks(bright, mask, GRID, ALL)
    assert one.max() == stack.data.max()


def test_negative_values_become_zero(volume, mask):
    volume[mask & (volume < 200)] *= -1
    assert extract_slices(volume, mask, GRID, MEDIAL).data.min() == 0


def test_affine_leads_to_the_same_place(volume, mask):
    stack = extract_slices(volume, mask, GRID, ALL)
    n, i, j = np.unravel_index(stack.data.argmax(), stack.data.shape)
    mm = stack.affine @ [i, j, n, 1]
    x, y, z = np.rint(np.linalg.inv(GRID.affine) @ mm)[:3].astype(int)
    assert volume[x, y, z] == pytest.approx(stack.data[n, i, j] * stack.scale)
    np.testing.assert_allclose((GRID.affine @ [x, y, z, 1]), mm)
    assert GRID.affine[0, 3] != stack.affine[0, 3]


@pytest.mark.parametrize('protocol', [MEDIAL, ALL])
def test_no_brain(volume, protocol):
    nothing = np.zeros(MEDIAL.grid, bool)
    with pytest.raises(ImageError, match='no brain'):
        extract_slices(volume, nothing, GRID, protocol)


def test_no_brain_in_the_medial_slice(volume, mask):
    mask[:, :, 18] = False
    with pytest.raises(ImageError, match='no brain'):
        extract_slices(volume, mask, GRID, MEDIAL)


def test_black_brain(mask):
    with pytest.raises(ImageError, match='no brain'):
        extract_slices(np.zeros(MEDIAL.grid, np.float32), mask, GRID, MEDIAL)


def test_training_sees_the_neighbors_of_the_medial_slice(volume, mask):
    stacks = training_stacks(volume, mask, GRID, MEDIAL)
    assert stacks.shape == (2 * TRAINING_NEIGHBORS + 1, 1, 32, 48)
    medial = extract_slices(volume, mask, GRID, MEDIAL)
    np.testing.assert_array_equal(stacks[TRAINING_NEIGHBORS], medial.data)
    above = np.where(mask, volume, 0)[BOX][:, :, 18 + TRAINING_NEIGHBORS] / medial.scale
    np.testing.assert_allclose(stacks[-1, 0], above, rtol=1e-6)


def test_training_sees_all_where_all_are_asked_for(volume, mask):
    expected = extract_slices(volume, mask, GRID, ALL).data
    np.testing.assert_array_equal(training_stacks(volume, mask, GRID, ALL), expected[None])


def test_training_without_brain_near_the_medial_slice(volume, mask):
    mask[:, :, 18 - TRAINING_NEIGHBORS :] = False
    with pytest.raises(ImageError, match='no brain near the medial slice'):
        training_stacks(volume, mask, GRID, MEDIAL)
