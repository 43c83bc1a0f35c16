"""Toy scans, settings that train in a second, and a network whose layers all have effect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ddae_app.methods.condition import Condition
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.config import ModelConfig, TrainConfig
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.ddae.model import DDAE, Networks
from ddae_app.methods.modelfile import SiteQuantiles, TrainingRecord
from ddae_app.settings import Protocol

SIZE = 16
PROTOCOL = Protocol(slice_shape=(SIZE, SIZE))
CONFIG = ModelConfig(
    image_size=SIZE,
    unshuffle=2,
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    z_u_dim=8,
    z_u_noise=0.3,
    age_dim=4,
    sex_dim=2,
    site_dim=4,
    dropout=0.1,
    timesteps=100,
    schedule='cosine',
    prediction='v',
    condition_dropout=0.15,
    encoder_augment=True,
)
TRAIN = TrainConfig(
    images=96,
    batch_size=8,
    learning_rate=1e-3,
    warmup_images=16,
    weight_decay=0.01,
    ema_halflife_images=16,
    validation_interval_images=24,
    validation_fraction=0.2,
    shift_pixels=1,
)

DEPTH = 6
DEEP_PROTOCOL = Protocol(grid=(SIZE, SIZE, DEPTH), slices='all', slice_shape=(SIZE, SIZE))
DEEP = replace(
    CONFIG, depth=DEPTH, neighbors=1, site_curve=True, site_edge=True, site_average=True,
    coordinates=True, noise_corrected=True, times='lognormal',
)  # fmt: skip
"""Of whole scans, with every part of the site appearance."""


def slices(n_per_site: int = 10, sites: tuple[str, ...] = ('A', 'B')) -> SliceData:
    """Random ellipses; the first site is dark, the last is bright."""
    rng = np.random.default_rng(0)
    n = n_per_site * len(sites)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    names = tuple(np.repeat(sites, n_per_site).tolist())
    images = np.zeros((n, SIZE, SIZE), np.float32)
    for image, site in zip(images, names, strict=True):
        radius = np.hypot(x / rng.uniform(0.6, 0.9), y / rng.uniform(0.6, 0.9))
        image[radius < 1] = 0.4 + 0.4 * sites.index(site) / len(sites)
        image[radius < 0.6] += 0.2
    ages = rng.uniform(20, 80, n)
    ages[::7] = np.nan
    sexes = tuple([None, 'M', 'F'][i % 3] for i in range(n))
    return SliceData(images[:, None], names, ages, sexes, tuple(f'sub-{i:02d}' for i in range(n)))


def stacks(n_per_site: int = 10, depth: int = 3) -> SliceData:
    """The same, several slices deep; the last of each shows no brain."""
    data = slices(n_per_site)
    images = np.repeat(data.images, depth, axis=1)
    images[:, -1] = 0
    return replace(data, images=images)


def scans() -> SliceData:
    """Noisy ellipses that shrink upwards, brighter in the middle; the lowest slice is empty."""
    data, rng = slices(), np.random.default_rng(0)
    images = np.repeat(data.images, DEPTH, axis=1)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    for z in range(DEPTH):
        images[:, z] *= (np.hypot(x, y) < 0.9 - 0.08 * z) * (0.8 + 0.04 * z)
    images[:, 0] = 0
    noise = rng.normal(0, 0.02, images.shape)
    return replace(data, images=np.where(images > 0, images + noise, 0).astype(np.float32))


def random_model(config: ModelConfig = CONFIG, n_sites: int = 2) -> DDAE:
    """A DDAE whose zero-initialized layers are random too, so that everything has effect."""
    model = DDAE(Networks(config, n_sites, age_mean=50.0, age_sd=15.0))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


def condition(age=(40.0, 60.0), sex=(0, 1), site=(0, 1)) -> Condition:
    """Labels of two scans, unless others are given."""
    first = torch.zeros(len(site), dtype=torch.int64)
    return Condition(torch.tensor(age), torch.tensor(sex), torch.tensor(site), first)


def info(config: ModelConfig = CONFIG, **changes) -> DDAEInfo:
    """What a model file of ``random_model()`` says of itself."""
    table = ((0.1, 0.9), (0.2, 0.8))
    values = {
        'name': 'toy',
        'config': config,
        'sites': ('A', 'B'),
        'age_mean': 50.0,
        'age_sd': 15.0,
        'protocol': Protocol(slice_shape=(config.image_size, config.image_size)),
        'quantiles': SiteQuantiles((0.0, 1.0), table, table, table),
        'training': TrainingRecord('phantoms', (10, 12), 0, 1000, 0.1, None),
        'versions': {'ddae-app': '0.1.0', 'torch': '2.2'},
        'phantom': True,
    }
    return DDAEInfo(**(values | changes))
