"""ComBat of tables: what others compute, what was put in, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from neuroCombat import neuroCombat
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.interpolate import CubicSpline

from ddae_app.errors import ModelError, UsageError
from ddae_app.features.checks import check_units_of_rows
from ddae_app.features.fit import fit_model
from ddae_app.features.measures import variance_explained_by_site
from ddae_app.features.model import FeatureModel
from ddae_app.features.people import CovariateDesign, RowLabels, natural_spline
from ddae_app.levels.features.page import methods_text
from ddae_app.levels.features.used import UsedModel
from tests.features.simulated import labels_of, table_of, truth_of, with_sites

N = 40


@pytest.fixture(scope='module')
def labels():
    return labels_of(N)


@pytest.fixture(scope='module')
def truth(labels):
    return truth_of(labels)


@pytest.fixture(scope='module')
def table(truth, labels):
    return table_of(with_sites(truth, labels), labels)


@pytest.fixture(scope='module')
def model(table, labels):
    return fit_model(table, labels, name='m')[0]


@pytest.mark.parametrize(
    ('name', 'target', 'sexes'),
    [
        ('parametric_adjusted', None, ['M', 'F'] * 5),
        ('parametric_unadjusted', None, [None] * 10),
        ('parametric_adjusted_batchref', '1', ['M', 'F'] * 5),
    ],
)
def test_it_returns_what_the_r_package_does(test_data, name, target, sexes):
    folder = test_data / 'data' / 'tables' / 'combat_reference'
    values = pd.read_csv(folder / 'input.csv').to_numpy().T
    expected = pd.read_csv(folder / f'{name}.csv').to_numpy().T
    labels = RowLabels(
        np.repeat(['1', '2'], 5), np.array([f'{i}' for i in range(10)]), np.full(10, np.nan),
        np.array(sexes, dtype=object),
    )  # fmt: skip
    table = table_of(values, labels)
    model, _ = fit_model(table, labels, name='m', allow_few=True)
    assert np.abs(model.harmonized(table, labels, target) - expected).max() < 1e-12


@pytest.mark.parametrize('target', [None, 'B'])
def test_it_equals_the_python_package(table, labels, model, target, monkeypatch):
    monkeypatch.setattr(np, 'int', int, raising=False)  # of NumPy before 1.24
    # That package computes in single precision, so that both get such numbers.
    ages = labels.ages.astype(np.float32).astype(float)
    labels = replace(labels, ages=ages)
    values = table.values.astype(np.float32).astype(float)
    table = replace(table, values=values)
    known = pd.DataFrame({'site': labels.sites, 'age': ages, 'sex': labels.sexes})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = neuroCombat(
            values.T, known, 'site', categorical_cols=['sex'], continuous_cols=['age'],
            ref_batch=target,
        )['data'].T  # fmt: skip
    ours = fit_model(table, labels, name='m')[0].harmonized(table, labels, target)
    assert np.abs(ours - reference).max() < 1e-9


def test_it_equals_neuroharmonize():
    """Features of ``ORACLE``, with a linear age, by neuroHarmonize 2.5.2."""
    i, j = np.arange(12)[:, None], np.arange(3)
    y = 2.5 + 0.1 * np.sin(i * (j + 1.0)) + 0.02 * i + 0.3 * (i >= 6) * (j + 1)
    labels = RowLabels(
        np.repeat(['A', 'B'], 6), np.array([f'{n}' for n in range(12)]),
        20.0 + np.arange(12) * 7 % 12 * 5,
        np.where(np.arange(12) % 3 == 0, 'F', 'M').astype(object),
    )  # fmt: skip
    table = table_of(y, labels)
    model, _ = fit_model(table, labels, name='m', allow_few=True)
    for target, expected in ORACLE.items():
        out = model.harmonized(table, labels, target)
        assert np.abs(out[-4:] - expected).max() < 1e-8


ORACLE = {
    None: [
        [2.83019287, 2.882923185, 2.984436147], [2.794971763, 2.849888665, 3.157415458],
        [2.729857139, 3.029152647, 3.011315918], [2.708701159, 2.962629809, 3.197081923],
    ],
    'A': [
        [2.619937823, 2.518423719, 2.498396361], [2.586366175, 2.48450774, 2.620201432],
        [2.528170902, 2.662837432, 2.517765638], [2.509941616, 2.59705592, 2.6526467],
    ],
}  # fmt: skip
"""What it returns of the last four rows, without a reference site and with one."""


def test_known_site_effects_are_removed(table, labels, model, truth):
    target = model.harmonized(table, labels, 'A')
    at_a = labels.sites == 'A'
    assert (target[at_a] == table.values[at_a]).all()
    before, after = (np.abs(v - truth)[~at_a].mean() for v in (table.values, target))
    assert after < before / 6
    design = CovariateDesign.fit(labels, spline=False)
    explained = [variance_explained_by_site(v, labels, design) for v in (table.values, target)]
    assert explained[0].min() > 0.2 and explained[1].max() < 0.02


def test_age_is_left(table, labels, model, truth):
    def slopes(values):
        return np.polyfit(labels.ages, values, 1)[0]

    out = model.harmonized(table, labels, 'A')
    assert np.abs(slopes(out) - slopes(truth)).max() < 0.012
    assert np.corrcoef(slopes(out), slopes(truth))[0, 1] > 0.98


@pytest.mark.parametrize('target', [None, 'A'])
def test_the_values_of_the_table_stay(table, labels, model, target):
    before = table.values.copy()
    out = model.harmonized(table, labels, target)
    assert np.array_equal(table.values, before) and not np.shares_memory(out, table.values)
    assert np.shares_memory(table.columns(table.features), table.values)


def test_the_order_of_rows_and_columns_does_not_matter(table, labels, model):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(len(table.values)), rng.permutation(len(table.features))
    names = [table.features[i] for i in columns]
    shuffled = table_of(table.values[rows][:, columns], labels.rows(rows), names)
    again, _ = fit_model(shuffled, labels.rows(rows), name='m')
    out = again.harmonized(shuffled, labels.rows(rows))
    expected = model.harmonized(table, labels)[rows][:, columns]
    assert np.abs(out - expected).max() < 1e-9
    by_name = model.harmonized(shuffled, labels.rows(rows))
    assert np.abs(by_name - expected).max() < 1e-12


def test_people_whom_it_was_not_fitted_to(table, labels, truth):
    even = np.arange(len(table.values)) % 2 == 0
    rows, others = np.flatnonzero(even), np.flatnonzero(~even)
    model, _ = fit_model(table.rows(rows), labels.rows(rows), name='m')
    together = model.harmonized(table.rows(others), labels.rows(others))
    alone = [model.harmonized(table.rows(i), labels.rows(i)) for i in others[:, None]]
    assert np.abs(np.concatenate(alone) - together).max() < 1e-12
    design = CovariateDesign.fit(labels, spline=False)
    left = variance_explained_by_site(together, labels.rows(others), design)
    assert left.mean() < 0.05


def test_values_that_are_missing(table, labels, model):
    values = table.values.copy()
    gaps = np.random.default_rng(5).uniform(size=values.shape) < 0.05
    gaps[:, 0] = False
    values[gaps] = np.nan
    with_gaps, _ = fit_model(replace(table, values=values), labels, name='m')
    out = with_gaps.harmonized(replace(table, values=values), labels)
    assert (np.isnan(out) == gaps).all()
    assert np.abs(out - model.harmonized(table, labels))[~gaps].max() < 0.6
    # A value that is complete is regressed as if it were alone.
    assert np.abs(
        with_gaps.regression.intercepts[:, 0] - model.regression.intercepts[:, 0]
    ).max() < 1e-9  # fmt: skip


def test_unknown_age_and_sex_count_as_average(table, labels, model):
    unknown = replace(
        labels, ages=np.full(len(labels.ages), np.nan), sexes=np.full(len(labels.ages), None)
    )
    average = replace(labels, ages=np.full(len(labels.ages), model.info.design.centers[0]))
    women = (labels.sexes == 'F').mean()
    by_sex = [
        model.harmonized(table, replace(average, sexes=np.full(len(labels.ages), sex)))
        for sex in ('M', 'F')
    ]
    mixed = by_sex[0] * (1 - women) + by_sex[1] * women
    assert np.abs(model.harmonized(table, unknown) - mixed).max() < 1e-9


def test_the_spline_is_a_natural_cubic_spline():
    """Any such spline with these knots is a sum of its columns, by another construction."""
    knots = (25.0, 40.0, 60.0, 75.0)
    ages = np.linspace(25, 75, 200)
    curve = CubicSpline(knots, [1, 3, 2, 5], bc_type='natural')(ages)
    columns = np.column_stack([np.ones(200), ages, *natural_spline(ages, knots)])
    beta = np.linalg.lstsq(columns, curve, rcond=None)[0]
    assert np.abs(columns @ beta - curve).max() < 1e-9
    beyond = np.array([80.0, 85.0, 90.0])
    line = np.column_stack([np.ones(3), beyond, *natural_spline(beyond, knots)]) @ beta
    assert line[2] - line[1] == pytest.approx(line[1] - line[0])


def test_a_curve_of_age_is_protected_by_a_spline():
    """Sites of other ages: a straight line takes a part of the curve for an effect of the site."""
    labels = labels_of(100)
    shift = np.select([labels.sites == 'A', labels.sites == 'B'], [0.0, 0.3], 0.6)
    labels = replace(labels, ages=20 + (labels.ages - 20) * 0.6 + 40 * shift)
    rng = np.random.default_rng(8)
    curve = 0.004 * np.square(labels.ages - 50)
    truth = 50 + curve[:, None] + 0.5 * rng.normal(size=(300, 10))
    table = table_of(truth, labels)
    errors = [
        np.abs(
            fit_model(table, labels, name='m', age_spline=spline)[0].harmonized(table, labels)
            - truth
        ).mean()
        for spline in (False, True)
    ]
    assert errors[1] < errors[0] / 2
    with pytest.raises(UsageError, match='--age-spline: 300 ages are known, of 1 different'):
        fit_model(table, replace(labels, ages=np.full(300, 30.0)), name='m', age_spline=True)


def test_sessions_of_a_person():
    """The person's own part stays, and change within people is brought to one scale."""
    labels = labels_of(30, sessions=3)
    truth = truth_of(labels, own=3.0)
    table = table_of(with_sites(truth, labels), labels)
    model, warnings = fit_model(table, labels, name='m')
    assert model.info.longitudinal and not warnings
    assert 4 < np.median(model.regression.ratio) < 16  # 9, of which a site scales its part
    out = model.harmonized(table, labels, 'A')
    apart = [
        np.abs(v[labels.sites == 'C'].mean(axis=0) - truth[labels.sites == 'C'].mean(axis=0))
        for v in (table.values, out)
    ]
    assert apart[1].mean() < apart[0].mean() / 2

    def own(values):
        return np.stack([values[labels.subjects == s].mean(axis=0) for s in labels.subjects[::3]])

    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(own(out).T, own(truth).T, strict=True)]
    assert min(correlations) > 0.9


