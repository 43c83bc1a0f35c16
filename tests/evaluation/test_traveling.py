"""People who were scanned at several sites."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.evaluation import travelling


def test_people_who_travelled_are_compared_with_themselves():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 1, (5, 16, 16)).astype(np.float32)
    images[3] = images[0] + 0.1
    sites = np.array(['A', 'A', 'A', 'B', 'A'])
    subjects = np.array(['p', 'q', 'r', 'p', 'r'])
    found = travelling.paired(images, sites, subjects)
    assert found['paired_psnr'][0] == pytest.approx(20, abs=1e-4)
    assert 0.5 < found['paired_ssim'][0] < 1
    assert np.isnan(found['paired_psnr'][1:]).all()  # r was twice at one site


def visits(between, within, seed=0, people=80):
    """Everybody at sites A and B: images of one level each, with noise of two sizes."""
    rng = np.random.default_rng(seed)
    person = np.repeat(rng.normal(0, between, people), 2)
    level = 5 + person + rng.normal(0, within, 2 * people)
    images = np.ones((2 * people, 24, 24), np.float32) * level[:, None, None].astype(np.float32)
    images[:, :, :8] = 0  # no brain there
    sites = np.array(['A', 'B'] * people)
    return images, sites, np.repeat([f'p{i}' for i in range(people)], 2)


def test_intraclass_correlation_is_the_share_of_people():
    found = travelling.intraclass_correlation(*visits(0.3, 0.4))
    assert found.low < 0.09 / (0.09 + 0.16) < found.high
    assert found.n == 160 and found.high - found.low < 0.5
    assert travelling.intraclass_correlation(*visits(0.3, 0)).value == pytest.approx(1)
    nobody = travelling.intraclass_correlation(*visits(0, 0.4))
    assert nobody.low < 0 < nobody.high


def test_intraclass_correlation_of_unequal_numbers_equals_the_textbook():
    """Two people twice, one three times; by hand from the one-way table."""
    values = np.array([1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 9.0])
    subjects = np.array(['a', 'a', 'b', 'b', 'c', 'c', 'c'])
    sites = np.array(['A', 'B', 'A', 'B', 'A', 'B', 'B'])
    images = np.ones((7, 8, 8), np.float32) * values[:, None, None].astype(np.float32)
    means, counts = np.array([1.5, 4.5, 8.0]), np.array([2, 2, 3])
    between = (counts * (means - values.mean()) ** 2).sum() / 2
    error = (0.5 + 0.5 + 2.0) / 4
    size = (7 - (4 + 4 + 9) / 7) / 2
    expected = (between - error) / (between + (size - 1) * error)
    found = travelling.intraclass_correlation(images, sites, subjects)
    assert found.value == pytest.approx(expected)


def test_nothing_without_travellers():
    images, sites, _ = visits(0.3, 0.4)
    alone = np.array([f'p{i}' for i in range(len(sites))])
    assert travelling.intraclass_correlation(images, sites, alone) is None
