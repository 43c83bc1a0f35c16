"""The three levels on stats files of FreeSurfer, by the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from ddae_app.bids.dataset import read_tsv
from ddae_app.bids.validation import run_validator
from ddae_app.cli.main import main
from ddae_app.features.table import read_feature_table
from tests.features.simulated import labels_of, write_dataset
from tests.features.stats_files import values_of, write_cortex, write_recons
from tests.features.test_levels import CONFIG

N = 24


@pytest.fixture(scope='module')
def labels():
    return labels_of(N)


@pytest.fixture(scope='module')
def bids_dir(labels, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('stats') / 'bids', labels)


@pytest.fixture(scope='module')
def recons(labels, tmp_path_factory):
    return write_recons(tmp_path_factory.mktemp('elsewhere') / 'freesurfer', labels)


@pytest.fixture
def own(recons, tmp_path):
    """Stats files that a test may change."""
    return shutil.copytree(recons, tmp_path / 'own')


def _run(bids_dir: Path, out: Path, level: str, what: str, *flags: str) -> int:
    arguments = [str(bids_dir), str(out), level, '--features', what, *flags]
    return main([*arguments, '-w', str(out.parent / 'work'), '--nprocs', '1'])


def _said(capsys) -> str:
    return capsys.readouterr().err


def _refused(capsys, *arguments: object, code: int = 2) -> str:
    """The one line that says why a run was refused."""
    assert _run(*arguments) == code  # type: ignore[arg-type]
    lines = [line for line in _said(capsys).splitlines() if 'error:' in line]
    assert len(lines) == 1
    return lines[0]


def test_a_list_of_targets_writes_no_table(bids_dir, recons, labels, tmp_path, capsys):
    flags = '-d', f'freesurfer={recons}', '--target-site', 'help'
    assert _run(bids_dir, tmp_path / 'out', 'participant', 'aseg', *flags) == 0
    sites = [line.split('\t')[0] for line in capsys.readouterr().out.splitlines()]
    assert sites == list(labels.site_names)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def out(bids_dir, recons, tmp_path_factory):
    """All three levels of the cortex, with target B."""
    out = tmp_path_factory.mktemp('run') / 'out'
    before = sorted(recons.rglob('*'))
    given = 'aparc', '-d', f'freesurfer={recons}'
    assert _run(bids_dir, out, 'train', *given) == 0
    assert _run(bids_dir, out, 'participant', *given, '--target-site', 'B') == 0
    assert _run(bids_dir, out, 'group', *given) == 0
    assert sorted(recons.rglob('*')) == before
    return out


def test_the_tables(out, labels):
    tables = [out / 'features' / f'aparc_desc-{desc}.tsv' for desc in ('source', 'harmonized')]
    source, harmonized = map(read_feature_table, tables)
    assert source.header == harmonized.header and source.participants == harmonized.participants
    assert source.participants == tuple(labels.subjects)
    assert {'lh_bankssts_thickness', 'rh_WhiteSurfArea_area', 'eTIV'} <= set(source.features)
    at_b = labels.sites == 'B'
    assert (source.values[at_b] == harmonized.values[at_b]).all()
    apart = [
        np.ptp([table.values[labels.sites == site].mean(axis=0) for site in 'ABC'], axis=0)
        for table in (source, harmonized)
    ]
    varies = harmonized.values.std(axis=0) > 0
    assert (apart[1][varies] < apart[0][varies]).mean() > 0.95


def test_the_sidecars(out, recons, labels):
    source = json.loads((out / 'features' / 'aparc_desc-source.json').read_text())
    assert source['Sources'][:2] == [
        f'bids:freesurfer:sub-000/stats/{side}.aparc.stats' for side in ('lh', 'rh')
    ]
    assert len(source['Sources']) == 2 * len(labels.subjects)
    lines = [
        f'{path.parent.parent.name}/{path.name} {sha256(path.read_bytes()).hexdigest()}\n'
        for path in recons.glob('sub-*/stats/?h.aparc.stats')
    ]
    assert source['SourcesSHA256'] == sha256(''.join(sorted(lines)).encode()).hexdigest()
    assert source['StatsVersions'] == [f'mris_anatomical_stats 7.4.1: {3 * N} rows']
    assert source['lh_insula_thickness'] == {
        'Description': 'insula, left hemisphere: mean thickness',
        'Units': 'mm',
    }
    said = json.loads((out / 'features' / 'aparc_desc-harmonized.json').read_text())
    assert said['Sources'] == [
        'bids::features/aparc_desc-source.tsv', 'bids:raw:participants.tsv'
    ]  # fmt: skip
    assert said['lh_insula_thickness'] == {
        'Description': 'insula, left hemisphere: mean thickness; without its site effects',
        'Units': 'mm',
    }
    links = json.loads((out / 'dataset_description.json').read_text())['DatasetLinks']
    assert (out / links['freesurfer']).resolve() == recons.resolve()


def test_pages_model_and_measures(out):
    assert 'Table aparc, harmonized' in (out / 'aparc_features.html').read_text()
    assert (out / 'models' / 'aparc_features.safetensors').is_file()
    rows = read_tsv(out / 'group_aparc_features.tsv')
    value = {(row['table'], row['measure']): float(row['value']) for row in rows}
    assert value['source', 'site_linear'] > 0.8
    assert value['combat, cross-fitted', 'site_linear'] < 0.6


def test_the_output_is_a_derivative_dataset(out):
    report = run_validator(out, CONFIG, 'derivative')
    assert {issue['code'] for issue in report['issues']['issues']} <= {'SUBJECT_FOLDERS'}


def test_the_source_table_can_be_given_itself(bids_dir, recons, out, tmp_path):
    """As after a column was removed from a copy of it; the names of outputs are the same."""
    table = str(out / 'features' / 'aparc_desc-source.tsv')
    again = tmp_path / 'out'
    assert _run(bids_dir, again, 'participant', table, '--target-site', 'B') == 0
    name = 'features/aparc_desc-harmonized.tsv'
    assert (again / name).read_bytes() == (out / name).read_bytes()


def test_a_settings_file_repeats_a_run(bids_dir, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    level = 'analysis_level = "participant"'
    files = [log / 'settings.toml' for log in (out / 'logs').iterdir()]
    config = next(file for file in files if level in file.read_text())
    assert 'features = "aparc"\n' in config.read_text()
    again = tmp_path / 'out'
    arguments = [str(bids_dir), str(again), 'participant', '--config-file', str(config)]
    assert main([*arguments, '-w', str(tmp_path / 'work')]) == 0
    name = 'features/aparc_desc-harmonized.tsv'
    assert (again / name).read_bytes() == (out / name).read_bytes()


def test_head_size_in_participants_tsv(bids_dir, recons, tmp_path, capsys):
    bids, out = shutil.copytree(bids_dir, tmp_path / 'bids'), tmp_path / 'out'
    header, *rows = (bids / 'participants.tsv').read_text().splitlines()
    lines = [f'{header}\teTIV', *(f'{row}\t1500000' for row in rows)]
    (bids / 'participants.tsv').write_text('\n'.join(lines) + '\n')
    line = _refused(capsys, bids, out, 'train', 'aparc', '-d', f'fs={recons}')
    assert 'eTIV is of the people and no feature' in line
    assert 'rename the column there, or remove it in a copy of this table, and give' in line
    cells = [r.split('\t') for r in (out / 'features' / 'aparc_desc-source.tsv').open()]
    kept = [i for i, name in enumerate(cells[0]) if name.strip() != 'eTIV']
    lines = ['\t'.join(row[i].strip() for i in kept) for row in cells]
    (copy := tmp_path / 'copy.tsv').write_text('\n'.join(lines) + '\n')
    assert _run(bids, out, 'train', str(copy)) == 0


def test_volumes_of_sessions(tmp_path, capsys):
    labels = labels_of(12, sessions=2)
    names = [f'sub-{s}_ses-{i % 2 + 1}' for i, s in enumerate(labels.subjects)]
    bids_dir = write_dataset(tmp_path / 'bids', labels)
    root = write_recons(bids_dir / 'derivatives' / 'fastsurfer', labels, names)
    for name in ('sub-000', 'sub-001_ses-1.long.sub-001'):
        (root / name / 'stats').mkdir(parents=True)
    out = tmp_path / 'out'
    given = 'aseg', '-d', f'fastsurfer={root}'
    assert _run(bids_dir, out, 'participant', *given) == 0
    said = _said(capsys)
    assert '1 folder with stats left out, template or average' in said and ': sub-000\n' in said
    assert '1 folder with stats left out, of the longitudinal stream (to take it' in said
    assert ': sub-001_ses-1.long.sub-001\n' in said
    table = read_feature_table(out / 'features' / 'aseg_desc-harmonized.tsv')
    assert table.header[:3] == ('participant_id', 'session_id', 'Left-Lateral-Ventricle')
    assert table.sessions[:2] == ('1', '2')
    source = json.loads((out / 'features' / 'aseg_desc-source.json').read_text())
    assert source['Sources'][0] == 'bids:fastsurfer:sub-000_ses-1/stats/aseg.stats'
    assert source['Left-Hippocampus']['Units'] == 'mm^3'


def test_the_cortex_of_fastsurfer(bids_dir, labels, tmp_path):
    """A word with a point in it, in two folders, one of which holds site C."""
    for i, values in enumerate(values_of(labels)):
        fast = labels.sites[i] == 'C'
        folder = tmp_path / ('fast' if fast else 'free') / f'sub-{labels.subjects[i]}'
        write_cortex(folder, values, atlas=f'aparc.DKTatlas{".mapped" * fast}')
    out = tmp_path / 'out'
    given = '-d', f'free={tmp_path / "free"}', f'fast={tmp_path / "fast"}'
    assert _run(bids_dir, out, 'participant', 'aparc.DKTatlas', *given) == 0
    names = {path.name for path in out.rglob('aparc*')}
    assert names == {
        'aparc.DKTatlas_features.safetensors',
        'aparc.DKTatlas_features_MODEL.md',
        'aparc.DKTatlas_features.html',
        'aparc.DKTatlas_desc-source.tsv',
        'aparc.DKTatlas_desc-source.json',
        'aparc.DKTatlas_desc-harmonized.tsv',
        'aparc.DKTatlas_desc-harmonized.json',
        'aparc.DKTatlas_desc-anatomy.tsv',
        'aparc.DKTatlas_desc-anatomy.json',
    }
    page = (out / 'aparc.DKTatlas_features.html').read_text()
    assert 'mris_anatomical_stats 7.4.1, FastSurfer: 24 of site C' in page
    source = json.loads((out / 'features' / 'aparc.DKTatlas_desc-source.json').read_text())
    assert source['Sources'][-1].startswith('bids:fast:sub-')


def _moved(own: Path, folder: Path, names: list[str]) -> Path:
    """A folder with the recons of some people, who are not in the other one any more."""
    folder.mkdir()
    for name in names:
        (own / name).rename(folder / name)
    return folder


def test_folders_of_different_people_are_one_table(bids_dir, labels, own, out, tmp_path, capsys):
    """Named after one -d or after several; a person who is in both is refused."""
    at_c = [f'sub-{s}' for s in labels.subjects[labels.sites == 'C']]
    other = _moved(own, tmp_path / 'other', at_c)
    again, given = tmp_path / 'out', ('-d', f'fs1={own}', '-d', f'fs2={other}')
    assert _run(bids_dir, again, 'participant', 'aparc', *given, '--target-site', 'B') == 0
    for desc in ('source', 'harmonized'):
        name = f'features/aparc_desc-{desc}.tsv'
        assert (again / name).read_bytes() == (out / name).read_bytes()
    source = json.loads((again / 'features' / 'aparc_desc-source.json').read_text())
    starts = {uri[: len('bids:fs1:')] for uri in source['Sources']}
    assert starts == {'bids:fs1:', 'bids:fs2:'}
    shutil.copytree(other / at_c[0], own / at_c[0])
    line = _refused(capsys, bids_dir, again, 'participant', 'aparc', *given)
    assert f'{own / at_c[0]} and {other / at_c[0]} are of the same person' in line


def test_a_folder_in_place_of_another_is_told(bids_dir, labels, own, recons, tmp_path, capsys):
    """Not of one that was moved or copied, nor of a change in the same folder."""
    out, line = tmp_path / 'out', 'he outputs of {} replace those of {}; to have all people in one'
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'fs={recons}') == 0
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'fs={own}') == 0  # a copy
    write_cortex(own / 'sub-000', values_of(labels)[1])
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'fs={own}') == 0
    moved = own.rename(tmp_path / 'moved')
    write_cortex(moved / 'sub-000', values_of(labels)[2])
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'fs={moved}') == 0
    assert 'replace those of' not in _said(capsys)
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'fs={recons}') == 0
    told = line.format(recons, moved)
    assert told in _said(capsys) and told in (out / 'aparc_features.html').read_text()


def test_who_is_left_out(bids_dir, own, tmp_path, capsys):
    shutil.rmtree(own / 'sub-000')
    (own / 'sub-001' / 'stats' / 'rh.aparc.stats').unlink()
    (own / 'sub-002').rename(own / 'sub-2')
    (own / 'sub-003').rename(own / 'P_3')
    shutil.copytree(own / 'sub-004', own / 'fsaverage')
    out = tmp_path / 'out'
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'freesurfer={own}') == 0
    lines = (
        '1 folder with stats left out, not in participants.tsv (it has sub-002',
        '1 folder with stats left out, the name is not sub-&lt;label&gt;',
        'sub-&lt;label&gt;_ses-&lt;label&gt;: P_3',
        '1 recon without all stats of aparc left out: sub-001 (no rh.aparc.stats)',
        'o row in aparc_desc-source.tsv of sub-000, sub-001, sub-002, sub-003, whom',
    )
    said, page = _said(capsys), (out / 'aparc_features.html').read_text()
    for line in lines:
        assert line in page and line.replace('&lt;', '<').replace('&gt;', '>') in said
    assert 'fsaverage' not in said
    table = read_feature_table(out / 'features' / 'aparc_desc-source.tsv')
    assert len(table.participants) == 3 * N - 4


def test_regions_and_versions(bids_dir, labels, own, tmp_path, capsys):
    """A region that a person does not have, and another version at one site."""
    values = values_of(labels)
    write_cortex(own / 'sub-000', values[0], left_out=('cuneus',))
    for i in np.flatnonzero(labels.sites == 'C')[:7]:
        write_cortex(own / f'sub-{labels.subjects[i]}', values[i], version='7.3.2')
    out = tmp_path / 'out'
    assert _run(bids_dir, out, 'participant', 'aparc', '-d', f'freesurfer={own}') == 0
    line = (
        'the stats files were written by 2 versions (mris_anatomical_stats 7.3.2: 7 of site C; '
        'mris_anatomical_stats 7.4.1: 24 of site A, 24 of site B, 17 of site C)'
    )
    assert line in _said(capsys) and line[1:] in (out / 'aparc_features.html').read_text()
    table = read_feature_table(out / 'features' / 'aparc_desc-harmonized.tsv')
    missing = np.isnan(table.values)
    assert missing.sum() == 6 and missing[0].sum() == 6
    for i in np.flatnonzero(labels.sites == 'C'):
        write_cortex(own / f'sub-{labels.subjects[i]}', values[i], left_out=('cuneus',))
    line = _refused(capsys, bids_dir, out, 'train', 'aparc', '-d', f'freesurfer={own}')
    source = out / 'features' / 'aparc_desc-source.tsv'
    assert f'{source}: lh_cuneus_thickness' in line and 'no value at site C' in line
    # What the message speaks of can be looked up, and mended in a copy.
    assert source.read_text().splitlines()[-1].count('n/a') == 6


def test_group_after_a_change(bids_dir, labels, recons, own, out, tmp_path, capsys):
    given = 'aparc', '-d', f'freesurfer={own}'
    empty = tmp_path / 'out'
    line = _refused(capsys, bids_dir, empty, 'group', *given, code=18)
    assert 'run the participant level first' in line
    copy = shutil.copytree(out, tmp_path / 'copy')
    before = (copy / 'features' / 'aparc_desc-source.tsv').read_bytes()
    write_cortex(own / 'sub-000', values_of(labels)[1])
    line = _refused(capsys, bids_dir, copy, 'group', *given)
    assert 'the stats files are not those that' in line and 'run the participant level' in line
    assert (copy / 'features' / 'aparc_desc-source.tsv').read_bytes() == before


def test_what_is_refused_in_one_line(bids_dir, labels, own, recons, tmp_path, capsys):
    out = tmp_path / 'out'
    line = _refused(capsys, bids_dir, out, 'participant', 'aparc')
    assert '--features aparc: name the folder' in line and '-d freesurfer=PATH' in line
    # A path alone is one of our own outputs.
    line = _refused(capsys, bids_dir, out, 'participant', 'aparc', '-d', str(recons))
    assert '-d freesurfer=PATH' in line
    line = _refused(capsys, bids_dir, out, 'participant', 'aparc', '-d', 'fs=nowhere')
    assert 'no such folder' in line
    line = _refused(capsys, bids_dir, out, 'participant', 'aparc.x', '-d', f'fs={recons}')
    assert '--derivatives means nothing with --features' in line
    line = _refused(capsys, bids_dir, out, 'participant', 'aparc.x')
    assert 'no such file' in line and 'aparc.a2009s' in line
    empty = tmp_path / 'empty'
    (empty / 'bert' / 'stats').mkdir(parents=True)
    line = _refused(capsys, bids_dir, out, 'participant', 'aseg', '-d', f'fs={empty}')
    assert f'no stats of aseg in {empty}; expected sub-<label>/stats/aseg.stats or' in line
    assert '(found bert)' in line
    for wrong, right in ((recons / 'sub-000', recons), (recons.parent, recons)):
        line = _refused(capsys, bids_dir, out, 'participant', 'aseg', '-d', f'fs={wrong}')
        assert line.endswith(f'; give {right} instead')
    line = _refused(capsys, bids_dir, out, 'train', 'aparc.a2009s', '-d', f'fs={recons}')
    assert 'expected lh.aparc.a2009s.stats and rh.aparc.a2009s.stats' in line
    line = _refused(
        capsys, bids_dir, out, 'train', 'aparc', '-d', f'fs={recons}', f'fastsurfer={own}'
    )
    assert 'are of the same person' in line
    others = replace(labels, subjects=np.char.add('x', labels.subjects))
    stranger = write_dataset(tmp_path / 'bids', others)
    line = _refused(capsys, stranger, out, 'train', 'aparc', '-d', f'fs={recons}')
    assert 'none of sub-000, sub-001' in line and 'is in participants.tsv' in line
    path = own / 'sub-005' / 'stats' / 'lh.aparc.stats'
    path.write_bytes(path.read_bytes()[:-3])
    line = _refused(capsys, bids_dir, out, 'train', 'aparc', '-d', f'fs={own}')
    assert f'{path}: cut in its last line' in line
    assert not (out / 'features').exists() and not (out / 'models').exists()
