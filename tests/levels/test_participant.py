"""The participant level as a user runs it, on phantoms."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids import sidecars
from ddae_app.bids.dataset import read_tsv
from ddae_app.bids.validation import run_validator
from ddae_app.engine.inputs import skull_strip_of
from ddae_app.imaging.brain import volume_ml
from ddae_app.imaging.weights import weights_sha256
from ddae_app.levels.participant.level import _model
from ddae_app.phantom.dataset import Design, write_dataset
from ddae_app.reports.boilerplate import read_boilerplate
from ddae_app.settings import from_flat
from tests.imaging.nnunet_model import write_model as write_network
from tests.levels.conftest import FAST, TEMPLATE, contents, error_lines, run, write_model

ANAT = f'sub-A01/anat/sub-A01_space-{TEMPLATE}_res-130'


def test_brains_by_a_network(bids_dir, tmp_path):
    """HD-BET's way with a small network of the same kind."""
    weights = write_network(tmp_path / 'weights', threshold=-0.5)
    sha256 = weights_sha256(weights)
    result = run(
        bids_dir, tmp_path / 'out', 'participant', '--stage', 'preproc', '--skull-strip', 'hd-bet',
        '--hd-bet-weights', weights, '--hd-bet-sha256', sha256, '--template', TEMPLATE,
        '--slices', 'medial', '--participant-label', 'A01', '-w', tmp_path / 'work',
        '--device', 'cpu', '--sloppy', '--skip-bids-validation', '--nprocs', '1',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (sidecar,) = tmp_path.glob('out/sub-A01/anat/*_desc-preproc_T1w.json')
    facts = json.loads(sidecar.read_text())
    assert (facts['SkullStripMethod'], facts['SkullStripWeightsSHA256']) == ('hd-bet', sha256)
    mask = next(tmp_path.glob('out/sub-A01/anat/*_desc-brain_mask.nii.gz'))
    assert 1000 < volume_ml(np.asarray(nib.load(mask).dataobj) > 0, nib.load(mask).affine) < 2600


def test_output_tree(done):
    files = set(contents(done))
    for participant in ('A01', 'B01'):
        anat = f'sub-{participant}/anat/sub-{participant}'
        space = f'{anat}_space-{TEMPLATE}_res-130'
        figure = f'sub-{participant}/figures/sub-{participant}_desc'
        expected = {
            f'{anat}_from-T1w_to-{TEMPLATE}_mode-image_xfm.txt',
            *(f'{space}_desc-{desc}_T1w{ending}'
              for desc in ('preproc', 'slices', 'harmonized') for ending in ('.nii.gz', '.json')),
            f'{space}_desc-brain_mask.nii.gz', f'{space}_desc-brain_mask.json',
            *(f'{figure}-{name}_T1w.svg'
              for name in ('registration', 'brain', 'harmonized', 'flicker', 'histogram')),
            f'sub-{participant}/sub-{participant}_scans.tsv',
            f'sub-{participant}/sub-{participant}_scans.json',
            f'sub-{participant}.html',
        }  # fmt: skip
        assert expected <= files
    assert not [name for name in files if '.tmp' in name]


def test_validator_finds_nothing(done):
    issues = run_validator(done, kind='derivative')['issues']['issues']
    assert issues == []


def test_target_equal_to_source_changes_nothing_but_noise(done, bids_dir, model, tmp_path):
    result = run(
        bids_dir, tmp_path / 'out', 'participant', '--target-site', 'PhantomA', '--model', model,
        '--keep-noise', '--stage', 'harmonize', '-d', f'ddae-app={done}', '-w', tmp_path / 'work',
        '--participant-label', 'A01', '--sloppy',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    before, denoised = stacks(done)
    assert before.shape == (128, 128, 1)
    assert not np.array_equal(before, denoised)
    assert np.array_equal(*stacks(tmp_path / 'out'))


def stacks(out):
    """The slices of the first scan, before and after."""
    return [
        np.asarray(nib.load(out / f'{ANAT}_desc-{desc}_T1w.nii.gz').dataobj)
        for desc in ('slices', 'harmonized')
    ]


def test_other_site_changes_brain_only(done):
    name = ANAT.replace('A01', 'B01')
    before, after = (
        np.asarray(nib.load(done / f'{name}_desc-{desc}_T1w.nii.gz').dataobj)
        for desc in ('slices', 'harmonized')
    )
    assert not np.allclose(before, after)
    assert (after[before == 0] == 0).all()


def test_slices_lie_where_the_volume_does(done):
    volume = nib.load(done / f'{ANAT}_desc-preproc_T1w.nii.gz')
    stack = nib.load(done / f'{ANAT}_desc-slices_T1w.nii.gz')
    scale = json.loads((done / f'{ANAT}_desc-slices_T1w.json').read_text())['IntensityScale']
    data, cut = np.asarray(volume.dataobj), np.asarray(stack.dataobj)
    inside = np.argwhere(cut > 0)[::500]
    mm = nib.affines.apply_affine(stack.affine, inside)
    where = np.linalg.inv(volume.affine)
    voxels = np.rint(nib.affines.apply_affine(where, mm)).astype(int)
    assert np.allclose(cut[tuple(inside.T)] * scale, data[tuple(voxels.T)], rtol=1e-4)


def test_sidecar_tells_what_was_done(done, model):
    sidecar = json.loads(
        (done / f'{ANAT.replace("A01", "B01")}_desc-harmonized_T1w.json').read_text()
    )
    assert sidecar['SourceSite'] == 'PhantomB'
    assert sidecar['TargetSite'] == 'PhantomA'
    assert sidecar['PhantomModel'] is True
    assert sidecar['LabelBlind'] is True
    assert sidecar['Device'] == 'cpu'
    assert sidecar['SamplingSteps'] == 2
    assert sidecar['ScansAdaptedTo'] == 0
    assert len(sidecar['ModelSHA256']) == 64
    assert 0 < sidecar['ssim'] < 1
    assert sidecar['Sources'] == [f'bids::{ANAT.replace("A01", "B01")}_desc-slices_T1w.nii.gz']


def test_quality_table(done):
    (row,) = read_tsv(done / 'sub-B01' / 'sub-B01_scans.tsv')
    assert (done / 'sub-B01' / row['filename']).is_file()
    assert row['source_site'] == 'PhantomB'
    assert float(row['registration_correlation']) > 0.5
    assert float(row['target_distance_before']) >= 0


def test_settings_of_a_run_repeat_it(done, bids_dir, tmp_path):
    (settings,) = (done / 'logs').glob('*/settings.toml')
    out = tmp_path / 'again'
    result = run(
        bids_dir, out, 'participant', '--config-file', settings, '-w', tmp_path / 'work',
        '--participant-label', 'sub-B01',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    first, second = contents(done), contents(out)
    shared = [name for name in second if name.startswith('sub-B01/anat')]
    assert len(shared) == 9
    assert all(first[name] == second[name] for name in shared)
    assert not [name for name in second if 'A01' in name]


def test_stages_apart_equal_one_run(done, bids_dir, model, tmp_path, monkeypatch):
    # Every path is relative, since each step runs in a folder of its own.
    monkeypatch.chdir(tmp_path)
    bids, model = (os.path.relpath(path, tmp_path) for path in (bids_dir, model))
    flags = ('-w', 'work', '--participant-label', 'B01', *FAST)
    preproc = run(
        bids, 'pre', 'participant', '--stage', 'preproc', '--template', TEMPLATE,
        *flags,
    )  # fmt: skip
    assert preproc.returncode == 0, preproc.stderr
    assert not list((tmp_path / 'pre').rglob('*harmonized*'))
    harmonize = run(
        bids, 'post', 'participant', '--stage', 'harmonize', '--target-site', 'PhantomA',
        '-d', 'ddae-app=pre', *flags, DDAE_MODEL=model,
    )  # fmt: skip
    assert harmonize.returncode == 0, harmonize.stderr
    name = f'{ANAT.replace("A01", "B01")}_desc-harmonized_T1w.nii.gz'
    assert (tmp_path / 'post' / name).read_bytes() == (done / name).read_bytes()
    # What was made of the scans of another dataset refers to it.
    description = json.loads((tmp_path / 'post' / 'dataset_description.json').read_text())
    (source,) = json.loads(
        (tmp_path / 'post' / name.replace('harmonized_T1w.nii.gz', 'slices_T1w.json')).read_text()
    )['Sources']
    assert description['DatasetLinks']['ddae-app'] == '../pre'
    assert (tmp_path / 'pre' / source.removeprefix('bids:ddae-app:')).is_file()
    (row,) = read_tsv(tmp_path / 'post' / 'sub-B01' / 'sub-B01_scans.tsv')
    (expected,) = read_tsv(done / 'sub-B01' / 'sub-B01_scans.tsv')
    assert row | {'filename': ''} == expected | {'filename': ''}
    assert (tmp_path / 'post' / 'sub-B01' / row['filename']).is_file()
    # Nothing is left to do there, and that is no failure.
    again = run(
        bids, 'third', 'participant', '--stage', 'preproc', '--template', TEMPLATE,
        '-d', 'pre', *flags,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    # The methods text tells of both stages, but only what ran here of versions.
    texts = [next((root / 'logs').glob('*/CITATION.md')) for root in (tmp_path / 'post', done)]
    apart, together = (read_boilerplate(text).split('\n\n') for text in texts)
    assert apart[:3] == together[:3] and len(apart) == 4
    assert 'registered' in apart[1] and 'Autoencoder' in apart[2]
    assert 'antspyx' in together[3] and 'antspyx' not in apart[3] and 'torch' in apart[3]


def test_how_a_brain_was_extracted_is_read_from_the_sidecar(tmp_path):
    image, sidecar = tmp_path / 'sub-1_T1w.nii.gz', tmp_path / 'sub-1_T1w.json'
    assert skull_strip_of(image) == ''
    for text, method in (('{', ''), ('[]', ''), ('{"SkullStripMethod": "hd-bet"}', 'hd-bet')):
        sidecar.write_text(text)
        assert skull_strip_of(image) == method


def test_harmonize_stage_without_preprocessing_fails_with_a_reason(bids_dir, model, tmp_path):
    result = run(
        bids_dir, tmp_path / 'out', 'participant', '--stage', 'harmonize', '--model', model,
        '--target-site', 'PhantomA', '-w', tmp_path / 'work', *FAST,
    )  # fmt: skip
    assert result.returncode == 1
    assert len(error_lines(result.stderr)) == 2
    assert '--stage preproc' in error_lines(result.stderr)[0]
    assert 'no other scan is to be processed' in result.stderr
    assert 'up to date' not in result.stderr


def test_reports_only_writes_the_pages_again(done, bids_dir, model, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(done, out)
    pages = sorted(out.glob('sub-*.html'))
    for page in pages:
        page.unlink()
    result = run(
        bids_dir, out, 'participant', '--reports-only', '--model', model, '-w', tmp_path / 'work',
        *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(out.glob('sub-*.html')) == pages
    assert '<th>Target site</th><td>PhantomA</td>' in pages[1].read_text()
    assert 'Disentangled Diffusion Autoencoder' in pages[0].read_text()


@pytest.mark.parametrize(
    ('said', 'slices'),
    [({'SliceIndices': [65]}, 'medial'), ({'SliceIndices': [64, 65]}, 'all'), ({}, 'all')],
)
def test_reports_only_takes_the_slices_that_are_there(bids_dir, tmp_path, said, slices):
    """With the packaged networks, so that --slices need not be given again."""
    image = tmp_path / f'{ANAT}_desc-harmonized_T1w.nii.gz'
    image.parent.mkdir(parents=True)
    image.touch()
    sidecars.sidecar(image).write_text(json.dumps(said))
    places = {'bids_dir': bids_dir, 'output_dir': tmp_path}
    settings = from_flat(
        places | {'analysis_level': 'participant', 'reports_only': True, 'unseen_site': 'auto'}
    )
    model = _model(settings, None, ())
    assert model is not None and model.path.name == f'universal-{slices}.safetensors'
    asked = replace(settings.preproc, slices='all')
    model = _model(replace(settings, preproc=asked), None, ())
    assert model is not None and model.path.name == 'universal-all.safetensors'


def test_boilerplate_names_the_steps(bids_dir, model, tmp_path):
    result = run(
        bids_dir, tmp_path, 'participant', '--boilerplate-only', '--model', model,
        '--target-site', 'PhantomA', '-w', tmp_path / 'work', *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (text,) = (tmp_path / 'logs').glob('*/CITATION.md')
    assert all(word in text.read_text() for word in (TEMPLATE, 'N4', 'Disentangled Diffusion'))


def test_bad_scans_cost_the_others_nothing(bids_dir, model, done, tmp_path):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    good = bids / 'sub-A01' / 'anat' / 'sub-A01_T1w.nii.gz'
    data = np.asarray(nib.load(good).dataobj)
    bad = {
        'truncated': lambda p: p.write_bytes(good.read_bytes()[:20_000]),
        'nongzip': lambda p: p.write_bytes(gzip.decompress(good.read_bytes())),
        'fourd': lambda p: _save(p, np.stack([data, data], axis=-1)),
        'twod': lambda p: _save(p, data[:, :, :1]),
        'zeros': lambda p: _save(p, np.zeros_like(data)),
        'nan': lambda p: _save(p, np.where(data > 0, np.nan, data)),
    }
    for label, write in bad.items():
        path = bids / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        path.parent.mkdir(parents=True)
        write(path)
    rows = ''.join(f'sub-{label}\tPhantomA\t40\tF\n' for label in bad)
    with (bids / 'participants.tsv').open('a') as table:
        table.write(rows)
    out = tmp_path / 'out'
    result = run(
        bids, out, 'participant', '--target-site', 'PhantomA', '--model', model,
        '-w', tmp_path / 'work', *FAST,
    )  # fmt: skip
    assert result.returncode == 1
    lines = error_lines(result.stderr)
    reasons = {
        'truncated': 'truncated', 'nongzip': 'gzip', 'fourd': ', 2); expected one 3D volume',
        'twod': ', 1); expected one 3D volume', 'zeros': 'every voxel is 0', 'nan': 'NaN',
    }  # fmt: skip
    assert len(lines) == len(bad)
    for label, reason in reasons.items():
        (line,) = [line for line in lines if f'sub-{label} ' in line]
        assert reason in line
        assert (out / f'sub-{label}.html').is_file()
    assert '2 of 8 T1w done' in result.stderr
    name = f'{ANAT}_desc-harmonized_T1w.nii.gz'
    assert (out / name).read_bytes() == (done / name).read_bytes()


def _save(path: Path, data: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0])), path)


def test_the_first_crash_stops_a_run_that_preprocesses_all_scans_first(bids_dir, model, tmp_path):
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    shutil.copytree(bids_dir, bids)
    scan = bids / 'sub-A01' / 'anat' / 'sub-A01_T1w.nii.gz'
    scan.write_bytes(scan.read_bytes()[:-1000])
    result = run(
        bids, out, 'participant', '--target-site', 'PhantomA', '--model', model, '-w',
        tmp_path / 'work', *FAST, '--unseen-site', 'adapt', '--stop-on-first-crash',
    )  # fmt: skip
    assert result.returncode == 1 and '0 of 2 T1w done' in result.stderr, result.stderr
    assert not list(out.rglob('*desc-harmonized_T1w.nii.gz'))


def test_missing_age_and_sex_go_on_label_blind(bids_dir, model, done, tmp_path):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    (bids / 'participants.tsv').write_text('participant_id\tsite\nsub-A01\tPhantomA\n')
    (bids / 'participants.json').unlink()
    result = run(
        bids, tmp_path / 'out', 'participant', '--target-site', 'PhantomB', '--model', model,
        '-w', tmp_path / 'work', '--participant-label', 'A01', '-d', f'ddae-app={done}', *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'age unknown' in result.stderr
    sidecar = json.loads((tmp_path / 'out' / f'{ANAT}_desc-harmonized_T1w.json').read_text())
    assert (sidecar['LabelBlind'], sidecar['Age'], sidecar['Sex']) == (True, None, None)


def test_scans_of_an_unknown_site_are_refused_alone_or_harmonized_by_themselves(
    bids_dir, done, tmp_path
):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    table = bids / 'participants.tsv'
    table.write_text(table.read_text().replace('PhantomB', 'Elsewhere'))
    model = write_model(tmp_path / 'real.safetensors', phantom=False)
    flags = (
        'participant', '--target-site', 'PhantomA', '--model', model, '-w', tmp_path / 'work',
        '-d', f'ddae-app={done}', *FAST,
    )  # fmt: skip
    refused = run(bids, tmp_path / 'out', *flags, '--unseen-site', 'refuse')
    assert refused.returncode == 1
    (line,) = error_lines(refused.stderr)
    assert 'Elsewhere' in line and '--unseen-site agnostic' in line
    assert (tmp_path / 'out' / f'{ANAT}_desc-harmonized_T1w.nii.gz').is_file()
    agnostic = run(bids, tmp_path / 'out', *flags)
    assert agnostic.returncode == 0, agnostic.stderr
    warning = "site Elsewhere (1 scan) is unknown to 'random': each scan is harmonized by itself"
    assert warning in agnostic.stderr
    known, unseen = ((tmp_path / 'out' / f'sub-{s}.html').read_text() for s in ('A01', 'B01'))
    assert 'measured in this scan alone' not in known
    assert 'measured in this scan alone' in unseen


def test_adapting_measures_the_appearance_of_a_site_in_its_scans(tmp_path):
    bids, out, work = (tmp_path / name for name in ('bids', 'out', 'work'))
    write_dataset(bids, Design(n_sites=1, subjects_per_site=5, seed=5, voxel_mm=4.0))
    table = bids / 'participants.tsv'
    table.write_text(table.read_text().replace('PhantomA', 'Elsewhere'))
    model = write_model(tmp_path / 'real.safetensors', phantom=False)
    flags = (
        'participant', '--target-site', 'PhantomA', '--model', model, '--unseen-site', 'adapt',
        '-w', work, *FAST,
    )  # fmt: skip
    few = '5 of its subjects, 1 are there'
    listed = run(bids, out, *flags, '--participant-label', 'A01', '--dry-run')
    assert listed.returncode == 1 and few in listed.stdout, 'as the run that follows'
    alone = run(bids, out, *flags, '--participant-label', 'A01')
    assert alone.returncode == 1
    (line,) = error_lines(alone.stderr)
    assert 'Elsewhere' in line and few in line
    listed = run(bids, out, *flags, '--dry-run')
    assert listed.returncode == 0, 'scans that would be preprocessed count'
    lines = [line.split('\t')[1:3] for line in listed.stdout.splitlines()[1:]]
    assert lines == [['done', 'new'], *[['new', 'new']] * 4]
    result = run(bids, out, *flags)
    assert result.returncode == 0, result.stderr
    sidecar = json.loads((out / f'{ANAT}_desc-harmonized_T1w.json').read_text())
    assert sidecar['ScansAdaptedTo'] == 5
    # Once for the site, not once for every scan of it.
    assert result.stderr.count('site Elsewhere: measure site appearance') == 1
    assert sidecar['SourceSiteKnown'] is False
    assert 'measured in 5 scans of the site' in (out / 'sub-A01.html').read_text()
    listed = run(bids, out, *flags, '--dry-run').stdout.splitlines()[1:]
    assert [line.split('\t', 1)[1] for line in listed] == ['done\tdone\t-'] * 5
