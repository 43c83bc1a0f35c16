"""The shading of each scan, estimated from its white matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ddae_app.methods.ddae.config import EDGE_PIXELS
from ddae_app.methods.ddae.fields import slices_from
from ddae_app.methods.ddae.intensity import edge_depth

GRAY_SHARE = 0.7
"""Of the pixels of the brain; brighter ones are assumed to be white matter."""

WHITE_SMOOTHING_PIXELS = 2.0
LEAST_WHITE_SHARE = 0.05
"""Of scans with white matter at a pixel, for its intensity to be known there."""

STRONGEST = 1.25
"""Bias correction leaves less than this between any pixel and the average of the brain."""

PRIOR_PIXELS = 10.0
"""Of white matter, at which the estimated plane is half as steep as without a prior."""


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


def usual_white(scans: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The usual white matter, as :func:`remove_shading` takes it.

    Parameters
    ----------
    scans : sequence of torch.Tensor, each of shape (1, D, H, W)
        On the common scale, without noise.

    Returns
    -------
    white : torch.Tensor, shape (D, H, W)
    level : torch.Tensor, shape ()
    """
    brains = [x[x > 0].numpy() for x in scans]
    level = torch.tensor(np.mean([np.quantile(b, GRAY_SHARE) for b in brains if b.size])).float()
    share = torch.zeros_like(scans[0][0])
    total = torch.zeros_like(share)
    for x in scans:
        there = white_matter(x, level)[0]
        share += there / len(scans)
        total += x[0] * there / len(scans)
    near, mean = (gaussian_filter(a.numpy(), WHITE_SMOOTHING_PIXELS) for a in (share, total))
    mean = mean / np.maximum(near, 1e-6)
    return torch.from_numpy(np.where(near > LEAST_WHITE_SHARE, mean, 0)), level


def remove_shading(x: Tensor, white: Tensor, level: Tensor, position: Tensor) -> Tensor:
    """Images divided by the shading that their white matter shows.

    What bias correction leaves of a bias field differs between the scans of one site, so the site
    appearance cannot hold it. White matter is about equally bright at all places. The ratio of the
    white matter of a scan to the usual one is fitted by a plane, whose slopes are taken as the
    shading. The level of the plane is kept, since it may be a feature of the subject.

    Parameters
    ----------
    x : torch.Tensor, shape (B, n, H, W)
        On the common scale, without noise; 0 outside the brain.
    white : torch.Tensor, shape (D, H, W)
        Usual intensity of white matter at the places where it usually is; 0 elsewhere.
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
