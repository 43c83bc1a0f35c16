"""The statistics of ComBat: an intercept of each person, missing values, and a reference site."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ddae_app.methods.location_scale import SiteRegression, intercepts_of, posterior
from ddae_app.methods.random_intercept import row_weights, slopes_and_ratio


def test_balanced_rows_have_the_ratio_of_the_analysis_of_variance():
    """Restricted maximum likelihood has a closed form there (Searle et al. 1992, ch. 3)."""
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(30), 4)
    y = rng.normal(size=(120, 6)) + np.linspace(0, 3, 6) * rng.normal(size=(30, 6))[persons]
    beta, ratio = slopes_and_ratio(y, np.ones((120, 1)), persons)
    means = y.reshape(30, 4, 6).mean(axis=1)
    between = 4 * means.var(axis=0, ddof=1)
    within = np.square(y - means[persons]).sum(axis=0) / 90
    expected = np.maximum((between - within) / within / 4, 0)
    assert ratio == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert beta[0] == pytest.approx(y.mean(axis=0))


def test_unbalanced_rows_have_the_ratio_of_the_whole_likelihood():
    rng = np.random.default_rng(1)
    persons = np.repeat(np.arange(25), rng.integers(1, 5, 25))
    n = len(persons)
    x = np.column_stack([np.ones(n), rng.normal(size=n), rng.normal(size=25)[persons]])
    y = x @ [1.0, 2.0, 3.0] + rng.normal(size=n) + 1.5 * rng.normal(size=25)[persons]
    same = (persons[:, None] == persons).astype(float)

    def deviance(ratio: float) -> float:
        v = np.eye(n) + ratio * same
        inverse = np.linalg.inv(v)
        gram = x.T @ inverse @ x
        left = y - x @ np.linalg.solve(gram, x.T @ inverse @ y)
        determinants = np.linalg.slogdet(v)[1] + np.linalg.slogdet(gram)[1]
        return (n - 3) * np.log(left @ inverse @ left) + determinants

    best = minimize_scalar(deviance, bounds=(0, 20), method='bounded', options={'xatol': 1e-8}).x
    beta, ratio = slopes_and_ratio(y[:, None], x, persons)
    assert ratio[0] == pytest.approx(best, rel=1e-3)
    inverse = np.linalg.inv(np.eye(n) + ratio[0] * same)
    expected = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ y)
    assert beta[:, 0] == pytest.approx(expected)
    left = y[:, None] - x @ beta
    predicted = ratio[0] * same @ inverse @ left
    assert intercepts_of(left, persons, ratio) == pytest.approx(predicted)
    assert row_weights(persons, ratio)[:, 0] == pytest.approx(np.diag(inverse))


def test_values_are_searched_together(monkeypatch):
    """The vertices of a fine mesh are hundreds of thousands, of which each would take its time."""
    rng = np.random.default_rng(7)
    persons = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    x = np.column_stack([np.ones(len(persons)), rng.normal(size=len(persons))])
    y = rng.normal(size=(len(persons), 50)) + 2 * rng.normal(size=(30, 50))[persons]
    calls = []
    solve = np.linalg.solve
    monkeypatch.setattr(np.linalg, 'solve', lambda *a: calls.append(a) or solve(*a))
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, 'eigh', lambda *a: calls.append(a) or eigh(*a))
    beta, ratio = slopes_and_ratio(y, x, persons)
    assert len(calls) < 100
    alone = [slopes_and_ratio(value[:, None], x, persons) for value in y.T]
    assert beta == pytest.approx(np.hstack([one for one, _ in alone]), rel=1e-6)
    assert ratio == pytest.approx(np.hstack([one for _, one in alone]), rel=1e-5)


def test_a_column_that_says_nothing_has_no_slope():
    rng = np.random.default_rng(2)
    persons = np.repeat(np.arange(20), 2)
    x = np.column_stack([np.ones(40), np.zeros(40)])
    beta, ratio = slopes_and_ratio(rng.normal(size=(40, 3)), x, persons)
    assert np.abs(beta[1]).max() < 1e-9 and np.isfinite(ratio).all()


def test_the_scale_of_a_site_does_not_depend_on_the_number_of_sessions():
    """One site with one session of each person, one with four; neither adds anything."""
    rng = np.random.default_rng(3)
    persons = np.concatenate([np.arange(150), np.repeat(np.arange(150, 250), 4)])
    member = np.column_stack([persons < 150, persons >= 150]).astype(float)
    y = rng.normal(size=(550, 30)) + 2 * rng.normal(size=(250, 30))[persons]
    regression = SiteRegression.fit(y, member, np.zeros((550, 0)), persons)
    assert np.median(regression.ratio) == pytest.approx(4, rel=0.15)
    effects = regression.effects()
    assert np.abs(effects.scale - 1).max() < 0.15
    out = effects.removed(y, (persons >= 150).astype(int), np.zeros((550, 0)), persons)
    assert np.abs(out.std(axis=0) / y.std(axis=0) - 1).max() < 0.05


def test_a_value_that_is_known_once_of_each_person_has_no_variance_of_people():
    """The likelihood is the same for all variances, and rounding would choose one of them."""
    rng = np.random.default_rng(7)
    persons = np.repeat(np.arange(60), 2)
    member = np.eye(3)[persons // 20]
    y = rng.normal(size=(120, 12)) + 2 * rng.normal(size=(60, 12))[persons] + member[:, 1:2]
    y[1::2, 4:] = np.nan
    y[1:18:2, 4:] = y[:18:2, 4:]  # nine people have it twice
    covariates = rng.normal(size=(120, 1))
    fit = SiteRegression.fit(y, member, covariates, persons)
    assert (fit.ratio[:4] > 1).all() and not fit.ratio[4:].any()
    alone = SiteRegression.fit(y[:, 4:], member, covariates)
    assert (fit.squares[:, 4:] == alone.squares).all()


@pytest.mark.parametrize('reference', [None, 0])
def test_a_value_that_is_the_same_in_all_rows_of_a_person(reference):
    """As the head size of FreeSurfer's longitudinal stream: it is shifted, and nothing else."""
    rng = np.random.default_rng(8)
    persons = np.repeat(np.arange(60), 2)
    sites = persons // 20
    y = rng.normal(size=(120, 12)) + 2 * rng.normal(size=(60, 12))[persons] + (sites == 1)[:, None]
    head = 1500 + 50 * rng.normal(size=60)[persons] + 40 * (sites == 1)
    covariates = np.column_stack([50 + 20 * rng.normal(size=60)[persons] + np.arange(120) % 2])
    values = np.column_stack([y, head])
    fit = SiteRegression.fit(values, np.eye(3)[sites], covariates, persons)
    within = head - np.array([head[sites == site].mean() for site in range(3)])[sites]
    assert fit.sd[-1] == pytest.approx(within.std(), rel=0.05)
    effects, others = (
        SiteRegression.fit(part, np.eye(3)[sites], covariates, persons).effects(reference)
        for part in (values, y)
    )
    assert (effects.shift[:, :-1] == others.shift).all()
    assert (effects.scale[:, :-1] == others.scale).all()
    out = effects.removed(values, sites, covariates, persons)[:, -1]
    assert np.abs(np.diff(out.reshape(-1, 2))).max() < 1e-5
    means = [out[sites == site].mean() for site in range(3)]
    assert np.ptp(means) < 0.01 * np.ptp([head[sites == site].mean() for site in range(3)])


