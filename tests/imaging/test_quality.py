from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ddae_app.imaging.quality import fidelity, quantile_distance, tissue_contrast

LEVELS = np.linspace(0, 1, 101)


@pytest.fixture
def stack() -> np.ndarray:
    """Two smooth pictures, 0 outside a disc."""
    rng = np.random.default_rng(0)
    pictures = ndimage.gaussian_filter(rng.random((2, 40, 48)), (0, 2, 2))
    pictures = (pictures - pictures.min()) / np.ptp(pictures) * 0.8 + 0.1
    x, y = np.ogrid[-1:1:40j, -1:1:48j]
    return np.where(x**2 + y**2 < 0.8, pictures, 0).astype(np.float32)


def test_nothing_changed(stack):
    scores = fidelity(stack, stack.copy())
    assert scores == pytest.approx(
        {'ssim': 1, 'gradient_correlation': 1, 'mean_absolute_change': 0}
    )


def test_a_new_scale_keeps_every_edge(stack):
    scores = fidelity(stack, 0.7 * stack)
    assert scores['gradient_correlation'] == pytest.approx(1)
    assert scores['mean_absolute_change'] == pytest.approx(0.3 * stack[stack > 0].mean(), rel=1e-5)
    assert 0.5 < scores['ssim'] < 0.99


def test_lost_structure_costs_more_than_a_new_scale(stack):
    blurred = np.where(stack > 0, ndimage.gaussian_filter(stack, (0, 4, 4)), 0)
    rescaled = 0.9 * stack
    for score in ('ssim', 'gradient_correlation'):
        assert fidelity(stack, blurred)[score] < fidelity(stack, rescaled)[score] - 0.05


def test_change_outside_the_brain_is_not_counted(stack):
    after = stack.copy()
    after[stack == 0] = 0.5
    assert fidelity(stack, after)['mean_absolute_change'] == 0


def test_distance_of_a_stack_to_itself_and_to_a_shifted_one(stack):
    quantiles = np.quantile(stack[stack > 0], LEVELS)
    assert quantile_distance(stack, LEVELS, quantiles) == pytest.approx(0, abs=1e-7)
    assert quantile_distance(stack, LEVELS, quantiles + 0.1) == pytest.approx(0.1, rel=1e-5)
    assert quantile_distance(stack, LEVELS, quantiles - 0.1) == pytest.approx(0.1, rel=1e-5)


def test_distance_ignores_the_background(stack):
    quantiles = np.quantile(stack[stack > 0], LEVELS)
    wide = np.pad(stack, ((0, 0), (30, 30), (30, 30)))
    assert quantile_distance(wide, LEVELS, quantiles) == pytest.approx(0, abs=1e-7)


def tissues(sd, size=(40, 40, 40)):
    """A brain of equal parts of three tissues, and noise."""
    rng = np.random.default_rng(0)
    means = np.array([200.0, 500.0, 800.0])[rng.integers(0, 3, size)]
    return means + rng.normal(0, sd, size)


def test_contrast_and_noise_of_the_tissues_are_found():
    image = tissues(40.0)
    mask = np.ones(image.shape, bool)
    mask[:5] = False
    image[:5] = 1e6
    contrast = tissue_contrast(image, mask)
    assert contrast['cjv'] == pytest.approx(80 / 300, rel=0.05)
    assert contrast['snr_gray'] == pytest.approx(500 / 40, rel=0.05)
    assert contrast['snr_white'] == pytest.approx(800 / 40, rel=0.05)


def test_overlapping_tissues_are_told_as_noisy_as_they_are():
    image = tissues(90.0)
    contrast = tissue_contrast(image, np.ones(image.shape, bool))
    assert contrast['cjv'] == pytest.approx(180 / 300, rel=0.15)


def test_the_scale_of_a_scan_does_not_matter():
    image, mask = tissues(40.0), np.ones((40, 40, 40), bool)
    assert tissue_contrast(image / 1000, mask) == pytest.approx(
        tissue_contrast(image, mask), rel=1e-3
    )


def test_a_brain_without_tissues():
    assert tissue_contrast(np.ones((4, 4, 4)), np.ones((4, 4, 4), bool)) == {}
