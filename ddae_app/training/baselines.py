"""Training the networks that the DDAE is compared with: small, and in one go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from ddae_app.errors import DdaeError
from ddae_app.model.cvae import CVAE
from ddae_app.model.presets import CVAEConfig
from ddae_app.training.dataset import SliceData, balanced_rows

BATCH, LEARNING_RATE, WARM_SHARE = 32, 2e-3, 0.1


def train_cvae(
    data: SliceData,
    config: CVAEConfig,
    images: int,
    *,
    device: torch.device | str = 'cpu',
    seed: int = 0,
    progress: Callable[[int, float, float], None] | None = None,
) -> CVAE:
    """Train a conditional variational autoencoder; every site is drawn equally often.

    Parameters
    ----------
    data : SliceData
        Of single slices.
    config : CVAEConfig
    images : int
        To be seen in all.
    device : torch.device
    seed : int
    progress : callable, optional
        Told the images seen, the loss and the seconds left after each step.

    Returns
    -------
    CVAE
        In evaluation mode.

    Raises
    ------
    DdaeError
        If the loss is no longer finite.
    """
    device, sites = torch.device(device), np.array(data.sites)
    own_rows = [np.flatnonzero(sites == site) for site in data.site_names]
    ages = data.ages[~np.isnan(data.ages)] if not np.isnan(data.ages).all() else np.zeros(1)
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        model = CVAE(
            config, len(data.site_names), float(ages.mean()), max(float(ages.std()), 1.0)
        ).to(device)
    steps = max(1, math.ceil(images / BATCH))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_SHARE
    )
    rng, generator = np.random.default_rng(seed), torch.Generator(device).manual_seed(seed)
    started = time.monotonic()
    model.train()
    for step in range(steps):
        rows = balanced_rows(own_rows, BATCH, rng)
        x, condition = data.batch(rows).to(device), data.condition(rows).to(device)
        loss = model.loss(x, condition, generator)
        if not loss.isfinite():
            raise DdaeError(
                f'the training loss is {loss.item()} after {step * BATCH} images, a finite number '
                'is expected; look at the scans'
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1000.0)
        optimizer.step()
        schedule.step()
        if progress:
            pace = (time.monotonic() - started) / (step + 1)
            progress((step + 1) * BATCH, loss.item(), pace * (steps - step - 1))
    return model.eval().requires_grad_(False)
