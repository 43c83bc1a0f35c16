"""What a CPU does, a GPU does as well: `make gpu-test`, on a machine that has one.

Random numbers are drawn on the device, and arithmetic is rounded in another way there. So a GPU
trains another model than a CPU does, which harmonizes as well.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ddae_app.bids import sidecars
from ddae_app.bids.dataset import read_tsv
from ddae_app.imaging.brain import dice, hd_bet_mask
from ddae_app.imaging.weights import weights_sha256
from ddae_app.methods.base import training_data
from ddae_app.methods.cvae import CVAEHarmonizer
from ddae_app.methods.ddae import steps
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.parallel import start_fabric
from ddae_app.methods.style_gan import StyleGANHarmonizer
from ddae_app.phantom.dataset import Design, write_dataset
from tests.imaging.heads import packaged
from tests.imaging.nnunet_model import write_model as write_weights
from tests.levels.conftest import TEMPLATE, command, contents, error_lines, run_anew, write_model
from tests.methods import toy
from tests.methods.toy_sites import PRESET, PROTOCOL, anatomy, cohort, render, rmse, scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason='PyTorch sees no GPU; make gpu-test takes one'
    ),
]
FLAGS = (
    '--skull-strip', 'none', '--sloppy', '--skip-bids-validation', '--device', 'cuda',
    '--omp-nthreads', '1',
)  # fmt: skip
TRAIN = (
    'train', *FLAGS, '--template', TEMPLATE, '--slices', 'medial', '--preset', 'tiny',
    '--allow-few-scans', '--train-images', '640',
)  # fmt: skip
ROUNDING = 0.01
"""Tolerance of intensities: by default, cuDNN multiplies with 10 bits of mantissa (TF32)."""


@pytest.fixture(scope='module')
def brains():
    return [anatomy(1000 + i) for i in range(10)]


@pytest.fixture(scope='module')
def images(brains):
    return np.stack([scan(b, 'A') for b in brains])


@pytest.fixture(scope='module', params=['fp32', 'bf16'])
def fitted(request, tmp_path_factory):
    """A model that a GPU trained, loaded there and on the CPU."""
    path = train(
        training_data(*cohort()), PRESET.model, PRESET.train, PROTOCOL,
        tmp_path_factory.mktemp('fitted'), fabric=start_fabric('cuda', request.param),
    )  # fmt: skip
    return [DDAEHarmonizer.load(path, device=device) for device in ('cuda', 'cpu')]


@pytest.mark.parametrize(('source', 'target'), ['AB', 'BA'])
def test_a_model_that_a_gpu_trained_moves_images_towards_the_truth(fitted, brains, source, target):
    before, truth = (np.stack([scan(b, s) for b in brains]) for s in (source, target))
    on_gpu, on_cpu = (render(harmonizer, before, source, target) for harmonizer in fitted)
    assert rmse(on_gpu, truth) < 0.5 * rmse(before, truth)
    assert np.abs(on_gpu - on_cpu).max() < ROUNDING


def test_the_same_bytes_twice(fitted, images):
    on_gpu, _ = fitted
    first, again = (render(on_gpu, images, 'A', 'B') for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_sites_never_seen(fitted, images):
    on_gpu, on_cpu = fitted
    agnostic = [
        render(replace(harmonizer, unseen_site='agnostic'), images, 'C', 'B')
        for harmonizer in fitted
    ]
    assert np.abs(agnostic[0] - agnostic[1]).max() < ROUNDING
    subjects = [f'p{i}' for i in range(len(images))]
    adapted = [
        render(
            replace(harmonizer, unseen_site='adapt').adapted(images, 'C', subjects),
            images, 'C', 'B',
        )
        for harmonizer in (on_gpu, on_cpu)
    ]  # fmt: skip
    assert np.abs(adapted[0] - adapted[1]).max() < ROUNDING


def test_whole_scans(tmp_path):
    data = toy.scans()
    path = train(data, toy.DEEP, toy.TRAIN, toy.DEEP_PROTOCOL, tmp_path, device='cuda')
    labels = pd.DataFrame({'site': data.sites[8:12]})
    on_gpu, on_cpu = (
        DDAEHarmonizer.load(path, device=device).transform(data.images[8:12], labels, 'B')
        for device in ('cuda', 'cpu')
    )
    assert on_gpu.shape == data.images[8:12].shape
    assert np.abs(on_gpu - on_cpu).max() < ROUNDING


@pytest.mark.parametrize('kind', [CVAEHarmonizer, StyleGANHarmonizer])
def test_baselines(kind, tmp_path):
    images, labels = cohort()
    protocol = replace(PROTOCOL, slice_shape=images.shape[1:])
    fitted = kind(protocol=protocol, images=640, device='cuda').fit(images, labels)
    fitted.save(tmp_path / 'model.safetensors')
    on_cpu = kind.load(tmp_path / 'model.safetensors', device='cpu')
    out = [harmonizer.transform(images, labels, 'B') for harmonizer in (fitted, on_cpu)]
    assert np.abs(out[0] - out[1]).max() < ROUNDING


def test_a_training_that_was_stopped_goes_on(tmp_path):
    """A run with a time limit after every step ends as an undisturbed one does."""
    still = replace(toy.CONFIG, dropout=0.0)

    def go(folder, control=None):
        return train(
            toy.slices(), still, toy.TRAIN, toy.PROTOCOL, tmp_path / folder, device='cuda',
            control=control,
        )  # fmt: skip

    assert go('whole') is not None
    attempts = 0
    while go('stopped', TrainingControl(deadline=0.0)) is None:
        attempts += 1
    assert attempts == toy.TRAIN.steps - 1
    whole, stopped = (read_tsv(tmp_path / f / 'losses.tsv') for f in ('whole', 'stopped'))
    assert len(whole) == len(stopped)
    for one, other in zip(whole, stopped, strict=True):
        for column in ('train_loss', 'validation_loss'):
            assert float(other[column]) == pytest.approx(float(one[column]), rel=1e-3)


class Unrecorded:
    """Takes the place of Recorded, and computes anew each time."""

    def __init__(self, compute, inputs, generator):
        self.compute, self.device = compute, generator.device

    def __call__(self, inputs):
        return self.compute(*(x.to(self.device) for x in inputs))


def test_recorded_steps_are_those_that_are_not_recorded(tmp_path, monkeypatch):
    """The same draws, so nearly the same losses; dropout and random contrast take part."""

    def losses(folder):
        config = replace(toy.CONFIG, dropout=0.1, encoder_augment=True)
        train(toy.slices(), config, toy.TRAIN, toy.PROTOCOL, tmp_path / folder, device='cuda')
        rows = read_tsv(tmp_path / folder / 'losses.tsv')
        return [float(row[c]) for row in rows for c in ('train_loss', 'validation_loss')]

    recorded = losses('recorded')
    monkeypatch.setattr(steps, 'Recorded', Unrecorded)
    assert recorded == pytest.approx(losses('unrecorded'), rel=1e-3)


def test_hd_bet(tmp_path):
    """The mask of a small nnU-Net that thresholds intensities."""
    weights = write_weights(tmp_path / 'release_2.0.0', 0.25)
    image, sha256 = packaged().brain, weights_sha256(weights)
    on_gpu, on_cpu = (hd_bet_mask(image, weights, sha256, device) for device in ('cuda', 'cpu'))
    assert on_cpu.any() and dice(on_gpu, on_cpu) > 0.99


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Four scans of two sites and a model of random weights; all scans preprocessed."""
    folder = tmp_path_factory.mktemp('gpu')
    write_dataset(folder / 'bids', Design(n_sites=2, subjects_per_site=2, seed=5, voxel_mm=4.0))
    write_model(folder / 'random.safetensors')
    result = run_anew(
        folder / 'bids', folder / 'prepared', 'participant', '--stage', 'preproc', *FLAGS,
        '--template', TEMPLATE, '-w', folder / 'work', '--nprocs', '4',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def harmonize(folder, out, *flags):
    return (
        folder / 'bids', out / 'out', 'participant', '--stage', 'harmonize', '--target-site',
        'PhantomA', '-d', f'ddae-app={folder / "prepared"}', '-w', out / 'work', *FLAGS, '--model',
        folder / 'random.safetensors', *flags,
    )  # fmt: skip


def test_several_processes_share_a_gpu(folder, tmp_path):
    runs = []
    for name, processes in (('one', '1'), ('four', '4')):
        result = run_anew(*harmonize(folder, tmp_path / name, '--nprocs', processes))
        assert result.returncode == 0, result.stderr
        runs.append(tmp_path / name / 'out')
    images = [{k: v for k, v in contents(out).items() if k.endswith('.nii.gz')} for out in runs]
    assert images[0] == images[1] and len(images[0]) >= 4
    for file in runs[0].rglob('*desc-harmonized_T1w.nii.gz'):
        assert sidecars.read(file)['Device'] == 'cuda'


def test_a_gpu_that_is_full(folder, tmp_path):
    """It is reported in one line; with the memory free again the same command ends well."""
    flags = harmonize(folder, tmp_path, '--nprocs', '2')
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - 100 * 2**20, dtype=torch.uint8, device='cuda')
    full = run_anew(*flags)
    assert full.returncode == 1
    lines = error_lines(full.stderr)
    assert len(lines) == 4 and 'Traceback' not in full.stderr
    assert all('the GPU has too little memory left' in line for line in lines)
    training = run_anew(folder / 'bids', tmp_path / 'out', *TRAIN, '-w', tmp_path / 'work2')
    assert training.returncode == 1
    (line,) = error_lines(training.stderr)
    assert 'the GPU has too little memory left' in line and 'Traceback' not in training.stderr
    del taken
    torch.cuda.empty_cache()
    again = run_anew(*flags)
    assert again.returncode == 0, again.stderr


