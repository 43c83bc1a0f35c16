"""Datasets of DataLad, of which some content was not fetched: told from what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ddae_app.bids.layout import Layout
from ddae_app.bids.scan import Scan
from ddae_app.cli.main import main
from ddae_app.engine.inputs import space_of
from ddae_app.engine.plan import scans_by_site
from ddae_app.errors import TemplateError
from ddae_app.imaging.templates import load_template
from ddae_app.settings import Protocol, from_flat
from tests.imaging.nnunet_model import write_model as write_network
from tests.levels.conftest import TEMPLATE, write_model
from tests.levels.derived import write_derived

FLAGS = ('--skull-strip', 'none', '--template', TEMPLATE, '--skip-bids-validation')


def drop(path: Path, how: str = 'link') -> None:
    """Leave of a file what git-annex leaves where its content is dropped."""
    path.unlink()
    if how == 'link':
        path.symlink_to(f'.git/annex/objects/aa/bb/KEY/{path.name}')
    else:
        path.write_text(f'/annex/objects/KEY-{path.name}\n')


def the_command(path: Path) -> str:
    return f'run "datalad get {path}" or "git annex get {path}"'


@pytest.fixture
def dataset(bids_dir, tmp_path) -> Path:
    """A copy of the phantoms, of which content may be dropped."""
    return Path(shutil.copytree(bids_dir, tmp_path / 'bids'))


@pytest.fixture
def program(dataset, tmp_path, capsys, monkeypatch):
    """Run the program in this process: its exit code, and what it says."""

    def run(level: str, *flags, bids=dataset, out=tmp_path / 'out'):
        monkeypatch.setattr(os, 'environ', os.environ.copy())
        arguments = [bids, out, level, '-w', tmp_path / 'work', *FLAGS, *flags]
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert 'Traceback' not in said.err
        return code, said.out, said.err

    return run


def t1w(dataset: Path, label: str) -> Path:
    return dataset / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'


@pytest.mark.parametrize('how', ['link', 'pointer'])
@pytest.mark.parametrize(
    ('level', 'flags'), [('participant', ['--stage', 'preproc']), ('train', [])]
)
def test_one_scan_that_was_not_fetched_hurts_no_other(dataset, program, how, level, flags):
    image = t1w(dataset, 'A01')
    drop(image, how)
    code, listed, _ = program(level, *flags, '--dry-run')
    of_a, of_b = listed.splitlines()[1:]
    assert code == 1
    assert of_a.startswith('sub-A01\trefused') and the_command(image) in of_a
    assert of_b.startswith('sub-B01\tnew')


@pytest.mark.parametrize('level', ['participant', 'train'])
def test_a_scan_behind_a_broken_link_is_refused_before_the_work(dataset, program, level):
    image = t1w(dataset, 'A01')
    image.unlink()
    image.symlink_to('/nowhere/T1.nii.gz')
    flags = ['--stage', 'preproc'] if level == 'participant' else []
    code, listed, _ = program(level, *flags, '--dry-run')
    of_a, of_b = listed.splitlines()[1:]
    assert code == 1
    assert of_a.startswith('sub-A01\trefused')
    assert f'{image}: a broken link to /nowhere/T1.nii.gz; ' in of_a
    assert of_b.startswith('sub-B01\tnew')


@pytest.mark.parametrize('how', ['link', 'pointer'])
@pytest.mark.parametrize(
    'name',
    ['dataset_description.json', 'participants.tsv', 'participants.json',
     'sub-B01/sub-B01_sessions.tsv', 'sessions.json'],
)  # fmt: skip
def test_a_table_that_was_not_fetched_is_not_taken_for_missing(dataset, program, how, name):
    path = dataset / name
    path.touch()
    drop(path, how)
    for level, flags in (('participant', ['--stage', 'preproc']), ('train', [])):
        code, _, said = program(level, *flags, '--dry-run')
        assert code == 2
        assert the_command(path) in said


@pytest.mark.parametrize('how', ['link', 'pointer'])
def test_the_json_of_a_scan_that_was_not_fetched_is_said(dataset, program, how):
    path = t1w(dataset, 'A01').with_name('sub-A01_T1w.json')
    path.touch()
    drop(path, how)
    code, _, said = program('participant', '--stage', 'preproc', '--dry-run')
    assert code == 0
    assert the_command(path) in said


@pytest.mark.parametrize('how', ['link', 'pointer'])
def test_a_model_that_was_not_fetched(program, tmp_path, how):
    path = write_model(tmp_path / 'model.safetensors')
    drop(path, how)
    flags = ['--model', path, '--target-site', 'PhantomA', '--dry-run']
    code, _, said = program('participant', *flags)
    assert (code, the_command(path) in said) == (2, True)
    code, _, said = program('train', '--init-from', path, '--dry-run')
    assert (code, the_command(path) in said) == (2, True)


@pytest.mark.parametrize('how', ['link', 'pointer'])
def test_weights_that_were_not_fetched(program, tmp_path, how):
    weights = write_network(tmp_path / 'weights', threshold=50.0)
    path = weights / 'fold_all' / 'checkpoint_final.pth'
    drop(path, how)
    flags = ['--stage', 'preproc', '--skull-strip', 'hd-bet', '--hd-bet-weights', weights]
    code, _, said = program('participant', *flags, '--dry-run')
    assert (code, the_command(path) in said) == (2, True)


@pytest.fixture
def derived(tmp_path) -> Path:
    """Outputs of a few scans of two sites, made from noise."""
    folder, random = tmp_path / 'derived', np.random.default_rng(0)
    cohort = pd.DataFrame(
        {'subject': ['A1', 'A2', 'B1', 'B2'], 'site': ['PhantomA'] * 2 + ['PhantomB'] * 2,
         'age': [20.0, 30, 40, 50], 'sex': ['F', 'M', 'F', 'M']}
    )  # fmt: skip
    images = random.random((4, 128, 128)).astype(np.float32)
    write_derived(folder, images, cohort, TEMPLATE)
    return folder


@pytest.mark.parametrize('stage', ['preproc', 'harmonize'])
@pytest.mark.parametrize('how', ['link', 'pointer'])
def test_a_mask_that_was_not_fetched_is_not_made_again(
    derived, program, tmp_path, model, how, stage
):
    bids, out = derived / 'bids', derived / 'out'
    scan = Scan(t1w(bids, 'A1'), 'A1', None, 'sub-A1')
    mask = Layout(out).in_space(space_of(Protocol(template=TEMPLATE))).preprocessed(scan).mask
    drop(mask, how)
    asked = [] if stage == 'preproc' else ['--model', model, '--target-site', 'PhantomA']
    flags = ['--stage', stage, '--unseen-site', 'agnostic', '-d', f'ddae-app={out}', *asked]
    code, listed, _ = program('participant', *flags, '--dry-run', bids=bids)
    of_a1, of_a2 = listed.splitlines()[1:3]
    assert code == 1
    assert of_a1.startswith('sub-A1\trefused') and the_command(mask) in of_a1
    assert of_a2.startswith('sub-A2\treused')


def test_the_group_level_says_what_was_not_fetched(derived, program):
    bids, out = derived / 'bids', derived / 'out'
    layout = Layout(out).in_space(space_of(Protocol(template=TEMPLATE)))
    images = [
        layout.image('preproc', Scan(t1w(bids, label), label, None, f'sub-{label}'))
        for label in ('A1', 'A2', 'B1', 'B2')
    ]
    for image in images:
        drop(image)
    _, _, said = program('group', bids=bids, out=out)
    assert the_command(images[0]) in said


@pytest.mark.parametrize('how', ['link', 'pointer'])
@pytest.mark.parametrize(
    'name',
    ['sub-A01/anat/sub-A01_desc-brain_mask.nii.gz', 'sub-A01/mri/mask.mgz'],
)
def test_a_mask_of_another_program_that_was_not_fetched(program, tmp_path, how, name):
    path = tmp_path / 'masks' / name
    path.parent.mkdir(parents=True)
    path.touch()
    drop(path, how)
    flags = ['--stage', 'preproc', '-d', f'smriprep={tmp_path / "masks"}', '--dry-run']
    code, listed, _ = program('participant', *flags)
    assert code == 1
    assert listed.splitlines()[1].startswith('sub-A01\trefused')
    assert the_command(path) in listed


@pytest.mark.parametrize('how', ['link', 'pointer'])
def test_a_template_that_was_not_fetched(tmp_path, how):
    name = 'MNI152NLin2009cAsym'
    path = tmp_path / f'tpl-{name}' / f'tpl-{name}_res-02_T1w.nii.gz'
    path.parent.mkdir()
    path.touch()
    drop(path, how)
    with pytest.raises(TemplateError, match='datalad get') as error:
        load_template(name, tmp_path)
    assert the_command(path) in str(error.value)


@pytest.mark.parametrize('how', ['link', 'pointer'])
def test_a_site_is_not_measured_in_scans_that_were_not_fetched(derived, tmp_path, caplog, how):
    bids, out = derived / 'bids', derived / 'out'
    layout = Layout(out).in_space(space_of(Protocol(template=TEMPLATE)))
    image = layout.image('preproc', Scan(t1w(bids, 'A1'), 'A1', None, 'sub-A1'))
    drop(image, how)
    places = {'bids_dir': bids, 'output_dir': out, 'analysis_level': 'participant'}
    with caplog.at_level('WARNING', 'ddae_app'):
        by_site = scans_by_site(from_flat(places), layout)
    assert {site: len(scans) for site, scans in by_site.items()} == {'PhantomA': 1, 'PhantomB': 2}
    assert f'sub-A1 is not used to measure its site: {image}' in caplog.text
