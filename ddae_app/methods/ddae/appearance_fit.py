"""What the sites look like, at equal age and sex: contrast, edges, averages and noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.noise import noise_sd
from ddae_app.methods.data import SliceData, make_condition
from ddae_app.methods.ddae.appearance import CEILING, EDGE_PIXELS, LEVELS, Look, edge_depth
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.ddae.fields import to_knots
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.site_effects import site_effects

CURVE_SMOOTHING_PIXELS = 0.7
"""Takes enough of the noise out of an image for its quantiles to be those of the tissue."""

AVERAGE_SMOOTHING_PIXELS = 3.0
"""What an average knows of a site is smooth; what it has of its few people is not."""

ONE_SCAN_SMOOTHING = 1 / 8
"""The same, of the image's width, where a look is taken from one scan alone."""

SMALLEST_RISE = 1e-4
"""Between two knots of a curve, so that it can be followed both ways."""

MAX_SLICES_FOR_NOISE = 1000
BRAIN = 0.05
"""Where an average image exceeds this, there is brain."""


def learn_looks(model: DDAE, data: SliceData, rows: np.ndarray) -> None:
    """Measure how each site looks, and put it in the model's buffers.

    What a site does is told from who its people are as in ComBat, by regression on site, age, age
    squared and sex. First the intensity quantiles of each image: a site's, at the average age and
    sex, against those of all sites make its contrast curve. Then, in this contrast, the mean at
    each depth below the edge of the brain. Last, on the common scale, every pixel: what a site
    adds to the average of all is smoothed. All are shrunk (James and Stein 1961) by the part that
    chance alone would make, so that a site of few people keeps close to the common look.

    Parameters
    ----------
    model : DDAE
        ``config.site_curve``, ``site_edge``, ``site_average`` and ``noise_corrected`` say what to
        measure.
    data : SliceData
        Its ``site_names`` are the sites of the model.
    rows : np.ndarray of int
        The images to use.
    """
    config, device = model.config, model.alpha_bar.device
    if config.site_curve:
        parts = [brain_quantiles(data.batch(some).numpy()) for some in data.chunks(rows)]
        quantiles = np.concatenate(parts)
        effects, common, _ = site_effects(data, rows, [quantiles])
        curves = np.concatenate([common + effects, common[None]])
        model.curve.copy_(torch.from_numpy(np.stack([rising(curve) for curve in curves])))
    if config.site_edge:
        parts = [edge_means(common_scans(model, data, some)) for some in data.chunks(rows)]
        effects, common, _ = site_effects(data, rows, [np.concatenate(parts)])
        model.edge.copy_(torch.from_numpy(np.concatenate([common + effects, common[None]])))
    if config.site_average:
        scans = (common_scans(model, data, some) for some in data.chunks(rows))
        effects, common, variance = site_effects(data, rows, scans)
        smooth = [gaussian_filter(effect, AVERAGE_SMOOTHING_PIXELS) for effect in effects]
        model.average.copy_(torch.from_numpy(common))
        model.effect[:-1] = to_knots(torch.from_numpy(np.stack(smooth))).to(model.effect)
        brain = common > BRAIN
        deviation = float(np.sqrt(variance[brain].mean())) if brain.any() else 0.0
        model.deviation.fill_(max(deviation, 1e-2))
    if config.noise_corrected:
        sites = np.array(data.sites)[rows]
        for i, site in enumerate(data.site_names):
            some = rows[sites == site][: math.ceil(MAX_SLICES_FOR_NOISE / data.depth)]
            noise = [
                noise_sd(scan)
                for few in data.chunks(some)
                for scan in common_scans(model, data, few)
            ]
            typical = np.median(noise)
            model.noise[i] = torch.tensor(typical, device=device)


