"""The methods text on pages of scans that earlier runs finished."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import space_of
from ddae_app.levels.participant.level import run_participant
from ddae_app.levels.participant.methods_text import methods_text, text_of_outputs
from ddae_app.methods.find import find_model
from ddae_app.reports.boilerplate import read_boilerplate, write_boilerplate
from ddae_app.settings import HarmonizeSettings, PreprocSettings, Protocol, RunSettings, Settings
from ddae_app.workflows.harmonize import harmonization_methods
from ddae_app.workflows.preproc import preprocessing_methods

OTHER = 'Regional features (6) were harmonized with ComBat.\n\nThis was computed with *numpy* 2.'


@pytest.fixture
def finished(tmp_path, model):
    """A scan that was harmonized to PhantomA, and the texts of three runs, by their names."""
    found = find_model(model, None, ())
    scan = Scan(tmp_path / 'bids/sub-1/anat/sub-1_T1w.nii.gz', '1', None, 'sub-1')
    scan.path.parent.mkdir(parents=True)
    scan.path.touch()
    bids = tmp_path / 'bids'
    (bids / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (bids / 'participants.tsv').write_text('participant_id\tsite\nsub-1\tPhantomB\n')
    layout = Layout(tmp_path / 'out').in_space(space_of(Protocol()))
    for path in (*layout.preprocessed(scan), *layout.harmonized_images(scan).values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sidecar(layout.image('preproc', scan)).write_text(
        json.dumps({'MadeFrom': {'Sloppy': False}, 'SkullStripMethod': 'deepbet'})
    )
    harmonize(layout, scan, found)
    settings = Settings(
        bids,
        layout.root,
        'participant',
        preproc=PreprocSettings(skull_strip='deepbet'),
        harmonize=HarmonizeSettings(target_site='PhantomA', unseen_site='refuse'),
    )
    brain = preprocessing_methods(layout.space.protocol, 'deepbet')
    slices = harmonization_methods(found.method.describe(keep_noise=False), Protocol())
    texts = {
        '2026-1': methods_text([brain, slices], settings, found, extractions=['deepbet']),
        '2026-2': methods_text([brain], settings, None, extractions=['deepbet']),
        '2026-3': OTHER,
    }
    for name, text in texts.items():
        write_boilerplate(layout.run(name).citations, text)
    return settings, layout, found, scan, texts


def harmonize(layout, scan, found, **changes):
    record = {
        'ModelSHA256': found.sha256, 'SourceSite': 'PhantomB', 'TargetSite': 'PhantomA',
        'UnseenSitePolicy': 'refuse', 'KeepNoise': False, 'Sloppy': False,
    }  # fmt: skip
    image = layout.image('harmonized', scan)
    sidecar(image).write_text(json.dumps({'MadeFrom': record | changes}))


def test_it_is_that_of_the_run_that_did_the_same(finished):
    settings, layout, found, scan, texts = finished
    assert text_of_outputs(settings, layout, found, [scan]) == texts['2026-1']
    assert text_of_outputs(settings, layout, None, [scan]) == texts['2026-2']
    assert 'antspyx' in texts['2026-2']
    # What no run says is told without versions, which are not known any more.
    harmonize(layout, scan, found, KeepNoise=True, TargetSite='PhantomB')
    text = text_of_outputs(settings, layout, found, [scan])
    assert 'target site was PhantomB' in text and 'denoised' not in text
    assert 'deepbet' in text and 'computed with' not in text
    harmonize(layout, scan, found, Sloppy=True)
    assert '--sloppy' in text_of_outputs(settings, layout, found, [scan])


def test_none_is_better_than_one_that_is_not_true_of_all(finished, tmp_path):
    settings, layout, found, scan, _ = finished
    other = replace(scan, path=tmp_path / 'bids/sub-2/anat/sub-2_T1w.nii.gz', stem='sub-2')
    assert text_of_outputs(settings, layout, found, [other]) == ''
    harmonize(layout, scan, found, ModelSHA256='of another')
    assert text_of_outputs(settings, layout, found, [scan]) == ''


def test_pages_do_not_take_that_of_another_kind_of_run(finished):
    settings, layout, _, _, texts = finished
    again = replace(
        settings,
        harmonize=HarmonizeSettings(stage='preproc'),
        run=RunSettings(reports_only=True),
    )
    logs = layout.run('2026-4')
    assert run_participant(again, logs, None) == 0
    page = layout.page('1').read_text()
    assert 'N4' in page and 'Regional features' not in page and 'Autoencoder' not in page
    assert read_boilerplate(logs.citations['md']) == texts['2026-2']
