"""The two encoders: ``s_phi``, image to ``z_u``, and ``f_psi``, known facts to ``z_k``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.model.presets import ModelConfig
from ddae_app.model.unet import ResBlock, Stem, group_norm


@dataclass(frozen=True)
class Condition:
    """What is known of each image: ``c = (age, sex, site)``.

    Attributes
    ----------
    age : torch.Tensor, shape (B,), float32
        Years; NaN where unknown.
    sex : torch.Tensor, shape (B,), int64
        0 male, 1 female, -1 unknown.
    site : torch.Tensor, shape (B,), int64
        Position in the model's list of sites; -1 unknown.
    """

    age: Tensor
    sex: Tensor
    site: Tensor

    def __len__(self) -> int:
        return len(self.age)

    def __getitem__(self, rows: slice) -> Condition:
        return Condition(self.age[rows], self.sex[rows], self.site[rows])

    def to(self, device: torch.device) -> Condition:
        """The same on another device."""
        return Condition(self.age.to(device), self.sex.to(device), self.site.to(device))

    def dropped(self, probability: float, generator: torch.Generator) -> Condition:
        """Each of the three facts of each image made unknown with this probability."""
        shape = (3, len(self))
        drop = torch.rand(shape, generator=generator, device=generator.device) < probability
        drop = drop.to(self.age.device)
        return Condition(
            self.age.masked_fill(drop[0], torch.nan),
            self.sex.masked_fill(drop[1], -1),
            self.site.masked_fill(drop[2], -1),
        )


class SemanticEncoder(nn.Module):
    """``s_phi``: a half U-Net, pooled to one vector per image.

    Parameters
    ----------
    config : ModelConfig
        With ``z_u_noise`` above 0 each ``z_u`` is normalised to zero mean and unit variance over
        its entries, so that the noise of training limits what it can carry.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.normalise = config.z_u_noise > 0
        self.stem = Stem(config, widths[0])
        self.blocks = nn.ModuleList(
            ResBlock(a, b) for a, b in zip([widths[0], *widths], widths, strict=False)
        )
        self.norm = group_norm(widths[-1])
        self.head = nn.Linear(widths[-1], config.z_u_dim)

    def forward(self, x_0: Tensor) -> Tensor:
        """``z_u``, shape (B, z_u_dim), of normalised images (B, 1, H, W)."""
        h = self.stem(x_0)
        for block in self.blocks:
            h = nnf.avg_pool2d(block(h), 2)
        z_u = self.head(nnf.silu(self.norm(h)).mean(dim=(2, 3)))
        return nnf.layer_norm(z_u, z_u.shape[1:]) if self.normalise else z_u


class ConditionEncoder(nn.Module):
    """``f_psi``: ``z_k = [age | sex | site]``, each with a learned null token for the unknown.

    The paper's network is not public; this one is reconstructed, not stated in the paper.

    Parameters
    ----------
    config : ModelConfig
    n_sites : int
    age_mean, age_sd : float
        Years; the network sees the standardised age.
    """

    def __init__(self, config: ModelConfig, n_sites: int, age_mean: float, age_sd: float) -> None:
        super().__init__()
        self.age_mean, self.age_sd = age_mean, age_sd
        self.age = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, config.age_dim))
        self.null_age = nn.Parameter(torch.randn(config.age_dim))
        # The last row is the null token: index -1 wraps round to it.
        self.sex = nn.Parameter(torch.randn(2 + 1, config.sex_dim))
        self.site = nn.Parameter(torch.randn(n_sites + 1, config.site_dim))

    def forward(self, condition: Condition) -> Tensor:
        """``z_k``, shape (B, z_k_dim)."""
        unknown = condition.age.isnan()[:, None]
        # NaN is replaced before the network, or its gradient would be NaN as well.
        age = (condition.age.nan_to_num() - self.age_mean) / self.age_sd
        z_age = torch.where(unknown, self.null_age, self.age(age[:, None]))
        return torch.cat([z_age, self.sex[condition.sex], self.site[condition.site]], dim=1)
