"""The evaluation of tables: it finds what was put in, and is not deceived by a fit to all."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from ddae_app.errors import NotEvaluableError
from ddae_app.features import evaluation
from ddae_app.features.evaluation import MEANING, evaluate, site_from_demographics
from ddae_app.features.fit import fit_model
from ddae_app.features.measures import (
    became_negative,
    mean_change,
    variance_explained_by_site,
)
from ddae_app.features.people import CovariateDesign
from ddae_app.methods import location_scale
from tests.features.simulated import labels_of, table_of, truth_of, with_sites

N = 40


@pytest.fixture(scope='module')
def labels():
    return labels_of(N, sessions=2)


@pytest.fixture(scope='module')
def truth(labels):
    return truth_of(labels, own=1.0)


@pytest.fixture(scope='module')
def fits():
    return []


@pytest.fixture(scope='module')
def results(labels, truth, fits):
    source = with_sites(truth, labels)
    table = table_of(source, labels)

    def refit(rows):
        fits.append(rows)
        model, _ = fit_model(table.rows(rows), labels.rows(rows), name='half')
        return model.harmonized(table, labels)

    harmonized = fit_model(table, labels, name='all')[0].harmonized(table, labels)
    candidates = {'source': source, 'truth': truth, 'harmonized': harmonized, 'refit': refit}
    return evaluate(candidates, labels)


def test_the_site_is_found_where_it_is(results):
    site = {name: result.estimates['site_linear'].value for name, result in results.items()}
    assert site['source'] > 0.8
    assert abs(site['truth'] - 1 / 3) < 0.15 and abs(site['refit'] - 1 / 3) < 0.2
    assert site['harmonized'] < site['refit']
    shares = {name: result.estimates['site_variance'].value for name, result in results.items()}
    assert shares['source'] > 0.2 and shares['truth'] < 0.03 and shares['refit'] < 0.05


def test_biology_is_measured(results):
    for name, result in results.items():
        assert set(result.estimates) <= set(MEANING)
        assert ('site_all' in result.estimates) == (name != 'refit')
        assert result.estimates['age_r_within_site'].value > 0.5
        assert result.estimates['sex'].value > 0.55


def test_nobody_is_evaluated_by_a_fit_to_their_own_rows(results, labels, fits):
    halves = [set(labels.subjects[rows]) for rows in fits]
    assert len(halves) == 2 and not halves[0] & halves[1]


def test_values_that_are_missing_are_no_obstacle(labels, truth):
    values = truth.copy()
    values[::7, 3] = np.nan
    values[:, 5] = np.nan
    found = evaluate({'source': values}, labels)['source'].estimates
    assert np.isfinite([estimate.value for estimate in found.values()]).all()


def test_too_few_people(labels, truth):
    few = np.flatnonzero((labels.sites != 'B') | (np.arange(len(labels.sites)) < 2 * N + 8))
    with pytest.raises(NotEvaluableError, match='site B of 3 has 4 people; expected two sites'):
        evaluate({'source': truth[few]}, labels.rows(few))
    alone = np.flatnonzero(labels.sites == 'A')
    with pytest.raises(NotEvaluableError, match='site A of 1 has'):
        evaluate({'source': truth[alone]}, labels.rows(alone))


def test_the_site_from_age_and_sex(labels):
    assert abs(site_from_demographics(labels).value - 1 / 3) < 0.15
    older = replace(labels, ages=labels.ages + 100 * (labels.sites == 'B'))
    assert site_from_demographics(older).value > 0.6
    unknown = replace(
        labels, ages=np.full(len(labels.ages), np.nan), sexes=np.full(len(labels.ages), None)
    )
    assert site_from_demographics(unknown) is None
    # That a site did not tell its ages tells nothing of its people.
    of_b = replace(labels, ages=np.where(labels.sites == 'B', np.nan, labels.ages))
    nobody = replace(labels, ages=unknown.ages)
    assert site_from_demographics(of_b) == site_from_demographics(nobody)


def test_variance_is_explained_at_equal_age():
    """Sites of other ages: age explains it, and not the site."""
    labels = labels_of(200)
    labels = replace(labels, ages=labels.ages + 20 * (labels.sites == 'B'))
    rng = np.random.default_rng(0)
    y = np.column_stack(
        [
            labels.ages / 10 + rng.normal(size=600),
            2 * (labels.sites == 'C') + rng.normal(size=600),
            np.ones(600),
        ]
    )
    y[5, 0] = np.nan
    design = CovariateDesign.fit(labels, spline=False)
    shares = variance_explained_by_site(y, labels, design)
    between = 4 * (2 / 9)  # variance of a shift of 2 in a third of the rows
    assert shares[0] < 0.01 and shares[1] == pytest.approx(between / (between + 1), abs=0.05)
    assert shares[2] == 0


def test_what_fits_to_either_half_leave_does_not_cancel():
    labels = labels_of(20)
    y = np.random.default_rng(0).normal(size=(len(labels.sites), 200))

    def refit(rows):
        left = y.copy()
        for site in labels.site_names:
            left[labels.sites == site] -= y[rows][labels.sites[rows] == site].mean(axis=0)
        return left

    measured = evaluate({'source': y, 'refit': refit}, labels)['refit']
    assert measured.estimates['site_variance'].value > 0.04
    assert measured.explained.mean() == measured.estimates['site_variance'].value
    design = CovariateDesign.fit(labels, spline=False)
    assert variance_explained_by_site(measured.outputs, labels, design).mean() < 0.02
    # Nothing was scaled: the variance within the sites is as it was.
    assert measured.estimates['variance_ratio'].value == pytest.approx(1, abs=1e-12)


def test_what_changed():
    before = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, np.nan], [4.0, 5.0, -1.0]])
    after = np.array([[-1.0, 5.0, 1.0], [2.0, 5.0, np.nan], [4.0, 5.0, -2.0]])
    assert mean_change(before, after) == pytest.approx([1 / 3 / np.sqrt(8 / 3), 0, 0.5])
    assert became_negative(before, after).tolist() == [1, 0, 0]


def test_many_features_are_judged_by_the_distances_between_rows(
    labels, truth, results, monkeypatch
):
    monkeypatch.setattr(location_scale, 'BLOCK', 5)
    source = with_sites(truth, labels)
    found = evaluate({'source': source}, labels)['source'].estimates
    for name, estimate in found.items():
        for part, value in vars(estimate).items():
            expected = getattr(results['source'].estimates[name], part)
            assert value == pytest.approx(expected, rel=1e-6), (name, part)


def test_many_features_take_less_memory_than_a_copy_of_them():
    values = np.random.default_rng(0).normal(size=(60, 60_000)).astype(np.float32)
    values[:, 7], values[3, 9] = 2.5, np.nan
    rows, train = np.arange(10, 60), np.arange(40)
    tracemalloc.start()
    found = evaluation._prepared(values, rows, train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes
    mean, sd = np.nanmean(values[rows][train], axis=0), np.nanstd(values[rows][train], axis=0)
    sd[7] = np.inf
    standardized = np.nan_to_num((values[rows] - mean) / sd)
    for i, j in ((0, 1), (0, 49), (20, 45)):
        apart = [np.linalg.norm(v[i] - v[j]) for v in (found, standardized)]
        assert apart[0] == pytest.approx(apart[1], rel=1e-5)


@pytest.mark.parametrize('spread', [0.0, 1.0])
def test_rows_of_many_features_may_be_alike(spread):
    values = spread * np.random.default_rng(0).normal(size=(12, 9000))
    values[3], values[11] = values[5], values[5]
    found = evaluation._prepared(values, np.arange(12), np.arange(9))
    size = np.linalg.norm(found[5])
    assert np.isfinite(found).all() and (size > 50) == (spread > 0)
    for i in (3, 11):
        assert np.linalg.norm(found[i] - found[5]) < 1e-3 * max(size, 1)
