"""The anatomy guard of features: right values, who is marked, and what is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.feature_guard import PLANTS, cortex
from benchmarks.surfaces import simulate
from benchmarks.surfaces import write as write_freesurfer
from ddae_app.bids.dataset import read_tsv
from ddae_app.features import guard
from ddae_app.features.fit import fit_model
from ddae_app.features.guard import LIMITS, MEASURES, AnatomyCheck, check_anatomy, unexplained
from ddae_app.features.model import FeatureModel
from tests.features.commands import logged, run
from tests.features.simulated import (
    labels_of,
    table_of,
    truth_of,
    with_sites,
    write_dataset,
    write_table,
)

NAMES = ['participant_id', 'source_site', *MEASURES]


pytestmark = pytest.mark.usefixtures('short_training')


def _marked(model: FeatureModel, table, labels, harmonized: np.ndarray) -> list[int]:
    found = check_anatomy(model, table, labels, harmonized)
    return [i for i in range(len(harmonized)) if found.row(i)['anatomy_flag'] != 'none']


Z = np.array([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0])[:, None]
"""Deviations of six people in one feature."""


def test_what_one_line_explains_is_nothing():
    left = unexplained(0.3 - 0.2 * Z, [Z], np.zeros(6))
    assert np.abs(left).max() < 0.01


@pytest.mark.parametrize('who', range(6))
def test_one_who_changed_otherwise_does_not_bend_the_line(who):
    change = 0.3 - 0.2 * Z
    change[who] += 3
    left = unexplained(change, [Z], np.zeros(6))
    assert left[who, 0] == pytest.approx(3, abs=0.3)
    assert np.abs(np.delete(left, who)).max() < 0.1


def test_each_site_has_a_line_of_its_own():
    change = np.concatenate([0.3 - 0.2 * Z, -1 + 0.4 * Z])
    z = np.concatenate([Z, Z])
    assert np.abs(unexplained(change, [z], np.repeat([0, 1], 6))).max() < 0.01
    assert np.abs(unexplained(change, [z], np.zeros(12))).max() > 0.5


def test_it_is_never_more_than_what_changed():
    change = np.full((6, 1), -2.0)
    change[2], change[4] = 0, 0.5
    left = unexplained(change, [Z], np.zeros(6))[:, 0]
    assert left[2] == 0 and 0 < left[4] <= 0.5


def test_what_is_missing_and_sites_of_few_rows():
    change, z = np.tile(0.3 - 0.2 * Z, 3), np.tile(Z, 3)
    change[0, 1] = z[0, 1] = np.nan
    change[:2, 2] = z[:2, 2] = np.nan
    change[3] = 0
    left = unexplained(change, [z], np.zeros(6))
    assert np.isnan(left[0, 1]) and not np.isnan(left[1:, 1]).any()
    # Four rows are too few, unless nothing changed.
    assert np.flatnonzero(~np.isnan(left[:, 2])).tolist() == [3] and left[3, 2] == 0


def test_the_standard_deviation_of_the_others():
    r = np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 6.0])
    z = (r / np.sqrt(np.square(r).mean()))[:, None]
    assert z.max() < np.sqrt(7)
    # Six squares of the others make up the variance, of which seven rows are the number.
    assert guard._of_others(z, np.array([7.0]))[-1, 0] == pytest.approx(6 / np.sqrt(6 / 7))


def test_the_measures_of_a_row():
    away = np.array([[3.0, -4.0, np.nan, 0.0], [0.3, 0.0, 0.0, -0.4], [1.0, 1.0, 1.0, 7.0]])
    left = np.array([[0.0, 2.0, np.nan, -1.0], [0.6, -0.6, 0.6, 0.6], [np.nan] * 4])
    found = AnatomyCheck(('a', 'b', 'c', 'd'), away, left, np.array([1.0, 0.6, 2.0]))
    first, second, third = (found.row(i) for i in range(3))
    assert list(first) == list(MEASURES)
    assert first['source_deviation'] == pytest.approx(np.sqrt(25 / 3), abs=1e-3)
    assert (first['source_farthest'], first['source_place']) == (4, 'b')
    assert first['anatomy_share'] == pytest.approx(np.sqrt(5 / 25), abs=1e-3)
    assert (first['anatomy_unexplained'], first['anatomy_place']) == (2, 'b')
    assert first['anatomy_flag'] == 'b changed by +2.0 SD in a way that the site does not explain'
    # A person like the average is compared with one standard deviation.
    assert second['anatomy_share'] == pytest.approx(0.6)
    assert second['anatomy_flag'] == (
        'over all features, 60% of what sets the person apart changed in a way that the site '
        'does not explain'
    )
    assert np.isnan(third['anatomy_unexplained']) and third['anatomy_place'] == ''
    assert third['anatomy_flag'] == (
        'before harmonization, d is +7.0 SD from what is expected; before harmonization, the '
        'features are 3.6 SD from what is expected'
    )
    unknown = replace(found, away=away[1:2], left=left[2:])
    assert unknown.row(0)['anatomy_flag'] == 'not checked'


def test_the_worst_place_is_one_in_two_hundred():
    away, left = np.zeros((2, 1, 400))
    left[0, :2] = 3.0, -4.0
    row = AnatomyCheck(tuple(map(str, range(400))), away, left, np.zeros(1)).row(0)
    assert row['anatomy_unexplained'] == pytest.approx(np.sqrt(12.5), abs=1e-3)
    assert row['anatomy_place'] == '1'


def test_the_limit_itself_is_not_marked():
    left = np.array([[1.5004, 0.0, 0.0, 0.0, 0.0], [1.5006, 0.0, 0.0, 0.0, 0.0]])
    found = AnatomyCheck(tuple('abcde'), np.ones((2, 5)), left, np.ones(2))
    rows = [found.row(i) for i in range(2)]
    assert [row['anatomy_unexplained'] for row in rows] == [1.5, 1.501]
    assert (
        rows[0]['anatomy_flag'].startswith('over all') and 'a changed' in rows[1]['anatomy_flag']
    )


@pytest.mark.parametrize('method', ['combat', 'ddae'])
def test_planted_changes_of_a_table(labels, values, method):
    table = table_of(values, labels)
    model, _ = fit_model(table, labels, name='t', method=method)
    harmonized = model.harmonized(table, labels)
    assert _marked(model, table, labels, harmonized) == []
    assert _marked(model, table, labels, model.harmonized(table, labels, 'B')) == []
    half, swapped, average = harmonized.copy(), harmonized.copy(), harmonized.copy()
    half[30, 4] /= 2
    assert _marked(model, table, labels, half) == [30]
    swapped[[5, 50]] = harmonized[[50, 5]]
    assert _marked(model, table, labels, swapped) == [5, 50]
    average[60] = np.nanmean(harmonized, axis=0)
    assert _marked(model, table, labels, average) == [60]


def test_several_sessions_are_no_change():
    labels = labels_of(12, sessions=2)
    values = with_sites(truth_of(labels, own=1.0), labels)
    table = table_of(values, labels)
    model, _ = fit_model(table, labels, name='t')
    assert model.info.longitudinal
    harmonized = model.harmonized(table, labels)
    left = check_anatomy(model, table, labels, harmonized).left
    assert np.abs(left).max() < 0.1
    harmonized[7] = harmonized[9]
    assert _marked(model, table, labels, harmonized) == [7]


def test_a_failed_segmentation_of_a_person_whom_the_model_was_fitted_to(labels, values):
    failed = values.copy()
    failed[10, :4] = 0
    table = table_of(failed, labels)
    model, _ = fit_model(table, labels, name='t')
    harmonized = model.harmonized(table, labels)
    assert _marked(model, table, labels, harmonized) == [10]
    row = check_anatomy(model, table, labels, harmonized).row(10)
    assert row['source_farthest'] > LIMITS['source_farthest'] and row['anatomy_unexplained'] < 0.1
    # By the standard deviation of all, nobody of 72 could be beyond 8.
    assert row['source_farthest'] > np.sqrt(len(values))


def test_maps_from_which_a_lesion_is_removed():
    case = cortex('fsaverage3', 642, 12)
    source, rng = case.table.values, np.random.default_rng(0)
    model, _ = fit_model(case.table, case.labels, name='maps')
    harmonized = model.harmonized(case.table, case.labels)
    assert _marked(model, case.table, case.labels, harmonized) == []
    ill = source.copy()
    ill[20] = PLANTS['a lesion of 1 mm that harmonization removes'](source, 20, case, rng)
    table = replace(case.table, values=ill)
    assert _marked(model, table, case.labels, harmonized) == [20]
    # One that stays has changed as all others.
    left = check_anatomy(model, table, case.labels, model.harmonized(table, case.labels)).left
    assert np.abs(left).max() < 0.1


@pytest.fixture(scope='module')
def failed_run(labels, values, tmp_path_factory):
    """A table in which the regions of sub-010 are wrong, at the participant level."""
    folder = tmp_path_factory.mktemp('guard')
    failed = values.copy()
    failed[10, :4] = 0
    bids = write_dataset(folder / 'bids', labels)
    table = write_table(folder / 'aparc.tsv', failed, labels)
    assert run(bids, folder / 'out', 'participant', table) == 0
    return bids, table, folder / 'out'


def test_its_table_and_the_page(failed_run):
    _, _, out = failed_run
    path = out / 'features' / 'aparc_desc-anatomy.tsv'
    rows = read_tsv(path)
    assert list(rows[0]) == NAMES and len(rows) == 72
    marked = [row for row in rows if row['anatomy_flag'] != 'none']
    assert [row['participant_id'] for row in marked] == ['sub-010']
    assert marked[0]['source_site'] == 'A' and float(marked[0]['source_farthest']) > 6
    said = json.loads(path.with_suffix('.json').read_text())
    assert said['Sources'] == ['bids::features/aparc_desc-harmonized.tsv']
    assert all(said[name]['Description'] for name in NAMES)
    page = (out / 'aparc_features.html').read_text()
    assert 'Anatomy guard: 1 of 72 rows is marked (sub-010)' in page
    assert '<td><code>sub-010</code></td><td class="site">A</td>' in page


def test_a_run_twice_gives_the_same(failed_run, capsys):
    bids, table, out = failed_run
    files = 'features/aparc_desc-anatomy.tsv', 'features/aparc_desc-anatomy.json'
    before = [(out / name).read_bytes() for name in (*files, 'aparc_features.html')]
    assert run(bids, out, 'participant', table) == 0
    after = [(out / name).read_bytes() for name in (*files, 'aparc_features.html')]
    assert before[:2] == after[:2]
    pages = [page.decode().split('Anatomy guard')[-1] for page in (before[2], after[2])]
    assert pages[0] == pages[1]
    lines = [line for line in logged(capsys).splitlines() if 'anatomy guard' in line]
    assert len(lines) == 1 and 'WARNING' in lines[0]
    assert '1 of 72 rows is marked (sub-010); aparc_desc-anatomy.tsv says why' in lines[0]


def test_the_group_page_tells_what_the_participant_level_found(failed_run, tmp_path, capsys):
    """Read and not computed; said where it is not there, warned of where it is not usable."""
    bids, table, first = failed_run
    out = shutil.copytree(first, tmp_path / 'out')
    path = out / 'features' / 'aparc_desc-anatomy.tsv'

    def part(level: str = 'INFO') -> str:
        capsys.readouterr()
        assert run(bids, out, 'group', table) == 0
        (line,) = [line for line in logged(capsys).splitlines() if 'Anatomy guard' in line]
        assert f' {level} Anatomy guard: ' in line
        return (out / 'group_aparc_features.html').read_text().partition('id="guard"')[2]

    text = part()
    assert 'Anatomy guard: 1 of 72 rows is marked (sub-010). Marked rows take part' in text
    assert '<td><code>sub-010</code></td><td class="site">A</td>' in text
    assert '<a href="features/aparc_desc-anatomy.tsv">' in text
    written = path.read_text()
    path.write_text(written.replace('sub-010\tA', 'sub-010\tQ'))
    assert '<td class="site">Q</td>' in part()
    for spoiled in (
        written.partition('sub-010')[0],
        *(written.replace(name, 'x', 1) for name in ('anatomy_share', 'source_site', 'sub-011')),
    ):
        path.write_text(spoiled)
        text = part('WARNING')
        assert 'aparc_desc-anatomy.tsv is damaged; run the participant level again' in text
    header, *rows = written.splitlines(keepends=True)  # sorted in a spreadsheet
    path.write_text(header + ''.join(reversed(rows)))
    assert 'Anatomy guard: 1 of 72 rows is marked (sub-010).' in part()
    path.write_text(written)
    said = json.loads(path.with_suffix('.json').read_text())
    path.with_suffix('.json').write_text(json.dumps(said | {'TargetSite': 'B'}))
    text = part('WARNING')
    assert 'is not of these rows and this harmonization' in text and 'href="features' not in text
    path.with_suffix('.json').write_text('{')
    assert 'is not of these rows and this harmonization' in part('WARNING')
    path.unlink()
    assert 'aparc_desc-anatomy.tsv is not there; run the participant level again' in part()
    assert not path.exists()


def test_a_clean_table_is_told_in_one_line(labels, values, tmp_path, capsys):
    bids = write_dataset(tmp_path / 'bids', labels)
    table = write_table(tmp_path / 't.tsv', values, labels)
    assert run(bids, tmp_path / 'out', 'participant', table) == 0
    lines = [line for line in logged(capsys).splitlines() if 'anatomy guard' in line]
    assert len(lines) == 1 and 'INFO anatomy guard: 0 of 72 rows are marked' in lines[0]
    page = (tmp_path / 'out' / 't_features.html').read_text()
    assert '<p>Anatomy guard: 0 of 72 rows are marked.</p>' in page
    assert run(bids, tmp_path / 'out', 'group', table) == 0
    page = (tmp_path / 'out' / 'group_t_features.html').read_text()
    assert '<p>Anatomy guard: 0 of 72 rows are marked.</p>' in page


def test_rows_of_a_site_that_are_too_few(failed_run, labels, values, tmp_path, capsys):
    _, _, out = failed_run
    few = np.r_[0:10, 24:28]
    bids = write_dataset(tmp_path / 'bids', labels)
    table = write_table(tmp_path / 'new.tsv', values[few], labels.rows(few))
    flags = '--model', str(out / 'models' / 'aparc_features.safetensors')
    assert run(bids, tmp_path / 'out', 'participant', table, *flags) == 0
    line = 'and 4 are not checked, of sites with fewer than 5 rows: B'
    assert f'0 of 14 rows are marked, {line}' in logged(capsys)
    assert line in (tmp_path / 'out' / 'new_features.html').read_text()
    rows = read_tsv(tmp_path / 'out' / 'features' / 'new_desc-anatomy.tsv')
    assert [row['anatomy_flag'] for row in rows] == ['none'] * 10 + ['not checked'] * 4
    assert rows[-1]['anatomy_unexplained'] == 'n/a' and rows[-1]['source_deviation'] != 'n/a'
    # Those of the target do not change, so that there is nothing to check.
    assert run(bids, tmp_path / 'b', 'participant', table, *flags, '--target-site', 'B') == 0
    assert 'not checked' not in (tmp_path / 'b' / 'features' / 'new_desc-anatomy.tsv').read_text()


def test_a_row_without_values(labels, values, tmp_path, capsys):
    empty = values.copy()
    empty[30] = np.nan
    bids = write_dataset(tmp_path / 'bids', labels)
    table = write_table(tmp_path / 't.tsv', empty, labels)
    assert run(bids, tmp_path / 'out', 'participant', table) == 0
    said = logged(capsys)
    assert '0 of 72 rows are marked, and 1 is without a value: sub-030; t_desc-anatomy' in said
    assert 'fewer than' not in said


def test_a_site_that_the_model_does_not_know(labels, values, tmp_path):
    table = table_of(values, labels)
    model, _ = fit_model(table, labels, name='t', method='ddae')
    others = labels_of(8, seed=5)
    others = replace(others, sites=np.where(others.sites == 'B', 'D', others.sites))
    new = with_sites(truth_of(others), others)
    new[9, 3] = np.nan
    new = table_of(new, others)
    model = model.calibrated(new, others)
    harmonized = model.harmonized(new, others)
    assert _marked(model, new, others, harmonized) == []
    harmonized[12] = harmonized[1]
    assert _marked(model, new, others, harmonized) == [12]


def test_sessions_are_named(tmp_path):
    labels = labels_of(12, sessions=2)
    bids = write_dataset(tmp_path / 'bids', labels)
    values = with_sites(truth_of(labels, own=2.0), labels)
    table = write_table(tmp_path / 't.tsv', values, labels)
    assert run(bids, tmp_path / 'out', 'participant', table) == 0
    rows = read_tsv(tmp_path / 'out' / 'features' / 't_desc-anatomy.tsv')
    assert list(rows[0]) == [NAMES[0], 'session_id', *NAMES[1:]]
    assert [rows[1][name] for name in ('participant_id', 'session_id')] == ['sub-000', 'ses-2']


def test_marked_maps_are_drawn_and_told_in_their_sidecars(tmp_path, monkeypatch):
    simulated = simulate(10, 2)
    bids, subjects = write_freesurfer(tmp_path, simulated)
    harmonized = FeatureModel.harmonized

    def spoiled(*arguments):
        values = harmonized(*arguments)
        values[3] = values[8]
        return values

    monkeypatch.setattr(FeatureModel, 'harmonized', spoiled)
    out = tmp_path / 'out'
    flags = '-d', f'freesurfer={subjects}'
    assert run(bids, out, 'participant', Path('thickness'), *flags) == 0
    rows = read_tsv(out / 'features' / 'thickness_desc-anatomy.tsv')
    assert [row['participant_id'] for row in rows if row['anatomy_flag'] != 'none'] == ['sub-0003']
    name = '{0}/anat/{0}_hemi-{1}_space-fsaverage5_desc-harmonized_thickness.json'
    flags = [
        json.loads((out / name.format(person, side)).read_text())['anatomy_flag']
        for person in ('sub-0003', 'sub-0004')
        for side in 'LR'
    ]
    assert flags[:2] == [rows[3]['anatomy_flag']] * 2 and flags[2:] == ['none'] * 2
    page = (out / 'thickness_features.html').read_text()
    assert 'Where on the cortex' in page and 'Marked maps on the cortex' in page
