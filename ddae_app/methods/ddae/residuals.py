"""What a trained model leaves in its renderings: shading, spread, sharpness and contrast."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ddae_app.methods.data import SliceData, make_condition
from ddae_app.methods.ddae.appearance import (
    EDGE_PIXELS,
    RENDERED_LEVELS,
    edge_depth,
    map_intensities,
)
from ddae_app.methods.ddae.appearance_fit import brain_quantiles, common_scans, rising
from ddae_app.methods.ddae.editing import BATCH_SIZE
from ddae_app.methods.ddae.fields import to_knots
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.shading import unshaded, white_matter
from ddae_app.methods.ddae.sharpness import AXES, roughness, soften
from ddae_app.methods.site_effects import site_effects

log = logging.getLogger('ddae_app')

MAX_SCANS, MAX_SLICES = 2800, 7_500
"""In all, as many of each site; they are held in memory together."""

GREY_SHARE = 0.7
"""Of the brain's pixels; what is brighter is taken for white matter."""

WHITE_SMOOTHING_PIXELS = 2.0
LEAST_WHITE_SHARE = 0.05
"""Of scans with white matter at a pixel, for it to be known there."""

SPREAD_SMOOTHING_PIXELS = 1.5
LEAST_BRAIN_SHARE = 0.9
"""Of scans with brain at a pixel: elsewhere, how they differ is mostly who has brain there."""

LARGEST_SPREAD = 2.0
"""And no less than its inverse."""

TRIED_AMOUNT = 0.05
"""Of softening, from which it is told what softening does to an image."""

ROUNDS = 3

Scans = list[torch.Tensor]
"""Each of shape (1, D, H, W), rendered and on the common scale."""

LARGEST_AMOUNT = 0.15
"""More would be a blur, or a sharpening, that anybody can see."""


