"""Similarity measures against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation.fidelity import gradient_correlation, psnr, rank_agreement, ssim


@pytest.fixture
def images():
    noise = np.random.default_rng(0).random((12, 32, 32))
    return gaussian_filter(noise, (0, 2, 2)).astype(np.float32)


def test_psnr_of_a_known_error(images):
    assert psnr(images + 0.1, images) == pytest.approx(np.full(12, 20), abs=1e-3)
    assert np.isinf(psnr(images, images)).all()


def test_similarity_is_one_with_oneself_and_falls_with_noise(images):
    noisy = images + np.random.default_rng(1).normal(0, 0.1, images.shape).astype(np.float32)
    for measure in (ssim, gradient_correlation):
        assert measure(images, images) == pytest.approx(np.ones(12))
        assert (measure(noisy, images) < 0.9).all()


def test_edges_do_not_care_about_contrast(images):
    assert gradient_correlation(0.5 * images + 0.1, images) == pytest.approx(np.ones(12))


def test_ranks_survive_a_site_effect_but_not_the_mean_image(images):
    sites = np.repeat(['A', 'B'], 6)
    shifted = images + np.where(sites == 'A', 0, 0.3)[:, None, None]
    assert rank_agreement(shifted, images, sites) == pytest.approx(1)
    rng = np.random.default_rng(2)
    same_for_all = images.mean(axis=0) + rng.normal(0, 1e-3, images.shape)
    assert rank_agreement(same_for_all, images, sites) < 0.5


def test_ranks_need_three_images_of_a_site(images):
    with pytest.raises(ValueError, match='no site has three images'):
        rank_agreement(images[:2], images[:2], np.array(['A', 'A']))
