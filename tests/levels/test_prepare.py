"""Which scans a calibration takes, where some of them cannot be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.bids.layout import RunFiles
from ddae_app.engine.inputs import layout_of, protocol_without_model
from ddae_app.errors import DdaeError, NotCalibratedError, UsageError
from ddae_app.levels.train import data
from ddae_app.settings import (
    CALIBRATED,
    PreprocSettings,
    RunSettings,
    SelectSettings,
    Settings,
    TrainSettings,
)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepare two sites of five people, of whom some have preprocessed scans that are damaged."""
    bids = tmp_path / 'bids'
    rows = [('participant_id', 'site', 'age', 'sex')]
    for i in range(10):
        scan = bids / f'sub-{i}' / 'anat' / f'sub-{i}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        scan.write_bytes(b'not read')
        rows.append((f'sub-{i}', 'AB'[i // 5], str(30 + i % 5), 'MF'[i % 2]))
    (bids / 'participants.tsv').write_text('\n'.join(map('\t'.join, rows)) + '\n')
    (bids / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    settings = Settings(
        bids, tmp_path / 'out', 'train', preproc=PreprocSettings(slices='medial'),
        select=SelectSettings(skip_bids_validation=True), train=TrainSettings(preset=CALIBRATED),
        run=RunSettings(work_dir=tmp_path / 'work'),
    )  # fmt: skip
    layout = layout_of(settings, protocol_without_model(settings))
    shape = layout.space.protocol.depth, *layout.space.protocol.slice_shape

    def of(*damaged, preset=CALIBRATED):
        def stacks(scan, *_):
            if scan.participant in damaged:
                raise DdaeError('not readable')
            return np.full((1, *shape), int(scan.participant), np.float32)

        monkeypatch.setattr(data, '_stacks_of', stacks)
        monkeypatch.setattr(data, 'preprocess_missing', lambda *_: {})
        monkeypatch.setattr(data, 'unlike_scans', lambda *_: ())
        few = preset != CALIBRATED
        asked = replace(settings.train, preset=preset, allow_few_scans=few)
        asked = replace(settings, train=asked)
        store, logs = tmp_path / 'store', RunFiles(tmp_path / 'logs')
        found = data.prepare(asked, layout, store, logs)
        return found, found.open(store, layout.space.protocol)

    return of


def test_a_site_of_which_too_few_can_be_read_is_left_out_and_the_others_stay(prepared, caplog):
    found, scans = prepared('9')
    assert found.sites == ('A',) * 5 and found.subjects == ('0', '1', '2', '3', '4')
    assert [image.max() for image in scans.images] == [0, 1, 2, 3, 4]
    assert {scan.participant: why for scan, why in found.failures.items()} == {'9': 'not readable'}
    assert 'site B is not calibrated, since it has 4 participants and 5 are needed' in caplog.text


def test_without_a_site_of_enough_scans_the_first_that_cannot_be_read_is_named(prepared):
    told = r'no site has 5 .* \(2 cannot be used, the first, sub-0: not readable\)'
    with pytest.raises(NotCalibratedError, match=told):
        prepared('0', '9')


def test_without_any_scan_to_train_on_the_first_that_cannot_be_read_is_named(prepared):
    told = 'no scan can be used, so no model can be made; the first, sub-0: not readable'
    with pytest.raises(UsageError, match=told):
        prepared(*map(str, range(10)), preset='tiny')
