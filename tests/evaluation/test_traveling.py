"""Traveling subjects, who were scanned at several sites."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.evaluation import traveling


def test_images_of_one_subject_at_two_sites_are_compared():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 1, (5, 16, 16)).astype(np.float32)
    images[3] = images[0] + 0.1
    sites = np.array(['A', 'A', 'A', 'B', 'A'])
    subjects = np.array(['p', 'q', 'r', 'p', 'r'])
    found = traveling.paired_similarity(images, sites, subjects)
    assert found['paired_psnr'][0] == pytest.approx(20, abs=1e-4)
    assert 0.5 < found['paired_ssim'][0] < 1
    assert np.isnan(found['paired_psnr'][1:]).all()  # r was twice at one site


def visits(between, within, seed=0, subjects=80):
    """Subjects at sites A and B: uniform images that vary between and within subjects."""
    rng = np.random.default_rng(seed)
    person = np.repeat(rng.normal(0, between, subjects), 2)
    level = 5 + person + rng.normal(0, within, 2 * subjects)
    images = np.ones((2 * subjects, 24, 24), np.float32) * level[:, None, None].astype(np.float32)
    images[:, :, :8] = 0  # no brain there
    sites = np.array(['A', 'B'] * subjects)
    return images, sites, np.repeat([f'p{i}' for i in range(subjects)], 2)


def test_intraclass_correlation_is_the_share_of_variance_between_subjects():
    found = traveling.intraclass_correlation(*visits(0.3, 0.4))
    assert found.low < 0.09 / (0.09 + 0.16) < found.high
    assert found.n == 160 and found.high - found.low < 0.5
    assert traveling.intraclass_correlation(*visits(0.3, 0)).value == pytest.approx(1)
    no_subjects = traveling.intraclass_correlation(*visits(0, 0.4))
    assert no_subjects.low < 0 < no_subjects.high


@pytest.mark.parametrize('subjects', [5, 12])
def test_the_interval_of_many_blocks_holds_the_value(subjects):
    """Each block alone is uncertain, but their mean is not; all values of a bootstrap are low."""
    rng = np.random.default_rng(0)
    people = np.repeat(rng.normal(0, 0.3, (subjects, 12, 12)), 2, axis=0)
    blocks = 5 + people + rng.normal(0, 0.3, people.shape)
    _, sites, names = visits(1, 1, subjects=subjects)
    found = traveling.intraclass_correlation(np.kron(blocks, np.ones((8, 8))), sites, names)
    assert found.low < found.value < found.high <= 1
    assert 0.05 < found.high - found.low < 0.6


def test_no_interval_ends_above_1():
    found = traveling.intraclass_correlation(*visits(0.3, 0.01, subjects=5))
    assert 0.99 < found.value <= found.high <= 1


def test_intraclass_correlation_of_unequal_numbers_equals_the_textbook():
    """Two subjects with two visits and one with three; computed by hand."""
    values = np.array([1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 9.0])
    subjects = np.array(['a', 'a', 'b', 'b', 'c', 'c', 'c'])
    sites = np.array(['A', 'B', 'A', 'B', 'A', 'B', 'B'])
    images = np.ones((7, 8, 8), np.float32) * values[:, None, None].astype(np.float32)
    means, counts = np.array([1.5, 4.5, 8.0]), np.array([2, 2, 3])
    between = (counts * (means - values.mean()) ** 2).sum() / 2
    error = (0.5 + 0.5 + 2.0) / 4
    size = (7 - (4 + 4 + 9) / 7) / 2
    expected = (between - error) / (between + (size - 1) * error)
    found = traveling.intraclass_correlation(images, sites, subjects)
    assert found.value == pytest.approx(expected)


def test_there_is_none_without_traveling_subjects():
    images, sites, _ = visits(0.3, 0.4)
    alone = np.array([f'p{i}' for i in range(len(sites))])
    assert traveling.intraclass_correlation(images, sites, alone) is None
