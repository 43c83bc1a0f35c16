"""Probes detect effects that were added to images, and nothing in images without effects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.probes import (  # of the benchmarks
    age_accuracy,
    cnn_accuracy,
    distance_rank_correlation,
    false_age_slope,
    histogram_accuracy,
)
from ddae_app.evaluation.probes import (
    cnn_predict,
    folds,
    intensity_quantiles,
    linear_accuracy,
)

N = 120


@pytest.fixture(scope='module')
def data():
    """Smooth random images, 0 outside a disc, with labels that are independent of them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    images = 0.5 + gaussian_filter(rng.normal(0, 0.2, (N, 48, 48)), (0, 3, 3))
    images = np.where(np.hypot(x, y) < 0.8, images, 0).astype(np.float32)
    labels = rng.permutation(np.repeat(['A', 'B', 'C'], N // 3))
    return images, labels, np.array([f's{i}' for i in range(N)]), rng


CLASSIFIERS = (linear_accuracy, histogram_accuracy, cnn_accuracy)


@pytest.mark.parametrize('accuracy', CLASSIFIERS)
def test_labels_without_effect_are_classified_at_chance(accuracy, data):
    images, labels, subjects, _ = data
    assert accuracy(images, labels, subjects) < 0.5


@pytest.mark.parametrize('accuracy', CLASSIFIERS)
def test_a_site_contrast_is_detected(accuracy, data):
    images, labels, subjects, _ = data
    gain = np.select([labels == 'A', labels == 'B'], [0.8, 1.0], 1.25)[:, None, None]
    assert accuracy((images * gain).astype(np.float32), labels, subjects) > 0.8


def test_site_noise_is_detected_by_the_convolutional_network(data):
    images, labels, subjects, rng = data
    noise = rng.normal(0, 1, images.shape) * np.where(labels == 'A', 0.01, 0.06)[:, None, None]
    noisy = np.where(images > 0, images + noise, 0).astype(np.float32)
    site = np.where(labels == 'A', 'A', 'B')
    assert cnn_accuracy(noisy, site, subjects) > 0.9


def test_equal_seeds_give_equal_accuracies(data):
    images, labels, subjects, _ = data
    one, two = (cnn_accuracy(images, labels, subjects, seed=3) for _ in range(2))
    assert one == two


def test_quantiles_are_of_the_brain_of_each_image():
    images = np.zeros((2, 9, 9))
    images[0, 0, :5] = [0.6, 0.2, 0.4, 1, 0.8]
    images[1, 3:5] = 0.7
    quantiles = intensity_quantiles(images)
    assert quantiles[0] == pytest.approx(np.linspace(0.2, 1, 33))
    assert quantiles[1] == pytest.approx(np.full(33, 0.7))


def test_age_is_predicted_where_images_show_it(data):
    images, _, subjects, rng = data
    ages = rng.uniform(20, 80, N)
    aged = (images * (1 - ages / 200)[:, None, None]).astype(np.float32)
    mae, r = age_accuracy(aged, ages, subjects)
    assert mae < 8 and r > 0.8
    _, r_without_effect = age_accuracy(images, ages, subjects)
    assert abs(r_without_effect) < 0.35


def test_the_slope_of_a_false_age_shows_whether_it_is_written_into_the_image(data):
    images, _, subjects, rng = data
    ages = rng.uniform(20, 80, N)
    false_ages = rng.permutation(ages)

    def written(ages):
        return (images * (1 - ages / 200)[:, None, None]).astype(np.float32)

    outputs = written(ages)
    assert false_age_slope(outputs, outputs, ages, false_ages, subjects) == 0
    assert false_age_slope(outputs, written(false_ages), ages, false_ages, subjects) > 0.7


def test_distances_keep_their_ranks_under_a_site_effect_but_not_near_the_mean_image():
    rng = np.random.default_rng(0)
    images = gaussian_filter(rng.random((12, 32, 32)), (0, 2, 2)).astype(np.float32)
    sites = np.repeat(['A', 'B'], 6)
    shifted = images + np.where(sites == 'A', 0, 0.3)[:, None, None]
    assert distance_rank_correlation(shifted, images, sites) == pytest.approx(1)
    same_for_all = images.mean(axis=0) + rng.normal(0, 1e-3, images.shape)
    assert distance_rank_correlation(same_for_all, images, sites) < 0.5
    with pytest.raises(ValueError, match='no site has three images'):
        distance_rank_correlation(images[:2], images[:2], np.array(['A', 'A']))


def test_no_subject_is_in_training_and_test_rows():
    subjects = np.repeat([f's{i}' for i in range(20)], 3)
    strata = np.repeat(['A', 'B'], 30)
    tested = []
    for train, test in folds(strata, subjects, 5, 0):
        assert not set(subjects[train]) & set(subjects[test])
        tested += test.tolist()
    assert sorted(tested) == list(range(60))


@pytest.mark.parametrize('scans_of_one', [2, 10, 40])
def test_people_are_spread_over_the_folds_however_often_one_was_scanned(scans_of_one):
    people = [f'{site}{i}' for site in 'AB' for i in range(10)]
    subjects = np.random.default_rng(0).permutation([*people, *['B0'] * scans_of_one])
    sites = np.array([name[0] for name in subjects])
    for _, half in folds(sites, subjects, 2, 0):
        assert [len(set(subjects[half][sites[half] == site])) for site in 'AB'] == [5, 5]
        for train, test in folds(sites[half], subjects[half], 5, 0):
            assert not set(subjects[half][train]) & set(subjects[half][test])
            assert len(train) + len(test) == len(half)
            assert sorted({name[0] for name in subjects[half][test]}) == ['A', 'B']
            assert len(set(subjects[half][test])) == 2


@pytest.mark.parametrize('n_splits', [2, 5])
def test_with_one_scan_of_each_person_at_a_site_the_folds_are_those_of_scans(n_splits):
    rng = np.random.default_rng(1)
    for seed in range(20):
        sites = rng.choice(['C', 'A', 'B'], 90, p=[0.2, 0.5, 0.3])
        subjects = rng.permutation([f's{i}' for i in range(90)])
        # Some were scanned at another site, too.
        subjects[np.flatnonzero(sites == 'C')[:4]] = subjects[sites == 'A'][:4]
        splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
        expected = splitter.split(sites, sites, subjects)
        for found, of_scans in zip(folds(sites, subjects, n_splits, seed), expected, strict=True):
            assert all(map(np.array_equal, found, of_scans))


def test_a_convolutional_network_learns_from_few_scans():
    # 24 steps, one to each pass over so few scans, are too few to find even this noise.
    rng, n = np.random.default_rng(0), 40
    images = 0.5 + gaussian_filter(rng.normal(0, 0.3, (n, 64, 64)), (0, 3, 3))
    images[: n // 2] += rng.normal(0, 0.02, (n // 2, 64, 64))
    labels, rows = np.repeat(['noisy', 'smooth'], n // 2), np.arange(n)
    test = rows[(rows // 5) % 4 == 3]
    predicted = cnn_predict(images, labels, np.setdiff1d(rows, test), test)
    assert np.mean(predicted == labels[test]) > 0.8
