"""Histogram matching and ComBat: they undo what they were made for, and refuse the rest."""

from __future__ import annotations

import doctest

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.errors import DdaeError, UsageError
from ddae_app.methods import base
from ddae_app.methods.combat import ComBat
from ddae_app.methods.histogram import HistogramMatching

N = 30


@pytest.fixture(scope='module')
def truth():
    """The same kind of subjects at both sites, as site A would show them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    images = 0.5 + gaussian_filter(rng.normal(0, 0.5, (2 * N, 32, 32)), (0, 2, 2))
    return np.where(np.hypot(x, y) < 0.8, images, 0).astype(np.float32)


COHORT = pd.DataFrame(
    {
        'subject': map(str, range(2 * N)),
        'site': ['A'] * N + ['B'] * N,
        'age': np.random.default_rng(1).uniform(20, 80, 2 * N),
        'sex': ['M', 'F'] * N,
    }
)


def error(method, images, truth):
    out = method.fit(images, COHORT).transform(images, COHORT, 'A')
    assert out.dtype == np.float32
    assert ((out == 0) == (images == 0)).all()
    assert (out >= 0).all()
    before, after = (np.abs(x[N:] - truth[N:]).mean() for x in (images, out))
    return after / before


def test_histogram_matching_undoes_a_rising_curve(truth):
    seen = truth.copy()
    seen[N:] = seen[N:] ** 2
    assert error(HistogramMatching(), seen, truth) < 0.35


def test_combat_undoes_a_shift_and_scale_of_each_pixel(truth):
    seen = truth.copy()
    field = np.linspace(0.8, 1.3, 32, dtype=np.float32)
    seen[N:] = seen[N:] * field + np.where(truth[N:] > 0, 0.1 * field[:, None], 0)
    assert error(ComBat(), seen, truth) < 0.5
    assert error(HistogramMatching(), seen, truth) > error(ComBat(), seen, truth)


def test_combat_keeps_what_age_explains(truth):
    older = COHORT.assign(age=COHORT['age'] + np.where(COHORT['site'] == 'B', 60, 0))
    images = (truth * (1 - older['age'].to_numpy() / 400)[:, None, None]).astype(np.float32)
    changes = []
    for cohort in (older, older.drop(columns='age')):
        out = ComBat().fit(images, cohort).transform(images, cohort, 'A')
        changes.append(np.abs(out - images)[truth > 0].mean())
    assert changes[0] < changes[1] / 2


def test_target_scans_stay_as_they_are(truth):
    out = ComBat().fit(truth, COHORT).transform(truth, COHORT, 'A')
    assert np.abs(out[:N] - truth[:N]).max() < 1e-5


def test_refusals(truth):
    for method in (HistogramMatching(), ComBat()):
        with pytest.raises(UsageError, match='call fit'):
            method.transform(truth, COHORT, 'A')
        with pytest.raises(UsageError, match="'Z' is not a site"):
            method.fit(truth, COHORT).transform(truth, COHORT, 'Z')


@pytest.mark.parametrize(
    ('ages', 'message'),
    [
        (['89+', 30.0], r"an age that is no number \(could not convert string to float: '89\+'\)"),
        ([np.inf, 30.0], 'an infinite age'),
    ],
)
def test_ages_that_are_none(ages, message):
    cohort = pd.DataFrame({'site': ['A', 'A'], 'age': ages})
    with pytest.raises(UsageError, match=f'{message}; give years or nothing'):
        base.read_labels(cohort, 2)


@pytest.mark.parametrize('unknown', [np.nan, None, pd.NA])
@pytest.mark.parametrize('kind', ['Float64', object])
def test_ages_that_are_unknown(unknown, kind):
    cohort = pd.DataFrame({'site': ['A', 'A'], 'age': pd.Series([unknown, 30.0], dtype=kind)})
    assert base.read_labels(cohort, 2).ages == pytest.approx([np.nan, 30.0], nan_ok=True)


def test_the_example_of_the_protocol_runs():
    result = doctest.testmod(base)
    assert result.attempted > 5 and result.failed == 0


@pytest.mark.parametrize('method', [HistogramMatching(), ComBat()])
def test_no_brain_is_lost_however_dark_it_becomes(truth, method):
    seen = truth.copy()
    seen[N:] += 0.5 * (truth[N:] > 0)
    dark = np.where(truth > 0, np.maximum(truth - 0.45, 1e-6), 0).astype(np.float32)
    out = method.fit(seen, COHORT).transform(dark, COHORT, 'A')
    np.testing.assert_array_equal(out > 0, truth > 0)


def test_a_spike_moves_no_other_scan_and_stays_a_spike(truth):
    fitted = ComBat().fit(truth, COHORT)
    spiked = truth.copy()
    spiked[N, 14:16, 14:16] = 20
    out = fitted.transform(spiked, COHORT, 'A')
    np.testing.assert_allclose(out[N, 14:16, 14:16], 20, atol=1)
    itself = fitted.transform(spiked, COHORT, 'B')[N]
    assert (itself[14:16, 14:16] == 20).all()
    refitted = ComBat().fit(spiked, COHORT).transform(truth, COHORT, 'A')
    rows = np.arange(2 * N) != N
    assert np.abs(refitted - fitted.transform(truth, COHORT, 'A'))[rows].max() < 0.1


def test_the_brain_of_an_output_is_that_of_its_input():
    images = np.array([0, 0.5, 0.5, 1e-6, 30], np.float32)
    out = base.in_brain(np.array([0.3, -0.2, 0.7, -1, 31]), images)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.float32([0, base.DARKEST, 0.7, 1e-6, 31]))
    np.testing.assert_array_equal(base.in_brain(images, images), images)
    # Outside the brain nothing counts.
    assert base.in_brain(np.array([np.nan, 1]), images[:2]).tolist() == [0, 1]
    with pytest.raises(DdaeError, match='made 1 voxels of the brain NaN or infinite'):
        base.in_brain(np.array([0, np.nan]), images[:2])