def test_each_value_is_regressed_on_the_rows_that_have_it():
    rng = np.random.default_rng(4)
    sites = np.repeat([0, 1], 30)
    member = np.eye(2)[sites]
    covariates = rng.normal(size=(60, 1))
    y = rng.normal(size=(60, 5)) + sites[:, None]
    y[rng.uniform(size=y.shape) < 0.2] = np.nan
    together = SiteRegression.fit(y, member, covariates)
    for i, value in enumerate(y.T):
        known = ~np.isnan(value)
        alone = SiteRegression.fit(value[known, None], member[known], covariates[known])
        for name, array in vars(alone).items():
            assert vars(together)[name][..., i] == pytest.approx(array[..., 0]), name


@pytest.mark.parametrize('persons', [None, np.arange(24) // 2])
def test_rounding_is_no_variation(persons):
    """Values that are the same in all rows of a site, beside values that vary."""
    rng = np.random.default_rng(3)
    member = np.repeat(np.eye(2), 12, axis=0)
    covariates = rng.normal(size=(24, 2))
    y = np.hstack([member @ [[0.1, 0.7], [0.3, 0.5]], rng.normal(0.3, 0.1, (24, 30))])
    fit = SiteRegression.fit(y, member, covariates, persons)
    assert not fit.squares[:, :2].any() and fit.squares[:, 2:].all()
    effects = fit.effects()
    assert (effects.sd[:2] == 1).all()
    order = rng.permutation(24)
    persons = None if persons is None else persons[order]
    other = SiteRegression.fit(y[order], member[order], covariates[order], persons).effects()
    assert other.shift == pytest.approx(effects.shift)
    assert other.scale == pytest.approx(effects.scale)


@pytest.mark.parametrize('reference', [None, 0])
def test_a_value_that_the_design_explains_is_shifted_as_measured(reference):
    """In its own unit, and the others as without it."""
    rng = np.random.default_rng(9)
    sites = np.repeat([0, 1, 2], 20)
    covariates = rng.normal(size=(60, 1))
    y = rng.normal(size=(60, 8)) + 2 * (sites == 1)[:, None]
    values = np.hstack([y, 1000 + 10 * covariates])
    effects, others = (
        SiteRegression.fit(part, np.eye(3)[sites], covariates).effects(reference)
        for part in (values, y)
    )
    out = effects.removed(values, sites, covariates, np.arange(60))
    assert np.abs(out[:, -1] - values[:, -1]).max() < 1e-9
    assert (effects.shift[:, :-1] == others.shift).all()
    assert (effects.scale[:, :-1] == others.scale).all()


def test_a_value_of_few_rows_does_not_say_by_how_much_sites_differ():
    """With one degree of freedom, its standard deviation may be near 0."""
    rng = np.random.default_rng(0)
    sites = np.repeat([0, 1, 2], 15)
    covariates = rng.normal(size=(45, 2))
    y = rng.normal(size=(45, 8)) + 0.3 * (sites == 1)[:, None]
    few = np.where(np.arange(45) % 15 < 2, rng.normal(size=45), np.nan)
    values = np.column_stack([y, few])
    with_few, without = (
        SiteRegression.fit(part, np.eye(3)[sites], covariates).effects() for part in (values, y)
    )
    assert (with_few.shift[:, :-1] == without.shift).all()
    assert (with_few.scale[:, :-1] == without.scale).all()
    assert np.abs(with_few.shift[:, -1]).max() < 2
    # Where all values are of few rows, they say it.
    rows = np.arange(45) % 15 < 2
    few = SiteRegression.fit(y[rows], np.eye(3)[sites[rows]], covariates[rows])
    assert few.telling.all()


def test_the_reference_site_stays_as_it_is():
    rng = np.random.default_rng(5)
    sites = np.repeat([0, 1, 2], 20)
    y = rng.normal(size=(60, 8)) * (1 + sites[:, None]) + 3 * sites[:, None]
    regression = SiteRegression.fit(y, np.eye(3)[sites], np.zeros((60, 0)))
    effects = regression.effects(1)
    assert (effects.shift[1] == 0).all() and (effects.scale[1] == 1).all()
    out = effects.removed(y, sites, np.zeros((60, 0)), np.arange(60))
    assert np.abs(out[sites == 1] - y[sites == 1]).max() < 1e-12
    assert np.abs(out.mean(axis=0) - y[sites == 1].mean(axis=0)).max() < 0.5


def test_counts_of_each_value_take_part_in_the_shrinkage():
    """A value of few rows is shrunk more; equal counts are one count."""
    rng = np.random.default_rng(6)
    shift, variance = rng.normal(0.5, 1, 50), rng.uniform(0.5, 2, 50)
    one = posterior(20, shift, variance)
    many = posterior(np.full(50, 20.0), shift, variance)
    assert all((a == b).all() for a, b in zip(one, many, strict=True))
    counts = np.full(50, 20.0)
    counts[0] = 2
    few = posterior(counts, shift, variance)
    center = shift.mean()
    assert abs(few[0][0] - center) < abs(one[0][0] - center)
