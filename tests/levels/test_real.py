"""The preprocessing of real scans; skipped, with the reason, where they are not at hand."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ddae_app.files import digest_of
from ddae_app.imaging.brain import dice
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import read_itk_affine, resample_to_grid
from tests.levels.conftest import error_lines, run

PACKAGED, FETCHED = 'MNI152NLin2009aSym', 'MNI152NLin2009cAsym'
STAGE = ('participant', '--stage', 'preproc', '--skip-bids-validation', '--nprocs', '1')


@pytest.fixture
def multisite(test_data):
    return test_data / 'data' / 'multisite'


def labels_of(multisite, label):
    """Where the label map of a scan has tissue, as a file and as an image."""
    path = (
        multisite / 'derivatives' / 'labels' / f'sub-{label}' / 'anat'
        / f'sub-{label}_desc-regions_dseg.nii.gz'
    )  # fmt: skip
    image = nib.load(path)
    tissue = ndimage.binary_fill_holes(image.get_fdata() > 0)
    return nib.Nifti1Image(tissue.astype(np.float32), image.affine)


def dice_with_labels(multisite, out, label, template):
    anat = out / f'sub-{label}' / 'anat'
    space = f'space-{template}_res-130'
    mask = nib.load(anat / f'sub-{label}_{space}_desc-brain_mask.nii.gz')
    xfm = anat / f'sub-{label}_from-T1w_to-{template}_mode-image_xfm.txt'
    tissue = nib.as_closest_canonical(labels_of(multisite, label))
    moved = resample_to_grid(tissue, read_itk_affine(xfm), Grid(mask.shape, mask.affine))
    facts = json.loads((anat / f'sub-{label}_{space}_desc-preproc_T1w.json').read_text())
    return dice(np.asarray(mask.dataobj) > 0, moved.get_fdata() > 0.5), facts


def test_a_whole_head_needs_no_download(multisite, tmp_path):
    """No template, no weights, and nothing in the home folder."""
    (tmp_path / 'home').mkdir()
    result = run(
        multisite, tmp_path / 'out', *STAGE, '--participant-label', 'ixi048', '-w',
        tmp_path / 'work', HOME=str(tmp_path / 'home'), HDBET_WEIGHTS='', TEMPLATEFLOW_HOME='',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'Brain extraction: deepbet, since' in result.stderr
    overlap, facts = dice_with_labels(multisite, tmp_path / 'out', 'ixi048', PACKAGED)
    assert overlap > 0.97
    assert (facts['HeadKind'], facts['SkullStripMethod']) == ('head', 'deepbet')
    assert facts['registration_correlation'] > 0.4
    assert 'deepbet' in (tmp_path / 'out' / 'sub-ixi048.html').read_text()


def test_the_mask_of_a_template_with_a_head(multisite, templateflow_home, tmp_path):
    result = run(
        multisite, tmp_path / 'out', *STAGE, '--participant-label', 'ixi048', '--skull-strip',
        'template', '--template', FETCHED, '-w', tmp_path / 'work',
        TEMPLATEFLOW_HOME=str(templateflow_home),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    overlap, facts = dice_with_labels(multisite, tmp_path / 'out', 'ixi048', FETCHED)
    assert overlap > 0.93
    assert facts['HeadKind'] == 'head'


def test_a_mask_of_an_earlier_analysis(multisite, tmp_path):
    """The label map as the mask of fMRIPrep; another person's mask is refused."""
    masks = tmp_path / 'fmriprep' / 'sub-ixi048' / 'anat'
    masks.mkdir(parents=True)
    mask = masks / 'sub-ixi048_desc-brain_mask.nii.gz'
    nib.save(labels_of(multisite, 'ixi048'), mask)
    asked = (
        multisite, tmp_path / 'out', *STAGE, '--participant-label', 'ixi048', 'ixi013', '-d',
        f'fmriprep={tmp_path / "fmriprep"}', '-w', tmp_path / 'work', '--sloppy',
    )  # fmt: skip
    result = run(*asked)
    assert result.returncode == 1
    (line,) = error_lines(result.stderr)
    assert 'no brain mask of sub-ixi013' in line and '--brain-mask-filter' in line
    overlap, facts = dice_with_labels(multisite, tmp_path / 'out', 'ixi048', PACKAGED)
    assert overlap > 0.98
    assert (facts['SkullStripMethod'], facts['BrainMaskSHA256']) == ('mask', digest_of(mask))
    assert facts['Sources'][1] == 'bids:fmriprep:sub-ixi048/anat/sub-ixi048_desc-brain_mask.nii.gz'
    description = json.loads((tmp_path / 'out' / 'dataset_description.json').read_text())
    assert 'fmriprep' in description['DatasetLinks']


def test_a_whole_head_is_refused_where_the_mask_of_a_stripped_template_is_asked(
    multisite, tmp_path
):
    result = run(
        multisite, tmp_path / 'out', *STAGE, '--participant-label', 'ixi013', '--skull-strip',
        'template', '-w', tmp_path / 'work',
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = error_lines(result.stderr)
    assert 'has no skull' in line and '--skull-strip deepbet' in line


def test_plain_nii_and_nifti2_give_the_same(test_data, tmp_path):
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
        bids, tmp_path / 'out', *STAGE, '--sloppy', '-w', tmp_path / 'work',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    images = [
        np.asarray(nib.load(path).dataobj)
        for path in sorted((tmp_path / 'out').rglob('*desc-preproc_T1w.nii.gz'))
    ]
    assert len(images) == 2
    assert np.allclose(*images, atol=1e-3 * images[0].max())
