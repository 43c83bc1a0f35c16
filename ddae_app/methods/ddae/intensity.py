"""Intensities of the brain: contrast curves, distance from the brain's edge, and quantiles."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import find_objects, gaussian_filter
from torch import Tensor
from torch.nn import functional as nnf

from ddae_app.methods.ddae.config import EDGE_PIXELS

CURVE_SMOOTHING_PIXELS = 0.7
"""Removes enough of the noise of an image for its quantiles to be those of the tissue."""

TRUNCATE = 4.0
"""Standard deviations at which the smoothing ends."""

SMALLEST_RISE = 1e-4
"""Between two knots of a curve, so that the curve can be inverted."""


def edge_depth(x: Tensor) -> Tensor:
    """Distance of each pixel from the outside of the brain, in pixels, itself counted.

    Steps are along rows and columns; each slice is taken by itself.

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W)
        0 outside the brain.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W), int64, range [0, EDGE_PIXELS + 1]
        Deeper pixels have the largest value.
    """
    inside = nnf.pad(x > 0, (1, 1, 1, 1))  # all that lies outside the image is outside the brain
    depth = inside.byte()
    for _ in range(EDGE_PIXELS):
        eroded = inside.clone()
        eroded[:, :, 1:-1, 1:-1] &= (
            inside[:, :, :-2, 1:-1]
            & inside[:, :, 2:, 1:-1]
            & inside[:, :, 1:-1, :-2]
            & inside[:, :, 1:-1, 2:]
        )
        inside = eroded
        depth += inside
    return depth[:, :, 1:-1, 1:-1].long()


def at_depth(edge: Tensor, depth: Tensor) -> Tensor:
    """The values of edges at each pixel, 0 outside the brain and deeper down.

    Parameters
    ----------
    edge : torch.Tensor, shape (B, EDGE_PIXELS)
    depth : torch.Tensor, shape (B, n, H, W)
        As :func:`edge_depth` measures it.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
    """
    values = nnf.pad(edge, (1, 1))
    return values.gather(1, depth.flatten(1)).reshape(depth.shape)


def map_intensities(x: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Piecewise linear curve through (given, wanted), with slope 1 above the last knot.

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W), not negative
    given, wanted : torch.Tensor, shape (B, K)
        Strictly rising, both from 0.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
    """
    flat = x.flatten(1).contiguous()
    given, wanted = given.contiguous(), wanted.contiguous()
    last = given.shape[1] - 1
    right = torch.searchsorted(given, flat).clamp(1, last)
    x_0, x_1 = given.gather(1, right - 1), given.gather(1, right)
    y_0, y_1 = wanted.gather(1, right - 1), wanted.gather(1, right)
    slope = torch.where(flat > given[:, -1:], 1.0, (y_1 - y_0) / (x_1 - x_0))
    # From the right knot where the line continues beyond it, so that it is continuous there.
    above = flat > x_1
    y = torch.where(above, y_1 + slope * (flat - x_1), y_0 + slope * (flat - x_0))
    return y.reshape(x.shape)


def tissue_quantiles(images: np.ndarray, n_levels: int) -> np.ndarray:
    """Quantiles of the brain's intensities after slight smoothing, at evenly spaced levels.

    Parameters
    ----------
    images : np.ndarray, shape (N, D, H, W)
        0 outside the brain.
    n_levels : int

    Returns
    -------
    np.ndarray, shape (N, n_levels)
        0 where there is no brain.
    """

    def smoothed(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x.astype(np.float64), CURVE_SMOOTHING_PIXELS, truncate=TRUNCATE)

    levels, quantiles = np.linspace(0, 1, n_levels), []
    for image in images:
        image = _around_brain(image)
        brain = image > 0
        inside = smoothed(image)[brain] / smoothed(brain)[brain] if brain.any() else np.zeros(1)
        quantiles.append(np.quantile(inside, levels))
    return np.array(quantiles)


def _around_brain(image: np.ndarray) -> np.ndarray:
    """The brain and what smoothing mixes with it; the whole image where there is no brain."""
    margin = math.ceil(TRUNCATE * CURVE_SMOOTHING_PIXELS)
    box = find_objects((image > 0).astype(np.uint8))
    if not box:
        return image
    return image[tuple(slice(max(0, i.start - margin), i.stop + margin) for i in box[0])]


def edge_means(images: np.ndarray) -> np.ndarray:
    """Mean intensity of each scan at each depth below the brain's edge.

    Parameters
    ----------
    images : np.ndarray, shape (N, D, H, W)
        0 outside the brain.

    Returns
    -------
    np.ndarray, shape (N, EDGE_PIXELS)
        Where a small brain has no such depth, the mean of the next depth up.
    """
    depth = edge_depth(torch.from_numpy(images)).numpy()
    means, above = np.zeros((len(images), EDGE_PIXELS)), np.zeros(len(images))
    for k in range(EDGE_PIXELS):
        there = depth == k + 1
        n = there.sum(axis=(1, 2, 3))
        total = np.where(there, images, 0).sum(axis=(1, 2, 3))
        above = np.where(n > 0, total / np.maximum(n, 1), above)
        means[:, k] = above
    return means


def rising(quantiles: np.ndarray) -> np.ndarray:
    """The knots of a curve, from 0 and strictly rising, float32."""
    steps = np.diff(np.maximum(quantiles, 0), prepend=0)
    return np.concatenate([[0], np.cumsum(np.maximum(steps, SMALLEST_RISE))]).astype(np.float32)
