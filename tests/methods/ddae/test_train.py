"""The training loop: what it writes, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddae_app.errors import DdaeError, ModelError, UsageError
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.losses import training_loss
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.modelfile import ModelIdentity, read_model_info
from ddae_app.methods.parallel import start_fabric
from ddae_app.settings import check_value

from ..toy import CONFIG, PROTOCOL, TRAIN, slices

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """An undisturbed run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    reports = []
    path = run(tmp_path_factory.mktemp('undisturbed'), progress=reports.append)
    torch.set_num_threads(threads)
    return path, reports


def run(folder, *, seed=0, identity=None, **control):
    return train(
        slices(), CONFIG, TRAIN, PROTOCOL, folder, seed=seed, identity=identity,
        control=TrainingControl(**control),
    )  # fmt: skip


class StoppedError(Exception):
    """Raised from the progress callback."""


def stop_after(images):
    def progress(report):
        if report.images_seen >= images:
            raise StoppedError

    return progress


def test_model_file_and_losses(finished):
    path, _ = finished
    assert path.name == 'model.safetensors'
    info = load_bundle(path).info
    assert info.sites == ('A', 'B')
    assert info.training.subjects_per_site == (8, 8)
    assert info.training.images_seen == 96
    assert info.training.validation_loss is not None
    rows = [line.split('\t') for line in (path.parent / 'losses.tsv').read_text().splitlines()]
    assert rows[0] == ['images_seen', 'train_loss', 'validation_loss']
    assert [int(r[0]) for r in rows[1:]] == [24, 48, 72, 96]
    assert float(rows[-1][1]) == pytest.approx(info.training.train_loss, rel=1e-4)


def test_progress(finished):
    _, reports = finished
    assert [r.images_seen for r in reports] == list(range(8, 97, 8))
    assert {r.images for r in reports} == {96}
    assert reports[0].validation_loss is None
    assert reports[-1].validation_loss is not None
    assert reports[-1].seconds_left == 0 < reports[0].seconds_left


def test_same_seed_same_bytes_other_seed_others(finished, tmp_path):
    path, _ = finished
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert run(tmp_path / 'again').read_bytes() == path.read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    assert run(tmp_path / 'other', seed=1).read_bytes() != path.read_bytes()


@pytest.mark.parametrize('images', [8, 40, 48])
def test_stopped_and_resumed_is_as_undisturbed(finished, tmp_path, images):
    path, _ = finished
    with pytest.raises(StoppedError):
        run(tmp_path, progress=stop_after(images), checkpoint_seconds=0)
    reports = []
    resumed = run(tmp_path, progress=reports.append)
    assert reports[0].images_seen == images + 8
    assert resumed.read_bytes() == path.read_bytes()
    assert (tmp_path / 'losses.tsv').read_text() == (path.parent / 'losses.tsv').read_text()


def test_killed_and_resumed_is_as_undisturbed(finished, tmp_path):
    path, _ = finished
    command = [sys.executable, '-m', 'tests.methods.ddae.killed_run', str(tmp_path), '56']
    killed = subprocess.run(command, check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    reports = []
    assert run(tmp_path, progress=reports.append).read_bytes() == path.read_bytes()
    assert reports[0].images_seen == 64


def test_a_finished_run_is_not_repeated(finished):
    path, _ = finished
    before, reports = path.read_bytes(), []
    assert run(path.parent, progress=reports.append).read_bytes() == before
    assert not reports


def test_dropout_and_noise_differ_from_step_to_step(finished):
    _, reports = finished
    assert len({r.loss for r in reports}) == len(reports)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train_config': replace(TRAIN, learning_rate=2e-3)}, 'train.learning_rate is 0.001'),
        ({'model_config': replace(CONFIG, channels=16)}, 'model.channels is 8 there and 16 now'),
        ({'data': replace(slices(), ages=np.full(20, 50.0))}, 'run.data is'),
        ({'protocol': replace(PROTOCOL, slices='all')}, "protocol.slices is 'medial'"),
        ({'seed': 5}, 'run.seed is 0 there and 5 now'),
        (
            {'fabric': start_fabric('cpu', 'bf16')},
            "run.precision is 'fp32' there and 'bf16' now",
        ),
    ],
)
def test_checkpoint_of_another_run_is_refused(finished, change, message):
    path, _ = finished
    arguments = {
        'data': slices(),
        'model_config': CONFIG,
        'train_config': TRAIN,
        'protocol': PROTOCOL,
        'out_dir': path.parent,
    }
    with pytest.raises(ModelError, match=message):
        train(**(arguments | change))


@pytest.mark.parametrize('content', [b'', b'garbage' * 100])
def test_broken_checkpoint_is_refused(tmp_path, content):
    (tmp_path / 'checkpoint.safetensors').write_bytes(content)
    with pytest.raises(ModelError, match='not a usable checkpoint .* delete it'):
        run(tmp_path)


