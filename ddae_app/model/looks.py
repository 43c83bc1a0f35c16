"""What a site makes of everybody's image alike: its contrast, and what is left on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 33
"""Quantile levels at which a contrast curve is known, evenly from 0 to 1."""

KNOTS = LEVELS + 1
"""The curve's knots: these, and 0, which stays 0."""

CEILING = 1.2
"""The brightest that the networks see, for noise lifts some of the brain above 1."""


@dataclass(frozen=True)
class Look:
    """How images of each row's site look.

    Attributes
    ----------
    curve : torch.Tensor, shape (B, K)
        Rising intensities, from 0; the k-th is to the site what the k-th common one is to all.
    average : torch.Tensor, shape (B, 1, H, W)
        Average image of the site, on the common scale.
    """

    curve: Tensor
    average: Tensor

    def expand(self, n: int) -> Look:
        """One look for `n` images."""
        return Look(self.curve.expand(n, -1), self.average.expand(n, -1, -1, -1))


def map_intensities(x: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Piecewise linear curve through (given, wanted), going on with slope 1 above the last knot.

    Parameters
    ----------
    x : torch.Tensor, shape (B, 1, H, W), not negative
    given, wanted : torch.Tensor, shape (B, K)
        Strictly rising, both from 0.

    Returns
    -------
    torch.Tensor, shape (B, 1, H, W)
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
