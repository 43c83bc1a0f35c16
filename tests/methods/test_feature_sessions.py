"""Sessions of a person and the DDAE of features: what a site scales within people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from ddae_app.methods.feature_ddae.model import (
    ROWS,
    FeatureDDAE,
    means_of_people,
    parts_of_people,
)
from ddae_app.methods.feature_ddae.sessions import SessionScales
from ddae_app.methods.location_scale import SiteRegression
from tests.methods.test_feature_ddae import Data, table, without_networks


def scales(data: Data, appearance: FeatureAppearance, regression: SiteRegression) -> SessionScales:
    found = SessionScales.fit(
        regression, data.geometry.bands, appearance.scale, data.y, data.sites, data.covariates,
        data.persons,
    )  # fmt: skip
    assert found is not None
    return found


def model_of(data: Data) -> FeatureDDAE:
    regression = data.regression(longitudinal=True)
    appearance = data.appearance(regression)
    sessions = scales(data, appearance, regression)
    return replace(without_networks(data, appearance), sessions=sessions)


@pytest.fixture(scope='module')
def within():
    """Three sessions of each person, of which sites scale what they differ by; with the model."""
    data = table('combat', sessions=3, own=3.0)
    return data, model_of(data)


def away(data: Data, values: np.ndarray) -> np.ndarray:
    """What the rows of each person differ by."""
    counts = np.bincount(data.persons)[:, None]
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, data.persons, values)
    return values - (sums / counts)[data.persons]


def error_of_change(data: Data, values: np.ndarray) -> float:
    return float(np.sqrt(np.square(away(data, values - data.truth)).mean()))


def some_with_one_session(data: Data) -> tuple[Data, np.ndarray]:
    """Of every third person the first row alone, and which rows these are."""
    first = np.r_[True, np.diff(data.persons) > 0]
    data = data.rows(np.flatnonzero((data.persons % 3 > 0) | first))
    return data, np.bincount(data.persons)[data.persons] == 1


def test_a_site_that_scales_what_sessions_differ_by(within):
    """People hardly differ by site then, so that the scale between rows says little of it."""
    data, model = within
    inner = np.log(model.appearance.scale / model.sessions.ratio).mean(axis=1)
    assert np.exp(inner - inner.mean()) == pytest.approx([0.71, 1.02, 1.39], rel=0.06)
    whole = error_of_change(data, data.harmonized(replace(model, sessions=None)))
    error = error_of_change(data, data.harmonized(model))
    assert error < 0.6 * whole
    assert error < 1.2 * error_of_change(data, data.combat(data, longitudinal=True))


def test_a_site_that_scales_all_values():
    data = table('all', sessions=3, own=3.0)
    model = model_of(data)
    assert np.abs(np.log(model.sessions.ratio)).mean() < 0.1
    whole = data.harmonized(replace(model, sessions=None))
    out = data.harmonized(model)
    assert data.error(out) <= data.error(whole)
    assert error_of_change(data, out) <= error_of_change(data, whole)
    assert data.error(out) < 0.6 * data.error(data.combat(data, longitudinal=True))


def test_what_does_not_show_is_not_used(within):
    data, model = within
    bands, ones = data.geometry.bands, np.ones((3, 40))
    alike = replace(model.sessions, between=np.zeros(2))
    assert (alike._shrunk(bands, ones, np.full(3, 9.0)) == 1).all()
    assert model.sessions._shrunk(bands, ones, np.zeros(3)) == pytest.approx(ones, abs=1e-3)


@pytest.mark.parametrize('missing', [False, True])
def test_rows_of_people_with_one_session_stay_as_they_were(missing):
    data, alone = some_with_one_session(table('combat', sessions=3, own=3.0))
    if missing:
        data.y[np.random.default_rng(0).random(data.y.shape) < 0.1] = np.nan
    model = model_of(data)
    for target in (None, 1):
        out, before = (data.harmonized(m, target) for m in (model, replace(model, sessions=None)))
        assert out[alone].tobytes() == before[alone].tobytes()
        changed = ~alone & ((data.sites != target) | (target is None))
        assert np.nanmean(np.abs(out[changed] - before[changed])) > 0.01
        assert (np.isnan(out) == np.isnan(data.y)).all()


def test_what_is_missing_changes_nothing_else(within):
    data, model = within
    gaps = np.random.default_rng(1).random(data.y.shape) < 0.1
    gaps[:, ::2] = False
    out, whole = (
        replace(data, y=y).harmonized(model) for y in (np.where(gaps, np.nan, data.y), data.y)
    )
    touched = np.zeros_like(gaps)
    for person in np.unique(data.persons):
        touched[data.persons == person] = gaps[data.persons == person].any(axis=0)
    assert out[~touched] == pytest.approx(whole[~touched], rel=1e-12)
    assert (np.isnan(out) == gaps).all()


def test_at_the_target_sessions_differ_as_there(within):
    data, model = within
    out = data.harmonized(model, 2)
    at = data.sites == 2
    assert out[at] == pytest.approx(data.y[at], rel=1e-12)
    spread = [away(data, out)[data.sites == site].std(axis=0).mean() for site in range(3)]
    assert spread == pytest.approx([spread[2]] * 3, rel=0.08)


def test_a_new_site():
    data = table('combat', sessions=3, own=3.0)
    known, new = (data.rows(np.flatnonzero(at)) for at in (data.sites < 2, data.sites == 2))
    model = model_of(known)
    regression = known.regression(longitudinal=True).with_site(new.y, new.covariates)
    more = model.calibrated(regression, new.y, new.covariates, new.persons)
    assert (more.sessions.ratio[:2] == model.sessions.ratio).all()
    inner = more.appearance.scale[2] / more.sessions.ratio[2]
    assert np.median(inner) == pytest.approx(1.4 / np.sqrt(0.745), rel=0.15)
    alone = replace(model, sessions=None)
    assert alone.calibrated(regression, new.y, new.covariates, new.persons).sessions is None


def test_without_sessions_nothing_is_measured_or_kept():
    data = table('combat', features=12, people=20)
    model = data.trained()
    assert model.sessions is None and not any('sessions' in name for name in model.arrays())


def test_arrays_hold_them():
    data = table('combat', sessions=2, own=3.0, features=12, people=20)
    model = model_of(data)
    again = FeatureDDAE.of_arrays(data.geometry, 3, model.arrays())
    assert data.harmonized(again).tobytes() == data.harmonized(model).tobytes()
    for spoiled in (
        {'sessions.ratio': np.ones((2, 12))},
        {'sessions.ratio': np.zeros((3, 12))},
        {'sessions.variance': np.ones(11)},
        {'sessions.within': np.ones(3)},
    ):
        with pytest.raises(ValueError, match='scales of sessions'):
            FeatureDDAE.of_arrays(data.geometry, 3, model.arrays() | spoiled)
    missing = {name: v for name, v in model.arrays().items() if name != 'sessions.between'}
    with pytest.raises(KeyError):
        FeatureDDAE.of_arrays(data.geometry, 3, missing)


def test_all_rows_of_a_person_are_harmonized_at_once():
    rng = np.random.default_rng(0)
    persons = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 5, 30)))
    parts = list(parts_of_people(persons))
    assert sorted(np.concatenate(parts)) == list(range(len(persons)))
    assert max(map(len, parts)) <= ROWS and len(parts) < len(persons) / (ROWS - 4) + 1
    people = [{*persons[part].tolist()} for part in parts]
    assert sum(map(len, people)) == 30
    alone = list(parts_of_people(np.array([1, *[0] * (ROWS + 3)])))
    assert [*map(len, alone)] == [ROWS + 3, 1]


def test_the_mean_of_a_person_is_of_what_is_known():
    left = np.array([[1, np.nan], [3, 5], [7, np.nan]])
    found = means_of_people(left, np.array([4, 4, 2]))
    assert found.tolist() == [[2, 5], [2, 5], [7, 0]]
