"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddae_app.model.ddae import DDAE
from ddae_app.model.diffusion import NOISE_MARGIN, noise_level, training_target
from ddae_app.model.encoders import Condition

LOG_LEVEL_MEAN, LOG_LEVEL_SD = -0.5, 1.2
"""Of the noise levels in training, for images of unit variance (Karras et al. 2022, table 1)."""


def denoising_loss(
    model: DDAE,
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
    taken for the sum of a clean one and of a part of the noise of time t: only the rest is added,
    and the network learns the clean image although no such image is there (Daras, Dimakis and
    Daskalakis 2024, arXiv 2404.10177, theorem 4.1).

    Parameters
    ----------
    model : DDAE
    x_0, noise : torch.Tensor, shape (B, 1, H, W)
        Normalised images, and noise of unit variance.
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
    level, own = noise_level(alpha_bar), own_noise[:, None, None, None]
    added = (level.square() - own.square()).sqrt() * noise
    noisy, share = x_0 + added, (own / level).square()
    # The noisy image is (1 - share) E[clean] + share (noisy + noise added); solved for the clean.
    clean = x_0 - share / (1 - share) * added
    output = model(alpha_bar.sqrt() * noisy, t, z_k, z_u).float()
    target = training_target(model.config.prediction, clean, (noisy - clean) / level, alpha_bar)
    return ((1 - share) * (output - target)).square().mean(dim=(1, 2, 3))


def training_times(model: DDAE, uniform: Tensor, own_noise: Tensor) -> Tensor:
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
    hsic_weight: float,
    generator: torch.Generator,
    rows: slice = slice(None),
) -> Tensor:
    """Denoising loss at random times, plus the penalty on the site in ``z_u``.

    Parameters
    ----------
    model : DDAE
    x_0 : torch.Tensor, shape (B, 1, H, W)
        Normalised images.
    view : torch.Tensor, shape (B, 1, H, W), range [0, 1]
        What the semantic encoder sees: the same images on the common scale, or the same anatomy
        in a random contrast.
    condition : Condition
    hsic_weight : float
        0 leaves the penalty out.
    generator : torch.Generator
        On the device of ``x``.
    rows : slice
        The part of the batch that this process computes. Everything random is drawn for the
        whole batch, so that the draws do not depend on how many processes there are.

    Returns
    -------
    torch.Tensor, shape ()
    """
    config, z_u = model.config, model.encode(view[rows])
    # What is dropped of the site is its code alone: the look of an unknown site is measured.
    z_k = model.embed(condition.dropped(config.condition_dropout, generator)[rows])
    code_noise = torch.randn((len(x_0), config.z_u_dim), generator=generator, device=x_0.device)
    uniform = torch.rand(len(x_0), generator=generator, device=x_0.device)
    noise = torch.randn(x_0.shape, generator=generator, device=x_0.device)
    own_noise = model.noise[condition.site] / model.deviation
    loss = denoising_loss(
        model,
        x_0[rows],
        z_k,
        z_u + config.z_u_noise * code_noise[rows],
        uniform[rows],
        noise[rows],
        own_noise[rows],
    ).mean()
    if hsic_weight:
        with torch.autocast(x_0.device.type, enabled=False):
            loss = loss + hsic_weight * partial_hsic(z_u.float(), condition[rows])
    return loss


def partial_hsic(z_u: Tensor, condition: Condition) -> Tensor:
    """Dependence of ``z_u`` on the site, given age and sex; normalised, in [0, 1].

    HSIC (Gretton et al. 2005) between a Gaussian kernel on ``z_u`` (median bandwidth) and a
    linear kernel on the site after regression on age, age squared and sex, so that what follows
    from the age differences between cohorts is not erased. Normalised as centred kernel
    alignment (Kornblith et al. 2019). A reconstruction of ours, not in the paper.

    Parameters
    ----------
    z_u : torch.Tensor, shape (B, D)
    condition : Condition
        Images of unknown site belong to a site of their own.
    """
    site = nnf.one_hot(condition.site + 1).to(z_u.dtype)
    residual = site - _regress(site, _covariates(condition).to(z_u.dtype))
    distance = torch.cdist(z_u, z_u, compute_mode='donot_use_mm_for_euclid_dist').square()
    K = _centre(torch.exp(-distance / distance.detach().median().clamp(min=1e-6)))
    L = _centre(residual @ residual.T)
    return (K * L).sum() / (K.norm() * L.norm()).clamp(min=1e-6)


def _covariates(condition: Condition) -> Tensor:
    """Intercept, age, age squared, sex, and flags for what is missing; shape (B, 6)."""
    unknown = condition.age.isnan()
    n_known = (~unknown).sum().clamp(min=1)
    mean = condition.age.nansum() / n_known
    age = torch.where(unknown, 0, condition.age - mean)
    age = age / (age.square().sum() / n_known).sqrt().clamp(min=1e-3)
    columns = [torch.ones_like(age), age, age**2, unknown]
    columns += [condition.sex == 1, condition.sex < 0]
    return torch.stack([c.to(age.dtype) for c in columns], dim=1)


def _regress(y: Tensor, design: Tensor) -> Tensor:
    """Fitted values; the ridge makes columns without variance harmless."""
    ridge = 1e-3 * torch.eye(design.shape[1], dtype=y.dtype, device=y.device)
    return design @ torch.linalg.solve(design.T @ design + ridge, design.T @ y)


def _centre(K: Tensor) -> Tensor:
    return K - K.mean(dim=0) - K.mean(dim=1, keepdim=True) + K.mean()
