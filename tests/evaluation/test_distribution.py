"""Distances between sets of scans: known values, and intervals that hold them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ddae_app.evaluation import distribution
from ddae_app.evaluation.data import EvaluationData


def sample(n, mean=0.0, sd=1.0, f=6, seed=0):
    return mean + sd * np.random.default_rng(seed).normal(size=(n, f))


def unweighted(distance):
    """A distance of sets in which every scan counts once."""
    return lambda a, b: distance(a, b)(*(np.ones(len(x), dtype=int) for x in (a, b)))


def test_frechet_equals_the_formula_for_many_and_for_few_scans():
    a, b = sample(50, 1, 2), sample(40, seed=1)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * root
    assert distribution.frechet(a, b) == pytest.approx(expected)
    # Constant features change nothing, however many there are.
    wide = [np.hstack([x, np.zeros((len(x), 200))]) for x in (a, b)]
    assert distribution.frechet(*wide) == pytest.approx(expected)
    assert distribution.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_normal_samples_is_what_theory_says():
    a, b = sample(20_000, 0, 1), sample(20_000, 0.5, 2, seed=1)
    assert distribution.frechet(a, b) == pytest.approx(6 * (0.25 + 1), rel=0.03)


def test_kernel_distance_has_no_bias():
    distance = unweighted(distribution.kernel_distance(distribution.polynomial))
    alike = [distance(sample(20, seed=2 * i), sample(20, seed=2 * i + 1)) for i in range(400)]
    assert abs(np.mean(alike)) < 4 * np.std(alike) / 20
    assert distance(sample(20), sample(20, 0.8, seed=1)) > 3 * np.std(alike)


def test_scans_that_count_twice_are_not_compared_with_themselves():
    distance = distribution.kernel_distance(distribution.gaussian(1.0))
    a, b = sample(30), sample(30, seed=1)
    twice = np.full(30, 2)
    assert distance(a, b)(twice, twice) == pytest.approx(unweighted(distance)(a, b))
    # Different subjects with equal features are compared.
    assert unweighted(distance)(np.ones((30, 6)), np.ones((30, 6))) == pytest.approx(0)
    left_out = np.ones(30, dtype=int)
    left_out[:5] = 0
    assert distance(a, b)(left_out, twice) == pytest.approx(unweighted(distance)(a[5:], b))


def test_frechet_of_scans_that_count_twice():
    a, b = sample(30), sample(30, 1, seed=1)
    counts = np.repeat([2, 0, 1], 10)
    found = distribution.frechet_distance(a, b)(counts, np.ones(30, dtype=int))
    assert found == pytest.approx(distribution.frechet(np.vstack([a[:10], a[:10], a[20:]]), b))


def test_intervals_hold_the_value_and_narrow_with_more_scans():
    for distance in (
        distribution.frechet_distance,
        distribution.kernel_distance(distribution.polynomial),
    ):
        few, many = (
            distribution.estimate_distance(distance, sample(n, 1), sample(n, seed=1), seed=0)
            for n in (30, 300)
        )
        for found in (few, many):
            assert found.low < found.value < found.high
        assert many.high - many.low < few.high - few.low
        assert few.n == 60


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seed', range(3))
def test_sets_of_few_scans_have_an_interval(seed):
    """Bootstrap samples of few now and then hold one scan alone, which has no distance."""
    distance = distribution.kernel_distance(distribution.polynomial)
    a, b = sample(3), sample(3, 1, seed=1)
    found = distribution.estimate_distance(distance, a, b, seed)
    assert found.low < found.value < found.high


def test_equal_numbers_are_drawn_evenly_from_all_sites():
    sites = np.repeat(['A', 'B', 'C', 'D'], [30, 10, 40, 40])
    subjects = np.array([f'p{i}' for i in range(120)])
    others, at_target = distribution.balanced_rows(sites, subjects, 'A', seed=0)
    assert len(others) == len(at_target) == 30 and (sites[at_target] == 'A').all()
    assert len(set(others)) == 30 and (sites[others] != 'A').all()
    counts = dict(zip(*np.unique(sites[others], return_counts=True), strict=True))
    assert counts == {'B': 10, 'C': 10, 'D': 10}


def test_a_traveling_subject_is_in_one_set_only():
    sites, subjects = np.tile(['A', 'B', 'C'], 12), np.repeat([f'p{i}' for i in range(12)], 3)
    others, at_target = distribution.balanced_rows(sites, subjects, 'A', seed=0)
    assert len(others) == len(at_target) == 6
    assert not set(subjects[others]) & set(subjects[at_target])


@pytest.fixture(scope='module')
def data():
    """Discs at two sites, the second of which is darker and blurs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    disc = np.hypot(x, y) < 0.8
    level = np.repeat([0.8, 0.6], 40)[:, None, None] + rng.normal(0, 0.02, (80, 1, 1))
    noise = rng.normal(0, 1, (80, 64, 64)) * np.repeat([0.05, 0.02], 40)[:, None, None]
    images = ((level + noise).clip(0.01) * disc).astype(np.float32)
    sites = np.repeat(['A', 'B'], 40)
    ages, sexes = np.full(80, np.nan), np.full(80, None, dtype=object)
    return EvaluationData(images, sites, np.array([f'p{i}' for i in range(80)]), ages, sexes)


def distances(sample_sets, images, *parts):
    features = sample_sets.no_features()
    for rows in parts or (np.arange(len(images)),):
        sample_sets.store(features, rows, images[rows])
    return sample_sets.distances(features)


def test_a_better_method_has_smaller_distances_in_every_feature_space(data):
    sample_sets = distribution.SampleSets.draw(
        data, 'A', inception=lambda x: x.reshape(len(x), -1)[:, ::9]
    )
    half, done = data.images.copy(), data.images.copy()
    half[40:] *= 0.7 / 0.6
    done[40:] = data.images[:40][::-1]
    found = [distances(sample_sets, images) for images in (data.images, half, done)]
    assert set(found[0]) == {'frechet', 'kernel', 'mmd', 'fid', 'kid'}
    for name in found[0]:
        source, better, best = (part[name].value for part in found)
        assert source > better > best
    assert all(found[2][name].low <= 0 for name in ('kernel', 'mmd', 'kid'))
    plain = distances(distribution.SampleSets.draw(data, 'A'), data.images)
    assert 'fid' not in plain and plain['frechet'] == found[0]['frechet']


def test_outputs_that_come_in_parts_are_those_that_come_at_once(data):
    sample_sets = distribution.SampleSets.draw(data, 'A')
    parts = np.arange(80)[::2], np.arange(80)[1::2], np.array([], dtype=int)
    in_parts = distances(sample_sets, data.images, *parts)
    for name, estimate in distances(sample_sets, data.images).items():
        assert in_parts[name].value == pytest.approx(estimate.value, rel=1e-4, abs=1e-6)
    features = sample_sets.no_features()
    sample_sets.store(features, parts[0], data.images[parts[0]])
    for known in features:
        assert np.array_equal(np.isnan(known).any(axis=1), sample_sets.others % 2 == 1)


def test_without_scans_of_the_target_nothing_is_compared(data):
    sample_sets = distribution.SampleSets.draw(data, 'Elsewhere')
    assert distances(sample_sets, data.images) == {}
