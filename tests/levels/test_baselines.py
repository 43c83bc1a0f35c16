"""Baselines as methods of the program: fitted, found, applied, and refused what they cannot do."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from ddae_app.phantom.dataset import Design, write_dataset
from tests.levels.conftest import TEMPLATE, error_lines, run, run_anew

FLAGS = (
    '--skull-strip', 'none', '--template', TEMPLATE, '--sloppy', '--skip-bids-validation',
    '--nprocs', '1', '--slices', 'medial',
)  # fmt: skip


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
    """A dataset of two sites with two people each, and ComBat fitted to it."""
    folder = tmp_path_factory.mktemp('combat')
    write_dataset(folder / 'bids', Design(n_sites=2, subjects_per_site=2, seed=5, voxel_mm=3.0))
    result = run_anew(
        folder / 'bids', folder / 'out', 'train', '--method', 'combat', '--allow-few-scans', '-w',
        folder / 'work', *FLAGS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def harmonize(folder, *flags):
    return run(
        folder / 'bids', folder / 'out', 'participant', '--target-site', 'PhantomA', '--stage',
        'harmonize', '-w', folder / 'work', '--skip-bids-validation', '--nprocs', '1', *flags,
    )  # fmt: skip


def test_it_comes_with_a_card(fitted):
    models = fitted / 'out' / 'models'
    assert {path.name for path in models.iterdir()} == {
        'combat.safetensors', 'combat_MODEL.md', 'combat_samples.png',
    }  # fmt: skip
    card = (models / 'combat_MODEL.md').read_text()
    assert 'ComBat per pixel' in card and 'Disentangled' not in card
    assert '| PhantomA | 2 | 0 |' in card


def test_scans_are_harmonized_and_the_outputs_say_how(fitted):
    result = harmonize(fitted, '--method', 'combat')
    assert result.returncode == 0, result.stderr
    changes = {}
    for path in sorted((fitted / 'out').glob('sub-*/anat/*_desc-harmonized_T1w.json')):
        sidecar = json.loads(path.read_text())
        assert sidecar['HarmonizationMethod'] == 'ComBat'
        assert sidecar['LabelBlind'] is False and 'SamplingSteps' not in sidecar
        image = path.with_suffix('.nii.gz')
        before, after = (
            np.asarray(nib.load(image.with_name(image.name.replace('harmonized', desc))).dataobj)
            for desc in ('slices', 'harmonized')
        )
        changes.setdefault(sidecar['SourceSite'], []).append(np.abs(after - before).max())
    assert max(changes['PhantomA']) < 1e-4 and min(changes['PhantomB']) > 0.02
    page = next((fitted / 'out').glob('sub-*.html')).read_text()
    assert 'ComBat, age and sex used where known' in page
    assert 'Johnson et al., 2007' in page and 'Diffusion Autoencoder' not in page


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (
            ('--keep-noise',),
            "--keep-noise: 'combat' is a model of combat, which does not",
        ),
        (('--unseen-site', 'adapt'), "--unseen-site adapt: 'combat' is a model of combat"),
    ],
)
def test_what_only_a_ddae_can_is_refused(fitted, flags, message):
    result = harmonize(fitted, *flags)
    assert result.returncode != 0
    (line,) = error_lines(result.stderr)
    assert message in line


def test_a_model_of_another_method_is_refused(fitted):
    model = fitted / 'out' / 'models' / 'combat.safetensors'
    result = harmonize(fitted, '--method', 'ddae', '--model', model)
    assert result.returncode != 0
    (line,) = error_lines(result.stderr)
    assert 'is a model of combat, where one of ddae is expected' in line
    assert line.endswith('give another model, or another --method')


def test_without_a_model_of_that_method_there_is_one_line(fitted, tmp_path):
    result = run(
        fitted / 'bids', tmp_path / 'out', 'participant', '--target-site', 'PhantomA',
        '--method', 'combat', '-w', tmp_path / 'work', '--skip-bids-validation',
    )  # fmt: skip
    assert result.returncode != 0
    (line,) = error_lines(result.stderr)
    assert 'holds no such model; fit one' in line


@pytest.mark.parametrize(
    ('method', 'name', 'said'),
    [
        ('cvae', 'cVAE', ('A conditional variational autoencoder', 'z_dim 128')),
        ('style-gan', 'Style-Encoding GAN', ('A style-encoding generative', 'style_dim 16')),
    ],
)
def test_a_network_is_trained_and_used(fitted, tmp_path, method, name, said):
    derivatives = ('-d', f'ddae-app={fitted / "out"}')
    result = run_anew(
        fitted / 'bids', tmp_path / 'out', 'train', '--method', method, '--allow-few-scans',
        '--train-images', '64', '-w', tmp_path / 'work', *derivatives, *FLAGS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'trained on 64 of 64 images' in result.stderr
    card = (tmp_path / 'out' / 'models' / f'{method}_MODEL.md').read_text()
    assert all(text in card for text in said)
    sheet = tmp_path / 'out' / 'models' / f'{method}_samples.png'
    assert sheet.read_bytes().startswith(b'\x89PNG')
    result = run(
        fitted / 'bids', tmp_path / 'out', 'participant', '--target-site', 'PhantomA', '--stage',
        'harmonize', '-w', tmp_path / 'work', '--skip-bids-validation', '--nprocs', '1',
        *derivatives,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (path, *_) = sorted((tmp_path / 'out').glob('sub-*/anat/*_desc-harmonized_T1w.json'))
    assert json.loads(path.read_text())['HarmonizationMethod'] == name


@pytest.mark.parametrize('method', ['cvae', 'style-gan'])
def test_these_networks_take_one_slice(fitted, tmp_path, method):
    result = run(
        fitted / 'bids', tmp_path / 'out', 'train', '--method', method, '-w', tmp_path / 'work',
        *FLAGS, '--slices', 'all',
    )  # fmt: skip
    assert result.returncode == 2
    (line,) = error_lines(result.stderr)
    assert 'give --slices medial' in line
