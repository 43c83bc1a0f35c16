"""Smooth fields over a scan, known at every fourth voxel and linear in between."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as nnf

KNOT_STEP = 4
"""Voxels, about, from one knot to the next along each axis."""

Shape = tuple[int, int, int]
"""Slices, rows and columns."""


def knot_shape(shape: Shape) -> Shape:
    """Knots along each axis of a scan; one where there is but one slice."""
    d, h, w = (math.ceil((n - 1) / KNOT_STEP) + 1 for n in shape)
    return d, h, w


def to_knots(field: Tensor) -> Tensor:
    """The values of fields, shape (S, D, H, W), at their knots, shape (S, d, h, w).

    The fields have to be smooth: what lies between the knots is passed over.
    """
    d, h, w = field.shape[1:]
    size = knot_shape((d, h, w))
    return nnf.interpolate(field[:, None], size, mode='trilinear', align_corners=True)[:, 0]


def from_knots(knots: Tensor, position: Tensor, n: int, shape: Shape) -> Tensor:
    """The fields at some slices.

    Parameters
    ----------
    knots : torch.Tensor, shape (B, d, h, w)
    position : torch.Tensor, shape (B,), int64
        First slice of each.
    n : int
        Slices of each.
    shape : tuple of int
        ``(D, H, W)`` of the whole field.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
    """
    # A slice beyond either end counts as the last.
    rows = slices_from(position, n).clamp(0, shape[0] - 1)
    place = rows * ((knots.shape[1] - 1) / max(shape[0] - 1, 1))
    below = place.long().clamp(max=max(knots.shape[1] - 2, 0))
    above = (below + 1).clamp(max=knots.shape[1] - 1)
    row = torch.arange(len(knots), device=knots.device)[:, None]
    share = (place - below)[:, :, None, None].to(knots)
    planes = torch.lerp(knots[row, below], knots[row, above], share)
    return nnf.interpolate(planes, shape[1:], mode='bilinear', align_corners=True)


def slices_from(position: Tensor, n: int) -> Tensor:
    """Numbers of the `n` slices from each position on, shape (B, n)."""
    return position[:, None] + torch.arange(n, device=position.device)
