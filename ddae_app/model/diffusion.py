"""The noise process and its deterministic reversal, as pure functions.

Images are in [-1, 1] here, and time runs from 0 (clean) to T (noise): ``alpha_bar[0] = 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ddae_app.model.ddae import DDAE
    from ddae_app.model.encoders import Condition

Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps (x_t, t) to the clean image and the noise that it sees in x_t."""


def noise_schedule(schedule: str, timesteps: int) -> Tensor:
    """``alpha_bar``, the share of signal variance left at each time.

    Parameters
    ----------
    schedule : {'linear', 'cosine'}
        Betas from 1e-4 to 0.02 for T = 1000, rescaled for other T (Ho et al. 2020), or squared
        cosine with betas up to 0.999 (Nichol and Dhariwal 2021, eq. 17).
    timesteps : int
        T.

    Returns
    -------
    torch.Tensor, shape (T + 1,), float32
        Strictly decreasing from 1.
    """
    if schedule == 'linear':
        scale = 1000 / timesteps
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
    else:
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = 1 - f[1:] / f[:-1]
    alpha_bar = torch.cumprod(1 - betas.clamp(max=0.999), dim=0)
    return torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]).float()


def q_sample(x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """``x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise`` (Ho et al. 2020, eq. 4)."""
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


def training_target(prediction: str, x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network should answer: the noise, or ``v`` (Salimans and Ho 2022, sec. 4)."""
    if prediction == 'epsilon':
        return noise
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0


def split_prediction(
    prediction: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor
) -> tuple[Tensor, Tensor]:
    """The clean image and the noise that the network's answer implies.

    Parameters
    ----------
    prediction : {'epsilon', 'v'}
    output, x_t : torch.Tensor, shape (B, 1, H, W)
    alpha_bar : torch.Tensor
        At the time of ``x_t``, broadcastable to it.

    Returns
    -------
    x_0, noise : torch.Tensor, shape (B, 1, H, W)
    """
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == 'epsilon':
        return (x_t - sigma * output) / signal, output
    return signal * x_t - sigma * output, sigma * x_t + signal * output


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
    """The model under fixed codes, as DDIM wants it."""

    def denoise(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        times = torch.full((len(x_t),), t, device=x_t.device)
        output = model(x_t, times, z_k, z_u)
        return split_prediction(model.config.prediction, output, x_t, model.alpha_bar[t])

    return denoise


@torch.inference_mode()
def decode_difference(
    model: DDAE, x: Tensor, source: Condition, target: Condition, steps: int
) -> Tensor:
    """The image plus what changes between its decodes under the source and under the target.

    ``z_u`` and ``x_T`` come from the source once. The error of the inversion is common to both
    decodes and cancels, so the image keeps its own fine detail; not in the paper, which decodes
    under the target alone.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, 1, H, W), range [0, 1]
        Values above 1 are allowed: the networks see 1 there.
    source, target : Condition
        What ``x`` is known to be, and what it shall become.
    steps : int
        DDIM steps; there are three evaluations per step and image.

    Returns
    -------
    torch.Tensor, shape (B, 1, H, W)
        Not clipped. Exactly ``x`` where source and target agree.
    """
    x_0 = 2 * x.clamp(0, 1) - 1
    z_u, z_source, z_target = model.encode(x_0), model.embed(source), model.embed(target)
    x_T = ddim_invert(denoiser(model, z_source, z_u), x_0, model.alpha_bar, steps)
    # Both decodes in one batch: the weights are read once.
    both = denoiser(model, torch.cat([z_source, z_target]), z_u.repeat(2, 1))
    decoded = ddim_decode(both, x_T.repeat(2, 1, 1, 1), model.alpha_bar, steps)
    from_source, from_target = decoded.chunk(2)
    change = (from_target - from_source) / 2  # from [-1, 1] back to [0, 1]
    # Rounding may differ between the rows of a batch; where nothing changes, nothing may.
    same = (z_source == z_target).all(dim=1)
    return x + change.masked_fill(same[:, None, None, None], 0)
