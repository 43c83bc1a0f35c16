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
from ddae_app.workflows.harmonize import UnseenSite
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

    def ended(work, method='none', *, stops=True, **asked):
        for module in ('engine.plan', 'levels.participant.level'):
            monkeypatch.setattr(f'ddae_app.{module}.run_workflow', work)
        settings = Settings(
            tmp_path / 'bids',
            layout.root,
            'participant',
            preproc=PreprocSettings(skull_strip=method),
            harmonize=HarmonizeSettings(device='cpu', **asked),
            run=RunSettings(work_dir=tmp_path / 'work', stop_on_first_crash=stops),
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


def test_scans_after_one_that_failed_are_not_said_to_have_failed_themselves(layout, run):
    def work(build, scans, settings, logs):
        return {scans[1]: 'not readable'}

    for label in PEOPLE:
        next(layout.root.glob(f'sub-{label}/anat/*preproc_T1w.nii.gz')).unlink()
    code, lines = run(work, stage='preproc')
    assert code == 1 and 'sub-Here1 failed: not readable' in lines
    why = 'was not written, since the run ended at another failure (--stop-on-first-crash)'
    assert sum(line.endswith(why) for line in lines) == 9
    lines = run(work, stage='preproc', stops=False)[1]
    assert sum(line.endswith('was not written') for line in lines) == 9


def test_outputs_of_an_earlier_run_do_not_count_as_done(layout, run):
    """They were made without a network; now they are made with one, and the second fails."""

    def work(build, scans, settings, logs):
        preprocess(layout, scans[0].path, 'deepbet')
        return {scans[1]: 'not readable'}

    code, lines = run(work, 'deepbet', stage='preproc')
    assert code == 1 and '1 of 10 T1w done' in lines
    assert 'sub-Here1 failed: not readable' in lines
    told = 'not reached; the outputs are those of an earlier run'
    assert [line for line in lines if told in line] == [
        f'sub-{label} failed: {told}' for label in PEOPLE[2:]
    ]
    assert told in layout.page('Here2').read_text()


def test_nor_where_all_scans_are_preprocessed_first(tmp_path, layout, run):
    def work(build, units, settings, logs):
        preprocess(layout, units[0].path, 'deepbet')
        return {units[1]: 'not readable'}

    model = write_model(tmp_path / 'real.safetensors', phantom=False)
    scans = [Scan(tmp_path / f'bids/sub-{i}/anat/sub-{i}_T1w.nii.gz', i, None, f'sub-{i}')
             for i in PEOPLE]  # fmt: skip
    for path in (path for scan in scans for path in layout.harmonized_images(scan).values()):
        path.touch()
    asked = {'model': model, 'target_site': 'PhantomA', 'unseen_site': 'adapt'}
    code, lines = run(work, 'deepbet', **asked)
    assert code == 1 and '0 of 10 T1w done' in lines
    assert sum('not reached; the outputs are' in line for line in lines) == 9


def test_a_site_is_not_measured_in_what_was_to_be_made_again(tmp_path, layout, run):
    """One of its five failed; what an earlier run left of it is another image."""
    measured = []

    def work(build, units, settings, logs):
        if isinstance(units[0], UnseenSite):
            measured.extend(units)
            return dict.fromkeys(units, 'not readable')
        first, *others = units
        logs.folder.mkdir(parents=True)
        (logs.folder / 'crash-1.txt').write_text(f'Node: ddae_wf.{first.workflow}.conform\n')
        for scan in others:
            preprocess(layout, scan.path, 'deepbet')
        return {first: 'cut short'}

    model = write_model(tmp_path / 'real.safetensors', phantom=False)
    asked = {'model': model, 'target_site': 'PhantomA', 'unseen_site': 'adapt'}
    code, lines = run(work, 'deepbet', stops=False, **asked)
    assert code == 1 and 'sub-Here0 failed: cut short' in lines
    assert sum('sub-Here' in line and '4 are there' in line for line in lines) == 4
    assert [(site.name, site.subjects) for site in measured] == [('There', 5)]