def measure_look(model: DDAE, images: np.ndarray, people: int) -> Look:
    """The look of a site that the model does not know, from some scans of it.

    The curve follows from the mean of their quantiles, and the average from their mean on the
    common scale, the more smoothed the fewer they are. What their people differ in from those of
    the training sites is taken for the look: one scan alone loses its own overall contrast.

    Parameters
    ----------
    model : DDAE
    images : np.ndarray, shape (N, D, H, W), range [0, 1]
        0 outside the brain.
    people : int
        How many of them there are in the images.

    Returns
    -------
    Look
        Of one row.
    """
    device = model.alpha_bar.device
    depth = images.shape[1]
    unknown = model.look(_of_unknown_site().to(device), depth)
    if model.config.site_curve:
        curve = torch.from_numpy(rising(brain_quantiles(images).mean(axis=0))).to(device)[None]
        unknown = replace(unknown, curve=curve)
    scans = [torch.from_numpy(np.clip(x, 0, CEILING))[None].to(device) for x in images]
    if model.config.site_edge:
        parts = [edge_means(model.to_common(x, unknown).cpu().numpy()) for x in scans]
        edge = np.concatenate(parts).mean(axis=0, keepdims=True)
        unknown = replace(unknown, edge=torch.from_numpy(edge).to(unknown.edge))
    if not model.config.site_average:
        return unknown
    total = torch.zeros_like(scans[0])
    for x in scans:
        total += model.to_common(x, unknown)
    mean = (total / len(scans))[0].cpu().numpy()
    null = unknown.average[0].cpu().numpy()
    brain = ((mean > BRAIN) & (null > BRAIN)).astype(np.float64)
    sigma = max(ONE_SCAN_SMOOTHING * mean.shape[-1] / people**0.5, AVERAGE_SMOOTHING_PIXELS)
    weight = np.maximum(gaussian_filter(brain, sigma), 1e-3)
    effect = gaussian_filter((mean - null) * brain, sigma) / weight
    average = np.maximum(null + np.where(null > 0, effect, 0), 0).astype(np.float32)
    return replace(unknown, average=torch.from_numpy(average).to(device)[None])


def _of_unknown_site() -> Condition:
    return make_condition([np.nan], [None], [-1])


def brain_quantiles(images: np.ndarray, n_levels: int = LEVELS) -> np.ndarray:
    """Intensities of the brain, rid of some noise, at even quantile levels; (N, n_levels)."""
    levels, quantiles = np.linspace(0, 1, n_levels), []
    for image in images:
        brain = image > 0
        weight = gaussian_filter(brain.astype(np.float64), CURVE_SMOOTHING_PIXELS)
        smooth = gaussian_filter(image.astype(np.float64), CURVE_SMOOTHING_PIXELS)
        inside = smooth[brain] / weight[brain] if brain.any() else np.zeros(1)
        quantiles.append(np.quantile(inside, levels))
    return np.array(quantiles)


def edge_means(images: np.ndarray) -> np.ndarray:
    """Mean intensity of each scan at each depth below the brain's edge, (N, EDGE_PIXELS).

    Where a small brain has no such depth, that of the next one up.
    """
    depth = edge_depth(torch.from_numpy(images)).numpy()
    means, before = np.zeros((len(images), EDGE_PIXELS)), np.zeros(len(images))
    for k in range(EDGE_PIXELS):
        there = depth == k + 1
        n = there.sum(axis=(1, 2, 3))
        total = np.where(there, images, 0).sum(axis=(1, 2, 3))
        before = np.where(n > 0, total / np.maximum(n, 1), before)
        means[:, k] = before
    return means


def rising(quantiles: np.ndarray) -> np.ndarray:
    """The knots of a curve, from 0 and strictly rising, float32."""
    steps = np.diff(np.maximum(quantiles, 0), prepend=0)
    return np.concatenate([[0], np.cumsum(np.maximum(steps, SMALLEST_RISE))]).astype(np.float32)


def common_scans(model: DDAE, data: SliceData, rows: np.ndarray) -> np.ndarray:
    """Scans on the common scale, shape (N, D, H, W)."""
    device = model.alpha_bar.device
    look = model.look(data.condition(rows).to(device), data.depth)
    return model.to_common(data.batch(rows).to(device), look).cpu().numpy()
