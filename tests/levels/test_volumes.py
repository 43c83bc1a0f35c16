"""Whole scans at the participant level: in template space and in their own."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.validation import run_validator
from ddae_app.settings import Protocol
from tests.levels.conftest import TEMPLATE, run, write_model

PROTOCOL = Protocol(template=TEMPLATE, grid=(40, 40, 40), slices='all', slice_shape=(40, 40))
ANAT = 'sub-B01/anat/sub-B01'
SPACE = f'{ANAT}_space-{TEMPLATE}_res-40'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('whole') / 'whole.safetensors', protocol=PROTOCOL)


@pytest.fixture(scope='module')
def done(bids_dir, whole, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    result = run(
        bids_dir, out, 'participant', '--target-site', 'PhantomA', '--model', whole,
        '--write-site-effect', '-w', out.with_name('work'), '--skull-strip', 'none', '--sloppy',
        '--skip-bids-validation', '--nprocs', '1',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out


def data(path):
    return np.asarray(nib.load(path).dataobj)


def test_every_slice_is_there_and_the_brain_alone_differs(done):
    before, after, effect = (
        data(done / f'{SPACE}_desc-{desc}_T1w.nii.gz')
        for desc in ('slices', 'harmonized', 'siteeffect')
    )
    assert before.shape == (40, 40, 40)
    assert ((after > 0) <= (before > 0)).all() and not np.allclose(before, after)
    np.testing.assert_allclose(effect, after - before, atol=1e-6)


def test_the_scan_keeps_its_header_and_what_is_outside_the_brain(done, bids_dir):
    raw = nib.load(bids_dir / f'{ANAT}_T1w.nii.gz')
    found = nib.load(done / f'{ANAT}_desc-harmonized_T1w.nii.gz')
    assert raw.header.binaryblock == found.header.binaryblock
    stored = [image.dataobj.get_unscaled() for image in (raw, found)]
    changed = stored[0] != stored[1]
    assert 0.05 < changed.mean() < 0.3
    effect = data(done / f'{ANAT}_desc-siteeffect_T1w.nii.gz')
    assert effect.shape == raw.shape and not effect[raw.get_fdata() == 0].any()
    error = found.get_fdata() - raw.get_fdata() - effect
    inside = found.get_fdata() > 0
    assert np.abs(error[inside]).max() <= 0.51 * raw.dataobj.slope


def test_the_log_reports_every_step_that_takes_long(done):
    """The last step of a whole volume took a minute of a fine scan, in silence."""
    (log,) = done.glob('logs/*/ddae-app.log')
    for step in ('conform', 'register to MNI', 'harmonize', 'bring back to its own space'):
        assert f'sub-B01: {step} (' in log.read_text()


def test_sidecars_of_the_scan_in_its_own_space(done):
    found = json.loads((done / f'{ANAT}_desc-harmonized_T1w.json').read_text())
    raw = 'bids:raw:sub-B01/anat/sub-B01_T1w.nii.gz'
    transform = f'bids::{ANAT}_from-T1w_to-{TEMPLATE}_mode-image_xfm.txt'
    assert found['Sources'] == [raw, f'bids::{SPACE}_desc-harmonized_T1w.nii.gz', transform]
    assert found['SpatialReference'] == raw and found['SkullStripped'] is True
    assert (found['SourceSite'], found['TargetSite']) == ('PhantomB', 'PhantomA')
    effect = json.loads((done / f'{ANAT}_desc-siteeffect_T1w.json').read_text())
    assert effect['Sources'][0] == raw and 'added' in effect['Description']


def test_the_validator_finds_nothing(done):
    assert run_validator(done, kind='derivative')['issues']['issues'] == []


def test_where_nothing_is_to_be_changed_the_scan_comes_back_to_the_bit(
    done, bids_dir, whole, tmp_path
):
    result = run(
        bids_dir, tmp_path / 'out', 'participant', '--target-site', 'PhantomB', '--model', whole,
        '--keep-noise', '--stage', 'harmonize', '-d', f'ddae-app={done}', '-w', tmp_path / 'work',
        '--participant-label', 'B01', '--sloppy',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    raw = nib.load(bids_dir / f'{ANAT}_T1w.nii.gz').dataobj.get_unscaled()
    found = nib.load(tmp_path / 'out' / f'{ANAT}_desc-harmonized_T1w.nii.gz')
    assert np.array_equal(found.dataobj.get_unscaled(), raw)
