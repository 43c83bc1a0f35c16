from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ddae_app.imaging.quality import fidelity, quantile_distance, tissue_contrast, unchecked

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
    assert scores == {'ssim': 1, 'gradient_correlation': 1, 'mean_absolute_change': 0}


def test_a_spike_that_changes_is_not_a_change_of_the_brain(stack):
    spiked, dimmed = stack.copy(), stack.copy()
    spiked[0, 20, 24], dimmed[0, 20, 24] = 30, 20
    scores = fidelity(spiked, dimmed)
    assert scores == {'ssim': 1, 'gradient_correlation': 1, 'mean_absolute_change': 0}
    quantiles = np.quantile(stack[stack > 0], LEVELS)
    assert quantile_distance(spiked, LEVELS, quantiles) < 5e-3


def test_without_brain_nothing_is_measured_and_it_is_said():
    nothing = np.zeros((2, 40, 48), np.float32)
    scores = fidelity(nothing, nothing) | {
        'target_distance_before': quantile_distance(nothing, LEVELS, LEVELS)
    }
    assert all(np.isnan(score) for score in scores.values())
    assert unchecked(scores) == (
        'ssim, mean_absolute_change, target_distance_before, because the slices show no brain; '
        'gradient_correlation, because the brain shows no edge, before or after'
    )
    assert unchecked({'ssim': 1.0, 'anatomy_flag': 'none'}) == 'none'


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


@pytest.mark.parametrize('values', [[1], [1, 1.00001, 2], [0.2, 0.3003, 0.9]])
def test_a_brain_without_tissues(values):
    """There are as many intensities as tissues, but they are as good as equal, or too few."""
    image = np.repeat(values, 60).astype(float)
    contrast = tissue_contrast(image, np.ones(image.shape, bool))
    assert unchecked(contrast) == (
        'cjv, snr_gray, snr_white, because the brain has too few different intensities'
    )


@pytest.mark.parametrize('scale', [1e-7, 1e-3, 60])
def test_spikes_and_vessels_are_no_tissue_at_any_scale(scale):
    image, mask = tissues(40.0), np.ones((40, 40, 40), bool)
    expected = tissue_contrast(image, mask)
    image[20, 20:22] = 2000
    image[20, 20, 20:25] = 50_000
    assert tissue_contrast(scale * image, mask) == pytest.approx(expected, rel=0.02)
