"""Similarity measures against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation import fidelity
from ddae_app.evaluation.fidelity import gradient_correlation, psnr, ssim


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


def test_a_site_explains_what_it_adds():
    rng = np.random.default_rng(0)
    sites = np.repeat(['A', 'B'], 100)
    images = rng.normal(0.5, 0.1, (200, 4, 4))
    assert fidelity.variance_explained_by_site(images, sites).max() < 0.1
    images[100:, :2] += 0.2
    explained = fidelity.variance_explained_by_site(images, sites)
    # Variance .01 between the sites' means, of .02 in all.
    assert np.abs(explained[:2] - 0.5).max() < 0.15
    assert explained[2:].max() < 0.1
    assert (fidelity.variance_explained_by_site(np.zeros((200, 4, 4)), sites) == 0).all()


def test_errors_of_fits_to_either_half_do_not_cancel():
    """Each half less the site means of the other: what is left has opposite signs in the two."""
    rng = np.random.default_rng(0)
    sites, half = np.tile(['A', 'B'], 40), np.repeat([0, 1], 40)
    images = rng.normal(size=(80, 8, 8))
    left = images.copy()
    for site in 'AB':
        for this in (0, 1):
            other = (sites == site) & (half != this)
            left[(sites == site) & (half == this)] -= images[other].mean(axis=0)
    parts = [
        fidelity.variance_explained_by_site(left[half == this], sites[half == this])
        for this in (0, 1)
    ]
    within = np.mean(parts, axis=0).clip(0).mean()
    # Site means of 20 scans differ from those of 20 others by a tenth of the variance, of which
    # the estimator takes a half for chance.
    assert within == pytest.approx(0.05, abs=0.02)
    assert fidelity.variance_explained_by_site(left, sites).clip(0).mean() < 0.01


def test_distance_to_a_site_is_that_of_the_intensities():
    images = np.full((4, 8, 8), 0.5)
    images[2:] = 0.7
    sites = np.array(['A', 'A', 'B', 'B'])
    quantiles = fidelity.intensity_quantiles(images)
    assert fidelity.intensity_distance_to_site(quantiles, sites, 'A') == pytest.approx(
        [0, 0, 0.2, 0.2]
    )


def test_an_output_matches_its_own_scan():
    rng = np.random.default_rng(0)
    blocks = fidelity.block_means(rng.uniform(0.2, 1, (10, 16, 16)))
    assert (fidelity.matches_reference(blocks * 0.5 + 0.1, blocks) == 1).all()
    assert fidelity.matches_reference(np.repeat(blocks[:1], 10, axis=0), blocks).mean() < 0.3


def test_an_output_may_match_another_scan_of_its_subject():
    """Harmonized to one site, the outputs of a subject at three sites are alike."""
    rng = np.random.default_rng(0)
    people = fidelity.block_means(rng.uniform(0.2, 1, (6, 16, 16)))
    scans = np.concatenate([people, people + 0.1 * rng.normal(size=people.shape), people])
    outputs, subjects = np.tile(people, (3, 1)), np.tile([f'p{i}' for i in range(6)], 3)
    assert (fidelity.matches_reference(outputs, scans, subjects) == 1).all()
    assert fidelity.matches_reference(outputs, scans).mean() < 0.4
    someone = np.repeat(people[:1], 18, axis=0)
    assert fidelity.matches_reference(someone, scans, subjects).mean() < 0.3


def test_rank_correlation_of_each_image():
    rng = np.random.default_rng(0)
    blocks = fidelity.block_means(rng.uniform(0.2, 1, (12, 16, 16)))
    sites = np.repeat(['A', 'B', 'C'], [5, 5, 2])
    same = fidelity.distance_rank_correlations(blocks * 2, blocks, sites)
    assert same[:10] == pytest.approx(1)
    assert np.isnan(same[10:]).all()  # two images are too few
    equal = np.ones_like(blocks)
    assert (fidelity.distance_rank_correlations(equal, blocks, sites)[:10] == 0).all()


def test_between_subject_variance_ignores_site_effects():
    rng = np.random.default_rng(0)
    blocks = fidelity.block_means(rng.normal(0.5, 0.1, (40, 16, 16)))
    sites = np.repeat(['A', 'B'], 20)
    before = fidelity.between_subject_variance(blocks, sites).mean()
    blocks[20:] += 1  # a site effect, no variation between subjects
    given = blocks.copy()
    assert fidelity.between_subject_variance(blocks, sites).mean() == pytest.approx(before)
    assert np.array_equal(blocks, given)
    half = fidelity.between_subject_variance(0.5 * blocks, sites).mean()
    assert half == pytest.approx(before / 4)
