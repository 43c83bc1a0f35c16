"""Probes find what was planted, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation import probes

N = 120


@pytest.fixture(scope='module')
def people():
    """Smooth random images, 0 outside a disc, with labels that have nothing to do with them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    images = 0.5 + gaussian_filter(rng.normal(0, 0.2, (N, 48, 48)), (0, 3, 3))
    images = np.where(np.hypot(x, y) < 0.8, images, 0).astype(np.float32)
    labels = rng.permutation(np.repeat(['A', 'B', 'C'], N // 3))
    return images, labels, np.array([f's{i}' for i in range(N)]), rng


PROBES = (probes.linear_accuracy, probes.histogram_accuracy, probes.cnn_accuracy)


@pytest.mark.parametrize('probe', PROBES)
def test_chance_where_there_is_nothing(probe, people):
    images, labels, subjects, _ = people
    assert probe(images, labels, subjects) < 0.5


@pytest.mark.parametrize('probe', PROBES)
def test_a_contrast_of_the_site_is_found(probe, people):
    images, labels, subjects, _ = people
    gain = np.select([labels == 'A', labels == 'B'], [0.8, 1.0], 1.25)[:, None, None]
    assert probe((images * gain).astype(np.float32), labels, subjects) > 0.8


def test_noise_of_the_site_is_found_by_the_convolutional_network(people):
    images, labels, subjects, rng = people
    noise = rng.normal(0, 1, images.shape) * np.where(labels == 'A', 0.01, 0.06)[:, None, None]
    noisy = np.where(images > 0, images + noise, 0).astype(np.float32)
    site = np.where(labels == 'A', 'A', 'B')
    assert probes.cnn_accuracy(noisy, site, subjects) > 0.9


def test_same_seed_same_answer(people):
    images, labels, subjects, _ = people
    one, two = (probes.cnn_accuracy(images, labels, subjects, seed=3) for _ in range(2))
    assert one == two


def test_age_in_the_image_is_read(people):
    images, _, subjects, rng = people
    ages = rng.uniform(20, 80, N)
    aged = (images * (1 - ages / 200)[:, None, None]).astype(np.float32)
    mae, r = probes.age_agreement(aged, ages, subjects)
    assert mae < 8 and r > 0.8
    _, nothing = probes.age_agreement(images, ages, subjects)
    assert abs(nothing) < 0.35


def test_slope_tells_painted_age_from_none(people):
    images, _, subjects, rng = people
    ages = rng.uniform(20, 80, N)
    told = rng.permutation(ages)

    def paint(age):
        return (images * (1 - age / 200)[:, None, None]).astype(np.float32)

    own = paint(ages)
    assert probes.injected_age_slope(own, own, ages, told, subjects) == 0
    assert probes.injected_age_slope(own, paint(told), ages, told, subjects) > 0.7


def test_nobody_is_on_both_sides():
    subjects = np.repeat([f's{i}' for i in range(20)], 3)
    strata = np.repeat(['A', 'B'], 30)
    for learn, judge in probes.folds(strata, subjects, 5, 0):
        assert not set(subjects[learn]) & set(subjects[judge])
