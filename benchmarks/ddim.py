"""Deterministic DDIM, from noise to image and back, as the paper of the DDAE uses it.

Time runs from 0 (a clean image) to T (noise alone), so that ``alpha_bar[0] = 1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.schedule import q_sample, split_prediction

Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps ``(x_t, t)`` to the clean image and to the noise that it predicts in ``x_t``."""


def step_times(timesteps: int, steps: int) -> list[int]:
    """``steps + 1`` times from 0 to T, evenly spaced."""
    return [round(i * timesteps / steps) for i in range(steps + 1)]


def ddim_decode(denoise: Denoiser, x_T: Tensor, alpha_bar: Tensor, steps: int) -> Tensor:
    """From noise to image by deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0).

    Parameters
    ----------
    denoise : callable
    x_T : torch.Tensor, shape (B, 1, H, W)
    alpha_bar : torch.Tensor, shape (T + 1,)
    steps : int
        Evaluations of ``denoise``.

    Returns
    -------
    torch.Tensor, shape (B, 1, H, W)
    """
    times = step_times(len(alpha_bar) - 1, steps)
    x = x_T
    for now, after in zip(times[:0:-1], times[-2::-1], strict=True):
        x = q_sample(*denoise(x, now), alpha_bar[after])
    return x


def ddim_invert(denoise: Denoiser, x_0: Tensor, alpha_bar: Tensor, steps: int) -> Tensor:
    """From image to noise by the same steps backwards (Song et al. 2021, sec. 4.3).

    Parameters and result mirror :func:`ddim_decode`. The first evaluation sees the clean image
    at time 1, the lowest that the network was trained for.
    """
    times = step_times(len(alpha_bar) - 1, steps)
    x = x_0
    for now, after in zip(times[:-1], times[1:], strict=True):
        x = q_sample(*denoise(x, max(now, 1)), alpha_bar[after])
    return x


def denoiser(model: DDAE, z_k: Tensor, z_u: Tensor) -> Denoiser:
    """The denoiser of a model with fixed codes, for single slices."""

    def denoise(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        times = torch.full((len(x_t),), t, device=x_t.device)
        output = model(x_t, times, z_k, z_u)
        return split_prediction(model.config.prediction, output, x_t, model.alpha_bar[t])

    return denoise
