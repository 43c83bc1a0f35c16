"""Names of files, made and read back."""

from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ddae_app.bids import layout as names
from ddae_app.bids.layout import (
    HARMONIZE_FIGURES,
    IMAGES,
    PREPROC_FIGURES,
    VOLUME_FIGURES,
    Layout,
    read_name,
    sidecar,
)
from ddae_app.bids.scan import Scan, Space
from ddae_app.settings import Protocol

SCAN = Scan(Path('x_T1w.nii'), '01', '2', 'sub-01_ses-2_acq-a_run-1')
SPACE = Space(Protocol(template='MNI152Lin'), 'https://template')
LAYOUT = Layout(Path('/out')).in_space(SPACE)


def test_the_examples_in_the_docstrings():
    results = doctest.testmod(names)
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('preproc', 'space-MNI152Lin_res-130_desc-preproc_T1w.nii.gz'),
        ('mask', 'space-MNI152Lin_res-130_desc-brain_mask.nii.gz'),
        ('slices', 'space-MNI152Lin_res-130_desc-slices_T1w.nii.gz'),
        ('harmonized', 'space-MNI152Lin_res-130_desc-harmonized_T1w.nii.gz'),
        ('native', 'desc-harmonized_T1w.nii.gz'),
        ('effect', 'space-MNI152Lin_res-130_desc-siteeffect_T1w.nii.gz'),
        ('native_effect', 'desc-siteeffect_T1w.nii.gz'),
    ],
)
def test_images_are_named_as_bids_wants_and_recognized(kind, name):
    path = LAYOUT.image(kind, SCAN)
    assert path == Path('/out/sub-01/ses-2/anat') / f'{SCAN.stem}_{name}'
    for file in (path, sidecar(path)):
        parts = read_name(file)
        assert (parts.kind, parts.stem, parts.participant) == (kind, SCAN.stem, '01')
        assert parts.space == (None if IMAGES[kind].native else 'MNI152Lin')


@pytest.mark.parametrize('desc', [*PREPROC_FIGURES, *HARMONIZE_FIGURES, *VOLUME_FIGURES])
def test_figures_are_recognized(desc):
    path = LAYOUT.figure(SCAN, desc)
    assert path == Path(f'/out/sub-01/figures/{SCAN.stem}_desc-{desc}_T1w.svg')
    assert (read_name(path).kind, read_name(path).stem) == (desc, SCAN.stem)


@pytest.mark.parametrize(
    'name',
    [
        'sub-01_T1w.nii.gz',
        'sub-01_desc-other_T1w.nii.gz',
        'sub-01_desc-preproc_T1w.nii.gz',
        'sub-01_space-A_res-1_desc-harmonized_T1w.svg',
        'sub-01_desc-preproc_bold.nii.gz',
        '01_desc-harmonized_T1w.nii.gz',
        'sub-01_scans.tsv',
        '',
    ],
)
def test_names_that_are_not_ours(name):
    assert read_name(name) is None


def test_other_files():
    anat = Path('/out/sub-01/ses-2/anat')
    assert LAYOUT.transform(SCAN) == anat / f'{SCAN.stem}_from-T1w_to-MNI152Lin_mode-image_xfm.txt'
    assert LAYOUT.scans_table(SCAN) == Path('/out/sub-01/ses-2/sub-01_ses-2_scans.tsv')
    assert sidecar(LAYOUT.scans_table(SCAN)).name == 'sub-01_ses-2_scans.json'
    assert LAYOUT.page('01') == Path('/out/sub-01.html')
    assert LAYOUT.uri(LAYOUT.transform(SCAN)).startswith('bids::sub-01/ses-2/anat/')
    assert SCAN.workflow == 'sub_01_ses_2_acq_a_run_1_wf'


def test_what_harmonization_writes():
    whole = replace(LAYOUT, space=replace(SPACE, protocol=Protocol(slices='all')))
    assert list(LAYOUT.harmonized_images(SCAN)) == ['harmonized', 'slices']
    kinds = ['harmonized', 'slices', 'native', 'effect', 'native_effect']
    assert list(whole.harmonized_images(SCAN, site_effect=True)) == kinds
    figures = [p.name for p in whole.harmonize_outputs(SCAN, site_effect=False) if 'svg' in p.name]
    assert len(figures) == 4 and any('desc-planes' in name for name in figures)


def test_what_another_harmonization_left(tmp_path):
    medial = replace(LAYOUT, root=tmp_path)
    protocol = replace(SPACE.protocol, slices='all')
    whole = replace(medial, space=replace(SPACE, protocol=protocol))
    for path in whole.harmonize_outputs(SCAN, site_effect=True):
        for file in (path, sidecar(path)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def left(layout, **asked):
        names = {p.name for p in layout.harmonize_leftovers(SCAN, **asked) if p.suffix != '.json'}
        return {name.removeprefix(f'{SCAN.stem}_') for name in names}

    assert left(whole, site_effect=True) == set()
    native = 'desc-siteeffect_T1w.nii.gz'
    assert left(whole, site_effect=False) == {native, whole.ending('effect')[1:]}
    planes = {'desc-harmonized_T1w.nii.gz', native, 'desc-planes_T1w.svg'}
    assert left(medial, site_effect=True) == planes
    assert left(medial, site_effect=False) == planes | {whole.ending('effect')[1:]}
    effect = whole.image('effect', SCAN)
    assert {effect, sidecar(effect)} <= {*medial.harmonize_leftovers(SCAN, site_effect=False)}


def test_models_and_runs_are_found_again(tmp_path):
    layout = Layout(tmp_path)
    assert layout.models() == [] and layout.runs() == [] and layout.scans_tables() == []
    files = layout.model('my+model')
    files.folder.mkdir()
    for path in (files.model, files.card, files.losses, files.loss_curve, files.samples):
        path.touch()
        # Being written, by a job or after it was killed, and what other systems leave.
        for prefix in ('.tmp-x1', '._'):
            path.with_name(prefix + path.name).touch()
    assert layout.models() == [files.model]
    for name in ('20260101_a', '20270101_b'):
        layout.run(name).folder.mkdir(parents=True)
    assert [run.run_id for run in layout.runs()] == ['20270101_b', '20260101_a']
    crash = layout.run('20260101_a').folder / 'crash-1.txt'
    crash.touch()
    assert layout.run('20260101_a').crashes() == [crash]
    assert layout.run('20260101_a').link(crash) == 'logs/20260101_a/crash-1.txt'
    table = layout.scans_table(SCAN)
    table.parent.mkdir(parents=True)
    for prefix in ('', '.tmp-x1', '._'):
        table.with_name(prefix + table.name).touch()
    assert layout.scans_tables() == [table]


@pytest.mark.parametrize('name', ['a.b_T1w.nii', 'a.b_T1w.nii.gz'])
def test_a_sidecar_lies_beside_its_image(name):
    assert sidecar(Path('anat') / name) == Path('anat/a.b_T1w.json')


def test_a_name_is_learned_without_large_libraries():
    code = (
        'import sys, ddae_app.bids.layout; '
        'sys.exit(bool({"nipype", "torch", "nibabel", "pandas"} & set(sys.modules)))'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
