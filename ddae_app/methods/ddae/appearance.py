"""What a site makes of everybody's scan alike: contrast, edges, and what is left on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

LEVELS = 33
"""Quantile levels at which a contrast curve is known, evenly from 0 to 1."""

KNOTS = LEVELS + 1
"""The curve's knots: these, and 0, which stays 0."""

RENDERED_LEVELS = 65
RENDERED_KNOTS = RENDERED_LEVELS + 1
"""The same for rendered images, which have no noise that would blur their quantiles."""

CEILING = 1.2
"""The brightest that the networks see, for noise lifts some of the brain above 1."""


EDGE_PIXELS = 4
"""Depth to which the edge of the brain is told apart from the rest."""


@dataclass(frozen=True)
class Look:
    """How scans of each row's site look.

    Attributes
    ----------
    curve : torch.Tensor, shape (B, K)
        Rising intensities, from 0; the k-th is to the site what the k-th common one is to all.
    edge : torch.Tensor, shape (B, EDGE_PIXELS)
        Mean intensity, on the common contrast, at each depth below the edge of the brain.
    average : torch.Tensor, shape (B, n, H, W)
        Average scan of the site, on the common scale, at the slices in question.
    """

    curve: Tensor
    edge: Tensor
    average: Tensor

    def expand(self, n: int) -> Look:
        """One look for `n` images."""
        average = self.average.expand(n, -1, -1, -1)
        return Look(self.curve.expand(n, -1), self.edge.expand(n, -1), average)


def stack_looks(looks: Sequence[Look]) -> Look:
    """The rows of several looks."""
    parts = zip(*((look.curve, look.edge, look.average) for look in looks), strict=True)
    return Look(*(torch.cat(part) for part in parts))


def edge_depth(x: Tensor) -> Tensor:
    """How many pixels lie between each and the outside of the brain, itself counted.

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
    inside = nnf.pad(x > 0, (1, 1, 1, 1))
    depth = inside.long()
    for _ in range(EDGE_PIXELS):
        # What comes in at the opposite edge is padding, which is outside.
        neighbours = [torch.roll(inside, step, axis) for step in (-1, 1) for axis in (2, 3)]
        inside = torch.stack([inside, *neighbours]).all(dim=0)
        depth += inside
    return depth[:, :, 1:-1, 1:-1]


def at_depth(edge: Tensor, depth: Tensor) -> Tensor:
    """The values of edges at each pixel, 0 outside the brain and deeper down.

    Parameters
    ----------
    edge : torch.Tensor, shape (B, EDGE_PIXELS)
    depth : torch.Tensor, shape (B, n, H, W)
        As :func:`edge_depth` tells it.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
    """
    values = nnf.pad(edge, (1, 1))
    return values.gather(1, depth.flatten(1)).reshape(depth.shape)


def map_intensities(x: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Piecewise linear curve through (given, wanted), going on with slope 1 above the last knot.

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
    # From the right knot where the line goes on beyond it, so that it is continuous there.
    above = flat > x_1
    y = torch.where(above, y_1 + slope * (flat - x_1), y_0 + slope * (flat - x_0))
    return y.reshape(x.shape)