def train_command(folder, out, *flags):
    return (
        folder / 'bids', out / 'out', *TRAIN, '-d', f'ddae-app={folder / "prepared"}', '-w',
        out / 'work', *flags,
    )  # fmt: skip


def test_train_then_harmonize(folder, tmp_path):
    job = subprocess.Popen(
        command(*train_command(folder, tmp_path)), stderr=subprocess.PIPE, text=True
    )
    for line in job.stderr:
        if 'trained on' in line:
            break
    job.send_signal(signal.SIGTERM)
    stderr = job.communicate(timeout=120)[1]
    assert job.returncode == 143 and 'Traceback' not in stderr
    result = run_anew(*train_command(folder, tmp_path))
    assert result.returncode == 0, result.stderr
    model = tmp_path / 'out' / 'models' / 'ddae.safetensors'
    result = run_anew(
        folder / 'bids', tmp_path / 'out', 'participant', '--target-site', 'PhantomA', '-d',
        f'ddae-app={folder / "prepared"}', '-w', tmp_path / 'work', *FLAGS, '--model', model,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('processes', [1, 2])
def test_torchrun(folder, tmp_path, processes):
    """Processes that communicate through NCCL learn what one does alone."""
    if torch.cuda.device_count() < processes:
        pytest.skip(f'takes {processes} GPUs, there are {torch.cuda.device_count()}')
    losses = []
    for n in {1, processes}:
        out = tmp_path / str(n)
        launcher = [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
            str(n), '-m', 'ddae_app',
        ]  # fmt: skip
        flags = map(str, train_command(folder, out, '--precision', 'fp32'))
        result = subprocess.run(
            [*launcher, *flags], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        assert result.returncode == 0, result.stderr
        losses.append(
            float(read_tsv(out / 'out' / 'models' / 'ddae_losses.tsv')[-1]['train_loss'])
        )
    assert losses[0] == pytest.approx(losses[-1], rel=1e-2)
