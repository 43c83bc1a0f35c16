"""Average images of sites whose people differ."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.training.averages import site_averages
from ddae_app.training.dataset import SliceData


def population(n, *, effect, noise=0.05, older=0.0, seed=0):
    """Two sites; the second adds `effect` to every pixel and its people are older."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(['A', 'B'], n)
    ages = rng.uniform(20, 60, 2 * n) + np.where(sites == 'B', older, 0)
    level = 0.6 - ages / 400 + np.where(sites == 'B', effect, 0)
    images = level[:, None, None] + rng.normal(0, noise, (2 * n, 16, 16))
    subjects = tuple(map(str, range(2 * n)))
    return SliceData(images.astype(np.float32), tuple(sites), ages, ('M', 'F') * n, subjects)


def test_the_effect_of_a_site_is_found_and_that_of_age_is_not():
    data = population(100, effect=0.1, older=25.0)
    averages, deviation = site_averages(data, np.arange(200))
    assert averages.shape == (3, 16, 16) and averages.dtype == np.float32
    assert (averages[1] - averages[0]).mean() == pytest.approx(0.1, abs=0.005)
    np.testing.assert_allclose(averages[2], averages[:2].mean(axis=0), atol=1e-6)
    assert deviation == pytest.approx(0.05, rel=0.05)


def test_a_few_people_say_little_about_their_site():
    few, many = (
        site_averages(population(n, effect=0.0, noise=0.08), np.arange(2 * n))[0] for n in (3, 300)
    )
    # By chance alone, averages of three differ by about 0.05.
    assert np.abs(few[1] - few[0]).mean() < 0.02
    assert np.abs(many[1] - many[0]).mean() < 0.01


def test_slices_of_one_person_count_once():
    data = population(40, effect=0.05, noise=0.08)
    same = tuple(f'{site}{i % 4}' for i, site in enumerate(data.sites))
    of_few = SliceData(data.images, data.sites, data.ages, data.sexes, same)
    found = [
        np.abs(np.diff(site_averages(d, np.arange(80))[0][:2], axis=0)).mean()
        for d in (data, of_few)
    ]
    assert found[1] < found[0]


def test_only_the_named_rows_are_used_and_labels_may_be_missing():
    data = population(20, effect=0.1)
    images = data.images.copy()
    images[5:20] = 9
    blind = SliceData(
        images, data.sites, np.full(40, np.nan), (None,) * 40, data.subjects
    )  # fmt: skip
    rows = np.r_[0:5, 20:40]
    averages, deviation = site_averages(blind, rows)
    assert np.isfinite(averages).all() and averages.max() < 1
    assert 0 < deviation < 0.2
