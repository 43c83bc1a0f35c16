"""A scan from its site to another, whole: rendered, denoised, and evened."""

from __future__ import annotations

import torch
from torch import Tensor

from ddae_app.imaging.noise import noise_sd
from ddae_app.methods.ddae.appearance import Look, edge_depth, map_intensities
from ddae_app.methods.ddae.editing import BATCH_SIZE, denoise_at_site, render_at_site
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.shading import unshaded
from ddae_app.methods.ddae.sharpness import soften

STEPS = 4
"""Noise levels; fewer or more change next to nothing."""


@torch.inference_mode()
def render(
    model: DDAE,
    x: Tensor,
    source: Condition,
    target: Condition,
    steps: int = STEPS,
    look: Look | None = None,
    *,
    keep_noise: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Scans as the target would have taken them.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        Slices of scans, from the position that `source` tells on; 0 outside the brain.
    source, target, steps, look
        As :func:`~ddae_app.methods.ddae.editing.render_at_site` takes them, of whole scans.
    keep_noise : bool
        Whether to leave each scan the noise it has; then nothing is evened either, for what is
        left to even was measured on denoised scans.
    batch_size : int
        Slices that the networks see at once.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        Not negative; 0 where ``x`` is 0.
    """
    n = x.shape[1]
    look = look or model.look(source, n)
    noise = noise_of(model, x, look)
    y = render_at_site(model, x, source, target, steps, look, noise, batch_size)
    y = torch.where(x > 0, y, 0)
    if not keep_noise:
        noise = noise_of(model, y, model.look(target, n))
        y = denoise_at_site(model, y, target, noise, batch_size)
        y = _evened(model, torch.where(x > 0, y, 0), source, target)
    return torch.where(x > 0, y.clamp(min=0), 0)


def noise_of(model: DDAE, x: Tensor, look: Look) -> Tensor:
    """Standard deviation of the noise of scans on the common scale, shape (B,)."""
    common = model.to_common(x.clamp(min=0), look).cpu().numpy()
    return torch.tensor([noise_sd(scan) for scan in common]).to(x)


def _evened(model: DDAE, y: Tensor, source: Condition, target: Condition) -> Tensor:
    """Rendered scans without their own shading, and what is left of the source.

    The model knows what becomes of the spread, sharpness and contrast of the source's scans, and
    of the target's own.
    """
    look = model.look(target, y.shape[1])
    given, wanted = model.rendered[source.site], model.rendered[target.site]
    softer = model.softness[target.site] - model.softness[source.site]
    common = model.to_common(y, look)
    if model.white.any():
        common = unshaded(common, model.white, model.white_level, source.position)
    common = soften(model.respread(common, source, target), softer)
    common = map_intensities(common, given, wanted)
    same = (given == wanted).all(dim=1) & (softer == 0).all(dim=1) & ~model.white.any()
    near, far = model.spread[source.site], model.spread[target.site]
    same &= (near == far).flatten(1).all(dim=1)
    return torch.where(
        same[:, None, None, None], y, model.from_common(common, look, edge_depth(y))
    )
