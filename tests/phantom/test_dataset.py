from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddae_app.cli.phantom import main
from ddae_app.errors import UsageError
from ddae_app.phantom.dataset import Design, acquire, write_dataset
from ddae_app.phantom.population import draw_subjects, site_names
from ddae_app.phantom.scanner import draw_scanner, render
from ddae_app.phantom.seeds import generator

SMALL = Design(n_sites=2, subjects_per_site=2, voxel_mm=5.0)
TRAVELING = replace(SMALL, traveling=True)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('phantom') / 'ds'
    write_dataset(out, TRAVELING)
    return out


def test_same_seed_same_bytes(dataset, tmp_path):
    write_dataset(tmp_path / 'again', TRAVELING)
    assert hashes(tmp_path / 'again') == hashes(dataset)


def test_other_seed_other_subjects_in_the_same_scanners(dataset, tmp_path):
    scans = write_dataset(tmp_path / 'other', replace(SMALL, seed=1))
    for scan in scans:
        same = dataset / scan.relative_to(tmp_path / 'other')
        assert scan.read_bytes() != same.read_bytes()
        sidecar = Path(str(scan).replace('.nii.gz', '.json'))
        assert json.loads(sidecar.read_text()) == json.loads(
            Path(str(same).replace('.nii.gz', '.json')).read_text()
        )


def test_no_temporary_file_is_left(dataset):
    assert not [path for path in dataset.rglob('*') if '.part' in path.name]


def test_images_are_what_a_scanner_writes(dataset):
    for site in site_names(2):
        image = nib.load(dataset / f'sub-{site[-1]}01/anat/sub-{site[-1]}01_T1w.nii.gz')
        assert image.get_data_dtype() == np.int16
        assert ''.join(nib.aff2axcodes(image.affine)) == draw_scanner(site).orientation
        assert image.header['qform_code'] == image.header['sform_code'] == 1
        np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-4)
        data = image.get_fdata()
        assert (data == 0).mean() > 0.5
        assert 0.4 < np.median(data[data > 0]) / draw_scanner(site).scale < 1.6


def test_truth_is_the_target_scanner_without_noise(dataset):
    subject = draw_subjects('PhantomA', 1, seed=0)[0]
    source, target = (
        replace(draw_scanner(site), voxel_mm=(5.0, 5.0, 5.0)) for site in ('PhantomA', 'PhantomB')
    )
    tissues, points, _ = acquire(subject.anatomy(), source, generator(0, 'scan', 'sub-A01'))
    expected = render(target, tissues, points)
    path = dataset / 'derivatives/truth/sub-A01/anat/sub-A01_desc-sitePhantomB_T1w.nii.gz'
    written = nib.load(path)
    raw = nib.load(dataset / 'sub-A01/anat/sub-A01_T1w.nii.gz')
    np.testing.assert_array_equal(written.affine, raw.affine)
    np.testing.assert_array_equal(written.get_fdata() > 0, raw.get_fdata() > 0)
    data = nib.as_closest_canonical(written).get_fdata()
    np.testing.assert_allclose(data, expected, atol=expected.max() / 20000)
    assert np.corrcoef(data[data > 0], expected[data > 0])[0, 1] > 0.9999


def test_sites_differ_in_their_subjects():
    ages = [np.mean([p.age for p in draw_subjects(s, 60, 0)]) for s in site_names(7)]
    women = [np.mean([p.sex == 'F' for p in draw_subjects(s, 60, 0)]) for s in site_names(7)]
    assert np.ptp(ages) > 10
    assert np.ptp(women) > 0.1
    assert {p.age for s in site_names(7) for p in draw_subjects(s, 60, 0)} <= set(range(18, 90))


def test_more_subjects_do_not_change_the_first():
    assert draw_subjects('PhantomB', 5, 3)[:2] == draw_subjects('PhantomB', 2, 3)


def test_subjects_belong_to_the_seed():
    ages = [[p.age for p in draw_subjects('PhantomB', 5, seed)] for seed in (3, 4)]
    assert ages[0] != ages[1]


