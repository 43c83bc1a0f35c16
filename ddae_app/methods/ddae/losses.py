"""The loss that training minimizes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddae_app.methods.condition import Condition
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.schedule import NOISE_MARGIN, noise_level, training_target

LOG_LEVEL_MEAN, LOG_LEVEL_SD = -0.5, 1.2
"""Of the noise levels in training, for images of unit variance (Karras et al. 2022, table 1)."""


class Denoiser(Protocol):
    """What answers noisy images: the DDAE of images, or the networks of features."""

    @property
    def config(self) -> ModelConfig:
        """Of the noise process."""

    @property
    def alpha_bar(self) -> Tensor:
        """The noise schedule, shape (T + 1,)."""

    def __call__(self, x_t: Tensor, t: Tensor, z_k: Tensor, z_u: Tensor) -> Tensor:
        """What ``config.prediction`` names."""


def denoising_loss(
    model: Denoiser,
    x_0: Tensor,
    z_k: Tensor,
    z_u: Tensor,
    uniform: Tensor,
    noise: Tensor,
    own_noise: Tensor,
) -> Tensor:
    """Mean squared error of the network's answer, per image.

    ``|| eps - eps_theta(x_t, t, z_k, z_u) ||^2`` (Ho et al. 2020, eq. 14, with both latents;
    reconstructed, not stated in the paper), or the same on v. An image that is noisy itself is
    treated as the sum of a clean image and of a part of the noise of time t: only the rest is
    added, and the network learns the clean image although none is available (Daras, Dimakis and
    Daskalakis 2024, arXiv 2404.10177, theorem 4.1).

    Parameters
    ----------
    model : Denoiser
    x_0, noise : torch.Tensor, shape (B, 2 k + 1, H, W)
        Normalized slices between their neighbors, and noise of unit variance.
    z_k, z_u : torch.Tensor, shape (B, D)
    uniform : torch.Tensor, shape (B,), range [0, 1)
        Where to be between the first time that the image allows and the last.
    own_noise : torch.Tensor, shape (B,)
        Standard deviation of the noise in ``x_0``.

    Returns
    -------
    torch.Tensor, shape (B,)
    """
    t = training_times(model, uniform, own_noise)
    alpha_bar = model.alpha_bar[t][:, None, None, None]
    level, image_noise = noise_level(alpha_bar), own_noise[:, None, None, None]
    added = (level.square() - image_noise.square()).sqrt() * noise
    noisy, share = x_0 + added, (image_noise / level).square()
    # The noisy image is (1 - share) E[clean] + share (noisy + noise added); solved for the clean.
    clean = x_0 - share / (1 - share) * added
    output = model(alpha_bar.sqrt() * noisy, t, z_k, z_u).float()
    k = model.config.context
    clean, noisy = clean[:, k : k + 1], noisy[:, k : k + 1]
    target = training_target(model.config.prediction, clean, (noisy - clean) / level, alpha_bar)
    return ((1 - share) * (output - target)).square().mean(dim=(1, 2, 3))


def training_times(model: Denoiser, uniform: Tensor, own_noise: Tensor) -> Tensor:
    """Times for numbers that are evenly spread over [0, 1), shape (B,), int64.

    Evenly spread too, or so that the logarithms of their noise levels are normally distributed
    (Karras et al. 2022, table 1); none has less noise than the image itself.
    """
    levels = noise_level(model.alpha_bar[1:]).contiguous()
    first = torch.searchsorted(levels, NOISE_MARGIN * own_noise.contiguous())
    first = first.clamp(max=len(levels) - 1)
    if model.config.times == 'uniform':
        return 1 + first + ((len(levels) - first) * uniform).long()
    below = torch.special.ndtr((levels.log() - LOG_LEVEL_MEAN) / LOG_LEVEL_SD)
    share = torch.lerp(below[first], below[-1], uniform)
    return 1 + torch.searchsorted(below, share).clamp(max=len(levels) - 1)


def training_loss(
    model: DDAE,
    x_0: Tensor,
    view: Tensor,
    condition: Condition,
    generator: torch.Generator,
    rows: slice = slice(None),
    lone_fraction: float = 0.0,
) -> Tensor:
    """Denoising loss at random times.

    Parameters
    ----------
    model : DDAE
    x_0 : torch.Tensor, shape (B, 2 k + 1, H, W)
        Normalized slices between their neighbors.
    view : torch.Tensor, shape (B, 1, H, W), range [0, 1]
        What the semantic encoder sees: the same images on the common scale, or the same anatomy
        in a random contrast.
    condition : Condition
    generator : torch.Generator
        On the device of ``x``.
    rows : slice
        The part of the batch that this process computes. Everything random is drawn for the
        whole batch, so that the draws do not depend on how many processes there are.
    lone_fraction : float
        Part of the images that take the place of their neighbors.

    Returns
    -------
    torch.Tensor, shape ()
    """
    config, z_u = model.config, model.encode(view[rows], condition.position[rows])
    # Only the code of the site is dropped; the appearance of an unknown site is measured.
    z_k = model.embed(condition.dropped(config.condition_dropout, generator)[rows])
    code_noise = torch.randn((len(x_0), config.z_u_dim), generator=generator, device=x_0.device)
    uniform = torch.rand(len(x_0), generator=generator, device=x_0.device)
    noise = torch.randn(x_0.shape, generator=generator, device=x_0.device)
    if lone_fraction:
        lone = torch.rand(len(x_0), generator=generator, device=x_0.device) < lone_fraction
        x_0, noise = (_alone(x, lone, config.context) for x in (x_0, noise))
    own_noise = model.noise_in(condition)
    return denoising_loss(
        model,
        x_0[rows],
        z_k,
        z_u + config.z_u_noise * code_noise[rows],
        uniform[rows],
        noise[rows],
        own_noise[rows],
    ).mean()


def _alone(x: Tensor, lone: Tensor, k: int) -> Tensor:
    """Some of the stacks with their middle slice in every place."""
    return torch.where(lone[:, None, None, None], x[:, k : k + 1], x)


class Objective(nn.Module):
    """The training loss as a module, so that Fabric sees all the parameters that it uses."""

    def __init__(self, model: DDAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, sealed: Sealed) -> torch.Tensor:
        """The training loss."""
        return training_loss(self.model, *sealed.arguments)


class Sealed:
    """Arguments that Fabric passes on unchanged.

    It rounds all tensors that it sees to bf16, ages and images too, before autocast could choose
    those for which that precision is enough.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
