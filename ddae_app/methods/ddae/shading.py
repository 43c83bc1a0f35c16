"""The shading that a scan has by itself, told from its white matter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddae_app.methods.ddae.appearance import EDGE_PIXELS, edge_depth
from ddae_app.methods.ddae.fields import slices_from

STRONGEST = 1.25
"""Bias correction leaves less than this between any pixel and the average of the brain."""

PRIOR_PIXELS = 10.0
"""White matter that would have to be there for a plane that is half as steep as it says."""


def white_matter(x: Tensor, level: Tensor) -> Tensor:
    """Where there is white matter: brighter than a level, and below the edge of the brain.

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W)
        On the common scale, without noise.
    level : torch.Tensor, shape ()

    Returns
    -------
    torch.Tensor of bool, shape (B, n, H, W)
    """
    return (x > level) & (edge_depth(x) > EDGE_PIXELS)


def remove_shading(x: Tensor, white: Tensor, level: Tensor, position: Tensor) -> Tensor:
    """Images divided by the plane that their white matter shows.

    What bias correction leaves of a field differs from scan to scan of one site, so no look of a
    site can hold it. White matter is about equally bright wherever it is usually found: the ratio
    of each image's to everybody's tells a plane, of which the slopes are taken for shading. Its
    level is left alone: it may be the person's.

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W)
        On the common scale, without noise; 0 outside the brain.
    white : torch.Tensor, shape (D, H, W)
        Usual intensity of white matter, where it is usually found; 0 elsewhere.
    level : torch.Tensor, shape ()
        As :func:`white_matter` takes it.
    position : torch.Tensor, shape (B,), int64
        Of the first of the `n` slices among all `D`.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        As bright on average over the brain as before, but for rounding.
    """
    places = _places(position, x.shape[1], white.shape).to(x)
    usual = white[slices_from(position, x.shape[1])].flatten(1)
    plane = torch.cat([torch.ones_like(places[:, :1]), places], dim=1)
    seen = white_matter(x, level).flatten(1) & (usual > 0)
    ratio = torch.where(seen, x.flatten(1) / usual.clamp(min=1e-3) - 1, 0)
    # Normal equations of every scan: (B, 4, 4) and (B, 4).
    cross = torch.einsum('bn,bin,bjn->bij', seen.to(x), plane, plane)
    prior = torch.tensor([1e-3, *[PRIOR_PIXELS] * 3], device=x.device).diag()
    slopes = torch.linalg.solve(cross + prior, torch.einsum('bn,bin->bi', ratio, plane))[:, 1:]
    field = torch.einsum('bi,bin->bn', slopes, places)
    brain = (x > 0).flatten(1).to(x)
    field = field - ((field * brain).sum(dim=1) / brain.sum(dim=1).clamp(min=1))[:, None]
    return x / (1 + field).clamp(1 / STRONGEST, STRONGEST).reshape(x.shape)


def _places(position: Tensor, n: int, shape: Sequence[int]) -> Tensor:
    """Where each voxel lies along the three axes of the whole scan, -1 to 1; (B, 3, n H W)."""
    inside = [torch.arange(size, device=position.device) for size in shape[1:]]
    places = []
    for first in position:
        through = first + torch.arange(n, device=position.device)
        sides = [
            2 * (i + 0.5) / size - 1 for i, size in zip((through, *inside), shape, strict=True)
        ]
        places.append(torch.stack(torch.meshgrid(*sides, indexing='ij')).flatten(1))
    return torch.stack(places)