@pytest.fixture(scope='module')
def repeated(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('repeated') / 'ds'
    write_dataset(out, replace(TRAVELING, subjects_per_site=1, sessions=2, runs=2))
    return out


@pytest.mark.parametrize('name', ['dataset', 'repeated', 'change'])
def test_bids_validator_finds_no_error(request, name):
    folder = request.getfixturevalue(name)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name('bids-validator-deno')),
            str(folder),
            '--recursive',
            '--format',
            'json',
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    truth = report['derivativesSummary']['/derivatives/truth/']
    assert not [
        i for part in (report, truth) for i in part['issues']['issues'] if i['severity'] == 'error'
    ]
    assert done.returncode == 0


def test_sessions_and_runs_are_other_scans_of_the_same_head(tmp_path):
    design = Design(n_sites=1, subjects_per_site=1, sessions=2, runs=2, voxel_mm=6.0)
    scans = write_dataset(tmp_path / 'ds', design)
    assert [scan.name for scan in scans] == [
        f'sub-A01_ses-{session:02d}_run-{run}_T1w.nii.gz' for session in (1, 2) for run in (1, 2)
    ]
    data = [nib.load(scan).get_fdata() for scan in scans]
    volumes = [np.count_nonzero(image) for image in data]
    assert np.ptp(volumes) < 0.03 * np.mean(volumes)
    assert not np.array_equal(data[0], data[1])


@pytest.fixture(scope='module')
def change(tmp_path_factory) -> Path:
    """Whole heads of two subjects, who lose gray matter and change the scanner."""
    out = tmp_path_factory.mktemp('change') / 'ds'
    design = Design(
        n_sites=2,
        subjects_per_site=1,
        sessions=2,
        voxel_mm=5.0,
        traveling=True,
        whole_head=True,
        atrophy=3.0,
        change_scanner=True,
    )
    write_dataset(out, design)
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_sessions_say_where_and_when(change):
    subject = draw_subjects('PhantomA', 1, seed=0)[0]
    rows = table(change / 'sub-A01/sub-A01_sessions.tsv')
    assert rows == [
        {'session_id': 'ses-01', 'site': 'PhantomA', 'age': str(subject.age)},
        {'session_id': 'ses-02', 'site': 'PhantomB', 'age': str(subject.age + 2)},
    ]
    for row in rows:
        scan = change / f'sub-A01/{row["session_id"]}/anat/sub-A01_{row["session_id"]}_T1w.json'
        sidecar = json.loads(scan.read_text())
        assert sidecar['StationName'] == row['site']
        assert 'SkullStripped' not in sidecar
    sites = {
        row['session_id']: row['site'] for row in table(change / 'sub-B01/sub-B01_sessions.tsv')
    }
    assert sites == {'ses-01': 'PhantomB', 'ses-02': 'PhantomA'}


def test_volumes_of_each_session_are_truth(change):
    for label in ('A01', 'B01'):
        first, second = table(change / f'derivatives/truth/sub-{label}/sub-{label}_sessions.tsv')
        assert float(second['gm_ml']) == pytest.approx(0.97 * float(first['gm_ml']), rel=1e-3)
        assert float(second['csf_ml']) > float(first['csf_ml'])
    meaning = json.loads((change / 'derivatives/truth/sessions.json').read_text())
    assert set(meaning) == set(first) - {'session_id'}