@pytest.mark.parametrize(
    ('part', 'value'),
    [
        ('settings', []),
        ('counters', None),
        ('counters', {'step': 'many'}),
        ('counters', {'step': 1.5}),
        ('counters', {'step': -1}),
        ('counters', {'step': 10**9}),
        ('counters', {'losses': None}),
        ('counters', {'history': [[1, 2.0]]}),
        ('counters', {'history': []}),
    ],
)
def test_a_checkpoint_of_other_contents_is_refused(finished, tmp_path, part, value):
    path = finished[0].parent / 'checkpoint.safetensors'
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = json.loads(metadata[part]) | value if isinstance(value, dict) else value
    metadata[part] = json.dumps(changed)
    save_file(tensors, tmp_path / 'checkpoint.safetensors', metadata)
    with pytest.raises(ModelError, match='not a usable checkpoint .* delete it'):
        run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    wild = replace(TRAIN, learning_rate=1.0, grad_clip=1e6, warmup_images=0, images=8000)
    deaf = replace(CONFIG, z_u_noise=0.0)
    with pytest.raises(DdaeError, match='lower learning_rate') as caught:
        train(slices(), deaf, wild, PROTOCOL, tmp_path)
    assert 'finite' in str(caught.value)
    assert not (tmp_path / 'model.safetensors').exists()


def test_slices_of_another_size_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r'\(1, 16, 16\), the network takes \(1, 32, 32\)'):
        train(slices(), replace(CONFIG, image_size=32, attention=()), TRAIN, PROTOCOL, tmp_path)


@pytest.mark.parametrize('name', ['', '../up', 'a b', '.hidden'])
def test_names_that_cannot_be_file_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match='model name'):
        run(tmp_path, identity=ModelIdentity(name))


def test_a_name_that_the_command_line_allows_is_written(tmp_path):
    check_value('model_name', 'my+model')
    identity = ModelIdentity('my+model', 'ours', phantom=True, notes='a trial')
    config = replace(TRAIN, images=8)
    path = train(slices(), CONFIG, config, PROTOCOL, tmp_path, identity=identity)
    assert path == tmp_path / 'my+model.safetensors'
    info = read_model_info(path)
    assert (info.name, info.phantom, info.notes) == ('my+model', True, 'a trial')
    assert info.training.dataset == 'ours'


def test_people_are_counted_once_however_many_images_they_have(tmp_path):
    data = slices()
    twice = replace(data, subjects=tuple(f'sub-{i // 2}' for i in range(len(data))))
    config = replace(TRAIN, validation_fraction=0.0, images=8)
    path = train(twice, CONFIG, config, PROTOCOL, tmp_path)
    assert read_model_info(path).training.subjects_per_site == (5, 5)


def test_no_held_out_subject(tmp_path):
    config = replace(TRAIN, validation_fraction=0.0, images=8)
    path = train(slices(), CONFIG, config, PROTOCOL, tmp_path)
    assert (tmp_path / 'losses.tsv').read_text().splitlines()[1].endswith('\tn/a')
    assert load_bundle(path).info.training.validation_loss is None


def test_no_known_age(tmp_path):
    data = replace(slices(), ages=np.full(20, np.nan))
    path = train(data, CONFIG, replace(TRAIN, images=8), PROTOCOL, tmp_path)
    assert load_bundle(path).info.age_sd == 1


@pytest.mark.parametrize('augmented', [True, False])
def test_only_the_encoder_sees_another_contrast(tmp_path, monkeypatch, augmented):
    seen = []

    def spy(model, x, view, *rest):
        seen.append((x, view))
        return training_loss(model, x, view, *rest)

    monkeypatch.setattr('ddae_app.methods.ddae.losses.training_loss', spy)
    still = replace(TRAIN, images=8, shift_pixels=0)
    data = slices()
    train(data, replace(CONFIG, encoder_augment=augmented), still, PROTOCOL, tmp_path)
    normalized, view = seen[0]
    images, known = normalized * 0.5 + 0.5, torch.from_numpy(data.images)
    assert torch.allclose(images, view, atol=1e-6) != augmented
    assert all(any(torch.allclose(x[0], image, atol=1e-6) for image in known) for x in images)


def test_every_step_draws_its_own_times_and_noise(tmp_path):
    # One image again and again, and a network that hardly learns.
    data = replace(slices(1, ('A',)), sexes=('M',))
    config = replace(TRAIN, images=12, batch_size=1, learning_rate=1e-8)
    config = replace(config, shift_pixels=0)
    reports = []
    train(
        data, CONFIG, config, PROTOCOL, tmp_path, control=TrainingControl(progress=reports.append)
    )
    assert np.std([r.loss for r in reports]) > 0.01


def test_the_model_file_holds_the_average(finished):
    path, _ = finished
    saved = load_file(path.with_name('checkpoint.safetensors'))
    weights = load_file(path)
    assert all(torch.equal(v, saved[f'average.{k}']) for k, v in weights.items())
    assert not all(torch.equal(v, saved[f'model.{k}']) for k, v in weights.items())


def test_the_average_remembers_no_step(tmp_path):
    """With a gradient, it would hold a graph of all steps, and memory would grow with each."""
    averages = []
    run(tmp_path, snapshot=lambda model, seen: averages.append(model))
    assert len(averages) > 1
    for weight in averages[-1].parameters():
        assert weight.grad_fn is None and not weight.requires_grad
