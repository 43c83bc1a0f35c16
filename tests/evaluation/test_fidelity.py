"""Similarity measures against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation import fidelity
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


def test_a_site_explains_what_it_adds():
    rng = np.random.default_rng(0)
    sites = np.repeat(['A', 'B'], 100)
    images = rng.normal(0.5, 0.1, (200, 4, 4))
    assert fidelity.explained_by_site(images, sites).max() < 0.1
    images[100:, :2] += 0.2
    explained = fidelity.explained_by_site(images, sites)
    # Variance .01 between the sites' means, of .02 in all.
    assert np.abs(explained[:2] - 0.5).max() < 0.15
    assert explained[2:].max() < 0.1
    assert (fidelity.explained_by_site(np.zeros((200, 4, 4)), sites) == 0).all()


def test_distance_to_a_site_is_that_of_the_intensities():
    images = np.full((4, 8, 8), 0.5)
    images[2:] = 0.7
    sites = np.array(['A', 'A', 'B', 'B'])
    assert fidelity.distance_to_site(images, sites, 'A') == pytest.approx([0, 0, 0.2, 0.2])


def test_an_output_is_known_by_its_scan():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 1, (10, 16, 16))
    assert (fidelity.identified(images * 0.5 + 0.1, images) == 1).all()
    assert fidelity.identified(np.repeat(images[:1], 10, axis=0), images).mean() < 0.3


def test_rank_agreement_of_each_image():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 1, (12, 16, 16))
    sites = np.repeat(['A', 'B', 'C'], [5, 5, 2])
    same = fidelity.rank_agreements(images * 2, images, sites)
    assert same[:10] == pytest.approx(1)
    assert np.isnan(same[10:]).all()  # two are too few
    assert (fidelity.rank_agreements(np.ones_like(images), images, sites)[:10] == 0).all()


def test_variance_of_people_within_sites():
    rng = np.random.default_rng(0)
    images = rng.normal(0.5, 0.1, (40, 16, 16))
    sites = np.repeat(['A', 'B'], 20)
    before = fidelity.own_variance(images, sites).mean()
    images[20:] += 1  # of the site, not of people
    assert fidelity.own_variance(images, sites).mean() == pytest.approx(before)
    half = fidelity.own_variance(0.5 * images, sites).mean()
    assert half == pytest.approx(before / 4)
