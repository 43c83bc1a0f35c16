"""SSIM, gradient correlation and brain quantiles against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.similarity import brain_quantiles, gradient_correlation, slice_ssim, ssim

INSIDE = np.pad(np.ones((3, 28, 28), bool), ((0, 0), (6, 6), (6, 6)))
"""The brain without its edge, where gradients are largest."""


@pytest.fixture
def scan():
    """Three smooth slices, each with more contrast than the one before."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(3, 32, 32)), (0, 2, 2))
    scan = 0.5 + texture * np.array([0.2, 0.5, 1])[:, None, None] / np.ptp(texture)
    return np.pad(scan, ((0, 0), (4, 4), (4, 4)))


def noisy(scan):
    noise = np.random.default_rng(1).normal(0, 0.05, scan.shape)
    return np.where(scan > 0, scan + noise, 0)


def test_a_scan_is_like_itself(scan):
    for same in (scan, scan.astype(np.float32), 3 * scan):
        assert ssim(same, same.copy(), same > 0) == 1
        assert gradient_correlation(same, same.copy(), same > 0) == 1


def test_a_spike_counts_no_more_than_other_voxels(scan):
    spiked = [scan.copy(), noisy(scan)]
    for image in spiked:
        image[1, 20, 18:20] = 40
    assert ssim(*spiked, scan > 0) == pytest.approx(ssim(scan, noisy(scan), scan > 0), abs=0.02)
    alike = gradient_correlation(scan, noisy(scan), INSIDE)
    assert gradient_correlation(*spiked, INSIDE) == pytest.approx(alike, abs=0.12)
    quantiles = [brain_quantiles(x, np.linspace(0, 1, 101)) for x in (scan, spiked[0])]
    np.testing.assert_allclose(*quantiles, atol=0.8)
    np.testing.assert_allclose(quantiles[0][:-1], quantiles[1][:-1], atol=0.03)


@pytest.mark.filterwarnings('error')
def test_without_brain_or_edges_there_is_no_similarity(scan):
    nothing = np.zeros_like(scan)
    assert np.isnan(ssim(nothing, nothing, nothing > 0))
    assert np.isnan(gradient_correlation(nothing, nothing, nothing > 0))
    flat = np.ones_like(scan)
    assert np.isnan(gradient_correlation(scan, flat, INSIDE))


def test_noise_lowers_both(scan):
    assert ssim(noisy(scan), scan, scan > 0) < 0.9
    assert gradient_correlation(noisy(scan), scan, INSIDE) < 0.9


def test_ssim_is_the_mean_over_slices_with_brain(scan):
    each = slice_ssim(noisy(scan), scan)
    assert each.shape == (3,)
    assert ssim(noisy(scan), scan, scan > 0) == pytest.approx(each.mean())
    empty = np.pad(scan, ((2, 0), (0, 0), (0, 0)))
    expected = slice_ssim(noisy(empty)[2:], scan).mean()
    assert ssim(noisy(empty), empty, empty > 0) == pytest.approx(expected)


def test_gradients_are_pooled_over_the_slices(scan):
    """Slices whose contrast is lost lower it, although every slice keeps its pattern."""
    changed = scan * np.array([1, 1, 0.1])[:, None, None]
    for k in range(3):
        one = slice(k, k + 1)
        assert gradient_correlation(changed[one], scan[one], INSIDE[one]) == pytest.approx(1)
    assert gradient_correlation(changed, scan, INSIDE) < 0.7


def test_gradients_outside_the_brain_do_not_count(scan):
    changed = scan.copy()
    changed[:, :3] = np.random.default_rng(0).random((3, 3, 40))
    assert gradient_correlation(changed, scan, INSIDE) == pytest.approx(1)


def test_quantiles_are_those_of_the_brain():
    scan = np.array([[0, 0, 0, 0.2], [0.4, 0.6, 0.8, 1.0]])
    assert brain_quantiles(scan, [0, 0.5, 1]) == pytest.approx([0.2, 0.6, 1.0])
    assert brain_quantiles(scan[None], np.linspace(0, 1, 5)).shape == (5,)


def test_quantiles_of_a_scan_without_brain_are_zero():
    assert (brain_quantiles(np.zeros((2, 4, 4)), [0, 0.5, 1]) == 0).all()
