"""What a run finds to do on disk: nothing twice, and all that depends on what has changed."""

from __future__ import annotations

import json
import os
import shutil

import nibabel as nib
import pytest

from ddae_app.bids.layout import RunFiles
from ddae_app.bids.validation import run_validator
from ddae_app.cli.main import resolve
from ddae_app.cli.parser import build_parser
from ddae_app.levels.participant.level import run_participant
from ddae_app.phantom.dataset import Design, write_dataset
from tests.levels.conftest import FAST, TEMPLATE, contents, error_lines, run, write_model


@pytest.fixture
def out(done, tmp_path):
    """A finished run to PhantomA, whose work directory is lost."""
    return shutil.copytree(done, tmp_path / 'out')


@pytest.fixture
def bids(bids_dir, tmp_path):
    return shutil.copytree(bids_dir, tmp_path / 'bids')


@pytest.fixture
def rows(bids_dir, model, tmp_path, capsys):
    """What would be done, in this process: for each scan the two states and why."""

    def listed(out, *flags, bids=bids_dir, model=model, target='PhantomA', code=0):
        before = contents(out)
        words = (
            bids, out, 'participant', '--dry-run', '--target-site', target, '--model', model,
            '-w', tmp_path / 'none', *FAST, *flags,
        )  # fmt: skip
        settings = resolve(vars(build_parser().parse_args(list(map(str, words)))), os.environ)
        assert run_participant(settings, RunFiles(tmp_path / 'logs'), None) == code
        assert contents(out) == before and not (tmp_path / 'none').exists()
        header, *lines = (line.split('\t') for line in capsys.readouterr().out.splitlines())
        assert header == ['scan', 'preprocess', 'harmonize', 'why']
        return {scan: tuple(rest) for scan, *rest in lines}

    return listed


def test_everything_is_new_where_nothing_is(rows, tmp_path):
    found = rows(tmp_path / 'nowhere', '--bids-database-dir', tmp_path / 'index')
    assert found == {f'sub-{who}': ('new', 'new', '-') for who in ('A01', 'B01')}
    assert not (tmp_path / 'nowhere').exists() and not (tmp_path / 'index').exists()


def test_nothing_is_done_twice_without_the_work_directory(out, bids_dir, model, rows, tmp_path):
    assert set(rows(out).values()) == {('done', 'done', '-')}
    before = {p: p.stat().st_mtime_ns for p in out.rglob('anat/*')}
    result = run(
        bids_dir, out, 'participant', '--target-site', 'PhantomA', '--model', model,
        '-w', tmp_path / 'work', *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'all outputs are up to date' in result.stderr and '2 of 2 T1w done' in result.stderr
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob('anat/*')}
    assert 'Disentangled Diffusion Autoencoder' in (out / 'sub-A01.html').read_text()
    # A third run finds the methods text in the logs of this one, not behind those of all others.
    first, second = (path.read_text() for path in out.glob('logs/*/CITATION.md'))
    assert first == second


def test_what_is_missing_is_made_again_as_it_was(out, done, bids_dir, model, rows, tmp_path):
    lost = next(out.rglob('sub-A01_desc-histogram_T1w.svg'))
    lost.unlink()
    assert rows(out) == {
        'sub-A01': ('done', 'incomplete', f'{lost.name} is missing'),
        'sub-B01': ('done', 'done', '-'),
    }
    result = run(
        bids_dir, out, 'participant', '--target-site', 'PhantomA', '--model', model,
        '-w', tmp_path / 'work', *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'sub-A01: harmonize' in result.stderr
    assert 'register' not in result.stderr and 'sub-B01: harmonize' not in result.stderr
    assert same_images(out, done)


def test_another_target_or_model_is_harmonized_again_but_not_preprocessed(out, rows, tmp_path):
    why = 'target site (PhantomA, now PhantomB)'
    assert set(rows(out, target='PhantomB').values()) == {('done', 'changed', why)}
    other = write_model(tmp_path / 'other.safetensors')
    other.write_bytes(other.read_bytes().replace(b'random', b'rendom'))
    assert set(rows(out, model=other).values()) == {('done', 'changed', 'model')}
    why = 'keep noise (False, now True)'
    assert set(rows(out, '--keep-noise').values()) == {('done', 'changed', why)}
    effect = rows(out, '--write-site-effect')['sub-A01']
    assert effect[:2] == ('done', 'incomplete') and 'siteeffect' in effect[2]


def test_another_image_costs_its_own_scan_alone(out, bids, rows):
    path = bids / 'sub-A01' / 'anat' / 'sub-A01_T1w.nii.gz'
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata() * 2, image.affine), path)
    assert rows(out, bids=bids) == {
        'sub-A01': ('changed', 'changed', 'T1w image; preprocessing'),
        'sub-B01': ('done', 'done', '-'),
    }
    refused = rows(out, '--stage', 'harmonize', bids=bids, code=1)
    assert refused['sub-A01'][0] == 'refused' and 'preprocess it again' in refused['sub-A01'][2]
    assert refused['sub-B01'][:2] == ('reused', 'done')


def test_another_age_or_site_is_another_harmonization(out, bids, rows):
    table = bids / 'participants.tsv'
    lines = table.read_text().splitlines()
    lines[1] = '\t'.join([lines[1].split('\t')[0], 'PhantomB', '33', lines[1].split('\t')[3]])
    table.write_text('\n'.join(lines) + '\n')
    found = rows(out, bids=bids)
    assert found['sub-A01'][:2] == ('done', 'changed')
    assert 'site of the scan (PhantomA, now PhantomB), age' in found['sub-A01'][2]
    assert found['sub-B01'] == ('done', 'done', '-')


