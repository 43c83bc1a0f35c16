"""A method that is one file and one row works at every level; see docs/contributing."""

from __future__ import annotations

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.layout import Layout, RunFiles
from ddae_app.cli.main import resolve
from ddae_app.cli.parser import build_parser
from ddae_app.evaluation import predictions, probes
from ddae_app.levels.group.level import run_group
from ddae_app.levels.participant.level import run_participant
from ddae_app.levels.train.level import run_train
from ddae_app.methods import registry
from ddae_app.reports.boilerplate import read_boilerplate
from tests.levels.conftest import TEMPLATE
from tests.levels.derived import write_derived
from tests.levels.test_group import N, simulate
from tests.levels.toy_method import ROW


@pytest.fixture
def settings(tmp_path):
    """Settings from a command line."""

    def of(*words):
        flags = ('-w', tmp_path / 'work', '--skip-bids-validation', '--nprocs', '1', *words[3:])
        line = [str(word) for word in (*words[:3], *flags)]
        return resolve(vars(build_parser().parse_args(line)), os.environ)

    return of


def test_a_new_method_goes_through_every_level(tmp_path, settings, monkeypatch):
    monkeypatch.setitem(registry.METHODS, 'toy', ROW)
    images, _, cohort = simulate(0)
    rows = [*range(12), *range(N, N + 12)]
    write_derived(tmp_path, images[rows], cohort.iloc[rows], TEMPLATE)
    bids, derived, out = tmp_path / 'bids', tmp_path / 'out', tmp_path / 'toy'
    preprocessed = ('-d', f'ddae-app={derived}', '--template', TEMPLATE, '--slices', 'medial')
    logs = RunFiles(tmp_path / 'logs')

    # train
    train = settings(bids, out, 'train', '--method', 'toy', *preprocessed)
    assert run_train(train, logs) == 0
    files = Layout(out).model('toy')
    assert 'A toy method' in files.card.read_text() and files.samples.is_file()

    # participant
    label = cohort['subject'].iloc[-1 - N + 12]
    participant = settings(
        bids, out, 'participant', '--target-site', 'East', '--participant-label', label,
        *preprocessed,
    )  # fmt: skip
    assert run_participant(participant, logs, None) == 0
    after, before = (
        np.asarray(nib.load(next(out.rglob(f'*_desc-{desc}_T1w.nii.gz'))).dataobj)
        for desc in ('harmonized', 'slices')
    )
    ratio = after[before > 0] / before[before > 0]
    assert np.allclose(ratio, ratio[0], rtol=1e-5) and abs(ratio[0] - 1) > 0.01
    sidecar = json.loads(next(out.rglob('*_desc-harmonized_T1w.json')).read_text())
    assert (sidecar['HarmonizationMethod'], sidecar['TargetSite']) == ('Toy', 'East')
    text = read_boilerplate(logs.citations['md'])
    assert ROW.description in text and 'numpy' in text

    # group: as a baseline beside the others
    models = derived / 'models'
    models.mkdir()
    shutil.copy(files.model, models)
    monkeypatch.setattr(predictions, 'COSTLY_TEST_SCANS', 10)
    monkeypatch.setattr(probes, 'EPOCHS', 1)
    monkeypatch.setattr(probes, 'LEAST_STEPS', 1)
    assert run_group(settings(bids, derived, 'group'), None) == 0
    methods = json.loads(Layout(derived).group_metrics.read_text())['Methods']
    assert 'Toy (toy)' in methods and 'site_linear' in methods['Toy (toy)']['Estimates']
