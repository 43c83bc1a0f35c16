"""Runs that end at the first failure: what is told of the scans that they did not reach."""

from __future__ import annotations

import json

import pytest

from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.provenance import preprocessing_record
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import space_of
from ddae_app.files import digest_of
from ddae_app.levels.participant.level import run_participant
from ddae_app.settings import HarmonizeSettings, PreprocSettings, Protocol, RunSettings, Settings
from tests.levels.conftest import TEMPLATE, write_model

PEOPLE = [f'{site}{i}' for site in ('Here', 'There') for i in range(5)]
"""Five of each of two sites that the model does not know."""


@pytest.fixture
def layout(tmp_path):
    """Of an output folder in which all of them are preprocessed, with images of one byte."""
    bids = tmp_path / 'bids'
    bids.mkdir()
    (bids / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    rows = ''.join(f'sub-{label}\t{label[:-1]}\n' for label in PEOPLE)
    (bids / 'participants.tsv').write_text('participant_id\tsite\n' + rows)
    made = Layout(tmp_path / 'out').in_space(space_of(Protocol(template=TEMPLATE)))
    for label in PEOPLE:
        raw = bids / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        raw.parent.mkdir(parents=True)
        raw.write_bytes(label.encode())
        preprocess(made, raw, 'none')
    return made


def preprocess(layout, raw, method):
    """Leave what a run that extracts brains so would leave of a scan."""
    label = raw.name[4:-11]
    scan = Scan(raw, label, None, f'sub-{label}')
    for path in layout.preproc_outputs(scan):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'x')
    record = preprocessing_record(
        digest_of(raw), layout.space.protocol, Extraction(method), sloppy=False
    )
    said = {'MadeFrom': record, 'SkullStripMethod': method}
    sidecar(layout.image('preproc', scan)).write_text(json.dumps(said))


@pytest.fixture
def run(tmp_path, layout, monkeypatch, caplog):
    """Runs the participant level with a stand-in for nipype; its exit code and what it logs."""

    def ended(work, method='none', **asked):
        for module in ('engine.plan', 'levels.participant.level'):
            monkeypatch.setattr(f'ddae_app.{module}.run_workflow', work)
        settings = Settings(
            tmp_path / 'bids',
            layout.root,
            'participant',
            preproc=PreprocSettings(skull_strip=method),
            harmonize=HarmonizeSettings(device='cpu', **asked),
            run=RunSettings(work_dir=tmp_path / 'work', stop_on_first_crash=True),
        )
        caplog.clear()
        with caplog.at_level('INFO', 'ddae_app'):
            code = run_participant(settings, layout.run('2026-1'), None)
        return code, caplog.messages

    return ended


def test_sites_after_one_that_could_not_be_measured_are_not_looked_for(tmp_path, layout, run):
    measured = []

    def work(build, units, settings, logs):
        measured.append([unit.stem for unit in units])
        return {units[0]: 'not readable'}

    model = write_model(tmp_path / 'real.safetensors', phantom=False)
    code, lines = run(work, model=model, target_site='PhantomA', unseen_site='adapt')
    assert code == 1 and measured == [['site Here', 'site There']]
    assert lines.count('0 of 10 T1w done') == 1
    assert 'sub-Here0 failed: not readable' in lines
    assert any('sub-There0 failed: ' in line and 'not written' in line for line in lines)