def test_a_new_site_with_sessions_leaves_the_standard_deviation_as_it_is():
    """Its rows differ as those of the other sites do, most of it between people."""
    labels = labels_of(30, sessions=2)
    values = truth_of(labels, own=3.0)
    known = labels.sites != 'C'
    model, _ = fit_model(table_of(values[known], labels.rows(known)), labels.rows(known), name='m')
    columns = model.info.design.columns(labels.rows(~known))
    grown = model.regression.with_site(values[~known], columns)
    np.testing.assert_allclose(grown.sd, model.regression.sd, rtol=0.12)


def test_without_own_intercepts_sessions_are_as_other_people(table, labels):
    again = replace(labels, subjects=labels.subjects.copy())
    again.subjects[1] = again.subjects[0]
    model, warnings = fit_model(table, again, name='m')
    assert not model.info.longitudinal
    assert any('only 1 row is a further session of' in line for line in warnings)


def test_what_is_saved_comes_back(table, labels, model, tmp_path):
    path = tmp_path / 'm.safetensors'
    model.save(path)
    first = path.read_bytes()
    loaded = FeatureModel.load(path)
    assert loaded.info == model.info
    assert (loaded.harmonized(table, labels, 'B') == model.harmonized(table, labels, 'B')).all()
    loaded.save(path)
    assert path.read_bytes() == first


