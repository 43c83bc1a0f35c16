"""The preprocessing of real scans; skipped, with the reason, where they are not at hand."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from ddae_app.imaging.brain import dice
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import read_itk_affine, resample_to_grid
from tests.levels.conftest import error_lines, run

SPACE = 'space-MNI152NLin2009cAsym_res-130'
STAGE = ('participant', '--stage', 'preproc', '--skip-bids-validation', '--nprocs', '1')


@pytest.fixture
def multisite(test_data):
    return test_data / 'data' / 'multisite'


def test_brain_of_a_whole_head_agrees_with_its_label_map(multisite, templateflow_home, tmp_path):
    result = run(
        multisite, tmp_path / 'out', *STAGE, '--participant-label', 'ixi048', '--skull-strip',
        'template', '-w', tmp_path / 'work', TEMPLATEFLOW_HOME=str(templateflow_home),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    anat = tmp_path / 'out' / 'sub-ixi048' / 'anat'
    mask = nib.load(anat / f'sub-ixi048_{SPACE}_desc-brain_mask.nii.gz')
    labels = nib.load(
        multisite / 'derivatives' / 'labels' / 'sub-ixi048' / 'anat'
        / 'sub-ixi048_desc-regions_dseg.nii.gz'
    )  # fmt: skip
    tissue = nib.Nifti1Image((labels.get_fdata() > 0).astype(np.float32), labels.affine)
    xfm = anat / 'sub-ixi048_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.txt'
    grid = Grid(mask.shape, mask.affine)
    moved = resample_to_grid(nib.as_closest_canonical(tissue), read_itk_affine(xfm), grid)
    assert dice(np.asarray(mask.dataobj) > 0, moved.get_fdata() > 0.5) > 0.93
    facts = json.loads((anat / f'sub-ixi048_{SPACE}_desc-preproc_T1w.json').read_text())
    assert facts['HeadKind'] == 'head'
    assert facts['registration_correlation'] > 0.4


def test_a_whole_head_is_refused_where_only_a_stripped_template_is(multisite, tmp_path):
    result = run(
        multisite, tmp_path / 'out', *STAGE, '--participant-label', 'ixi013', '--skull-strip',
        'template', '--template', 'MNI152NLin2009aSym', '-w', tmp_path / 'work',
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = error_lines(result.stderr)
    assert 'whole head' in line and '--template MNI152NLin2009cAsym' in line


def test_plain_nii_and_nifti2_give_the_same(test_data, templateflow_home, tmp_path):
    bids = tmp_path / 'bids'
    odd = test_data / 'data' / 'odd'
    for label, name, ending in (
        ('plain', 'head_plain_nii_qform0.nii', '.nii'),
        ('nifti2', 'head_nifti2.nii.gz', '.nii.gz'),
    ):
        folder = bids / f'sub-{label}' / 'anat'
        folder.mkdir(parents=True)
        shutil.copy(odd / name, folder / f'sub-{label}_T1w{ending}')
    (bids / 'dataset_description.json').write_text('{"Name": "odd", "BIDSVersion": "1.10.0"}')
    result = run(
        bids, tmp_path / 'out', *STAGE, '--skull-strip', 'template', '--sloppy', '-w',
        tmp_path / 'work', TEMPLATEFLOW_HOME=str(templateflow_home),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    images = [
        np.asarray(nib.load(path).dataobj)
        for path in sorted((tmp_path / 'out').rglob('*desc-preproc_T1w.nii.gz'))
    ]
    assert len(images) == 2
    assert np.allclose(*images, atol=1e-3 * images[0].max())
