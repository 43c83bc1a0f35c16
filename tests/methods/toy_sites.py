"""Toy brains seen by two scanners, so that the truth at the other site is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from ddae_app.methods.ddae.presets import PRESETS, Preset
from ddae_app.settings import Protocol

SIZE = 32
PROTOCOL = Protocol(slice_shape=(SIZE, SIZE))
PRESET = Preset(
    replace(
        PRESETS['tiny'].model,
        image_size=SIZE,
        channels=16,
        multipliers=(1, 2),
        attention=(),
        z_u_dim=8,
    ),
    replace(
        PRESETS['tiny'].train,
        images=200 * 16,
        batch_size=16,
        learning_rate=3e-3,
        warmup_images=320,
        ema_halflife_images=320,
        shift_pixels=0,
    ),
)


def anatomy(seed: int) -> np.ndarray:
    """A brain with wavy white matter and a ventricle, (H, W), float32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    radius = np.hypot(x / rng.uniform(0.7, 0.9), y / rng.uniform(0.7, 0.9))
    waves = 0.08 * np.cos(rng.integers(3, 7) * np.arctan2(y, x) + rng.uniform(0, 6.28))
    brain = np.where(radius < 1, 0.45, 0)
    brain[radius < 0.7 + waves] = 0.75
    brain[np.hypot(x - rng.uniform(-0.1, 0.1), y / 1.5) < rng.uniform(0.12, 0.25)] = 0.15
    return brain.astype(np.float32)


def scan(brain: np.ndarray, site: str) -> np.ndarray:
    """What the scanner at a site makes of a brain."""
    return (brain**0.6 if site == 'A' else 0.95 * brain**1.8).astype(np.float32)


def cohort(n: int = 32) -> tuple[np.ndarray, pd.DataFrame]:
    """Scans of different subjects at each of the two sites."""
    rng = np.random.default_rng(0)
    sites = tuple('AB'[i % 2] for i in range(2 * n))
    images = np.stack([scan(anatomy(i), site) for i, site in enumerate(sites)])
    labels = {
        'subject': [f'p{i}' for i in range(2 * n)],
        'site': sites,
        'age': rng.uniform(20, 80, 2 * n),
        'sex': ['MF'[i % 3 % 2] for i in range(2 * n)],
    }
    return images, pd.DataFrame(labels)


def render(harmonizer, images, sites, target, ages=None, sexes=None) -> np.ndarray:
    """Call ``transform`` with the labels as a table; one site may stand for all."""
    labels = {'site': [sites] * len(images) if isinstance(sites, str) else list(sites)}
    labels |= {k: list(v) for k, v in (('age', ages), ('sex', sexes)) if v is not None}
    return harmonizer.transform(images, pd.DataFrame(labels), target)


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
