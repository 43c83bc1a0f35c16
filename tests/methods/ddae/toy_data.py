"""Scans of ellipses at two sites, and settings that train in a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.config import ModelConfig, TrainConfig
from ddae_app.settings import Protocol

PROTOCOL = Protocol(slice_shape=(16, 16))
MODEL = ModelConfig(
    image_size=16,
    unshuffle=2,
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    z_u_dim=8,
    z_u_noise=0.3,
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


def slices(n_per_site: int = 10, sites=('A', 'B')) -> SliceData:
    """Random ellipses; the first site is dark, the last is bright."""
    rng = np.random.default_rng(0)
    n, size = n_per_site * len(sites), 16
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    names = tuple(np.repeat(sites, n_per_site).tolist())
    images = np.zeros((n, size, size), np.float32)
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


def changed(data: SliceData, **changes) -> SliceData:
    """The same slices with something replaced."""
    return replace(data, **changes)