def test_a_file_of_an_earlier_version_says_no_digest(model, tmp_path):
    path = tmp_path / 'm.safetensors'
    model.save(path)
    with safe_open(path, 'np') as file:
        header = json.loads(file.metadata()['ddae_features'])
    assert len(header['info'].pop('digest')) == 64
    arrays = dict(vars(model.regression))
    save_file(arrays, path, {'ddae_features': json.dumps(header)})
    assert FeatureModel.load(path).info == replace(model.info, digest='')


def test_files_that_are_no_model(table, labels, model, tmp_path):
    path = tmp_path / 'm.safetensors'
    model.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ModelError, match='truncated'):
        FeatureModel.load(path)
    path.write_bytes(whole[:-8] + np.array([np.nan]).tobytes())
    with pytest.raises(ModelError, match='not finite'):
        FeatureModel.load(path)
    path.write_bytes(whole.replace(b'ddae_features', b'ddae_zeatures'))
    with pytest.raises(ModelError, match='no model of features'):
        FeatureModel.load(path)
    path.write_bytes(whole.replace(b'\\"sites\\":[\\"A', b'\\"sites\\":[\\"B'))
    with pytest.raises(ModelError, match='parts do not fit each other'):
        FeatureModel.load(path)
    path.write_bytes(whole.replace(b'format_version\\":1', b'format_version\\":7'))
    with pytest.raises(ModelError, match='format version 7'):
        FeatureModel.load(path)
    path.write_bytes(whole)
    with safe_open(path, 'pt') as file:
        arrays = {name: file.get_tensor(name).bfloat16() for name in file.keys()}  # noqa: SIM118
        safetensors.torch.save_file(arrays, path, file.metadata())
    with pytest.raises(ModelError, match='is of type BF16, where one of NumPy is expected'):
        FeatureModel.load(path)


