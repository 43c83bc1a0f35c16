"""The conditional variational autoencoder of the paper's comparison, as a harmonizer.

Encoder ``q(z | x, c)`` and decoder ``p(x | z, c)`` are given what is known of a scan,
``c = (age, sex, site)`` (Sohn et al. 2015; for MRI: Moyer et al. 2020, arXiv 1904.05375). To
harmonize, the decoder is given another site. The sizes of the paper's network are not public;
these are reconstructed, not stated in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.errors import ModelError
from ddae_app.methods.base import TrainedModel, TrainingRequest
from ddae_app.methods.condition import Condition
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.unet import GroupNorm
from ddae_app.methods.slice_network import (
    Learner,
    NetworkHarmonizer,
    SliceNetworkInfo,
    TrainingSchedule,
    train_slice_network,
)


@dataclass(frozen=True)
class CVAEConfig:
    """Sizes of the conditional variational autoencoder.

    Attributes
    ----------
    image_size : int
        Pixels along a side, a multiple of 2 to the number of `multipliers`.
    channels : int
    multipliers : tuple of int
        Of `channels`, at each halving of the image.
    z_dim : int
    """

    image_size: int = 128
    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 8, 8)
    z_dim: int = 128

    def __post_init__(self) -> None:
        step = 2 ** len(self.multipliers)
        sizes = (self.image_size, self.channels, self.z_dim, *self.multipliers)
        if min(sizes) < 1 or max(sizes) > 4096 or self.image_size % step:
            raise ModelError(
                f'a cVAE of sizes {sizes}; expected 1 to 4096, and an image_size that is a '
                f'multiple of {step}'
            )


@dataclass(frozen=True, kw_only=True)
class CVAEInfo(SliceNetworkInfo):
    """What the model file of a conditional variational autoencoder says of itself.

    Attributes
    ----------
    config : CVAEConfig
    age_mean, age_sd : float
        Years.
    """

    method: str = 'cvae'
    config: CVAEConfig
    age_mean: float
    age_sd: float

    def _checks(self) -> dict[str, bool]:
        return super()._checks() | {
            f'an age_sd of {self.age_sd}; it must be above 0': self.age_sd > 0
        }


class CVAE(nn.Module):
    """Encoder and decoder.

    Parameters
    ----------
    config : CVAEConfig
    n_sites : int
    age_mean, age_sd : float
        Years; the networks see the standardized age.
    """

    def __init__(self, config: CVAEConfig, n_sites: int, age_mean: float, age_sd: float) -> None:
        super().__init__()
        self.n_sites, self.age_mean, self.age_sd = n_sites, age_mean, age_sd
        widths = [config.channels * m for m in config.multipliers]
        self.side = config.image_size // 2 ** len(widths)
        facts, cells = n_sites + 3, widths[-1] * self.side**2
        down: list[nn.Module] = []
        for before, after in zip([1, *widths], widths, strict=False):
            down += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                GroupNorm(after),
                nn.SiLU(),
            ]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.posterior = nn.Linear(cells + facts, 2 * config.z_dim)
        self.start = nn.Linear(config.z_dim + facts, cells)
        up: list[nn.Module] = []
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
            up += [GroupNorm(after), nn.SiLU()]
        # The last doubling is by four answers for each pixel, which costs a quarter.
        self.decoder = nn.Sequential(
            *up, nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2)
        )

    def encode(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of ``z``, shape (B, z_dim) each, of images (B, 1, H, W)."""
        facts = self._facts(condition)
        mean, log_variance = self.posterior(torch.cat([self.encoder(x), facts], 1)).chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """Images, shape (B, 1, H, W)."""
        h = self.start(torch.cat([z, self._facts(condition)], 1))
        return self.decoder(nnf.silu(h).view(len(z), -1, self.side, self.side))

    def render(self, x: Tensor, source: Condition, target: Condition) -> Tensor:
        """Scans encoded with their own labels and decoded with those of the target."""
        return self.decode(self.encode(x, source)[0], target)

    def loss(self, x: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        """Negative evidence bound of a batch, per image, but for constants.

        The variance of the decoder is that which fits the batch best (sigma-VAE: Rybkin et al.
        2021, arXiv 2006.13202), so that nothing has to weigh reconstruction against divergence.
        """
        mean, log_variance = self.encode(x, condition)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(x.device)
        error = nnf.mse_loss(self.decode(mean + noise * (log_variance / 2).exp(), condition), x)
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return x[0].numel() / 2 * error.log() + divergence

    def _facts(self, condition: Condition) -> Tensor:
        """Site, age and sex as numbers, all 0 where unknown; shape (B, S + 3)."""
        age = (condition.age - self.age_mean) / self.age_sd
        known = ~age.isnan()
        sites = torch.arange(self.n_sites, device=age.device)
        return torch.cat(
            [
                (condition.site[:, None] == sites).float(),
                torch.stack([age.nan_to_num(), known.float()], 1),
                torch.where(condition.sex < 0, 0, 2 * condition.sex - 1).float()[:, None],
            ],
            dim=1,
        )


def train_cvae(data: SliceData, config: CVAEConfig, schedule: TrainingSchedule) -> CVAE:
    """Train a conditional variational autoencoder; every site is drawn equally often.

    Parameters
    ----------
    data : SliceData
        Of single slices.
    config : CVAEConfig
    schedule : TrainingSchedule

    Returns
    -------
    CVAE
        In evaluation mode.

    Raises
    ------
    DdaeError
        If the loss is no longer finite.
    """
    batch = 32
    ages = data.ages[~np.isnan(data.ages)] if not np.isnan(data.ages).all() else np.zeros(1)
    sizes = config, len(data.site_names), float(ages.mean()), max(float(ages.std()), 1.0)
    model = schedule.build(lambda: CVAE(*sizes))
    learn = Learner(torch.optim.AdamW(model.parameters(), 2e-3), schedule.steps(batch))

    def step(x: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        loss = model.loss(x, condition, generator)
        learn(loss)
        return loss

    schedule.run(data, batch, step)
    return model.eval().requires_grad_(False)


class CVAEHarmonizer(NetworkHarmonizer[CVAE, CVAEInfo]):
    """Slices as a conditional variational autoencoder renders them, given another site.

    They are as blurred as those of such autoencoders are: the output shows what the 128 latent
    variables hold of the scan.
    """

    method = 'cvae'
    label_blind = False
    info_class = CVAEInfo

    @staticmethod
    def build(info: CVAEInfo) -> CVAE:
        """A network of these sizes."""
        return CVAE(info.config, len(info.sites), info.age_mean, info.age_sd)

    @staticmethod
    def train(data: SliceData, schedule: TrainingSchedule) -> tuple[CVAE, dict[str, Any]]:
        """A trained network, and what its model file says beside what all say."""
        config = CVAEConfig(image_size=data.images.shape[-1])
        model = train_cvae(data, config, schedule)
        return model, {'config': config, 'age_mean': model.age_mean, 'age_sd': model.age_sd}


def train_model(request: TrainingRequest) -> TrainedModel:
    """Train a cVAE for the train level."""
    return train_slice_network(request, CVAEHarmonizer)
