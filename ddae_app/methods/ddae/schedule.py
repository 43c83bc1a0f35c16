"""The noise process, as pure functions.

Time runs from 0 (clean) to T (noise), with ``alpha_bar[0] = 1``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NOISE_MARGIN = 1.25
"""The networks are trained, and render, at this many times the noise of an image at least."""

RHO = 7.0
"""Of the spacing of noise levels (Karras et al. 2022)."""


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
        betas = torch.linspace(
            1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64, device='cpu'
        )
    else:
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64, device='cpu')
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = 1 - f[1:] / f[:-1]
    alpha_bar = torch.cumprod(1 - betas.clamp(max=0.999), dim=0)
    return torch.cat([betas.new_ones(1), alpha_bar]).float()


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


def noise_level(alpha_bar: Tensor) -> Tensor:
    """Standard deviation of the noise where the image's is 1: ``sqrt(1 / alpha_bar - 1)``."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def noise_times(alpha_bar: Tensor, first: float, last: float, steps: int) -> list[int]:
    """Times whose noise levels fall from `first` to `last` as in Karras et al. 2022, eq. 5."""
    share = torch.linspace(0, 1, steps, device=alpha_bar.device)
    wanted = (first ** (1 / RHO) + share * (last ** (1 / RHO) - first ** (1 / RHO))) ** RHO
    levels = noise_level(alpha_bar[1:])
    return [int((levels - level).abs().argmin()) + 1 for level in wanted]