def _changed(labels, **changes):
    return replace(labels, **changes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda x: {'sites': np.full(len(x.sites), 'A')}, 'all rows are of site A; at least'),
        (lambda x: {'sites': np.where(np.arange(len(x.sites)) < 1, 'Z', x.sites)},
         'site Z has rows of one person, and two are needed'),
        (lambda x: {'sites': np.where(np.arange(len(x.sites)) < 5, 'Z', x.sites)},
         'site Z has 5 people, fewer than 10: .* or give --allow-few-scans'),
        (lambda x: {'ages': np.where(x.sites == 'A', x.ages + 100, x.ages)},
         'site A is confounded with age .* or give --allow-confounding'),
        (lambda x: {'sexes': np.where(x.sites == 'A', 'F', 'M').astype(object)},
         'site A is confounded with sex'),
    ],
)  # fmt: skip
def test_people_of_whom_no_site_effect_follows(table, labels, change, message):
    with pytest.raises(UsageError, match=message):
        fit_model(table, _changed(labels, **change(labels)), name='m')


@pytest.mark.parametrize('unknown', [0, 2])
def test_a_confounded_covariate_is_refused_even_if_allowed(table, labels, unknown):
    """Who it is not known of does not differ from the others of the site."""
    sexes = np.where(labels.sites == 'A', 'F', 'M').astype(object)
    sexes[:unknown] = None
    with pytest.raises(UsageError, match='sex is confounded with site: all subjects'):
        fit_model(table, replace(labels, sexes=sexes), name='m', allow_confounding=True)


def test_few_people_are_allowed_with_a_warning(table, labels):
    sites = np.where(np.arange(len(labels.sites)) < 5, 'Z', labels.sites)
    _, warnings = fit_model(table, replace(labels, sites=sites), name='m', allow_few=True)
    assert any('site Z has 5 people' in line for line in warnings)


def test_features_that_do_not_vary_stay(table, labels):
    n = len(labels.sites)
    total = 1 + 2e-16 * np.random.default_rng(0).integers(-1, 2, n)  # as sums of shares are 1
    values = np.column_stack(
        [table.values, total, np.full(n, 7.0), np.where(labels.sites == 'A', 1.5, 3.0)]
    )
    more = table_of(values, labels, [*table.features, 'total', 'same', 'field'])
    model, warnings = fit_model(more, labels, name='m')
    assert model.info.constant == ('total', 'same', 'field')
    assert any(line.endswith('they stay unchanged: total, same, field') for line in warnings)
    assert (model.harmonized(more, labels)[:, -3:] == values[:, -3:]).all()
    only = table_of(values[:, -2:], labels, ['same', 'field'])
    with pytest.raises(UsageError, match='no feature varies within each site'):
        fit_model(only, labels, name='m')


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('sessions', [1, 2])
def test_an_age_or_sex_by_another_name_is_no_feature(sessions):
    labels = labels_of(20, sessions=sessions)
    own = {'scanage': np.round(12 * labels.ages), 'male': 1.0 * (labels.sexes == 'M')}
    values = np.column_stack([truth_of(labels, own=1.0), *own.values()])
    values[4, -2] = np.nan
    table = table_of(values, labels, [*(f'f{i}' for i in range(12)), *own])
    with pytest.raises(UsageError, match='t.tsv: scanage, male follow from age and sex alone'):
        fit_model(table, labels, name='m')
    # What only depends on age, also much, is a feature.
    values[:, -2:] += np.random.default_rng(3).normal(0, [[40, 0.1]], (len(values), 2))
    values[:, 0] *= 1e-200  # whose squares are 0
    model, _ = fit_model(replace(table, values=values), labels, name='m')
    assert model.info.features == table.features


