"""How sharp images are along each axis, and how to change that a little."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

AXES = (1, 2, 3)
"""Through the slices, down and across."""


def soften(x: Tensor, amount: Tensor) -> Tensor:
    """Blur along each axis, or sharpen where an amount is negative.

    ``x + amount * x''`` with the second difference along the axis; to first order this is a
    Gaussian blur of variance ``2 amount``. Differences across the edge of the brain count as 0.

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W)
        Not negative; 0 outside the brain.
    amount : torch.Tensor, shape (B, 3)
        Along each of ``AXES``, square voxels, of about 0.1 at most.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        Not negative; 0 where ``x`` is 0.
    """
    y = x
    for i, axis in enumerate(AXES):
        y = y + amount[:, i, None, None, None] * _second_difference(x, axis)
    return torch.where(x > 0, y.clamp(min=0), 0)


def roughness(x: Tensor, where: Tensor) -> Tensor:
    """Logarithm of the mean squared second difference along each axis, shape (B, 3).

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W)
        0 outside the brain.
    where : torch.Tensor of bool, shape (B, n, H, W)
        The pixels that count; where there are none, the result is that of a very smooth image, as
        it is through a single slice.
    """
    n = where.sum(dim=(1, 2, 3)).clamp(min=1)
    squares = [(_second_difference(x, axis).square() * where).sum(dim=(1, 2, 3)) for axis in AXES]
    return torch.stack([(s / n).clamp(min=1e-12).log() for s in squares], dim=1)


def _second_difference(x: Tensor, axis: int) -> Tensor:
    padding = [0, 0, 0, 0, 0, 0]
    padding[2 * (3 - axis)] = padding[2 * (3 - axis) + 1] = 1  # nnf.pad counts from the last axis
    padded = nnf.pad(x, padding)
    n = x.shape[axis]
    before, after = padded.narrow(axis, 0, n), padded.narrow(axis, 2, n)
    inside = (x > 0) & (before > 0) & (after > 0)
    return torch.where(inside, before - 2 * x + after, 0)
