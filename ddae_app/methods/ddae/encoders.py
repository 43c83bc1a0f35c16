"""The two encoders: ``s_phi``, image to ``z_u``, and ``f_psi``, known facts to ``z_k``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.methods.condition import Condition
from ddae_app.methods.ddae.config import POSITION_WAVES, ModelConfig
from ddae_app.methods.ddae.unet import GroupNorm, ResBlock, Stem


class SemanticEncoder(nn.Module):
    """``s_phi``: a half U-Net, pooled to one vector per image.

    Parameters
    ----------
    config : ModelConfig
        With ``z_u_noise`` above 0 each ``z_u`` is normalized to zero mean and unit variance over
        its entries, so that the noise of training limits what it can carry.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.normalize = config.z_u_noise > 0
        self.stem = Stem(config, widths[0])
        self.blocks = nn.ModuleList(
            ResBlock(a, b) for a, b in zip([widths[0], *widths], widths, strict=False)
        )
        self.norm = GroupNorm(widths[-1])
        self.head = nn.Linear(widths[-1], config.z_u_dim)

    def forward(self, x_0: Tensor) -> Tensor:
        """``z_u``, shape (B, z_u_dim), of normalized images (B, 1, H, W)."""
        h = self.stem(x_0)
        for block in self.blocks:
            h = nnf.avg_pool2d(block(h), 2)
        z_u = self.head(nnf.silu(self.norm(h)).mean(dim=(2, 3)))
        return nnf.layer_norm(z_u, z_u.shape[1:]) if self.normalize else z_u


class ConditionEncoder(nn.Module):
    """``f_psi``: ``z_k = [age | sex | site]``, each with a learned null token for the unknown.

    Where a volume has several slices, waves that encode the position follow. The paper's network
    is not public; this one is reconstructed, not stated in the paper.

    Parameters
    ----------
    config : ModelConfig
    n_sites : int
    age_mean, age_sd : float
        Years; the network sees the standardized age.
    """

    def __init__(self, config: ModelConfig, n_sites: int, age_mean: float, age_sd: float) -> None:
        super().__init__()
        self.age_mean, self.age_sd = age_mean, age_sd
        self.positions, self.first_slice = config.positions, config.first_slice
        self.age = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, config.age_dim))
        self.null_age = nn.Parameter(torch.randn(config.age_dim, device='cpu'))
        # The last row is the null token: index -1 wraps round to it.
        self.sex = nn.Parameter(torch.randn(2 + 1, config.sex_dim, device='cpu'))
        self.site = nn.Parameter(torch.randn(n_sites + 1, config.site_dim, device='cpu'))

    def forward(self, condition: Condition) -> Tensor:
        """``z_k``, shape (B, z_k_dim)."""
        unknown = condition.age.isnan()[:, None]
        # NaN is replaced before the network, or its gradient would be NaN as well.
        age = (condition.age.nan_to_num() - self.age_mean) / self.age_sd
        z_age = torch.where(unknown, self.null_age, self.age(age[:, None]))
        z_k = [z_age, self.sex[condition.sex], self.site[condition.site]]
        if self.positions > 1:
            waves = torch.arange(1, POSITION_WAVES + 1, device=age.device)
            position = self.first_slice + condition.position[:, None]
            angle = math.pi * position / (self.positions - 1) * waves
            z_k += [angle.sin(), angle.cos()]
        return torch.cat(z_k, dim=1)