def test_as_many_rows_as_unknowns_do_not_tell_what_the_site_explains(table, labels):
    """Regression leaves rounding errors there, which were compared with each other."""
    rows = np.array([0, N])
    few, theirs = table.values[rows], labels.rows(rows)
    design = CovariateDesign.fit(theirs, spline=False)
    assert not variance_explained_by_site(few, theirs, design).any()


def test_a_person_at_two_sites_is_one_person():
    labels = labels_of(12, sessions=2)
    moved = np.where(np.arange(len(labels.sites)) % 2, np.roll(labels.sites, 24), labels.sites)
    labels = replace(labels, sites=moved)
    model, _ = fit_model(table_of(truth_of(labels), labels), labels, name='m')
    assert model.info.people == (24, 24, 24) and model.info.persons == 36
    text = methods_text(UsedModel(Path('m'), model, '0' * 64), None)
    assert 'was fitted to 36 people of 3 sites' in str(text)
    earlier = replace(model, info=replace(model.info, persons=0))
    text = methods_text(UsedModel(Path('m'), earlier, '0' * 64), None)
    assert 'was fitted to 72 rows of people of 3 sites' in str(text)


def test_features_that_do_not_vary_at_one_site_stay(table, labels):
    """There is nothing to scale; what age does elsewhere would be put in (sva leaves them out)."""
    values = table.values.copy()
    values[labels.sites == 'B', 3] = 0
    model, warnings = fit_model(replace(table, values=values), labels, name='m')
    assert model.info.constant == ('f3',)
    line = 'no variation within site B, so that nothing can be scaled and they stay unchanged: f3'
    assert line in warnings
    harmonized = model.harmonized(replace(table, values=values), labels)
    assert (harmonized[:, 3] == values[:, 3]).all() and (harmonized[:, 2] != values[:, 2]).any()


@pytest.mark.parametrize(('left', 'message'), [(0, 'has no value at'), (1, 'has one value only')])
def test_features_that_are_missing_at_a_site(table, labels, left, message):
    values = table.values.copy()
    values[np.flatnonzero(labels.sites == 'B')[left:], 3] = np.nan
    with pytest.raises(UsageError, match=f'f3 {message}.* site B; expected 2 or more'):
        fit_model(replace(table, values=values), labels, name='m')


def test_features_with_too_few_values(table, labels):
    values = table.values.copy()
    for site in labels.site_names:
        values[np.flatnonzero(labels.sites == site)[2 if site == 'A' else 2 :], 3] = np.nan
    values[np.flatnonzero(labels.sites == 'A')[:2], 3] = 1.0, 2.0
    few = replace(table, values=values)
    model, _ = fit_model(few, labels, name='m')  # six values for five estimates
    assert np.isfinite(model.regression.squares).all()
    two = RowLabels(*(v[labels.sites != 'C'] for v in vars(labels).values()))
    rows = np.flatnonzero(labels.sites != 'C')
    with pytest.raises(UsageError, match='f3 has 4 values; expected more than 4, the number'):
        fit_model(few.rows(rows), two, name='m')


@pytest.mark.parametrize('factor', [1000.0, 1e-3, 1e6])
def test_other_units_at_a_site(table, labels, factor):
    values = table.values.copy()
    values[np.ix_(labels.sites == 'B', [0, 4])] *= factor
    with pytest.raises(UsageError) as error:
        fit_model(replace(table, values=values), labels, name='m')
    assert 'f0, f4 have values at site ' in str(error.value)
    assert f'{max(factor, 1 / factor):,.0f} times' in str(error.value)
    assert 'at site B' in str(error.value) and 'one unit in each column' in str(error.value)


@pytest.mark.parametrize(('factor', 'than'), [(1000.0, 'larger'), (1e-3, 'smaller')])
def test_other_units_of_some_rows(table, labels, model, factor, than):
    """Of one site or several, so that no site is the odd one."""
    values = table.values.copy()
    values[np.ix_([3, 50], [0, 4, 5, 6, 7])] *= factor
    mixed = replace(table, values=values)
    line = (
        f'{", ".join(table.names[i] for i in (3, 50))} have values about 1,000 times {than} than'
    )
    with pytest.raises(UsageError, match=line):
        fit_model(mixed, labels, name='m')
    with pytest.raises(UsageError, match=line):
        model.harmonized(mixed, labels)
    values[np.ix_([3, 50], [0])] /= factor
    fit_model(mixed, labels, name='m')  # four features may be odd for another reason


