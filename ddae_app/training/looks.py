"""What the sites look like, at equal age and sex: contrast, edges, averages and noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.noise import noise_sd
from ddae_app.model.ddae import DDAE
from ddae_app.model.looks import CEILING, EDGE_PIXELS, LEVELS, Look, edge_depth
from ddae_app.model.rendering import render
from ddae_app.training.dataset import CHUNK, SEXES, SliceData, make_condition

CURVE_SMOOTHING_PIXELS = 0.7
"""Takes enough of the noise out of an image for its quantiles to be those of the tissue."""

AVERAGE_SMOOTHING_PIXELS = 3.0
"""What an average knows of a site is smooth; what it has of its few people is not."""

ONE_SCAN_SMOOTHING = 1 / 8
"""The same, of the image's width, where a look is taken from one scan alone."""

SMALLEST_RISE = 1e-4
"""Between two knots of a curve, so that it can be followed both ways."""

MAX_SCANS_FOR_NOISE = 100
MAX_SCANS_TO_RENDER = 60
RENDERED_AT_ONCE = 16
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
    design, people = _design(data, rows), _people(data, rows)
    if config.site_curve:
        quantiles = np.concatenate([brain_quantiles(_images(data, c)) for c in _chunks(rows)])
        effects, common, _ = _site_effects(design, people, [quantiles])
        curves = np.concatenate([common + effects, common[None]])
        model.curve.copy_(torch.from_numpy(np.stack([_rising(curve) for curve in curves])))
    if config.site_edge:
        means = np.concatenate([edge_means(_common(model, data, c)) for c in _chunks(rows)])
        effects, common, _ = _site_effects(design, people, [means])
        model.edge.copy_(torch.from_numpy(np.concatenate([common + effects, common[None]])))
    if config.site_average:
        images = (_common(model, data, chunk) for chunk in _chunks(rows))
        effects, common, variance = _site_effects(design, people, images)
        smooth = [gaussian_filter(effect, AVERAGE_SMOOTHING_PIXELS) for effect in effects]
        averages = np.maximum(np.concatenate([common + smooth, common[None]]), 0)
        model.average.copy_(torch.from_numpy(averages)[:, None])
        brain = common > BRAIN
        deviation = float(np.sqrt(variance[brain].mean())) if brain.any() else 0.0
        model.deviation.fill_(max(deviation, 1e-2))
    if config.noise_corrected:
        sites = np.array(data.sites)[rows]
        for i, site in enumerate(data.site_names):
            some = rows[sites == site][:MAX_SCANS_FOR_NOISE]
            typical = np.median([noise_sd(image) for image in _common(model, data, some)])
            model.noise[i] = torch.tensor(typical, device=device)


def learn_rendered(model: DDAE, data: SliceData, rows: np.ndarray) -> None:
    """Measure what the trained model leaves of each site's contrast, and put it in its buffers.

    Some images of each site are rendered as of an unknown one. What that changes in a person's
    quantiles differs less from person to person than the quantiles themselves; so the site's part
    of the change is told from few, and that of the images before from all.

    Parameters
    ----------
    model : DDAE
        Nothing is measured without ``config.site_curve``, or where it does not know how to do
        without the site.
    data : SliceData
    rows : np.ndarray of int
        As :func:`learn_looks` took them.
    """
    if not model.config.site_curve or model.config.condition_dropout == 0:
        return
    before = np.concatenate([brain_quantiles(_common(model, data, c)) for c in _chunks(rows)])
    effects, _, _ = _site_effects(_design(data, rows), _people(data, rows), [before])
    sites = np.array(data.sites)[rows]
    own = [np.flatnonzero(sites == site) for site in data.site_names if (sites == site).any()]
    few = np.concatenate([i[:: math.ceil(len(i) / MAX_SCANS_TO_RENDER)] for i in own])
    after = np.concatenate([_rendered_quantiles(model, data, c) for c in _chunks(rows[few])])
    design, people = _design(data, rows[few]), _people(data, rows[few])
    left, _, _ = _site_effects(design, people, [after - before[few]])
    common = after.mean(axis=0)
    curves = np.concatenate([common + effects + left, common[None]])
    model.rendered.copy_(torch.from_numpy(np.stack([_rising(curve) for curve in curves])))


def _rendered_quantiles(model: DDAE, data: SliceData, rows: np.ndarray) -> np.ndarray:
    device, levels, quantiles = model.alpha_bar.device, np.linspace(0, 1, LEVELS), []
    for some in np.array_split(rows, math.ceil(len(rows) / RENDERED_AT_ONCE)):
        n, x, sites = len(some), data.batch(some).to(device), data.condition(some).site
        source = make_condition([np.nan] * n, [None] * n, sites.tolist()).to(device)
        unknown = make_condition([np.nan] * n, [None] * n, [-1] * n).to(device)
        y = render(model, x, source, unknown)
        common = model.to_common(y, model.look(unknown.site))[:, 0].cpu().numpy()
        brains = [image[image > 0] for image in common]
        quantiles += [np.quantile(b if b.size else np.zeros(1), levels) for b in brains]
    return np.array(quantiles)


