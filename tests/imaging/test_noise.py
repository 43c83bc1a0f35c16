from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.noise import noise_sd


@pytest.fixture
def brain():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    tissue = gaussian_filter(rng.normal(size=(96, 96)), 4) > 0  # two tissues, with edges
    image = np.where(tissue, 0.9, 0.6) * (1 + 0.2 * x)
    return np.where(np.hypot(x, y) < 0.9, gaussian_filter(image, 1), 0)


@pytest.mark.parametrize('sd', [0.01, 0.03, 0.1])
def test_known_noise_is_found_whatever_the_scale(brain, sd):
    noise = np.random.default_rng(1).normal(0, sd, brain.shape)
    noisy = np.where(brain > 0, brain + noise, 0)
    assert noise_sd(noisy) == pytest.approx(sd, rel=0.15)
    assert noise_sd(50 * noisy) == pytest.approx(50 * noise_sd(noisy))


def test_a_clean_image_has_almost_none(brain):
    assert noise_sd(brain) < 0.003


def test_a_spike_is_no_noise(brain):
    noisy = np.where(brain > 0, brain + np.random.default_rng(1).normal(0, 0.03, brain.shape), 0)
    expected = noise_sd(noisy)
    noisy[40:42, 40:42] = 30
    assert noise_sd(noisy) == pytest.approx(expected, rel=0.02)


def test_without_brain_there_is_no_estimate():
    assert np.isnan(noise_sd(np.zeros((16, 16))))
    assert np.isnan(noise_sd(np.eye(16)))
