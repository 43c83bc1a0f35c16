from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from ddae_app.bids import layout as names
from ddae_app.bids.layout import Scan, sidecar

SCAN = Scan(Path('x_T1w.nii'), '01', '2', 'sub-01_ses-2_acq-a_run-1')


def test_the_examples_in_the_docstrings():
    results = doctest.testmod(names)
    assert results.attempted and not results.failed


def test_entities_come_in_the_order_of_bids_however_they_are_given():
    name = SCAN.derivative(desc='preproc', res='130', space='MNI152Lin')
    assert name == Path(
        'sub-01/ses-2/anat/sub-01_ses-2_acq-a_run-1_space-MNI152Lin_res-130_desc-preproc_T1w.nii.gz'
    )


def test_names_of_what_is_no_image():
    assert SCAN.transform('MNI152Lin') == Path(
        'sub-01/ses-2/anat/sub-01_ses-2_acq-a_run-1_from-T1w_to-MNI152Lin_mode-image_xfm.txt'
    )
    assert SCAN.figure('brain', '.svg') == Path(
        'sub-01/figures/sub-01_ses-2_acq-a_run-1_desc-brain_T1w.svg'
    )
    assert SCAN.workflow == 'sub_01_ses_2_acq_a_run_1_wf'


@pytest.mark.parametrize('name', ['a.b_T1w.nii', 'a.b_T1w.nii.gz'])
def test_a_sidecar_lies_beside_its_image(name):
    assert sidecar(Path('anat') / name) == Path('anat/a.b_T1w.json')
