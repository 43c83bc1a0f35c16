"""Training of the DDAE of features, and how far the networks' site effect can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ddae_app.methods.condition import Condition, label_blind, make_condition
from ddae_app.methods.ddae.losses import denoising_loss
from ddae_app.methods.ddae.schedule import noise_level
from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from ddae_app.methods.feature_ddae.cumulants import shown_share
from ddae_app.methods.feature_ddae.geometry import Geometry
from ddae_app.methods.feature_ddae.model import STEPS, FeatureDDAE, clean, editing_times
from ddae_app.methods.feature_ddae.networks import FeatureNetworks
from ddae_app.methods.feature_ddae.sessions import SessionScales
from ddae_app.methods.location_scale import SiteRegression

log = logging.getLogger('ddae_app')

SEEN, BATCH = 8_000, 16
"""Rows that training shows, one as often as it takes, and rows at once."""

BLOCK = 16
"""Rows that are standardized at once, in a dozen copies in double precision."""

LEARNING_RATE, WEIGHT_DECAY, WARM_UP, LARGEST_GRADIENT = 2e-3, 0.01, 0.1, 1.0

HELD_OUT = 0.2
"""Part of the people of each site by whom the networks are judged."""


def train_feature_ddae(
    geometry: Geometry,
    regression: SiteRegression,
    y: np.ndarray,
    sites: np.ndarray,
    covariates: np.ndarray,
    *,
    ages: np.ndarray,
    sexes: Sequence[str | None],
    persons: np.ndarray,
    seed: int = 0,
    seen: int = SEEN,
) -> FeatureDDAE:
    """Measure the appearance of sites, and train networks on what it leaves.

    Parameters
    ----------
    geometry : Geometry
    regression : SiteRegression
        Fitted to the same rows.
    y : np.ndarray, shape (N, P)
        NaN where a value is missing.
    sites : np.ndarray of int, shape (N,)
    covariates : np.ndarray, shape (N, C)
    ages : np.ndarray, shape (N,)
        Years; NaN where unknown.
    sexes : sequence of {'M', 'F', None}, length N
    persons : np.ndarray of int, shape (N,)
    seed : int
    seen : int
        Rows that training shows.
    """
    appearance = FeatureAppearance.fit(regression, geometry.bands, y, sites, covariates)
    sessions = SessionScales.fit(
        regression, geometry.bands, appearance.scale, y, sites, covariates, persons
    )
    u = _left(geometry, appearance, y, sites, covariates)
    known = ages[~np.isnan(ages)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = FeatureNetworks(
            geometry,
            len(regression.counts),
            float(known.mean()) if known.size else 0.0,
            float(known.std()) or 1.0 if known.size else 1.0,
        )
    conditions = make_condition(ages, sexes, sites.tolist())
    shown, held_out = _split(sites, persons, seed)
    _train(networks, u[shown], conditions[torch.from_numpy(shown)], seed, max(1, seen // BATCH))
    trust = _trust(networks.eval(), u[held_out], sites[held_out])
    log.info(
        'site effect of the networks in people whom they were not trained on: %s of it is used',
        ', '.join(f'{value:.0%}' for value in trust),
    )
    return FeatureDDAE(geometry, appearance, networks, trust, sessions)


def _left(
    geometry: Geometry,
    appearance: FeatureAppearance,
    y: np.ndarray,
    sites: np.ndarray,
    covariates: np.ndarray,
) -> Tensor:
    """What the networks see, shape (N, 1, H, V): what appearance, age and sex leave.

    Of some rows after the others, since it is computed in double precision.
    """
    parts = []
    for start in range(0, len(y), BLOCK):
        rows = slice(start, start + BLOCK)
        left = appearance.left(y[rows], sites[rows], covariates[rows])
        parts.append(geometry.on_points(left))
    return torch.from_numpy(np.concatenate(parts))


def _split(sites: np.ndarray, persons: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows of the people of each site who are held out.

    Who was held out at a site counts at all others too; the only person of a site is not.
    """
    rng = np.random.default_rng(seed)
    out = np.zeros(len(sites), dtype=bool)
    for site in np.unique(sites):
        people = rng.permutation(np.unique(persons[sites == site]))
        wanted = min(max(1, round(HELD_OUT * len(people))), len(people) - 1)
        there = np.isin(people, persons[out])
        out |= np.isin(persons, people[~there][: max(wanted - there.sum(), 0)])
    return np.flatnonzero(~out), np.flatnonzero(out)


def _train(
    networks: FeatureNetworks, u: Tensor, conditions: Condition, seed: int, steps: int
) -> None:
    config = networks.config
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(networks.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    # Two steps of warm-up at least, and one after them: the schedule divides by their number.
    total = max(steps, 3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=total, pct_start=max(WARM_UP, 2 / total)
    )
    losses = []
    for step in range(steps):
        rows = torch.randint(len(u), (BATCH,), generator=draw)
        x_0 = u[rows]
        noise = torch.randn(x_0.shape, generator=draw)
        code_noise = torch.randn((BATCH, config.z_u_dim), generator=draw)
        uniform = torch.rand(BATCH, generator=draw)
        known = conditions[rows].dropped(config.condition_dropout, draw)
        z_k = networks.condition(known)
        z_u = networks.encode(x_0) + config.z_u_noise * code_noise
        own_noise = torch.zeros(BATCH)
        loss = denoising_loss(networks, x_0, z_k, z_u, uniform, noise, own_noise).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % max(1, steps // 10) == 0:
            log.info('step %d of %d: loss %.3f', step + 1, steps, np.mean(losses))
            losses.clear()


@torch.inference_mode()
def _trust(networks: FeatureNetworks, u: Tensor, sites: np.ndarray) -> np.ndarray:
    """Which part of the site effect predicts features of other people, shape (STEPS,), 0 to 1.

    By least squares: by what factor the difference between the answers for the site and for an
    unknown site comes nearest to what the answer for an unknown site is away from the truth.
    """
    draw = torch.Generator().manual_seed(0)
    moved, squared = np.zeros((2, STEPS, len(u)))
    for start in range(0, len(u), BATCH):
        rows = slice(start, start + BATCH)
        x_0 = u[rows]
        z_u = networks.encode(x_0)
        own = networks.condition(label_blind(sites[rows].tolist()))
        unknown = networks.condition(label_blind([-1] * len(x_0)))
        for i, t in enumerate(editing_times(networks)):
            level = float(noise_level(networks.alpha_bar[t]))
            noisy = x_0 + level * torch.randn(x_0.shape, generator=draw)
            without = clean(networks, noisy, t, unknown, z_u)
            effect = clean(networks, noisy, t, own, z_u) - without
            moved[i, rows] = (effect * (x_0 - without)).sum(dim=(1, 2, 3)).numpy()
            squared[i, rows] = effect.square().sum(dim=(1, 2, 3)).numpy()
    return np.array([shown_share(m, s) for m, s in zip(moved, squared, strict=True)])
