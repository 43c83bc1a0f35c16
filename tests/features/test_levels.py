"""The three levels on a table, by the command line."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddae_app.bids.dataset import read_tsv
from ddae_app.bids.layout import Layout
from ddae_app.bids.validation import run_validator
from ddae_app.cli.main import main
from ddae_app.features.checks import same_values
from ddae_app.features.fit import fit_model
from ddae_app.features.model import FeatureModel
from ddae_app.features.table import read_feature_table
from ddae_app.files import digest_of
from ddae_app.levels.features import outputs
from ddae_app.levels.features.dataset import datasets
from ddae_app.levels.features.harmonize import _other_people
from ddae_app.levels.features.outputs import covariates_in_words
from ddae_app.levels.features.page import methods_text, model_facts, sentence, site_rows
from ddae_app.levels.features.used import UsedModel
from ddae_app.settings import Settings
from tests.features.commands import logged, refused, run
from tests.features.simulated import (
    labels_of,
    table_of,
    truth_of,
    with_sites,
    write_dataset,
    write_table,
)

CONFIG = Path(__file__).parents[2] / 'bids_validator_config' / 'derivatives.json'


@pytest.fixture(scope='module')
def bids_dir(labels, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('tables') / 'bids', labels)


@pytest.fixture(scope='module')
def table(values, labels, tmp_path_factory):
    return write_table(tmp_path_factory.mktemp('elsewhere') / 'aparc.csv', values, labels)


@pytest.fixture(scope='module')
def out(bids_dir, table, tmp_path_factory):
    """All three levels, with target B."""
    out = tmp_path_factory.mktemp('run') / 'out'
    before = sorted(bids_dir.rglob('*'))
    assert run(bids_dir, out, 'train', table) == 0
    assert run(bids_dir, out, 'participant', table, '--target-site', 'B') == 0
    flags = ('--target-site', 'B', '--method', 'combat', '--model-name', 'aparc')
    assert run(bids_dir, out, 'group', table, *flags) == 0
    assert sorted(bids_dir.rglob('*')) == before
    return out


def test_the_harmonized_table(out, table, labels, values):
    path = out / 'features' / 'aparc_desc-harmonized.tsv'
    written, source = read_feature_table(path), read_feature_table(table)
    assert (written.header, written.participants) == (source.header, source.participants)
    assert (np.isnan(written.values) == np.isnan(source.values)).all()
    assert path.read_text().splitlines()[4].split('\t')[3] == 'n/a'
    at_b = labels.sites == 'B'
    assert [written.cells[i] for i in np.flatnonzero(at_b)] == [
        source.cells[i] for i in np.flatnonzero(at_b)
    ]
    model = FeatureModel.load(out / 'models' / 'aparc_features.safetensors')
    expected = model.harmonized(source, labels, 'B')
    assert np.allclose(written.values, expected, rtol=1e-11, equal_nan=True)


def test_the_sidecar(out, table):
    said = json.loads((out / 'features' / 'aparc_desc-harmonized.json').read_text())
    assert said['GeneratedBy'][0]['Name'] == 'ddae-app'
    assert said['Sources'] == ['bids:features:aparc.csv', 'bids:raw:participants.tsv']
    assert (said['HarmonizationMethod'], said['TargetSite']) == ('ComBat', 'B')
    links = json.loads((out / 'dataset_description.json').read_text())['DatasetLinks']
    assert (out / links['features']).resolve() == table.parent.resolve()
    assert said['ModelSHA256'] == digest_of(out / 'models' / 'aparc_features.safetensors')
    assert said['f0']['Description'] == 'Column f0 of aparc.csv; without its site effects'
    assert set(read_feature_table(table).header) <= set(said)


@pytest.mark.parametrize('place', ['.', 'bids', 'bids/code', 'out', 'elsewhere'])
def test_a_file_is_one_of_the_innermost_dataset(tmp_path, place):
    table = tmp_path / place / 'aparc.csv'
    settings = Settings(tmp_path / 'bids', tmp_path / 'out', 'participant')
    settings = replace(settings, table=replace(settings.table, features=table.resolve()))
    layout, links = Layout(settings.output_dir), datasets(settings)
    assert layout.uri(settings.bids_dir / 'participants.tsv', links) == 'bids:raw:participants.tsv'
    own = {'bids': 'raw:', 'bids/code': 'raw:code/', 'out': ':'}.get(place, 'features:')
    assert layout.uri(table.resolve(), links) == f'bids:{own}aparc.csv'


def test_the_pages(out):
    page = (out / 'aparc_features.html').read_text()
    assert 'Table aparc, harmonized' in page and 'site B, whose own values stay' in page
    assert 'data:image/png;base64,' in page and 'Johnson et al., 2007' in page
    assert '<td class="site">A</td><td>24</td><td>24</td>' in page
    group = (out / 'group_aparc_features.html').read_text()
    assert 'combat, cross-fitted' in group and 'site_linear' in group
    card = (out / 'models' / 'aparc_features_MODEL.md').read_text()
    assert '# aparc_features' in card and '| A | 24 | 24 |' in card
    assert 'in the same units, of these sites.' in card


def test_the_measures(out):
    rows = read_tsv(out / 'group_aparc_features.tsv')
    value = {(row['table'], row['measure']): float(row['value']) for row in rows}
    assert value['source', 'site_linear'] > 0.8
    assert value['combat, cross-fitted', 'site_linear'] < 0.6
    assert value['harmonized', 'site_variance'] < 0.02 < value['source', 'site_variance']
    assert value['combat, cross-fitted', 'age_mae'] < 15
    assert ('combat, cross-fitted', 'site_all') not in value
    assert value['source', 'variance_ratio'] == 1


def test_the_output_is_a_derivative_dataset(out):
    report = run_validator(out, CONFIG, 'derivative')
    # Of images there are none, and no folders of people either.
    assert {issue['code'] for issue in report['issues']['issues']} <= {'SUBJECT_FOLDERS'}
    description = json.loads((out / 'dataset_description.json').read_text())
    assert description['Name'] == 'ddae-app: harmonized tables of features'


def test_models_of_tables_are_not_taken_for_images(out):
    assert Layout(out).models() == []


def test_a_run_without_a_model_fits_one_once(bids_dir, table, labels, values, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run(bids_dir, out, 'participant', table) == 0
    said = logged(capsys)
    assert 'fitting ComBat to this table first, once' in said
    first = (out / 'features' / 'aparc_desc-harmonized.tsv').read_bytes()
    model = out / 'models' / 'aparc_features.safetensors'
    at = model.stat().st_mtime_ns
    assert run(bids_dir, out, 'participant', table) == 0
    assert 'fitting ComBat' not in logged(capsys) and model.stat().st_mtime_ns == at
    assert (out / 'features' / 'aparc_desc-harmonized.tsv').read_bytes() == first
    target = json.loads((out / 'features' / 'aparc_desc-harmonized.json').read_text())
    assert target['TargetSite'] == 'n/a' and target['Target'].startswith('the mean of all sites')
    fewer = write_table(tmp_path / 'aparc.csv', values[1:], labels.rows(np.arange(1, len(values))))
    assert run(bids_dir, out, 'participant', fewer) == 0
    said = logged(capsys)
    assert 'site A has 23 people, and 24 when the model was fitted' in said
    assert 'no row in aparc.csv of sub-000, whom participants.tsv knows' in said
    other = tmp_path / 'next' / 'out'
    assert run(bids_dir, other, 'participant', fewer, '--model', str(model)) == 0
    assert not (other / 'models').exists()
    lines = [(o / 'features' / 'aparc_desc-harmonized.tsv').read_text() for o in (out, other)]
    assert lines[0] == lines[1]


def test_a_page_says_of_people_what_it_says_where_it_fits(labels, values, tmp_path, capsys):
    at_a = labels.sites == 'A'
    ages = np.where(np.arange(len(at_a)) < 3, np.nan, labels.ages)
    people = replace(labels, ages=ages, sexes=np.where(at_a, 'F', labels.sexes))
    bids, out = write_dataset(tmp_path / 'bids', people), tmp_path / 'out'
    table, line = write_table(tmp_path / 't.tsv', values, labels), '3 of 72 rows have no known age'
    assert run(bids, out, 'train', table, '--allow-confounding') == 0
    logged(capsys)
    assert run(bids, out, 'participant', table) == 0
    said, page = logged(capsys), (out / 't_features.html').read_text()
    assert line in said and 'site A is confounded with sex' in said
    assert line in page and 'Site A is confounded with sex' in page
    fewer = write_table(tmp_path / 't.tsv', values[:40], labels.rows(np.arange(40)))
    assert run(bids, out, 'participant', fewer) == 0
    assert '3 of 40 rows have no known age' in (out / 't_features.html').read_text()


def test_the_targets_are_listed(bids_dir, table, out, labels, values, tmp_path, capsys):
    def listed(there: Path, asked: Path, *flags: str) -> list[list[str]]:
        assert run(bids_dir, there, 'participant', asked, '--target-site', 'help', *flags) == 0
        return [line.split('\t') for line in capsys.readouterr().out.splitlines()]

    capsys.readouterr()
    counts = {site: int((labels.sites == site).sum()) for site in labels.site_names}
    (file := tmp_path / 'file').touch()
    lines = [[site, f'this table, {n} rows'] for site, n in counts.items()]
    assert listed(file / 'out', table) == lines  # a folder that cannot be written to
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    assert listed(out, table) == lines
    keep = np.flatnonzero(labels.sites != 'B')
    fewer = write_table(tmp_path / 'aparc.csv', values[keep], labels.rows(keep))
    model = out / 'models' / 'aparc_features.safetensors'
    of_model = ['B', f'aparc_features ({model}), {counts["B"]} people']
    expected = [*(line for line in lines if line[0] != 'B'), of_model]
    assert listed(out, fewer) == expected
    assert listed(tmp_path / 'none', fewer, '--model', str(model)) == expected
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before
    assert not (tmp_path / 'none').exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['aparc.csv', 'file']


def test_a_model_that_was_fitted_to_other_values(bids_dir, labels, values, tmp_path, capsys):
    out, path = tmp_path / 'out', write_table(tmp_path / 't.csv', values, labels)
    said = (
        'the model t_features was fitted to other values of 72 rows (features, site, age or sex)'
    )
    assert run(bids_dir, out, 'participant', path) == 0
    turned = np.arange(len(values))[::-1]
    write_table(path, values[turned], labels.rows(turned))
    assert run(bids_dir, out, 'participant', path) == 0
    assert said not in logged(capsys)
    write_table(path, values + 1, labels)
    assert run(bids_dir, out, 'participant', path) == 0
    assert (
        f'{said}, or to another table of the name t.csv: it stays as it is; run train to fit it '
        'again'
    ) in logged(capsys)
    assert said[1:] in (out / 't_features.html').read_text()
    flags = '--model', str(out / 'models' / 't_features.safetensors')
    assert run(bids_dir, out, 'participant', path, *flags) == 0
    assert said not in logged(capsys)
    assert run(bids_dir, out, 'train', path) == 0
    assert run(bids_dir, out, 'participant', path) == 0
    assert said not in logged(capsys)
    older = write_dataset(tmp_path / 'bids', replace(labels, ages=labels.ages - 1))
    assert run(older, out, 'participant', path) == 0
    assert said in logged(capsys)


def test_tables_of_any_script_have_outputs_of_their_own(bids_dir, labels, values, tmp_path,
                                                        capsys):  # fmt: skip
    out = tmp_path / 'out'
    for name in ('厚さ', '体積', '(b) é'):
        path = write_table(tmp_path / f'{name}.tsv', values, labels)
        assert run(bids_dir, out, 'participant', path) == 0
    assert {p.name for p in out.glob('*_features.html')} == {
        '厚さ_features.html', '体積_features.html', 'b--é_features.html',
    }  # fmt: skip
    assert {p.name for p in (out / 'models').glob('[!.]*.safetensors')} == {
        '厚さ_features.safetensors', '体積_features.safetensors', 'b--é_features.safetensors',
    }  # fmt: skip
    report = run_validator(out, CONFIG, 'derivative')
    assert {issue['code'] for issue in report['issues']['issues']} <= {'SUBJECT_FOLDERS'}
    path = write_table(tmp_path / '(-).tsv', values, labels)
    line = refused(capsys, 2, bids_dir, out, 'participant', path)
    assert 'a name without a letter or a digit, by which outputs are named; rename' in line


def test_sessions_have_ages_of_their_own(tmp_path):
    labels = labels_of(12, sessions=2)
    values = with_sites(truth_of(labels, own=2.0), labels)
    bids_dir = write_dataset(tmp_path / 'bids', labels)
    (bids_dir / 'derivatives').mkdir()
    table = write_table(bids_dir / 'derivatives' / 'aparc.tsv', values, labels)
    out = tmp_path / 'out'
    assert run(bids_dir, out, 'participant', table, '--age-spline') == 0
    model = FeatureModel.load(out / 'models' / 'aparc_features.safetensors')
    assert model.info.longitudinal and len(model.info.design.knots) == 4
    assert model.info.ages == pytest.approx((labels.ages.min(), labels.ages.max()))
    written = read_feature_table(out / 'features' / 'aparc_desc-harmonized.tsv')
    assert written.sessions[:2] == ('1', '2') and written.participants[:2] == ('000', '000')
    said = json.loads((out / 'features' / 'aparc_desc-harmonized.json').read_text())
    assert said['Sources'][0] == 'bids:raw:derivatives/aparc.tsv'
    assert said['RandomInterceptOfPeople'] and said['AgeSpline']
    page = (out / 'aparc_features.html').read_text()
    assert 'Beer et al., 2020' in page and 'Pomponio et al., 2020' in page


def test_shifts_are_told_in_standard_deviations_of_people():
    """Also by ComBat with intercepts of people, which computes in those of their sessions."""
    labels = labels_of(30, sessions=2)
    values = with_sites(truth_of(labels, own=3.0), labels)
    table = table_of(values, labels)
    model, _ = fit_model(table, labels, name='m')
    assert np.median(model.regression.ratio) > 4
    rows = site_rows(SimpleNamespace(table=table, labels=labels), model, model.effects())
    away = {site: values[labels.sites == site] - values.mean(axis=0) for site in 'ABC'}
    sd = np.sqrt(np.mean([value.var(axis=0) for value in away.values()], axis=0))
    for row in rows:
        expected = np.median(np.abs(away[row['site']].mean(axis=0)) / sd)
        assert abs(float(row['shift, SD']) - expected) < 0.15
    assert 'scales are of what the sessions' in model_facts(model, model.info.sites)['Sessions']


def test_what_is_refused_in_one_line(bids_dir, table, labels, values, tmp_path, capsys):
    out = tmp_path / 'out'
    line = refused(capsys, 2, bids_dir, out, 'train', tmp_path / 'x.tsv')
    assert 'no such file; expected a table' in line
    stranger = replace(labels, subjects=np.where(labels.subjects == '005', 'new', labels.subjects))
    path = write_table(tmp_path / 't.tsv', values, stranger)
    line = refused(capsys, 2, bids_dir, out, 'participant', path)
    assert 'sub-new is not in participants.tsv, which has to tell the site; add' in line
    short = replace(labels, subjects=np.char.lstrip(labels.subjects, '0'))
    path = write_table(tmp_path / 's.tsv', values[1:], short.rows(np.arange(1, len(values))))
    with_folders = write_dataset(tmp_path / 'bids', labels)
    for subject in labels.subjects:
        (with_folders / f'sub-{subject}').mkdir()
    line = refused(capsys, 2, with_folders, out, 'participant', path)
    assert 'participants.tsv (it has sub-001; were leading zeros lost?)' in line
    assert not (out / 'dataset_description.json').exists()
    flags = '--target-site', 'Z'
    line = refused(capsys, 2, bids_dir, out, 'participant', table, *flags)
    assert "--target-site 'Z' is no site of these rows, which are of A, B, C" in line
    assert not (out / 'features').exists() and not list(out.glob('models/*.safetensors'))


def test_a_damaged_json_beside_the_table_is_told_before_a_model_is_fitted(
    bids_dir, labels, values, tmp_path, capsys
):
    path, out = write_table(tmp_path / 't.tsv', values, labels), tmp_path / 'out'
    path.with_suffix('.json').write_text('{"f0": ')
    for level in ('train', 'participant'):
        assert 't.json: not readable as JSON' in refused(capsys, 16, bids_dir, out, level, path)
    assert not (out / 'models').exists()


def test_values_that_are_too_large_to_compute_with(bids_dir, labels, values, tmp_path, capsys):
    large, out = values.copy(), tmp_path / 'out'
    large[7, 5] = -1e206
    path = write_table(tmp_path / 't.tsv', large, labels)
    line = refused(capsys, 2, bids_dir, out, 'participant', path)
    assert 'f5 has values of up to 1e+206, too large to compute with; expected numbers of' in line
    assert not list(out.glob('models/[!.]*')) and not (out / 'features').exists()


@pytest.mark.parametrize('method', ['combat', 'ddae'])
def test_values_that_are_too_large_for_a_stored_model(
    out, bids_dir, table, labels, values, tmp_path, capsys, method
):
    model = out / 'models' / 'aparc_features.safetensors'
    if method == 'ddae':
        flags = '--method', 'ddae', '--model-name', 'ddae'
        assert run(bids_dir, tmp_path / 'ddae', 'train', table, *flags) == 0
        model = tmp_path / 'ddae' / 'models' / 'ddae_features.safetensors'
    large = values.copy()
    large[7, 5] = -1e206
    path = write_table(tmp_path / 't.tsv', large, labels)
    other = write_dataset(tmp_path / 'bids', replace(labels, sites=labels.sites + 'x'))
    logged(capsys)
    for bids in (bids_dir, other) if method == 'ddae' else (bids_dir,):
        line = refused(
            capsys, 2, bids, tmp_path / 'out', 'participant', path, '--model', str(model)
        )
        assert 'f5 has values of up to 1e+206, too large to compute with' in line
    assert not (tmp_path / 'out' / 'features').exists()


@pytest.mark.parametrize('level', ['train', 'participant'])
def test_tables_whose_outputs_would_have_the_same_names(
    bids_dir, labels, values, tmp_path, capsys, level
):
    out = tmp_path / 'out'
    first, second = (write_table(tmp_path / n, values, labels) for n in ('a b.tsv', 'a-b.tsv'))
    assert run(bids_dir, out, level, first) == run(bids_dir, out, level, first) == 0
    before = {path: path.read_bytes() for path in out.rglob('a-b*')}
    logged(capsys)
    for again in ('train', 'participant', 'group'):
        line = refused(capsys, 2, bids_dir, out, again, second)
        assert 'holds outputs of a b.tsv, and those of a-b.tsv would have the same names' in line
    assert {path: path.read_bytes() for path in out.rglob('a-b*')} == before
    # Where the model comes from elsewhere, the harmonized table alone says whose it is.
    (model,) = out.glob('models/*.safetensors')
    model = model.rename(tmp_path / 'moved.safetensors')
    assert run(bids_dir, out, 'participant', first, '--model', str(model)) == 0
    logged(capsys)
    line = refused(capsys, 2, bids_dir, out, 'participant', second, '--model', str(model))
    assert 'rename the table, or give another output folder' in line


def test_a_page_that_would_be_the_evaluation_of_another(
    bids_dir, labels, values, tmp_path, capsys
):
    first, second = (write_table(tmp_path / f'{n}.tsv', values, labels) for n in ('q', 'group_q'))
    for out, one, other in (('one', first, second), ('other', second, first)):
        assert run(bids_dir, tmp_path / out, 'participant', one) == 0
        logged(capsys)
        line = refused(capsys, 2, bids_dir, tmp_path / out, 'participant', other)
        assert f'holds outputs of {one.stem}, and those of {other.stem} would be mixed' in line
        assert run(bids_dir, tmp_path / out, 'participant', one) == 0


@pytest.mark.parametrize('inside', [True, False])
def test_tables_of_one_name_in_different_folders(labels, values, tmp_path, capsys, inside):
    """Of another table, both are named, and nothing is said of one that was copied or moved."""
    out, folders = tmp_path / 'out', [tmp_path / name for name in ('one', 'two')]
    datasets = [write_dataset(folder / 'bids', labels) for folder in folders]
    first, second = (
        write_table((bids if inside else folder) / 't.tsv', values, labels)
        for bids, folder in zip(datasets, folders, strict=True)
    )
    assert run(datasets[0], out, 'participant', first) == 0
    assert run(datasets[1], out, 'participant', second) == 0  # a copy
    assert run(datasets[0], out, 'participant', first) == 0
    write_table(first, values + 2, labels)
    assert run(datasets[0], out, 'participant', first) == 0
    assert 'another table of that name' not in logged(capsys)
    line = f'he outputs of {second} replace those of {first.resolve()}, another table of that name'
    assert run(datasets[1], out, 'participant', second) == 0
    assert line in logged(capsys) and line in (out / 't_features.html').read_text()
    assert run(datasets[1], out, 'participant', second) == 0
    second.rename(first)
    assert run(datasets[0], out, 'participant', first) == 0  # moved
    assert 'another table of that name' not in logged(capsys)


def test_a_model_of_a_table_of_the_same_name_elsewhere(bids_dir, labels, values, tmp_path, capsys):
    """A model knows the name of its table alone; what is said does not take one for the other."""
    out, names = tmp_path / 'out', [tmp_path / name / 't.tsv' for name in ('one', 'two')]
    for path, content in zip(names, (values, values + 1), strict=True):
        path.parent.mkdir()
        write_table(path, content, labels)
    page = out / 't_features.html'
    assert run(bids_dir, out, 'train', names[0]) == 0
    for path, fitted in zip(
        names, ('these rows', 'other rows or values than just these'), strict=True
    ):
        assert run(bids_dir, out, 'participant', path) == 0
        assert re.findall('fitted to ([a-z]+ rows[a-z ]*)<', page.read_text()) == [fitted]
    assert 'or to another table of the name t.tsv' in logged(capsys)
    write_table(names[1], values[:, 1:], labels)
    line = refused(capsys, 2, bids_dir, out, 'participant', names[1])
    assert re.search(r"the model 't_features' was fitted to another t\.tsv, of tables: add", line)


def test_a_model_of_another_table_by_its_name(bids_dir, labels, values, tmp_path, capsys):
    out, flags = tmp_path / 'out', ('--model-name', 'm')
    one, two = (write_table(tmp_path / f'{name}.tsv', values + 1, labels) for name in ('a', 'b'))
    assert run(bids_dir, out, 'train', one, *flags) == 0
    assert run(bids_dir, out, 'participant', two, *flags) == 0
    assert 'was fitted to' not in logged(capsys)  # a copy
    write_table(two, values, labels)
    assert run(bids_dir, out, 'participant', two, *flags) == 0
    line = 'the model m_features was fitted to a.tsv, and not to b.tsv: it stays as it is; run'
    assert line in logged(capsys)


def test_group_before_participant_and_after_a_change(bids_dir, table, values, labels, tmp_path,
                                                     capsys):  # fmt: skip
    out, own = tmp_path / 'out', write_table(tmp_path / 't.tsv', values, labels)
    assert 'run the participant level first' in refused(capsys, 18, bids_dir, out, 'group', own)
    assert run(bids_dir, out, 'participant', own) == 0
    harmonized = out / 'features' / 't_desc-harmonized.tsv'
    header, *rows = harmonized.read_text().splitlines()
    cut = [line.rpartition('\t')[0] for line in (header, *rows)]
    for lines in ([header, *reversed(rows)], [header, *rows[1:]], cut):
        harmonized.write_text('\n'.join(lines) + '\n')
        line = refused(capsys, 2, bids_dir, out, 'group', own)
        assert 'its rows and columns are not those of t.tsv in their order; run the part' in line
    write_table(own, values + 1, labels)
    line = refused(capsys, 2, bids_dir, out, 'group', own)
    assert 'is another file than t_desc-harmonized.tsv was made from' in line


def test_a_run_that_is_stopped_leaves_no_table_of_another_one(
    out, bids_dir, table, tmp_path, capsys, monkeypatch
):
    """The sidecar of the one would be beside the table of the other."""
    copy = shutil.copytree(out, tmp_path / 'out')

    def full(path, _):
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))

    with monkeypatch.context() as patch:
        patch.setattr(outputs, 'write_atomically', full)
        assert run(bids_dir, copy, 'participant', table, '--target-site', 'C') == 1
    logged(capsys)
    line = refused(capsys, 18, bids_dir, copy, 'group', table)
    assert 'aparc_desc-harmonized.tsv is not there' in line


def test_group_after_a_change_of_what_is_said_of_people(out, bids_dir, table, labels, tmp_path,
                                                        capsys):  # fmt: skip
    copy, rest = shutil.copytree(out, tmp_path / 'out'), 'which harmonized these rows by what was'
    assert run(bids_dir, copy, 'group', table) == 0
    assert rest not in logged(capsys)
    first = np.arange(len(labels.sites)) == 0
    moved = replace(labels, sites=np.where(first, 'B', labels.sites))
    older = replace(labels, ages=labels.ages + first)
    for name, changed, told in (
        ('moved', moved, 'the site of sub-000'),
        ('older', older, 'age or sex of some rows'),
    ):
        bids = write_dataset(tmp_path / name, changed)
        assert run(bids, copy, 'group', table) == 0
        line = f'{told} changed after the participant level, {rest}'
        assert f'WARNING {line}' in logged(capsys)
        assert line[1:] in (copy / 'group_aparc_features.html').read_text()


def test_group_after_the_model_was_fitted_again(out, bids_dir, table, tmp_path, capsys):
    copy = shutil.copytree(out, tmp_path / 'out')
    line = 'aparc_features.safetensors is not the model that these values were harmonized with'
    assert run(bids_dir, copy, 'train', table, '--age-spline') == 0
    assert run(bids_dir, copy, 'group', table) == 0
    assert line in logged(capsys) and line in (copy / 'group_aparc_features.html').read_text()
    assert run(bids_dir, copy, 'participant', table) == 0
    assert run(bids_dir, copy, 'group', table) == 0
    assert line not in logged(capsys)


def test_group_of_a_model_of_other_people(out, bids_dir, table, labels, tmp_path, capsys):
    """Their sites add nothing, so that the site is still told in values of sites that do."""
    people = replace(labels, subjects=np.char.add('x', labels.subjects))
    others = write_dataset(tmp_path / 'bids', people)
    plain = write_table(tmp_path / 't.tsv', truth_of(labels), people)
    assert run(others, tmp_path / 'other', 'train', plain) == 0
    flags = '--model', str(tmp_path / 'other' / 'models' / 't_features.safetensors')
    here = tmp_path / 'out'
    assert run(bids_dir, here, 'participant', table, *flags) == 0
    logged(capsys)
    assert run(bids_dir, here, 'group', table) == 0
    said, page = logged(capsys), (here / 'group_aparc_features.html').read_text()
    rows = read_tsv(here / 'group_aparc_features.tsv')
    value = {(row['table'], row['measure']): float(row['value']) for row in rows}
    written = value['harmonized', 'site_linear']
    assert written > 0.8 > value['combat, cross-fitted', 'site_linear']
    headline = (
        'A model that was fitted to other rows than just these wrote values in which the site is '
        f'classified at {written:.2f}. With fits to halves of these people instead: in people whom'
    )
    assert headline in said and headline in page
    assert 'The model t_features was fitted to other rows than just these: ' in page
    assert 'fitted to other rows' not in (out / 'group_aparc_features.html').read_text()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--target-site', 'A'], '--target-site A: aparc was .*TargetSite of its JSON is B'),
        (['--method', 'ddae'], '--method ddae: .*HarmonizationMethod of its JSON is ComBat'),
        (['--age-spline'], '--age-spline: .*AgeSpline of its JSON is False.; leave the flag out'),
        (['--model-name', 'm'], '--model-name m: .*ModelName of its JSON is aparc_features'),
    ],
)
def test_group_with_flags_of_another_harmonization(bids_dir, table, out, capsys, flags, message):
    assert re.search(message, refused(capsys, 2, bids_dir, out, 'group', table, *flags))


def test_group_of_too_few_people_leaves_no_evaluation_of_others(out, bids_dir, values, labels,
                                                                tmp_path, capsys):  # fmt: skip
    copy = shutil.copytree(out, tmp_path / 'out')
    assert len(earlier := [*copy.glob('group_aparc_features.*')]) == 2
    rows = np.flatnonzero((labels.sites != 'B') | (np.cumsum(labels.sites == 'B') <= 4))
    path = write_table(tmp_path / 'aparc.csv', values[rows], labels.rows(rows))
    assert run(bids_dir, copy, 'participant', path) == 0
    line = refused(capsys, 2, bids_dir, copy, 'group', path)
    assert 'site B of 3 has 4 people; expected two sites or more' in line
    assert not any(file.exists() for file in earlier)
    assert (copy / 'features' / 'aparc_desc-harmonized.tsv').is_file()


def test_group_without_rows_of_the_target(out, bids_dir, values, labels, tmp_path, capsys):
    rows = np.flatnonzero(labels.sites != 'B')
    path = write_table(tmp_path / 'aparc.tsv', values[rows], labels.rows(rows))
    flags = '--model', str(out / 'models' / 'aparc_features.safetensors'), '--target-site', 'B'
    assert run(bids_dir, tmp_path / 'out', 'participant', path, *flags) == 0
    assert run(bids_dir, tmp_path / 'out', 'group', path) == 0
    assert 'no row is of site B, which all were brought to: what' in logged(capsys)
    page = (tmp_path / 'out' / 'group_aparc_features.html').read_text()
    assert 'what is cross-fitted is brought to the mean of all sites' in page


def test_sites_that_are_not_known(bids_dir, table, labels, tmp_path, capsys):
    text = (bids_dir / 'participants.tsv').read_text()
    other = write_dataset(tmp_path / 'bids', labels)
    (other / 'participants.tsv').write_text(text.replace('sub-003\tA', 'sub-003\tn/a'))
    line = refused(capsys, 2, other, tmp_path / 'out', 'train', table)
    assert 'the site of sub-003 is not known' in line and 'leave the rows out' in line
    (other / 'participants.tsv').write_text(text.replace('\tsite\t', '\tplace\t'))
    line = refused(capsys, 2, other, tmp_path / 'out', 'train', table)
    assert 'participants.tsv has no site column' in line
    assert run(other, tmp_path / 'out', 'train', table, '--site-column', 'place') == 0
    (other / 'participants.tsv').write_text(text.replace('sub-003\tA', 'sub-003\tNew'))
    line = refused(capsys, 2, other, tmp_path / 'out', 'participant', table)
    assert 'site New is unknown to the model' in line
    (other / 'participants.tsv').write_text(text.replace('sub-003\tA\t', 'sub-003\tA\told'))
    line = refused(capsys, 16, other, tmp_path / 'out', 'participant', table)
    assert 'expected an age such as' in line


@pytest.mark.parametrize('column', ['Age', 'sex', 'diagnosis', 'scanner'])
def test_what_is_of_people_is_no_feature(bids_dir, table, tmp_path, capsys, column):
    bids = shutil.copytree(bids_dir, tmp_path / 'bids')
    people = (bids / 'participants.tsv').read_text().splitlines()
    people = [f'{line}\t{"diagnosis" if i == 0 else 1}' for i, line in enumerate(people)]
    (bids / 'participants.tsv').write_text('\n'.join(people) + '\n')
    lines = table.read_text().splitlines()
    end = table.suffix.replace('.tsv', '\t').replace('.csv', ',')
    lines = [f'{line}{end}{column if i == 0 else 20 + i % 30}' for i, line in enumerate(lines)]
    (more := tmp_path / table.name).write_text('\n'.join(lines) + '\n')
    line = refused(capsys, 2, bids, tmp_path / 'out', 'participant', more)
    assert f'{column} is of the people and no feature; expected in participants.tsv' in line


@pytest.mark.parametrize(
    'flags',
    [
        ('--skull-strip', 'none'), ('--participant-label', '001'), ('--unseen-site', 'agnostic'),
        ('--preset', 'tiny'), ('--dry-run',), ('--biology', 'x'), ('-d', 'ddae-app=.'),
        ('--device', 'auto'), ('--hd-bet-weights', 'x'), ('--slices', 'all'), ('--keep-noise',),
    ],
)  # fmt: skip
def test_flags_of_images_are_refused_by_name(bids_dir, table, tmp_path, capsys, flags):
    line = refused(capsys, 2, bids_dir, tmp_path / 'out', 'participant', table, *flags)
    flag = '--derivatives' if flags[0] == '-d' else flags[0]
    assert f'{flag} means nothing with --features' in line
    assert not (tmp_path / 'out').exists()


def test_flags_that_need_a_table_or_its_method(bids_dir, table, tmp_path, capsys):
    line = refused(capsys, 2, bids_dir, tmp_path / 'out', 'train', table, '--method', 'cvae')
    assert '--method cvae is for images; --features takes combat or ddae' in line
    assert main([str(bids_dir), str(tmp_path / 'out'), 'train', '--age-spline']) == 2
    assert '--age-spline is for tables; name one with --features' in logged(capsys)
    line = refused(capsys, 2, bids_dir, tmp_path / 'out', 'group', table, '--model', 'x')
    assert '--model means nothing with --features at the group level' in line


def test_a_settings_file_repeats_arun(bids_dir, table, out, tmp_path, monkeypatch):
    logs = sorted((out / 'logs').iterdir())
    monkeypatch.setenv('DDAE_MODEL', str(tmp_path / 'of-images.safetensors'))
    level = 'analysis_level = "participant"'
    files = (log / 'settings.toml' for log in logs)
    config = next(file for file in files if level in file.read_text())
    again = tmp_path / 'out'
    arguments = [str(bids_dir), str(again), 'participant', '--config-file', str(config)]
    assert main([*arguments, '-w', str(tmp_path / 'work')]) == 0
    name = 'features/aparc_desc-harmonized.tsv'
    assert (again / name).read_bytes() == (out / name).read_bytes()


def test_models_that_do_not_fit_the_flags(bids_dir, table, out, tmp_path, capsys):
    model = out / 'models' / 'aparc_features.safetensors'
    flags = '--model', str(model), '--age-spline'
    line = refused(capsys, 2, bids_dir, tmp_path / 'out', 'participant', table, *flags)
    assert 'was fitted with a straight line of age; leave the flag out, or fit again' in line
    stray = tmp_path / 'out' / 'models' / 'aparc_features.safetensors'
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(model.read_bytes())
    line = refused(capsys, 2, bids_dir, tmp_path / 'out', 'train', table)
    assert 'is there without aparc_features_MODEL.md, so it comes from elsewhere' in line
    arguments = [str(bids_dir), str(tmp_path / 'other'), 'participant', '--model', str(model)]
    assert main([*arguments, '--target-site', 'B', '-w', str(tmp_path / 'work')]) == 2
    assert "safetensors, but not a ddae-app model (no 'ddae' metadata)" in logged(capsys)


def test_the_methods_text_is_written_for_papers(out):
    texts = list((out / 'logs').glob('*/CITATION.md'))
    assert len(texts) == 1 and '@johnson2007' in texts[0].read_text()


@pytest.mark.parametrize(
    ('change', 'covariates', 'text'),
    [
        ({}, ['age (straight line)', 'sex'], 'while age and sex were protected.'),
        ({'sexes': None}, ['age (straight line)'], 'while age was protected.'),
        ({'sexes': 'F'}, ['age (straight line)'], 'while age was protected.'),
        ({'sexes': 'M'}, ['age (straight line)'], 'while age was protected.'),
        ({'ages': np.nan}, ['sex'], 'while sex was protected.'),
        ({'ages': 30.0, 'sexes': None}, [], 'while no effect of age or sex, neither of which is'),
    ],
)
def test_what_is_not_known_was_not_protected(labels, values, change, covariates, text):
    for name, value in change.items():
        same = np.full(len(labels.sites), value, dtype=vars(labels)[name].dtype)
        labels = replace(labels, **{name: same})
    model, _ = fit_model(table_of(values, labels), labels, name='m')
    assert covariates_in_words(model.info) == covariates
    assert text in methods_text(UsedModel(Path('m'), model, 'sha'), None)
    protected = model_facts(model, model.info.sites)['Protected']
    assert protected == ', '.join(covariates) or protected.startswith('nothing, since')


def test_a_page_says_sentences(tmp_path):
    assert sentence('site A has 3 people') == 'Site A has 3 people.'
    assert sentence('participants.tsv has no row') == 'participants.tsv has no row.'


def test_what_was_harmonized_is_not_harmonized_again(bids_dir, out, tmp_path, capsys):
    path = out / 'features' / 'aparc_desc-harmonized.tsv'
    line = refused(capsys, 2, bids_dir, tmp_path / 'out', 'participant', path)
    assert 'aparc_desc-harmonized.tsv: harmonized already (ComBat from bids:features:' in line
    assert 'as aparc_desc-harmonized.json says; give the table that it was made from' in line
    path.with_suffix('.json').rename(path.with_suffix('.moved'))
    try:  # as of one that was copied alone, nobody knows
        assert run(bids_dir, tmp_path / 'out', 'participant', path) == 0
    finally:
        path.with_suffix('.moved').rename(path.with_suffix('.json'))


def test_copies_are_told(bids_dir, labels, values, tmp_path, capsys):
    twice = values.copy()
    twice[[5, 40]] = twice[7]
    table = write_table(tmp_path / 't.tsv', twice, labels)
    assert run(bids_dir, tmp_path / 'out', 'participant', table) == 0
    line = 'sub-005, sub-007, sub-040 have the same values in all 12 features, so that'
    assert line in logged(capsys)
    assert line in (tmp_path / 'out' / 't_features.html').read_text()


def test_rows_that_may_agree_by_chance_are_no_copies(labels, values):
    """As of people without lesions, and of ratings from 0 to 3."""
    rng = np.random.default_rng(0)
    assert not same_values(table_of(np.zeros_like(values), labels))
    assert not same_values(table_of(rng.integers(0, 4, (len(values), 2)).repeat(4, 1), labels))


def test_other_people_of_a_model_that_measured_a_site():
    """Those of a site that was measured in these rows are none of the model."""
    labels = labels_of(30)
    info = SimpleNamespace(name='m', people=(30, 20, 30))
    used = SimpleNamespace(model=SimpleNamespace(info=info), fitted_sites=('A', 'B'))
    here = labels.rows(np.flatnonzero((labels.sites != 'A') | (labels.persons < 2)))
    lines = _other_people(used, here, 'remedy')
    assert lines == [
        'site A has 2 people, and 30 when the model was fitted: remedy',
        'site B has 30 people, and 20 when the model was fitted: remedy',
    ]


def test_group_says_what_a_half_cannot_scale(bids_dir, labels, values, tmp_path, capsys):
    """At one site, one person has another value than 0, so that in one half nobody has."""
    sparse = np.abs(values)
    of_site = np.flatnonzero(labels.sites == 'B')
    sparse[of_site, 3] = 0
    sparse[of_site[0], 3] = 5
    table, out = write_table(tmp_path / 't.tsv', sparse, labels), tmp_path / 'out'
    assert run(bids_dir, out, 'participant', table) == 0
    assert 'stay unchanged' not in logged(capsys)
    assert run(bids_dir, out, 'group', table) == 0
    line = 'in a half of the people, f3 cannot be scaled at each site, so that what is cross-'
    assert line in logged(capsys)
    assert line[1:] in (out / 'group_t_features.html').read_text()


def test_group_names_features_that_stay_and_tell_the_site(
    bids_dir, labels, values, tmp_path, capsys
):
    """One is 0 at a site, and one is the same in all people, which tells nothing."""
    values = values.copy()
    values[labels.sites == 'B', 3] = 0
    values[:, 4] = 7
    table, out = write_table(tmp_path / 't.tsv', values, labels), tmp_path / 'out'
    assert run(bids_dir, out, 'participant', table) == 0
    assert run(bids_dir, out, 'group', table) == 0
    line = 'left unchanged, since nothing in them could be scaled: f3; probes see them like all'
    assert line in logged(capsys) and line[1:] in (out / 'group_t_features.html').read_text()


def test_group_of_a_feature_that_few_have(bids_dir, labels, values, tmp_path, capsys):
    """At one site, two people have the value, so that in a half one has it at most."""
    values = values.copy()
    values[np.flatnonzero(labels.sites == 'B')[2:], 3] = np.nan
    table, out = write_table(tmp_path / 't.tsv', values, labels), tmp_path / 'out'
    assert run(bids_dir, out, 'participant', table) == 0
    assert run(bids_dir, out, 'group', table) == 0
    assert 'in a half of the people, f3 cannot be scaled at each site' in logged(capsys)


def test_group_says_where_a_half_has_too_few_sessions(tmp_path, capsys):
    """Fifteen people have a second session, and so seven or eight of each half."""
    labels = labels_of(10, sessions=2)
    row = np.arange(len(labels.sites))
    few = np.flatnonzero((row % 2 == 0) | (row % 4 == 1))
    values = with_sites(truth_of(labels, own=2), labels)[few]
    labels, line = labels.rows(few), 'half of the people have fewer than 10 further sessions, so'
    bids, out = write_dataset(tmp_path / 'bids', labels), tmp_path / 'out'
    table = write_table(tmp_path / 't.tsv', values, labels)
    assert run(bids, out, 'participant', table) == 0
    assert run(bids, out, 'group', table) == 0
    assert line in logged(capsys) and line[1:] in (out / 'group_t_features.html').read_text()


def test_doubtful_results_are_told(bids_dir, labels, tmp_path, capsys):
    """Values near zero, which ComBat makes negative, and ages beyond those of the model."""
    values = np.abs(with_sites(truth_of(labels), labels) - 50)
    path = write_table(tmp_path / 't.tsv', values, labels)
    out = tmp_path / 'out'
    assert run(bids_dir, out, 'participant', path, '--target-site', 'A') == 0
    assert re.search(r'[1-9]\d* negative values in columns f\d+, f\d+.*, where', logged(capsys))
    older = replace(labels, ages=labels.ages + 15)
    other = write_dataset(tmp_path / 'bids', older)
    assert run(other, out, 'participant', path) == 0
    assert 'rows are of ages beyond' in logged(capsys)
