"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddae_app.model.ddae import DDAE
from ddae_app.model.diffusion import q_sample, training_target
from ddae_app.model.encoders import Condition


def denoising_loss(
    model: DDAE, x_0: Tensor, z_k: Tensor, z_u: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of the network's answer, per image.

    ``|| eps - eps_theta(x_t, t, z_k, z_u) ||^2`` (Ho et al. 2020, eq. 14, with both latents;
    reconstructed, not stated in the paper), or the same on v.

    Parameters
    ----------
    model : DDAE
    x_0, noise : torch.Tensor, shape (B, 1, H, W)
        Normalised images, and noise of unit variance.
    z_k, z_u : torch.Tensor, shape (B, D)
    t : torch.Tensor, shape (B,), int64, range [1, T]

    Returns
    -------
    torch.Tensor, shape (B,)
    """
    alpha_bar = model.alpha_bar[t][:, None, None, None]
    output = model(q_sample(x_0, noise, alpha_bar), t, z_k, z_u)
    target = training_target(model.config.prediction, x_0, noise, alpha_bar)
    return (output.float() - target).square().mean(dim=(1, 2, 3))


def training_loss(
    model: DDAE,
    x: Tensor,
    view: Tensor,
    condition: Condition,
    hsic_weight: float,
    generator: torch.Generator,
) -> Tensor:
    """Denoising loss at random times, plus the penalty on the site in ``z_u``.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, 1, H, W), range [0, 1]
    view : torch.Tensor, shape (B, 1, H, W), range [0, 1]
        What the semantic encoder sees: ``x``, or the same anatomy in a random contrast.
    condition : Condition
    hsic_weight : float
        0 leaves the penalty out.
    generator : torch.Generator
        On the device of ``x``.

    Returns
    -------
    torch.Tensor, shape ()
    """
    config = model.config
    z_u = model.encode(view)
    known = condition.dropped(config.condition_dropout, generator)
    z_k, x_0 = model.embed(known), model.normalise(x, known.site)
    z_noisy = z_u + config.z_u_noise * _normal(z_u, generator)
    t = torch.randint(1, config.timesteps + 1, (len(x_0),), generator=generator, device=x_0.device)
    noise = _normal(x_0, generator)
    loss = denoising_loss(model, x_0, z_k, z_noisy, t, noise).mean()
    if hsic_weight:
        with torch.autocast(x_0.device.type, enabled=False):
            loss = loss + hsic_weight * partial_hsic(z_u.float(), condition)
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


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
