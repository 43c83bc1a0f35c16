"""Training a DDAE for the train level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ddae_app.methods.base import TrainedModel, TrainingRequest
from ddae_app.methods.condition import batch_of, label_blind
from ddae_app.methods.data import SliceData, split_subjects
from ddae_app.methods.ddae.bundle import Bundle, load_bundle, save_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.presets import preset_of
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.train import LOSSES_NAME, TrainingControl, train
from ddae_app.methods.device import resolve_device
from ddae_app.methods.samples import Samples, one_of_each_site
from ddae_app.settings import CALIBRATED

SAMPLES_NAME = 'samples.png'


def train_model(request: TrainingRequest) -> TrainedModel | None:
    """Train to the end, or to the deadline, which gives None; or only :func:`calibrated`."""
    fabric = request.fabric
    if request.preset == CALIBRATED:
        return calibrated(request) if fabric is None or fabric.is_global_zero else None
    preset = preset_of(request.preset, request.images)
    if fabric is None:
        from ddae_app.methods.parallel import start_fabric  # takes seconds

        fabric = start_fabric(resolve_device(request.device))
    data, identity, folder = request.data, request.identity, request.folder
    config, initial = replace(preset.model, depth=request.protocol.depth), None
    if request.initial:
        initial = load_bundle(request.initial, fabric.device)
        config = initial.info.config
        notes = f'started from {initial.info.name}, SHA-256 {initial.sha256}'
        identity = replace(identity, notes=notes + _notes_of(initial))
    _, held_out = split_subjects(data, preset.train.validation_fraction, request.seed)

    def draw(model: DDAE, images_seen: int) -> None:
        if request.draw:
            title = f'{identity.name} after {images_seen:,} images'
            request.draw(render_samples(model, data, held_out), folder / SAMPLES_NAME, title)

    path = train(
        data,
        config,
        preset.train,
        request.protocol,
        folder,
        fabric=fabric,
        seed=request.seed,
        identity=identity,
        initial=initial,
        control=TrainingControl(request.deadline, draw, request.progress),
    )
    if path is None:
        return None
    return TrainedModel(path, held_out, folder / LOSSES_NAME, folder / SAMPLES_NAME)


def calibrated(request: TrainingRequest) -> TrainedModel:
    """A model of the sites of the request, with the networks of its initial model.

    Nobody is held out, since nothing is learned but what all scans of a site have in common. The
    file is one like any other, with the networks in it.
    """
    assert request.initial is not None  # the train level names the packaged one if no other
    initial = load_bundle(request.initial, resolve_device(request.device))
    bundle = calibrate(initial, request.data)
    notes = (
        f'calibrated: the networks are those of {initial.info.name}, SHA-256 {initial.sha256}, '
        f'trained on {initial.info.training.dataset}; the appearance of the sites and the '
        'residual correction were measured on the scans of this dataset'
    )
    identity = replace(request.identity, notes=notes + _notes_of(initial))
    path = request.folder / f'{identity.name}.safetensors'
    info = replace(request, identity=identity).identified(bundle.info)
    info = replace(
        info,
        networks=f'{initial.info.name} {initial.sha256}',
        # Networks that saw nothing but phantoms are not suitable for real scans, also calibrated.
        phantom=info.phantom or initial.info.phantom,
    )
    save_bundle(path, bundle.model, info)
    return TrainedModel(path)


@torch.inference_mode()
def render_samples(model: DDAE, data: SliceData, rows: np.ndarray) -> Samples:
    """The middle slice of one scan of each site, rendered at all sites without age and sex.

    Parameters
    ----------
    model : DDAE
    data : SliceData
        Its ``site_names`` are the model's.
    rows : np.ndarray of int
        Scans to choose from, those that were held out; of a site without any, one of all its
        scans is shown.
    """
    chosen = one_of_each_site(data, rows)
    n = len(chosen)
    middle = np.full(n, data.depth // 2)
    x = batch_of(data, chosen, middle).to(model.device)
    at = [label_blind([site] * n, middle).to(model.device) for site in range(n)]
    home = label_blind(range(n), middle).to(model.device)
    columns = [x, render(model, x, home, home)]
    columns += [render(model, x, home, target) for target in at]
    return Samples(data.site_names, torch.cat(columns, dim=1).cpu().numpy())


def _notes_of(initial: Bundle) -> str:
    """What a model has to tell of those whose networks it has, such as their license."""
    return f'. Of these networks: {initial.info.notes}' if initial.info.notes else ''
