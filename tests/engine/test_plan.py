"""What is planned for a scan of a dataset."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from ddae_app.engine.inputs import layout_of, protocol_without_model, select_all_scans
from ddae_app.engine.plan import decide_preprocessing
from ddae_app.settings import PreprocSettings, Settings


def test_a_plan_counts_the_voxels_of_the_scan(tmp_path):
    (tmp_path / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    for label in ('01', '02'):
        scan = tmp_path / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), scan)
    scan.write_bytes(b'no image')
    asked = PreprocSettings(skull_strip='none')
    settings = Settings(tmp_path, tmp_path / 'out', 'participant', preproc=asked)
    scans, cohort = select_all_scans(settings)
    layout = layout_of(settings, protocol_without_model(settings))
    planner, decisions = decide_preprocessing(settings, scans, cohort, layout)
    assert [planner.plan(decision).voxels for decision in decisions] == [120, 0]
