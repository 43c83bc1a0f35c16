"""What a site adds to a measure is separated from age, sex and chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.methods.data import SliceData
from ddae_app.methods.site_effects import (
    KNOWN_SCANS,
    Prior,
    Regression,
    site_effects,
)


def population(n, *, older=0.0, sites=('A', 'B')):
    """Scans without content, of subjects who are older at the second site."""
    rng = np.random.default_rng(0)
    names = tuple(np.repeat(sites, n).tolist())
    ages = rng.uniform(20, 60, len(names)) + np.where(np.array(names) == 'B', older, 0)
    images = np.zeros((len(names), 1, 4, 4), np.float32)
    subjects = tuple(map(str, range(len(names))))
    return SliceData(images, names, ages, ('M', 'F', 'F') * (len(names) // 3), subjects)


def measured(data, *, effect, noise, seed=1):
    """A measure that falls with age, is larger in women, and is larger by `effect` at B."""
    rng = np.random.default_rng(seed)
    at_b, female = np.array(data.sites) == 'B', np.array(data.sexes) == 'F'
    values = 2 - data.ages / 100 + 0.3 * female + effect * at_b
    return values[:, None] + rng.normal(0, noise, (len(data), 5))


def test_the_effect_of_a_site_is_separated_from_age_and_sex():
    data = population(150, older=30.0)
    values = measured(data, effect=0.2, noise=0.05)
    effects, common, variance = site_effects(data, np.arange(300), [values])
    assert effects.shape == (2, 5) and common.shape == variance.shape == (5,)
    assert (effects[1] - effects[0]).mean() == pytest.approx(0.2, abs=0.02)
    assert effects.sum() == pytest.approx(0, abs=0.02)
    average = 2 - data.ages.mean() / 100 + 0.3 * 2 / 3 + 0.1
    assert common.mean() == pytest.approx(average, abs=0.02)
    assert np.sqrt(variance).mean() == pytest.approx(0.05, rel=0.1)


def test_parts_give_what_the_whole_does_and_only_the_named_rows_count():
    data = population(30)
    values, rows = measured(data, effect=0.2, noise=0.05), np.arange(0, 60, 2)
    whole = site_effects(data, rows, [values[rows]])
    parts = site_effects(data, rows, (values[rows][i : i + 7] for i in range(0, 30, 7)))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_differences_that_chance_makes_are_shrunk():
    data, raw, shrunk = population(30), [], []
    for seed in range(20):
        values = measured(data, effect=0.0, noise=0.5, seed=seed)
        effects, _, _ = site_effects(data, np.arange(60), [values])
        shrunk.append(np.abs(effects[1] - effects[0]).mean())
        raw.append(np.abs(values[30:].mean(axis=0) - values[:30].mean(axis=0)).mean())
    assert np.mean(shrunk) < np.mean(raw) / 2


def test_unknown_ages_and_sexes_are_average():
    data = population(30)
    unknown = SliceData(data.images, data.sites, np.full(60, np.nan), (None,) * 60, data.subjects)
    values = measured(data, effect=0.2, noise=0.01)
    effects, common, _ = site_effects(unknown, np.arange(60), [values])
    plain = [values[:30].mean(axis=0), values[30:].mean(axis=0)]
    np.testing.assert_allclose(common, np.mean(plain, axis=0), atol=1e-4)
    assert ((effects[1] - effects[0]) * (plain[1] - plain[0]) >= 0).all()


@pytest.mark.parametrize('name', ['ages', 'sexes'])
def test_who_lacks_what_only_sites_differ_in_is_as_the_others_there(name):
    """No slope is made of one person, of whom it is not known."""
    data, rows = population(30), np.arange(60)
    values = measured(data, effect=0.2, noise=0.1)
    known, unknown = ((30.0, 60.0), np.nan) if name == 'ages' else (('M', 'F'), None)
    labels = [known[0]] * 30 + [known[1]] * 30
    found = []
    for first in (known[0], unknown):
        labels[0] = first
        of_all = np.array(labels) if name == 'ages' else tuple(labels)
        found.append(site_effects(replace(data, **{name: of_all}), rows, [values])[0])
    np.testing.assert_allclose(*found, atol=0.04)


def part(data, rows):
    """Some scans of a dataset as a dataset of their own."""
    return SliceData(
        data.images[rows],
        tuple(data.sites[i] for i in rows),
        data.ages[rows],
        tuple(data.sexes[i] for i in rows),
        tuple(data.subjects[i] for i in rows),
    )


def test_a_few_scans_that_were_measured_before_count_as_those_at_hand():
    data = population(60, older=20.0, sites=('A', 'B', 'C'))
    values = measured(data, effect=0.2, noise=0.05)
    sites = np.array(data.sites)
    first, later = np.flatnonzero(sites == 'A')[:KNOWN_SCANS], np.flatnonzero(sites != 'A')
    before = Regression(part(data, first), np.arange(len(first)))
    before.effects('measure', [values[first]])
    regression = Regression(part(data, later), np.arange(120), before.evidence())
    assert regression.sites == ('B', 'C', 'A')
    effects, common, variance = regression.effects('measure', [values[later]])
    # All at once, the order of the sites apart; the center of the covariates is another.
    rows = np.concatenate([first, later])
    together, usual, spread = site_effects(data, rows, [values[rows]])
    np.testing.assert_allclose(effects[[2, 0, 1]], together, atol=2e-3)
    np.testing.assert_allclose(variance, spread, rtol=1e-3)
    assert not np.allclose(common, usual, atol=1e-3)
    again = regression.evidence()
    assert again.sites == ('B', 'C', 'A') and again.scans == len(rows) and again.center.age < 45


def test_many_scans_of_a_dataset_that_ages_otherwise_do_not_outweigh_those_at_hand():
    data = population(60, older=30.0)
    values = measured(data, effect=0.2, noise=0.02)
    elsewhere = population(300, sites=('C',))
    before = Regression(elsewhere, np.arange(300))
    before.effects('measure', [2 + np.repeat(elsewhere.ages[:, None], 5, axis=1) / 100])
    regression = Regression(data, np.arange(120), before.evidence())
    effects, _, _ = regression.effects('measure', [values])
    # With the slope of the others, the older site B would be .6 lower.
    assert (effects[1] - effects[0]).mean() == pytest.approx(0.2, abs=0.06)
    assert regression.evidence().scans == 420


def scanners(n, per_site, seed):
    """A measure of nine values: scanners tilt it, and subjects move its first values alone."""
    rng = np.random.default_rng(seed)
    sites = tuple(f'S{i:02d}' for i in range(n))
    data = population(per_site, sites=sites)
    tilt = rng.normal(0, 1, n)[:, None] * np.linspace(-1, 1, 9)
    of_subjects = rng.normal(0, 1, (len(data), 1)) * np.array([1, 0.5, 0.2, *[0] * 6])
    noise = rng.normal(0, 0.1, (len(data), 9))
    return data, tilt - tilt.mean(axis=0), np.repeat(tilt, per_site, axis=0) + of_subjects + noise


def same_people(n: int, people: int) -> np.ndarray:
    """The measure of the scanners above, of the same people at each; shape (n, people, 9)."""
    rng = np.random.default_rng(4)
    tilt = rng.normal(0, 1, (n, 1, 1)) * np.linspace(-1, 1, 9)
    of_subjects = rng.normal(0, 1, (people, 1)) * np.array([1, 0.5, 0.2, *[0] * 6])
    return tilt + of_subjects + rng.normal(0, 0.1, (n, people, 9))


def test_scanners_of_the_same_people_differ_by_nothing_that_people_do():
    values = same_people(400, 3)
    prior = Prior.of_scanners(values, np.eye(9))
    expected = np.multiply.outer(*[np.linspace(-1, 1, 9)] * 2)
    # Beside the truth there is what a real scanner may differ by from all of these.
    assert np.abs(prior.between - expected).max() < 0.2
    # One person more than others at one scanner is chance, and no difference of scanners.
    only_chance = np.random.default_rng(5).normal(0, 1, (400, 3, 9))
    assert np.diag(Prior.of_scanners(only_chance, np.eye(9)).between).max() < 0.1
    assert np.diag(np.cov(only_chance.mean(axis=1).T)).min() > 0.25
    fields = only_chance.reshape(400, 3, 1, 3, 3)
    assert Prior.of_scanners(fields, np.ones((1, 3, 3))).between.max() < 0.1


def test_what_is_known_of_scanners_is_worth_scans():
    learnt, _, values = scanners(40, 6, seed=1)
    known = Regression(learnt, np.arange(240))
    known.effects('measure', [values])
    prior = Prior.of_scanners(same_people(40, 6), known.evidence().within('measure'))
    assert prior.between[0, 8] < -0.4 and prior.within[0, 0] == pytest.approx(1, abs=0.25)
    data, truth, values = scanners(6, 6, seed=2)
    other, _, ordinary = scanners(1, 6, seed=3)
    before = Regression(other, np.arange(6))
    before.effects('measure', [ordinary])
    errors = []
    for priors in ({}, {'measure': prior}):
        regression = Regression(data, np.arange(36), replace(before.evidence(), priors=priors))
        effects, _, _ = regression.effects('measure', [values])
        found = effects[:6] - effects[:6].mean(axis=0)
        errors.append(np.sqrt(np.square(found - truth).mean()))
        assert regression.evidence().priors == priors
    assert errors[1] < errors[0] / 2


def test_a_prior_of_fields_is_one_of_each_value():
    data, _, values = scanners(40, 6, seed=1)
    fields = Regression(data, np.arange(240))
    fields.effects('field', [values.reshape(-1, 1, 3, 3)])
    prior = Prior.of_scanners(
        same_people(40, 6).reshape(40, 6, 1, 3, 3), fields.evidence().within('field')
    )
    assert prior.between.shape == prior.within.shape == (1, 3, 3)
    effect = np.ones((1, 3, 3))
    nothing = np.zeros((1, 3, 3))
    few, many = (prior.shrunk(effect, nothing, 0, n) for n in (2, 200))
    assert (few < many).all() and (many < effect).all() and many[0, 2, 2] > 0.99


def test_one_site_alone_is_compared_with_one_that_was_measured_before():
    data = population(120, older=30.0)
    values = measured(data, effect=0.2, noise=0.05)
    sites = np.array(data.sites)
    a, b = np.flatnonzero(sites == 'A'), np.flatnonzero(sites == 'B')
    before = Regression(part(data, a), np.arange(120))
    before.effects('measure', [values[a]])
    regression = Regression(part(data, b), np.arange(120), before.evidence())
    effects, _, _ = regression.effects('measure', [values[b]])
    # B is older by 30 years, which alone lowers the measure by .3.
    assert (effects[0] - effects[1]).mean() == pytest.approx(0.2, abs=0.05)


def test_a_site_that_is_measured_again_is_named_once():
    data = population(30)
    values = measured(data, effect=0.2, noise=0.05)
    before = Regression(data, np.arange(60))
    before.effects('measure', [values])
    b = np.flatnonzero(np.array(data.sites) == 'B')
    regression = Regression(part(data, b), np.arange(30), before.evidence())
    assert regression.sites == ('B', 'A')
    effects, _, _ = regression.effects('measure', [values[b]])
    assert effects.shape == (2, 5)
    assert regression.evidence().sites == ('B', 'A', '')