def measure_look(model: DDAE, images: np.ndarray, people: int) -> Look:
    """The look of a site that the model does not know, from some scans of it.

    The curve follows from the mean of their quantiles, and the average from their mean on the
    common scale, the more smoothed the fewer they are. What their people differ in from those of
    the training sites is taken for the look: one scan alone loses its own overall contrast.

    Parameters
    ----------
    model : DDAE
    images : np.ndarray, shape (N, H, W), range [0, 1]
        0 outside the brain.
    people : int
        How many of them there are in the images.

    Returns
    -------
    Look
        Of one row.
    """
    device = model.alpha_bar.device
    unknown = model.look(torch.tensor([-1], device=device))
    if model.config.site_curve:
        curve = torch.from_numpy(_rising(brain_quantiles(images).mean(axis=0))).to(device)[None]
        unknown = replace(unknown, curve=curve)
    seen = torch.from_numpy(np.clip(images, 0, CEILING))[:, None].to(device)
    if model.config.site_edge:
        common = model.to_common(seen, unknown.expand(len(images)))[:, 0].cpu().numpy()
        edge = edge_means(common).mean(axis=0, keepdims=True)
        unknown = replace(unknown, edge=torch.from_numpy(edge).to(unknown.edge))
    if not model.config.site_average:
        return unknown
    mean = model.to_common(seen, unknown.expand(len(images))).mean(dim=0)[0].cpu().numpy()
    null = unknown.average[0, 0].cpu().numpy()
    brain = ((mean > BRAIN) & (null > BRAIN)).astype(np.float64)
    sigma = max(ONE_SCAN_SMOOTHING * len(mean) / people**0.5, AVERAGE_SMOOTHING_PIXELS)
    weight = np.maximum(gaussian_filter(brain, sigma), 1e-3)
    effect = gaussian_filter((mean - null) * brain, sigma) / weight
    average = np.maximum(null + np.where(null > 0, effect, 0), 0).astype(np.float32)
    return replace(unknown, average=torch.from_numpy(average).to(device)[None, None])


def brain_quantiles(images: np.ndarray) -> np.ndarray:
    """Intensities of the brain, rid of some noise, at even quantile levels; shape (N, LEVELS)."""
    levels, quantiles = np.linspace(0, 1, LEVELS), []
    for image in images:
        brain = image > 0
        weight = gaussian_filter(brain.astype(np.float64), CURVE_SMOOTHING_PIXELS)
        smooth = gaussian_filter(image.astype(np.float64), CURVE_SMOOTHING_PIXELS)
        inside = smooth[brain] / weight[brain] if brain.any() else np.zeros(1)
        quantiles.append(np.quantile(inside, levels))
    return np.array(quantiles)


def edge_means(images: np.ndarray) -> np.ndarray:
    """Mean intensity of each image at each depth below the brain's edge, (N, EDGE_PIXELS).

    Where a small brain has no such depth, that of the next one up.
    """
    depth = edge_depth(torch.from_numpy(images)[:, None])[:, 0].numpy()
    means, before = np.zeros((len(images), EDGE_PIXELS)), np.zeros(len(images))
    for k in range(EDGE_PIXELS):
        there = depth == k + 1
        n = there.sum(axis=(1, 2))
        before = np.where(n > 0, (images * there).sum(axis=(1, 2)) / np.maximum(n, 1), before)
        means[:, k] = before
    return means


def _rising(quantiles: np.ndarray) -> np.ndarray:
    """The knots of a curve, from 0 and strictly rising, float32."""
    steps = np.diff(np.maximum(quantiles, 0), prepend=0)
    return np.concatenate([[0], np.cumsum(np.maximum(steps, SMALLEST_RISE))]).astype(np.float32)


def _site_effects(
    design: np.ndarray, people: list[int], parts: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each site adds (shrunk), what is common to all, and the variance that is left.

    Sums over parts, for not all images may fit into memory.
    """
    cross: np.ndarray | float = 0.0
    square, start, n_sites = np.zeros(()), 0, len(people)
    for part in parts:
        values = part.astype(np.float64)
        cross = cross + np.tensordot(design[start : start + len(part)].T, values, axes=1)
        square = square + np.square(values).sum(axis=0)
        start += len(part)
    ridge = 1e-6 * start * np.eye(design.shape[1])  # for columns that say nothing
    beta = np.tensordot(np.linalg.inv(design.T @ design + ridge), cross, axes=1)
    variance = np.maximum(square - (beta * cross).sum(axis=0), 0) / start
    common = beta[:n_sites].mean(axis=0)
    effects = beta[:n_sites] - common
    for effect, n in zip(effects, people, strict=True):
        by_chance = variance.sum() / n
        effect *= max(0.0, 1 - by_chance / max(float(np.square(effect).sum()), 1e-12))
    return effects, common, variance


def _design(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """One column per site, then age, age squared and sex, centred; the unknown is average."""
    sites = np.array(data.sites)[rows]
    member = np.stack([sites == site for site in data.site_names], axis=1)
    ages = data.ages[rows]
    known = ~np.isnan(ages)
    scale = max(float(ages[known].std()), 1.0) if known.any() else 1.0
    age = np.where(known, (ages - (ages[known].mean() if known.any() else 0)) / scale, 0)
    squared = np.where(known, age**2, 0)
    sex = np.array([SEXES[data.sexes[i]] for i in rows], dtype=float)
    sex = np.where(sex < 0, 0, sex - (sex[sex >= 0].mean() if (sex >= 0).any() else 0))
    return np.column_stack([member, age, squared - squared.mean(), sex]).astype(np.float64)


def _people(data: SliceData, rows: np.ndarray) -> list[int]:
    pairs = {(data.sites[i], data.subjects[i]) for i in rows}
    return [sum(site == named for named, _ in pairs) for site in data.site_names]


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


def _images(data: SliceData, rows: np.ndarray) -> np.ndarray:
    return np.clip(data.images[rows], 0, CEILING)


def _common(model: DDAE, data: SliceData, rows: np.ndarray) -> np.ndarray:
    """Images on the common scale, shape (N, H, W)."""
    device = model.alpha_bar.device
    site = data.condition(rows).site.to(device)
    return model.to_common(data.batch(rows).to(device), model.look(site))[:, 0].cpu().numpy()