def test_a_failed_segmentation_is_in_no_other_unit(labels):
    """Its volumes are far too small, and not by one factor; the anatomy guard marks it."""
    values = with_sites(truth_of(labels, 100), labels)
    values[3] *= np.random.default_rng(0).lognormal(-np.log(1000), 2, 100)
    fit_model(table_of(values, labels), labels, name='m')


def test_a_row_of_few_lesions_is_in_no_other_unit(labels):
    """In features that differ between people by orders of magnitude, all of them at once."""
    rng = np.random.default_rng(9)
    burden = rng.normal(7, 2, (len(labels.sites), 1))
    values = np.exp(burden + rng.normal(0, 0.3, (len(labels.sites), 8)))
    values[3] = np.median(values, axis=0) / 1000
    fit_model(table_of(values, labels), labels, name='m')


@pytest.mark.parametrize('kind', ['correlated', 'below 0', 'missing'])
def test_no_unit_is_told_of_features_with_values_below_zero(table, labels, model, kind):
    """A value near 0 is as usual there as any other, in all features that go together."""
    rng = np.random.default_rng(0)
    if kind == 'correlated':
        common = rng.normal(size=(len(labels.sites), 1))
        common[3] = np.median(common[common > 0]) / 1000
        values = common * rng.uniform(0.9, 1.1, (len(labels.sites), 8))
        values = table_of(values + 1e-9, labels)
    else:
        values = replace(
            table, values=-table.values if kind == 'below 0' else table.values * np.nan
        )
    check_units_of_rows(values)


def test_other_units_than_those_of_the_model(table, labels, model):
    values = table.values.copy()
    values[labels.sites == 'B', 0] *= 1000
    with pytest.raises(UsageError, match='f0 has values at site B about 1,000 times larger'):
        model.harmonized(replace(table, values=values), labels)
    values[labels.sites == 'B', 0] /= 1e6
    with pytest.raises(UsageError, match='f0 has values at site B about 1,000 times smaller'):
        model.harmonized(replace(table, values=values), labels)


def test_a_small_value_of_a_skewed_feature_is_in_no_other_unit(labels):
    """Lesions of 8 cubic millimeters, where the mean is thousands."""
    rng = np.random.default_rng(9)
    values = np.exp(rng.normal(7, 2, (len(labels.sites), 3)))
    table = table_of(values, labels)
    model, _ = fit_model(table, labels, name='m')
    first = np.array([0])
    mean = model.regression.intercepts[0, 0]
    small = replace(table.rows(first), values=np.full((1, 3), mean / 1000))
    model.harmonized(small, labels.rows(first))


@pytest.mark.parametrize('scale', [0.1, 3.0, 40.0])
def test_site_effects_are_not_taken_for_units(table, labels, scale):
    values = table.values.copy()
    values[labels.sites == 'B'] *= scale
    fit_model(replace(table, values=values), labels, name='m')
    centered = replace(table, values=table.values - 50)  # z-scores have medians near 0
    fit_model(centered, labels, name='m')


def test_what_a_model_is_not_applied_to(table, labels, model):
    with pytest.raises(UsageError, match="--target-site 'Z' is no site .* it knows A, B, C"):
        model.harmonized(table, labels, 'Z')
    moved = replace(labels, sites=np.where(labels.sites == 'B', 'New', labels.sites))
    with pytest.raises(UsageError, match='site New is unknown .* fit again with it .train., or'):
        model.harmonized(table, moved)
    fewer = table_of(table.values[:, 1:], labels, list(table.features[1:]))
    with pytest.raises(UsageError, match='columns f0 are missing; the model'):
        model.harmonized(fewer, labels)
    names = [*table.features[1:], 'new']
    with pytest.raises(UsageError, match='columns f0 are missing'):
        model.harmonized(table_of(table.values, labels, names), labels)
    more = table_of(np.column_stack([table.values, table.values[:, 0]]), labels,
                    [*table.features, 'new'])  # fmt: skip
    with pytest.raises(UsageError, match='columns new are not known; the model'):
        model.harmonized(more, labels)
