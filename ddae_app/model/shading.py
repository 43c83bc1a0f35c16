"""The shading that a scan has by itself, told from its white matter."""

from __future__ import annotations

import torch
from torch import Tensor

from ddae_app.model.looks import EDGE_PIXELS, edge_depth

STRONGEST = 1.25
"""Bias correction leaves less than this between any pixel and the average of the brain."""

PRIOR_PIXELS = 10.0
"""White matter that would have to be there for a plane that is half as steep as it says."""


def white_matter(x: Tensor, level: Tensor) -> Tensor:
    """Where there is white matter: brighter than a level, and below the edge of the brain.

    Parameters
    ----------
    x : torch.Tensor, shape (B, 1, H, W)
        On the common scale, without noise.
    level : torch.Tensor, shape ()

    Returns
    -------
    torch.Tensor of bool, shape (B, 1, H, W)
    """
    return (x > level) & (edge_depth(x) > EDGE_PIXELS)


def unshaded(x: Tensor, white: Tensor, level: Tensor) -> Tensor:
    """Images divided by the plane that their white matter shows.

    What bias correction leaves of a field differs from scan to scan of one site, so no look of a
    site can hold it. White matter is about equally bright wherever it is usually found: the ratio
    of each image's to everybody's tells a plane, of which the slopes are taken for shading. Its
    level is left alone: it may be the person's.

    Parameters
    ----------
    x : torch.Tensor, shape (B, 1, H, W)
        On the common scale, without noise; 0 outside the brain.
    white : torch.Tensor, shape (1, H, W)
        Usual intensity of white matter, where it is usually found; 0 elsewhere.
    level : torch.Tensor, shape ()
        As :func:`white_matter` takes it.

    Returns
    -------
    torch.Tensor, shape (B, 1, H, W)
        As bright on average over the brain as before, but for rounding.
    """
    height, width = x.shape[2:]
    down = torch.linspace(-1, 1, height, device=x.device)[:, None].expand(height, width)
    right = torch.linspace(-1, 1, width, device=x.device).expand(height, width)
    plane = torch.stack([torch.ones_like(down), down, right]).flatten(1)
    seen = (white_matter(x, level) & (white > 0)).flatten(1).to(x)
    ratio = x.flatten(1) / white.flatten().clamp(min=1e-3) - 1
    # Normal equations of every image: (B, 3, 3) and (B, 3).
    cross = torch.einsum('bn,in,jn->bij', seen, plane, plane)
    prior = torch.tensor([1e-3, PRIOR_PIXELS, PRIOR_PIXELS], device=x.device).diag()
    slopes = torch.linalg.solve(cross + prior, (seen * ratio) @ plane.T)[:, 1:]
    field = slopes @ plane[1:]
    brain = (x > 0).flatten(1).to(x)
    field = field - ((field * brain).sum(dim=1) / brain.sum(dim=1).clamp(min=1))[:, None]
    return x / (1 + field).clamp(1 / STRONGEST, STRONGEST).reshape(x.shape)