def test_mask_of_the_brain_is_truth(change):
    head = nib.load(change / 'sub-A01/ses-01/anat/sub-A01_ses-01_T1w.nii.gz')
    truth = change / 'derivatives/truth/sub-A01/ses-01/anat'
    mask = nib.load(truth / 'sub-A01_ses-01_desc-brain_mask.nii.gz')
    other = truth / 'sub-A01_ses-01_desc-sitePhantomB_T1w'
    np.testing.assert_array_equal(mask.affine, head.affine)
    inside = np.asarray(mask.dataobj)
    assert set(np.unique(inside)) == {0, 1}
    volume = inside.sum() * 0.125
    tissues = table(change / 'derivatives/truth/sub-A01/sub-A01_sessions.tsv')[0]
    volumes = sum(float(tissues[f'{name}_ml']) for name in ('csf', 'gm', 'wm'))
    assert volume == pytest.approx(volumes, rel=0.02)
    assert (head.get_fdata() > 0).mean() > 0.99
    assert json.loads(other.with_suffix('.json').read_text())['SkullStripped'] is False
    shown = nib.load(other.with_suffix('.nii.gz')).get_fdata()
    assert 1.5 * inside.sum() < np.count_nonzero(shown > 0.2 * np.median(shown[inside > 0]))


def test_the_head_around_a_brain_does_not_change_the_brain(tmp_path):
    design = Design(n_sites=1, subjects_per_site=1, voxel_mm=5.0, atrophy=0.0, sessions=2)
    volumes = []
    for whole_head in (False, True):
        out = tmp_path / str(whole_head)
        write_dataset(out, replace(design, whole_head=whole_head))
        volumes.append((out / 'derivatives/truth/sub-A01/sub-A01_sessions.tsv').read_text())
    assert volumes[0] == volumes[1]
    first, second = table(out / 'derivatives/truth/sub-A01/sub-A01_sessions.tsv')
    assert first['gm_ml'] == second['gm_ml']


def test_other_datasets_do_not_speak_of_heads_and_changes(dataset):
    readme = (dataset / 'README').read_text()
    assert 'scans without skull, written by' in readme
    assert readme.endswith('\n\n' + repr(TRAVELING) + '\n')
    assert 'whole_head' not in repr(TRAVELING)
    assert not list(dataset.rglob('*sessions*')) + list(dataset.rglob('*mask*'))


def test_refuses_a_folder_in_use(tmp_path, capsys):
    (tmp_path / 'precious.txt').write_text('mine')
    assert main([str(tmp_path), '--sites', '1']) == 2
    error = capsys.readouterr().err
    assert error.startswith('ddae-phantom: error: ')
    assert str(tmp_path) in error
    assert error.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['precious.txt']


@pytest.mark.parametrize(
    'arguments',
    [
        ['--sites', '0'],
        ['--sites', '27'],
        ['--subjects-per-site', '0'],
        ['--seed', '-1'],
        ['--resolution', '0'],
        ['--runs', '-1'],
        ['--atrophy', '-1', '--sessions', '2'],
        ['--atrophy', 'nan', '--sessions', '2'],
        ['--atrophy', '6', '--sessions', '3'],
        ['--sites', '1', '--change-scanner', '--sessions', '2'],
        ['--sessions', '1', '--atrophy', '3'],
    ],
)
def test_refuses_what_cannot_be(tmp_path, capsys, arguments):
    assert main([str(tmp_path / 'ds'), *arguments]) == 2
    assert arguments[1] in capsys.readouterr().err
    assert not (tmp_path / 'ds').exists()


def test_refuses_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main([str(tmp_path / 'file' / 'data')]) == 2
    said = capsys.readouterr().err
    assert 'file/data cannot be written (Not a directory); name another folder' in said
    assert said.count('\n') == 1


def test_refuses_a_file_as_folder(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UsageError, match='not an empty folder'):
        write_dataset(tmp_path / 'file', SMALL)


def test_command_writes_and_says_so(tmp_path, capsys):
    out = tmp_path / 'ds'
    assert main([str(out), '--sites', '1', '--subjects-per-site', '1', '--resolution', '8']) == 0
    assert capsys.readouterr().out == f'{out}: 1 T1w images from 1 sites\n'
    assert (out / 'sub-A01/anat/sub-A01_T1w.nii.gz').is_file()


def test_help_imports_nothing_heavy():
    code = (
        'import sys\n'
        'from ddae_app.cli.phantom import build_parser\n'
        'build_parser().format_help()\n'
        "print(sorted({'numpy', 'nibabel', 'scipy', 'nilearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == '[]'
