"""Fitting the methods that the DDAE is compared with, as the train level does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddae_app.bids.dataset import dataset_name, is_phantom
from ddae_app.methods.base import cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.train import Progress
from ddae_app.methods.find import SLICE_NETWORKS
from ddae_app.methods.slice_network import IMAGES, CVAEHarmonizer, StyleGANHarmonizer
from ddae_app.settings import Protocol, Settings

BASELINES = (*SLICE_NETWORKS, 'combat')
"""Methods that are fitted in one go, to everybody."""


def images_to_see(settings: Settings) -> int:
    """How many slices a network is shown in all."""
    return settings.train.train_images or IMAGES


def fit_baseline(
    settings: Settings,
    data: SliceData,
    protocol: Protocol,
    folder: Path,
    name: str,
    progress: Callable[[Progress], None],
) -> Path:
    """Fit one and write its model to a folder."""
    images = images_to_see(settings)
    # What all can do, but for the type of what they know.
    fitted: Any = ComBat(protocol=protocol)
    if settings.harmonize.method != 'combat':
        cvae = settings.harmonize.method == 'cvae'
        fitted = (CVAEHarmonizer if cvae else StyleGANHarmonizer)(
            protocol=protocol,
            images=images,
            device=settings.harmonize.device,
            seed=settings.random_seed,
            progress=lambda seen, loss, left: progress(Progress(seen, images, loss, None, left)),
        )
    fitted = fitted.fit(data.images, cohort_of(data))
    record = replace(fitted.info.training, dataset=dataset_name(settings.bids_dir))
    info = replace(fitted.info, name=name, training=record, phantom=is_phantom(settings.bids_dir))
    path = folder / f'{name}.safetensors'
    replace(fitted, known=info).save(path)
    return path
