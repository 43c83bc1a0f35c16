"""Training, from scans to a model file; a run that was killed resumes where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import ddae_app
from ddae_app.errors import UsageError
from ddae_app.files import write_atomically
from ddae_app.methods.base import Progress, ProgressCallback
from ddae_app.methods.condition import batch_of, condition_of
from ddae_app.methods.data import SliceData, site_quantiles, split_subjects
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle, save_bundle
from ddae_app.methods.ddae.checkpoint import TrainState, resume, save_checkpoint
from ddae_app.methods.ddae.config import ModelConfig, TrainConfig
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.ddae.losses import denoising_loss
from ddae_app.methods.ddae.model import DDAE, Networks
from ddae_app.methods.ddae.render import render_to_measure
from ddae_app.methods.ddae.residuals import fit_residual_correction
from ddae_app.methods.ddae.steps import Steps, normalized, seed_of
from ddae_app.methods.modelfile import ModelIdentity, TrainingRecord
from ddae_app.methods.site_effects import subjects_per_site
from ddae_app.settings import Protocol, check_value

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_NAME = 'checkpoint.safetensors'
LOSSES_NAME = 'losses.tsv'
MAX_VALIDATION_IMAGES = 256


@dataclass(frozen=True)
class TrainingControl:
    """How a training run reports, and when it stops.

    Attributes
    ----------
    deadline : float
        When to stop, as ``time.monotonic`` counts, after a checkpoint; there is always one step.
    snapshot : callable, optional
        Called ten times in all, with the averaged model and the number of images seen.
    progress : callable, optional
        Called with a :class:`~ddae_app.methods.base.Progress` after every step; an error that it
        raises stops the run.
    checkpoint_seconds : float
        Time between checkpoints; there is always one at the end.
    """

    deadline: float = math.inf
    snapshot: Callable[[DDAE, int], None] | None = None
    progress: ProgressCallback | None = None
    checkpoint_seconds: float = 300.0


def train(
    data: SliceData,
    model_config: ModelConfig,
    train_config: TrainConfig,
    protocol: Protocol,
    out_dir: str | Path,
    *,
    device: torch.device | str = 'cpu',
    fabric: Fabric | None = None,
    seed: int = 0,
    identity: ModelIdentity | None = None,
    initial: Bundle | None = None,
    control: TrainingControl | None = None,
) -> Path | None:
    """Train a DDAE and write its model file.

    On the CPU, with the same number of threads, a run that was stopped and started again writes
    the same bytes as one that was not.

    Parameters
    ----------
    data : SliceData
        ``model_config.image_size`` squared.
    model_config : ModelConfig
    train_config : TrainConfig
    protocol : Protocol
        How ``data`` was preprocessed; stored in the model file.
    out_dir : path
        Gets ``<name>.safetensors``, ``losses.tsv`` and ``checkpoint.safetensors``. A checkpoint
        found there is resumed.
    device : torch.device
        Where there is no `fabric`.
    fabric : Fabric, optional
        The processes among which each batch is divided
        (:func:`ddae_app.methods.parallel.start_fabric`); only the first one writes files.
    seed : int
        Of the held-out subjects, the first weights and every random draw.
    identity : ModelIdentity, optional
        Name and origin, stored in the model file.
    initial : Bundle, optional
        A model to start from; sites that it does not know start with its null token.
    control : TrainingControl, optional

    Returns
    -------
    Path or None
        The model file; None if the deadline came first, and the same call resumes.

    Raises
    ------
    UsageError
        If the slices have another size than the network, the name cannot be a file name,
        ``initial`` is of another configuration, or the processes do not divide a batch.
    ModelError
        If the folder holds a checkpoint of other settings or data.
    DdaeError
        If the loss is no longer finite.
    """
    identity, control = identity or ModelIdentity('model'), control or TrainingControl()
    _check(data, model_config, identity.name)
    from ddae_app.methods.parallel import precision_of, start_fabric  # takes seconds

    fabric = fabric or start_fabric(device)
    if train_config.batch_size % fabric.world_size:
        raise UsageError(
            f'{fabric.world_size} processes cannot divide a batch of {train_config.batch_size} '
            'images evenly; start another number of them'
        )
    out_dir, device, first = Path(out_dir), fabric.device, fabric.is_global_zero
    precision = {'precision': precision_of(fabric)}
    settings = {
        'model': asdict(model_config),
        'train': asdict(train_config),
        'protocol': asdict(protocol),
        'run': {'seed': seed, 'device': device.type, 'data': data.fingerprint()} | precision,
        'initial': initial.sha256 if initial else None,
    }
    train_rows, held_out = split_subjects(data, train_config.validation_fraction, seed)
    site_slices, unseen = _slices_by_site(data, train_rows), data.with_brain(held_out)
    # Only dropout and the first weights use the global generator; the caller's is left alone.
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed_of(seed, 0, 'weights'))
        model = _new_model(data, train_rows, model_config, initial)
        # A CPU is faster with channels last; a GPU would reorder them for each normalization.
        order = torch.channels_last if device.type == 'cpu' else torch.contiguous_format
        model = model.to(device, memory_format=order)  # type: ignore[call-overload]
        model.appearance = fit_site_appearance(model_config, data, train_rows, device=device)
        state = TrainState.fresh(model, train_config.learning_rate, train_config.weight_decay)
        checkpoint = out_dir / CHECKPOINT_NAME
        if checkpoint.exists():
            resume(checkpoint, state, settings, train_config.steps)
        steps = Steps(fabric, state, data, site_slices, train_config, seed)
        if first:
            _write_losses(out_dir, state)
        first_step, started, saved = state.step, time.monotonic(), time.monotonic()
        while state.step < train_config.steps:
            steps.take()
            if first and _row_is_due(state.step, train_config):
                steps.settle()
                validation = _validation_loss(state.average, data, unseen, seed, device)
                seen = state.step * train_config.batch_size
                state.history.append((seen, float(np.mean(state.losses)), validation))
                state.losses = []
                _write_losses(out_dir, state)
            now, done = time.monotonic(), state.step == train_config.steps
            stop = control.deadline < math.inf and fabric.broadcast(now >= control.deadline)
            if first and (done or stop or now - saved >= control.checkpoint_seconds):
                steps.settle()
                save_checkpoint(checkpoint, state, settings)
                saved = time.monotonic()
            if first and control.snapshot and _tenth_is_due(state.step, train_config):
                control.snapshot(state.average, state.step * train_config.batch_size)
            if first and control.progress:
                pace = (time.monotonic() - started) / (state.step - first_step)
                control.progress(_progress(state, train_config, steps.loss, pace))
            if stop and not done:
                return None
    path = out_dir / f'{identity.name}.safetensors'
    if first:
        if train_config.residual_correction:
            _correct(state.average, data, train_rows)
        _finish(path, state, data, train_rows, protocol, identity, seed)
    fabric.barrier()
    return path


def _correct(model: DDAE, data: SliceData, rows: np.ndarray) -> None:
    """Fit the residual correction of a trained model."""
    model.residuals, _ = fit_residual_correction(
        model.config,
        model.appearance,
        data,
        rows,
        partial(render_to_measure, model),
    )


def _finish(
    path: Path,
    state: TrainState,
    data: SliceData,
    rows: np.ndarray,
    protocol: Protocol,
    identity: ModelIdentity,
    seed: int,
) -> None:
    """Write the model file of the averaged model."""
    model = state.average
    # A person may have several scans, and of the medial slice each scan is several images.
    subjects = tuple(subjects_per_site(data, rows))
    condition = model.networks.condition
    info = DDAEInfo(
        name=identity.name,
        config=model.config,
        sites=data.site_names,
        age_mean=condition.age_mean,
        age_sd=condition.age_sd,
        protocol=protocol,
        quantiles=site_quantiles(data),
        training=TrainingRecord(identity.dataset, subjects, seed, *state.history[-1]),
        versions={'ddae-app': ddae_app.__version__, 'torch': str(torch.__version__)},
        phantom=identity.phantom,
        notes=identity.notes,
    )
    save_bundle(path, model, info)


def _check(data: SliceData, config: ModelConfig, name: str) -> None:
    expected = config.depth, config.image_size, config.image_size
    if data.images.shape[1:] != expected:
        raise UsageError(
            f'scans have (slices, rows, columns) {data.images.shape[1:]}, the network takes '
            f'{expected}; change depth and image_size, or the slices'
        )
    try:
        check_value('model_name', name)
    except ValueError as error:
        raise UsageError(f'model name {error}') from error


def _slices_by_site(data: SliceData, rows: np.ndarray) -> list[np.ndarray]:
    """Row and position of the slices with brain of each site, in the order of the sites."""
    slices, sites = data.with_brain(rows), np.array(data.sites)
    site_slices = [slices[sites[slices[:, 0]] == site] for site in data.site_names]
    for site, slices_of_site in zip(data.site_names, site_slices, strict=True):
        if not len(slices_of_site):
            raise UsageError(f'no slice of site {site} shows brain; check the brain masks')
    return site_slices


def _new_model(
    data: SliceData, rows: np.ndarray, config: ModelConfig, initial: Bundle | None
) -> DDAE:
    if initial:
        if initial.info.config != config:
            raise UsageError(
                f'the model {initial.info.name!r} to start from is of another configuration; '
                'train with the same configuration'
            )
        return DDAE(initial.model.networks.for_sites(data.site_names, initial.info.sites))
    ages = data.ages[rows]
    ages = ages[~np.isnan(ages)] if not np.isnan(ages).all() else np.zeros(1)
    age_mean, age_sd = float(ages.mean()), max(float(ages.std()), 1.0)
    return DDAE(Networks(config, len(data.site_names), age_mean, age_sd))


@torch.inference_mode()
def _validation_loss(
    model: DDAE, data: SliceData, slices: np.ndarray, seed: int, device: torch.device
) -> float | None:
    """Denoising loss of held-out subjects, at the same times and noise whenever it is asked."""
    if not len(slices):
        return None
    n = min(len(slices), MAX_VALIDATION_IMAGES)
    slices = slices[np.linspace(0, len(slices) - 1, n).astype(int)]
    generator, losses = torch.Generator().manual_seed(seed_of(seed, 0, 'validation')), []
    # Evenly spread times, in an order that has nothing to do with the order of the images.
    uniform = torch.randperm(n, generator=generator) / n
    for part in np.array_split(np.arange(n), math.ceil(n / 32)):
        rows, positions = slices[part].T
        condition = condition_of(data, rows, positions).to(device)
        x = batch_of(data, rows, positions, model.config.context).to(device)
        x_0, common = normalized(model, x, condition)
        noise = torch.randn(x_0.shape, generator=generator)
        noise, share = noise.to(device), uniform[part].to(device)
        z_k, z_u = model.embed(condition), model.encode(common, condition.position)
        own_noise = model.noise_in(condition)
        losses.append(denoising_loss(model, x_0, z_k, z_u, share, noise, own_noise))
    return torch.cat(losses).mean().item()


def _tenth_is_due(step: int, config: TrainConfig) -> bool:
    return step * 10 // config.steps > (step - 1) * 10 // config.steps


def _row_is_due(step: int, config: TrainConfig) -> bool:
    interval = max(1, config.validation_interval_images // config.batch_size)
    return step % interval == 0 or step == config.steps


def _write_losses(out_dir: Path, state: TrainState) -> None:
    lines = ['images_seen\ttrain_loss\tvalidation_loss']
    for seen, loss, validation in state.history:
        held_out = 'n/a' if validation is None else f'{validation:.6g}'
        lines.append(f'{seen}\t{loss:.6g}\t{held_out}')
    write_atomically(out_dir / LOSSES_NAME, ('\n'.join(lines) + '\n').encode())


def _progress(state: TrainState, config: TrainConfig, loss: float, pace: float) -> Progress:
    return Progress(
        images_seen=state.step * config.batch_size,
        images=config.steps * config.batch_size,
        loss=loss,
        validation_loss=state.history[-1][2] if state.history else None,
        seconds_left=pace * (config.steps - state.step),
    )
