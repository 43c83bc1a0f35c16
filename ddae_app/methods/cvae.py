"""The conditional variational autoencoder of the paper's comparison.

Encoder ``q(z | x, c)`` and decoder ``p(x | z, c)`` are told what is known of a scan,
``c = (age, sex, site)`` (Sohn et al. 2015; for MRI: Moyer et al. 2020, arXiv 1904.05375). To
harmonise, another site is told to the decoder. The sizes of the paper's are not public; these are
reconstructed, not stated in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.methods.ddae.config import CVAEConfig
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.ddae.unet import group_norm


class CVAE(nn.Module):
    """Encoder and decoder.

    Parameters
    ----------
    config : CVAEConfig
    n_sites : int
    age_mean, age_sd : float
        Years; the networks see the standardised age.
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
                group_norm(after),
                nn.SiLU(),
            ]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.posterior = nn.Linear(cells + facts, 2 * config.z_dim)
        self.start = nn.Linear(config.z_dim + facts, cells)
        up: list[nn.Module] = []
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
            up += [group_norm(after), nn.SiLU()]
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
        """What is remembered of scans, drawn with other facts."""
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
