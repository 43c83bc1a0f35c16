"""What is planned for a scan of a dataset."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddae_app.engine.inputs import layout_of, protocol_without_model, select_all_scans
from ddae_app.engine.plan import MOST_SITE_SCANS, _of_all_people, decide_preprocessing
from ddae_app.settings import HarmonizeSettings, PreprocSettings, SelectSettings, Settings
from ddae_app.workflows.harmonize import SiteScan


def decided(tmp_path, stage, derivatives=()):
    """What is to be done of two scans, one of which is no image."""
    (tmp_path / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    for label in ('01', '02'):
        scan = tmp_path / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), scan)
    scan.write_bytes(b'no image')
    asked = PreprocSettings(skull_strip='none')
    stage = HarmonizeSettings(stage=stage)
    settings = Settings(
        tmp_path, tmp_path / 'out', 'participant',
        select=SelectSettings(derivatives=derivatives),
        preproc=asked, harmonize=stage,
    )  # fmt: skip
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


def test_masks_of_the_user_are_not_taken_in_silence_where_another_way_was_asked_for(
    tmp_path, caplog
):
    masks = tmp_path / 'masks'
    masks.mkdir()
    _, decisions = decided(tmp_path, 'all', (f'fmriprep={masks}',))
    assert all('no brain mask' in decision.refusal for decision in decisions)
    (record,) = (r for r in caplog.records if r.getMessage().startswith('Brain extraction: '))
    assert record.levelname == 'WARNING'
    assert f'masks in {masks}, and not --skull-strip none' in record.getMessage()


def scans_of(*people):
    """Scans of a site, one for each name."""
    return [SiteScan(Path(f'{i}.nii'), Path('mask.nii'), name) for i, name in enumerate(people)]


@pytest.mark.parametrize('n', [0, 1, 39, 40, 41, 79, 80, 81, 100, 1113])
def test_of_people_with_one_scan_each_some_are_taken_evenly(n):
    scans = scans_of(*map(str, range(n)))
    step = max(n / MOST_SITE_SCANS, 1)
    expected = [scans[int(i * step)] for i in range(min(n, MOST_SITE_SCANS))]
    assert list(_of_all_people(scans, MOST_SITE_SCANS)) == expected


@pytest.mark.parametrize('last', ['abcdef', 'aabbccddeeff'])
def test_a_person_of_many_scans_does_not_take_the_place_of_others(last):
    """A site is refused if its scans are of less than five people."""
    scans = scans_of(*['many'] * 120, *last)
    chosen = _of_all_people(scans, MOST_SITE_SCANS)
    assert len(chosen) == len(set(chosen)) == MOST_SITE_SCANS
    assert chosen == tuple(sorted(chosen, key=scans.index))
    assert [s.participant for s in chosen][-len(last) :] == list(last)
    # Where there are no more than are needed, all are taken as they stand.
    assert _of_all_people(scans[100:], MOST_SITE_SCANS) == tuple(scans[100:])
