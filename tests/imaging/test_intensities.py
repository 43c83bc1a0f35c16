"""Scales of intensities, on images whose brightest tissue is known."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.imaging.intensities import (
    brain_scale,
    foreground_range,
    without_hot_voxels,
)

SHAPE = (40, 44, 42)


def brain(background=0.0, scale=1.0):
    """A ball of tissue from 0.2 to 1, a fifth of the image, on a background."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    ball = x**2 + y**2 + z**2 < 0.5
    return (scale * np.where(ball, rng.uniform(0.2, 1, SHAPE), background)).astype(np.float32)


def with_hot_voxels(data, factor, n=5):
    hot = data.copy()
    center = [size // 2 for size in SHAPE]
    hot[center[0] : center[0] + n, center[1], center[2]] = factor * data.max()
    return hot


FORMS = {
    'plain': brain(),
    'scanner units': brain(scale=900),
    'tiny': brain(scale=1e-7),
    'negative background': brain(background=-0.4),
    'z-scores': (brain() - 0.6) / 0.2,
    'noisy background': brain()
    + np.random.default_rng(1).rayleigh(0.02, SHAPE).astype(np.float32),
    'bytes': np.rint(brain() * 255).astype(np.uint8),
}


@pytest.mark.parametrize('form', FORMS)
def test_ordinary_images_keep_their_bytes(form):
    data = FORMS[form]
    assert without_hot_voxels(data) is data


@pytest.mark.parametrize('form', [form for form in FORMS if form != 'bytes'])
@pytest.mark.parametrize('factor', [20, 60, 1e4])
def test_five_hot_voxels_move_nothing(form, factor):
    data = FORMS[form]
    hot = with_hot_voxels(data, factor)
    low, high = foreground_range(data)
    assert foreground_range(hot) == pytest.approx((low, high), abs=2e-3 * (high - low))
    calm = without_hot_voxels(hot)
    assert calm.dtype == data.dtype and calm.max() <= data.max()
    # What lies apart keeps its intensity.
    np.testing.assert_array_equal(calm[:10], data[:10])
    np.testing.assert_array_equal(calm[:, :, :10], data[:, :, :10])


def test_interpolated_neighbors_of_a_hot_voxel_are_no_brighter_than_tissue():
    hot = with_hot_voxels(brain(), 20)
    hot[19, 22, 21] = 3  # a sixth of the voxel beside it
    assert without_hot_voxels(hot).max() <= 1


@pytest.mark.parametrize('value', [0, -3, 255])
def test_a_constant_image_stays_constant(value):
    data = np.full(SHAPE, value, np.float32)
    assert (without_hot_voxels(data) == value).all()


def test_saturated_bytes_and_a_white_background():
    data = np.minimum(FORMS['bytes'].astype(int) * 2, 255).astype(np.uint8)
    data[FORMS['bytes'] == 0] = 255
    assert without_hot_voxels(data) is data


def tissue(n=200_000):
    rng = np.random.default_rng(2)
    return np.clip(rng.normal(0.7, 0.15, n), 0.05, 1)


def test_the_scale_of_ordinary_tissue_is_its_percentile():
    values = tissue()
    assert brain_scale(values, 99.5) == (float(np.percentile(values, 99.5)), 0)


@pytest.mark.parametrize('share', [0.006, 0.015, 0.03])
@pytest.mark.parametrize('brightness', [1.5, 2.2, 20])
def test_bright_vessels_do_not_move_the_scale(share, brightness):
    values = tissue()
    expected = np.percentile(values, 99.5)
    values[: int(share * len(values))] = brightness
    scale, left_out = brain_scale(values, 99.5)
    assert scale == pytest.approx(expected, rel=0.01)
    assert left_out == pytest.approx(share, rel=0.01)


def test_a_brain_of_one_intensity_has_that_scale():
    assert brain_scale(np.full(10, 3.0), 99.5) == (3, 0)
    assert brain_scale(np.zeros(10), 99.5) == brain_scale(np.zeros(0), 99.5) == (0, 0)