def test_an_interrupted_stage_is_done_again(out, rows):
    sidecar = next(out.rglob('sub-A01_*desc-harmonized_T1w.json'))
    content = json.loads(sidecar.read_text())
    record = content.pop('MadeFrom')
    assert record['Preprocessing']['SkullStrip'] == 'none'
    sidecar.write_text(json.dumps(content))
    why = 'interrupted, or made by an earlier version'
    assert rows(out)['sub-A01'] == ('done', 'incomplete', why)


def test_stages_and_other_folders(done, out, rows, tmp_path):
    elsewhere = ('-d', f'ddae-app={done}')
    template = ('--template', TEMPLATE)
    stripped = 'skull stripping none, made with --sloppy: not suitable for analysis'
    assert set(rows(tmp_path / 'new', *elsewhere).values()) == {
        ('reused', 'new', f'{done}, {stripped}')
    }
    assert set(rows(out, '--stage', 'preproc', *template).values()) == {('done', 'none', '-')}
    assert set(rows(out, '--stage', 'harmonize').values()) == {
        ('reused', 'done', f'{out}, {stripped}')
    }
    refused = rows(tmp_path / 'new', '--stage', 'harmonize', code=1)
    assert refused['sub-A01'][:2] == ('refused', 'none') and 'preproc' in refused['sub-A01'][2]


def test_what_was_written_for_another_target_is_replaced_whole(out, bids_dir, model, tmp_path):
    for path in [*out.rglob('*space-*desc-harmonized_T1w.*')]:
        # As a run with --write-site-effect would have left it.
        shutil.copy(path, path.with_name(path.name.replace('harmonized', 'siteeffect')))
    result = run(
        bids_dir, out, 'participant', '--target-site', 'PhantomB', '--model', model,
        '-w', tmp_path / 'work', *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'harmonize: 2 changed (target site (PhantomA, now PhantomB))' in result.stderr
    assert run_validator(out, kind='derivative')['issues']['issues'] == []
    assert not [*out.rglob('*siteeffect*')] and 'siteeffect' in result.stderr
    for path in out.rglob(f'*{TEMPLATE}*desc-harmonized_T1w.json'):
        content = json.loads(path.read_text())
        assert content['TargetSite'] == content['MadeFrom']['TargetSite'] == 'PhantomB'


def test_training_lists_what_it_would_preprocess(out, bids_dir, tmp_path):
    flags = (
        'train', '--dry-run', '--template', TEMPLATE, '-w', tmp_path / 'none', *FAST,
    )  # fmt: skip
    result = run(bids_dir, out, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [f'sub-{s}\tdone\tnone\t-' for s in ('A01', 'B01')]
    assert 'scans to calibrate in: PhantomA 1, PhantomB 1' in result.stderr
    assert 'calibration would be refused: no site has 5 participants' in result.stderr
    result = run(bids_dir, out, *flags, '--preset', 'tiny')
    assert 'scans to train on: PhantomA 1, PhantomB 1' in result.stderr
    assert 'training would be refused: site PhantomA has 1 subject' in result.stderr


def test_the_group_level_has_nothing_to_list(bids_dir, out):
    result = run(bids_dir, out, 'group', '--dry-run')
    assert result.returncode == 2
    assert '--dry-run' in error_lines(result.stderr)[0]


def test_sessions_and_runs(model, tmp_path):
    """Two sessions of two runs, one of which is broken: three are done, one page tells of all."""
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    write_dataset(bids, Design(n_sites=1, subjects_per_site=1, sessions=2, runs=2, voxel_mm=4.0))
    broken = next(bids.rglob('*ses-01_run-2_T1w.nii.gz'))
    broken.write_bytes(broken.read_bytes()[:9000])
    flags = (
        'participant', '--target-site', 'PhantomB', '--model', model, '-w', tmp_path / 'work',
        *FAST,
    )  # fmt: skip
    result = run(bids, out, *flags)
    assert result.returncode == 1
    assert len(error_lines(result.stderr)) == 1 and '3 of 4 T1w done' in result.stderr
    assert run_validator(out, kind='derivative')['issues']['issues'] == []
    page = (out / 'sub-A01.html').read_text()
    assert page.count('(failed)') == 1 and 'Traceback' in page.partition('id="errors"')[2]
    # A job of one session leaves the other one on the page.
    assert run(bids, out, *flags, '--session-label', '02').returncode == 0
    page = (out / 'sub-A01.html').read_text()
    assert all(f'<section id="sub-A01_ses-{name}">' in page for name in ('01_run-1', '02_run-2'))
    assert page.count('Not in the run that wrote this page') == 2
    assert page.count('(failed)') == 1 and 'Traceback' in page.partition('id="errors"')[2]
    listed = run(bids, out, *flags, '--dry-run').stdout.splitlines()[1:]
    states = [tuple(line.split('\t')[1:3]) for line in listed]
    assert sorted(states) == [('done', 'done')] * 3 + [('new', 'new')]


def same_images(first, second):
    one, two = (
        {name: data for name, data in contents(folder).items() if '/anat/' in name}
        for folder in (first, second)
    )
    return one == two
