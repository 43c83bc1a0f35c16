"""Histogram matching and ComBat: they undo what they were made for, and refuse the rest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.errors import UsageError
from ddae_app.harmonize.combat import ComBat
from ddae_app.harmonize.histogram import HistogramMatching
from ddae_app.training.dataset import SliceData

N = 30


@pytest.fixture(scope='module')
def truth():
    """The same kind of people at both sites, as site A would show them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    images = 0.5 + gaussian_filter(rng.normal(0, 0.5, (2 * N, 32, 32)), (0, 2, 2))
    return np.where(np.hypot(x, y) < 0.8, images, 0).astype(np.float32)


def slices(images):
    ages = np.random.default_rng(1).uniform(20, 80, 2 * N)
    sites = ('A',) * N + ('B',) * N
    return SliceData(
        images.astype(np.float32), sites, ages, ('M', 'F') * N, tuple(map(str, range(2 * N)))
    )


def error(method, data, truth):
    out = method.fit(data).transform(
        data.images, data.sites, 'A', data.ages.tolist(), list(data.sexes)
    )
    assert out.dtype == np.float32
    assert ((out == 0) == (data.images == 0)).all()
    assert (out >= 0).all()
    before, after = (np.abs(x[N:] - truth[N:]).mean() for x in (data.images, out))
    return after / before


def test_histogram_matching_undoes_a_rising_curve(truth):
    seen = truth.copy()
    seen[N:] = seen[N:] ** 2
    assert error(HistogramMatching(), slices(seen), truth) < 0.35


def test_combat_undoes_a_shift_and_scale_of_each_pixel(truth):
    seen = truth.copy()
    field = np.linspace(0.8, 1.3, 32, dtype=np.float32)
    seen[N:] = seen[N:] * field + np.where(truth[N:] > 0, 0.1 * field[:, None], 0)
    data = slices(seen)
    assert error(ComBat(), data, truth) < 0.5
    assert error(HistogramMatching(), data, truth) > error(ComBat(), data, truth)


def test_combat_keeps_what_age_explains(truth):
    data = slices(truth)
    old = np.where(np.arange(2 * N) < N, data.ages, data.ages + 60)
    aged = truth * (1 - old / 400)[:, None, None]
    data = SliceData(aged.astype(np.float32), data.sites, old, data.sexes, data.subjects)
    out = (
        ComBat().fit(data).transform(data.images, data.sites, 'A', old.tolist(), list(data.sexes))
    )
    change = np.abs(out - data.images)[truth > 0].mean()
    blind = ComBat().fit(
        SliceData(data.images, data.sites, np.full(2 * N, np.nan), data.sexes, data.subjects)
    )
    erased = np.abs(blind.transform(data.images, data.sites, 'A') - data.images)[truth > 0].mean()
    assert change < erased / 2


def test_target_scans_stay_as_they_are(truth):
    data = slices(truth)
    out = (
        ComBat()
        .fit(data)
        .transform(data.images, data.sites, 'A', data.ages.tolist(), list(data.sexes))
    )
    assert np.abs(out[:N] - data.images[:N]).max() < 1e-5


def test_refusals(truth):
    data = slices(truth)
    for method in (HistogramMatching(), ComBat()):
        with pytest.raises(UsageError, match='call fit first'):
            method.transform(data.images, data.sites, 'A')
        with pytest.raises(UsageError, match="'Z' is not a site"):
            method.fit(data).transform(data.images, data.sites, 'Z')
    with pytest.raises(UsageError, match='source site Z is not among'):
        ComBat().fit(data).transform(data.images, 'Z', 'A')
    lonely = SliceData(
        data.images[: N + 1], data.sites[: N + 1], data.ages[: N + 1], data.sexes[: N + 1],
        data.subjects[: N + 1],
    )  # fmt: skip
    with pytest.raises(UsageError, match='two images of each site; B has fewer'):
        ComBat().fit(lonely)
