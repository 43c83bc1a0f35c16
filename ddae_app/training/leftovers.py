"""What a trained model leaves in its renderings: shading, spread, sharpness and contrast."""

from __future__ import annotations

import logging
import math
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ddae_app.model.ddae import DDAE
from ddae_app.model.looks import EDGE_PIXELS, RENDERED_LEVELS, edge_depth, map_intensities
from ddae_app.model.rendering import render
from ddae_app.model.shading import unshaded, white_matter
from ddae_app.model.sharpness import roughness, soften
from ddae_app.training.dataset import CHUNK, SliceData, make_condition
from ddae_app.training.effects import site_effects
from ddae_app.training.looks import brain_quantiles, chunks, common_images, rising

log = logging.getLogger('ddae_app')

MAX_SCANS = 2800
"""In all, as many of each site; they are held in memory together."""

BATCH = 16

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

LARGEST_AMOUNT = 0.15
"""More would be a blur, or a sharpening, that anybody can see."""


def learn_leftovers(model: DDAE, data: SliceData, rows: np.ndarray) -> None:
    """Measure what rendering leaves of each site, and put it in the model's buffers.

    Images of each site are rendered as of an unknown one. Where they show white matter, and how
    bright, tells the shading of each by itself. How far people differ at each pixel tells what no
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
        As :func:`~ddae_app.training.looks.learn_looks` took them.
    """
    if not model.config.site_curve or model.config.condition_dropout == 0:
        return
    before = np.concatenate(
        [
            brain_quantiles(common_images(model, data, some), RENDERED_LEVELS)
            for some in chunks(rows)
        ]
    )
    was, _, _ = site_effects(data, rows, [before])
    sites = np.array(data.sites)[rows]
    own = [np.flatnonzero(sites == site) for site in data.site_names if (sites == site).any()]
    most = max(1, MAX_SCANS // len(own))
    few = np.concatenate([i[:: math.ceil(len(i) / most)] for i in own])
    rows, before = rows[few], before[few]
    log.info('rendering %d slices to measure what is left of the sites', len(rows))
    images, site = _rendered(model, data, rows), data.condition(rows).site
    white, level = _usual_white(images)
    images, deep = unshaded(images, white, level), edge_depth(images) > EDGE_PIXELS
    if model.config.site_average:
        model.spread[:-1] = _spread(images, data, rows).to(model.spread)
        spread = model.spread.cpu()
        images = model.respread(images, spread[site], spread[-1:])
    answers = _answers(images, deep)
    softness = torch.zeros(len(data.site_names), 2)
    for _ in range(ROUNDS):
        sharp = soften(images, -softness[site])
        curves = _curves(sharp, data, rows, before, was)
        even = map_intensities(sharp, curves[site], curves[-1:].expand(len(site), -1))
        effects, _, _ = site_effects(data, rows, [roughness(even, deep).numpy()])
        step = torch.from_numpy(effects).float() @ torch.linalg.pinv(answers).T
        softness = (softness + step).clamp(-LARGEST_AMOUNT, LARGEST_AMOUNT)
    model.white.copy_(white)
    model.white_level.copy_(level)
    model.softness[:-1] = softness.to(model.softness)
    model.rendered.copy_(_curves(soften(images, -softness[site]), data, rows, before, was))


def _rendered(model: DDAE, data: SliceData, rows: np.ndarray) -> torch.Tensor:
    """Images rendered as of an unknown site, on the common scale, shape (N, 1, H, W)."""
    device, images = model.alpha_bar.device, []
    for some in np.array_split(rows, math.ceil(len(rows) / BATCH)):
        n, x = len(some), data.batch(some).to(device)
        sites = data.condition(some).site.tolist()
        source = make_condition([np.nan] * n, [None] * n, sites).to(device)
        unknown = make_condition([np.nan] * n, [None] * n, [-1] * n).to(device)
        y = render(model, x, source, unknown)
        images.append(model.to_common(y, model.look(unknown.site)).cpu())
    return torch.cat(images)


def _usual_white(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Usual intensity of white matter where it is usual, (1, H, W), and the level it exceeds."""
    brains = [image[image > 0].numpy() for image in images]
    level = torch.tensor(np.mean([np.quantile(b, GREY_SHARE) for b in brains if b.size])).float()
    there = white_matter(images, level)
    smooth = partial(gaussian_filter, sigma=WHITE_SMOOTHING_PIXELS)
    share = smooth(there.float().mean(dim=0)[0].numpy())
    mean = smooth((images * there).mean(dim=0)[0].numpy()) / np.maximum(share, 1e-6)
    return torch.from_numpy(np.where(share > LEAST_WHITE_SHARE, mean, 0))[None], level


def _spread(images: torch.Tensor, data: SliceData, rows: np.ndarray) -> torch.Tensor:
    """How much further from their average each site's images are, (S, 1, H, W).

    The scale to the location that an average is, as in ComBat (Johnson et al. 2007): squared
    distances, by regression on site, age, age squared and sex as well, for people differ more
    the older they are.
    """
    site = data.condition(rows).site
    effects, common, _ = site_effects(data, rows, (part.numpy() for part in images.split(CHUNK)))
    average = torch.from_numpy(common + effects).to(images)
    brain = (images > 0).float().mean(dim=0) > LEAST_BRAIN_SHARE
    smooth = partial(gaussian_filter, sigma=(0, 0, *[SPREAD_SMOOTHING_PIXELS] * 2))
    squares = (
        smooth(((x - average[s]).square() * brain).numpy())
        for x, s in zip(images.split(CHUNK), site.split(CHUNK), strict=True)
    )
    effects, common, _ = site_effects(data, rows, squares)
    ratio = 1 + effects / np.maximum(common, 1e-8)
    spread = np.sqrt(np.clip(ratio, LARGEST_SPREAD**-2, LARGEST_SPREAD**2))
    return torch.where(brain, torch.from_numpy(spread), 1)


def _curves(
    images: torch.Tensor, data: SliceData, rows: np.ndarray, before: np.ndarray, was: np.ndarray
) -> torch.Tensor:
    """Intensity quantiles of each site, and last the common ones, shape (S + 1, K).

    What rendering changes in a person's quantiles differs less from person to person than the
    quantiles themselves; so a site's part of the change is told from the few images that are
    rendered, and to it comes its part of what there was before (`was`), which all images told.
    """
    after = np.stack([_quantiles(image[image > 0]) for image in images[:, 0].numpy()])
    change, _, _ = site_effects(data, rows, [after - before])
    common = after.mean(axis=0)
    curves = np.concatenate([common + was + change, common[None]])
    return torch.from_numpy(np.stack([rising(curve) for curve in curves]))


def _answers(images: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
    """How much rougher images along each axis (row) get per softening along each (column)."""

    def after(amount: torch.Tensor) -> torch.Tensor:
        return roughness(soften(images, amount.expand(len(images), 2)), deep).mean(dim=0)

    tried = TRIED_AMOUNT * torch.eye(2)
    return torch.stack([(after(a) - after(-a)) / (2 * TRIED_AMOUNT) for a in tried], dim=1)


def _quantiles(brain: np.ndarray) -> np.ndarray:
    return np.quantile(brain if brain.size else np.zeros(1), np.linspace(0, 1, RENDERED_LEVELS))