def learn_leftovers(model: DDAE, data: SliceData, rows: np.ndarray) -> None:
    """Measure what rendering leaves of each site, and put it in the model's buffers.

    Scans of each site are rendered as of an unknown one. Where they show white matter, and how
    bright, tells the shading of each by itself. How far people differ at each voxel tells what no
    curve can undo: a site that shows deep grey matter or fine detail weaker than others. Then
    softness and contrast of each site are told in turns, for a flat contrast looks soft and
    softness makes a contrast flat.

    Parameters
    ----------
    model : DDAE
        Nothing is measured without ``config.site_curve``, or where it does not know how to do
        without the site.
    data : SliceData
    rows : np.ndarray of int
        As :func:`~ddae_app.methods.ddae.appearance_fit.learn_looks` took them.
    """
    if not model.config.site_curve or model.config.condition_dropout == 0:
        return
    before = np.concatenate(
        [
            brain_quantiles(common_scans(model, data, some), RENDERED_LEVELS)
            for some in data.chunks(rows)
        ]
    )
    was, _, _ = site_effects(data, rows, [before])
    sites = np.array(data.sites)[rows]
    own = [np.flatnonzero(sites == site) for site in data.site_names if (sites == site).any()]
    most = max(1, min(MAX_SCANS, MAX_SLICES // data.depth) // len(own))
    few = np.concatenate([i[:: math.ceil(len(i) / most)] for i in own])
    rows, before = rows[few], before[few]
    log.info('rendering %d scans to measure what is left of the sites', len(rows))
    scans = _rendered(model, data, rows)
    home = data.condition(rows)
    unknown = replace(home, site=torch.full_like(home.site, -1))
    white, level = _usual_white(scans)
    model.white.copy_(white)
    model.white_level.copy_(level)
    scans = [unshaded(x, white, level, home.position[:1]) for x in scans]
    if model.config.site_average:
        model.spread[:-1] = to_knots(_spread(scans, data, rows)).to(model.spread)
        device = model.spread.device
        source, target = home.to(device), unknown.to(device)
        scans = [
            model.respread(x.to(device), source[i : i + 1], target[i : i + 1]).cpu()
            for i, x in enumerate(scans)
        ]
    answers = _answers(scans)
    softness = torch.zeros(len(data.site_names), len(AXES))

    def sharp() -> Iterable[torch.Tensor]:
        return (soften(x, -softness[s][None]) for x, s in zip(scans, home.site, strict=True))

    for _ in range(ROUNDS):
        curves = _curves(sharp(), data, rows, before, was)
        rough = [
            roughness(map_intensities(x, curves[s][None], curves[-1:]), _deep(x))
            for x, s in zip(sharp(), home.site, strict=True)
        ]
        effects, _, _ = site_effects(data, rows, [torch.cat(rough).numpy()])
        step = torch.from_numpy(effects).float() @ torch.linalg.pinv(answers).T
        softness = (softness + step).clamp(-LARGEST_AMOUNT, LARGEST_AMOUNT)
    model.softness[:-1] = softness.to(model.softness)
    model.rendered.copy_(_curves(sharp(), data, rows, before, was))


def _rendered(model: DDAE, data: SliceData, rows: np.ndarray) -> Scans:
    """Scans rendered as of an unknown site."""
    device, scans = model.alpha_bar.device, []
    step = max(1, 2 * BATCH_SIZE // data.depth)
    for i in range(0, len(rows), step):
        some = rows[i : i + step]
        n, x = len(some), data.batch(some).to(device)
        sites = data.condition(some).site.tolist()
        source = make_condition([np.nan] * n, [None] * n, sites).to(device)
        unknown = make_condition([np.nan] * n, [None] * n, [-1] * n).to(device)
        y = render(model, x, source, unknown, batch_size=2 * BATCH_SIZE)
        scans += model.to_common(y, model.look(unknown, data.depth)).cpu().split(1)
    return scans


def _deep(x: torch.Tensor) -> torch.Tensor:
    return edge_depth(x) > EDGE_PIXELS


def _usual_white(scans: Scans) -> tuple[torch.Tensor, torch.Tensor]:
    """Usual intensity of white matter where it is usual, (D, H, W), and the level it exceeds."""
    brains = [x[x > 0].numpy() for x in scans]
    level = torch.tensor(np.mean([np.quantile(b, GREY_SHARE) for b in brains if b.size])).float()
    share = torch.zeros_like(scans[0][0])
    total = torch.zeros_like(share)
    for x in scans:
        there = white_matter(x, level)[0]
        share += there / len(scans)
        total += x[0] * there / len(scans)
    smooth = partial(gaussian_filter, sigma=WHITE_SMOOTHING_PIXELS)
    near = smooth(share.numpy())
    mean = smooth(total.numpy()) / np.maximum(near, 1e-6)
    return torch.from_numpy(np.where(near > LEAST_WHITE_SHARE, mean, 0)), level


def _spread(scans: Scans, data: SliceData, rows: np.ndarray) -> torch.Tensor:
    """How much further from their average each site's scans are, (S, D, H, W).

    The scale to the location that an average is, as in ComBat (Johnson et al. 2007): squared
    distances, by regression on site, age, age squared and sex as well, for people differ more
    the older they are.
    """
    effects, common, _ = site_effects(data, rows, (x.numpy() for x in scans))
    average = common + effects
    share = np.mean([(x > 0).numpy() for x in scans], axis=0)
    brain = share > LEAST_BRAIN_SHARE
    smooth = partial(gaussian_filter, sigma=(0, *[SPREAD_SMOOTHING_PIXELS] * 3))
    squares = (
        smooth(np.square(x.numpy() - average[s]) * brain)
        for x, s in zip(scans, data.condition(rows).site, strict=True)
    )
    effects, common, _ = site_effects(data, rows, squares)
    ratio = 1 + effects / np.maximum(common, 1e-8)
    spread = np.sqrt(np.clip(ratio, LARGEST_SPREAD**-2, LARGEST_SPREAD**2))
    return torch.from_numpy(np.where(brain, spread, 1))


def _curves(
    scans: Iterable[torch.Tensor],
    data: SliceData,
    rows: np.ndarray,
    before: np.ndarray,
    was: np.ndarray,
) -> torch.Tensor:
    """Intensity quantiles of each site, and last the common ones, shape (S + 1, K).

    What rendering changes in a person's quantiles differs less from person to person than the
    quantiles themselves; so a site's part of the change is told from the few scans that are
    rendered, and to it comes its part of what there was before (`was`), which all scans told.
    """
    after = np.stack([_quantiles(x[x > 0].numpy()) for x in scans])
    change, _, _ = site_effects(data, rows, [after - before])
    common = after.mean(axis=0)
    curves = np.concatenate([common + was + change, common[None]])
    return torch.from_numpy(np.stack([rising(curve) for curve in curves]))


def _answers(scans: Scans) -> torch.Tensor:
    """How much rougher scans along each axis (row) get per softening along each (column)."""

    def after(amount: torch.Tensor) -> torch.Tensor:
        rough = [roughness(soften(x, amount[None]), _deep(x)) for x in scans]
        return torch.cat(rough).mean(dim=0)

    tried = TRIED_AMOUNT * torch.eye(len(AXES))
    return torch.stack([(after(a) - after(-a)) / (2 * TRIED_AMOUNT) for a in tried], dim=1)


def _quantiles(brain: np.ndarray) -> np.ndarray:
    return np.quantile(brain if brain.size else np.zeros(1), np.linspace(0, 1, RENDERED_LEVELS))
