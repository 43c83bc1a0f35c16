"""What is planned for a scan of a dataset."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from ddae_app.engine.inputs import layout_of, protocol_without_model, select_all_scans
from ddae_app.engine.plan import decide_preprocessing
from ddae_app.settings import HarmonizeSettings, PreprocSettings, Settings


def decided(tmp_path, stage):
    """What is to be done of two scans, one of which is no image."""
    (tmp_path / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    for label in ('01', '02'):
        scan = tmp_path / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), scan)
    scan.write_bytes(b'no image')
    asked = PreprocSettings(skull_strip='none')
    stage = HarmonizeSettings(stage=stage)
    settings = Settings(tmp_path, tmp_path / 'out', 'participant', preproc=asked, harmonize=stage)
    scans, cohort = select_all_scans(settings)
    layout = layout_of(settings, protocol_without_model(settings))
    return decide_preprocessing(settings, scans, cohort, layout)


def test_a_plan_counts_the_voxels_of_the_scan(tmp_path):
    planner, decisions = decided(tmp_path, 'all')
    assert [planner.plan(decision).voxels for decision in decisions] == [120, 0]


def test_nothing_is_preprocessed_where_only_harmonization_is_asked_for(tmp_path):
    _, decisions = decided(tmp_path, 'harmonize')
    assert [decision.preprocess.state for decision in decisions] == ['refused'] * 2
    assert all('run --stage preproc first' in decision.refusal for decision in decisions)
