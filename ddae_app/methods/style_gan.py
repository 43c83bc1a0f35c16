"""The style-encoding GAN of the paper's comparison, after StarGAN v2, as a harmonizer.

A generator renders a scan in a style; styles are encoded from scans, or mapped from noise for a
site, and a discriminator separates real from rendered scans of each site (Choi et al. 2020, arXiv
1912.01865; for MRI: Liu et al. 2021 and 2023). To harmonize, every scan is rendered in the mean
style of the target's training scans, so that one scan has one rendering. The sizes of the paper's
network are not public; these are reconstructed, not stated in the paper.

Unlike the original the generator adds to the scan instead of drawing it anew, which keeps anatomy
with few training images; and nothing asks for diverse renderings of one scan.
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
from ddae_app.methods.condition import Condition, batch_of, condition_of
from ddae_app.methods.data import SliceData
from ddae_app.methods.slice_network import (
    Learner,
    NetworkHarmonizer,
    SliceNetworkInfo,
    TrainingSchedule,
    train_slice_network,
)

NOISE_DIM = 16
"""Of what the mapping network starts from."""


@dataclass(frozen=True)
class StyleGANConfig:
    """Sizes of the style-encoding GAN.

    Attributes
    ----------
    image_size : int
        Pixels along a side, a multiple of 32.
    channels : int
        At half the resolution of the scan; twice as many at a quarter.
    blocks : int
        Residual blocks at a quarter of the resolution.
    style_dim : int
    """

    image_size: int = 128
    channels: int = 16
    blocks: int = 3
    style_dim: int = 16

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.channels, self.blocks, self.style_dim)
        if min(sizes) < 1 or max(sizes) > 4096 or self.image_size % 32:
            raise ModelError(
                f'a style-encoding GAN of sizes {sizes}; expected 1 to 4096, and an image_size '
                'that is a multiple of 32'
            )


@dataclass(frozen=True, kw_only=True)
class StyleGANInfo(SliceNetworkInfo):
    """What the model file of a style-encoding GAN says of itself."""

    method: str = 'style-gan'
    config: StyleGANConfig


class StyledBlock(nn.Module):
    """A residual block whose normalized features are scaled and shifted by a style (AdaIN)."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.InstanceNorm2d(channels) for _ in range(2))
        self.styles = nn.ModuleList(nn.Linear(style_dim, 2 * channels) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features, shape (B, C, H, W), in a style, shape (B, style_dim)."""
        h = x
        for norm, affine, convolution in zip(
            self.norms, self.styles, self.convolutions, strict=True
        ):
            scale, shift = affine(style)[:, :, None, None].chunk(2, 1)
            h = convolution(nnf.silu((1 + scale) * norm(h) + shift))
        return (x + h) / 2**0.5


class StyleGAN(nn.Module):
    """Generator, style encoder and mapping network; what is needed to render.

    Parameters
    ----------
    config : StyleGANConfig
    n_sites : int
    """

    site_styles: Tensor
    """Mean style of each site's training scans, shape (S, style_dim)."""

    def __init__(self, config: StyleGANConfig, n_sites: int) -> None:
        super().__init__()
        self.n_sites = n_sites
        wide, dim = config.channels, config.style_dim
        self.start = nn.Conv2d(4, wide, 3, padding=1)
        self.outer = nn.ModuleList(StyledBlock(wide, dim) for _ in range(2))
        self.down = nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1)
        self.inner = nn.ModuleList(StyledBlock(2 * wide, dim) for _ in range(config.blocks))
        self.up = nn.Conv2d(2 * wide, wide, 3, padding=1)
        self.finish = nn.Conv2d(wide, 4, 3, padding=1)
        nn.init.zeros_(self.finish.weight)  # so that it starts with the scan as it is
        assert self.finish.bias is not None
        nn.init.zeros_(self.finish.bias)
        self.style_encoder = _trunk(config, dim * n_sites)
        self.mapping = nn.Sequential(
            nn.Linear(NOISE_DIM, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
            nn.Linear(64, dim * n_sites),
        )  # fmt: skip
        # Sites differ from the start: styles that are all alike would teach the generator nothing.
        apart = torch.randn(dim * n_sites)
        for last in (self.style_encoder[-1], self.mapping[-1]):
            assert isinstance(last, nn.Linear) and last.bias is not None
            last.bias.data.copy_(apart)
        self.register_buffer('site_styles', torch.zeros(n_sites, dim))

    def generate(self, x: Tensor, style: Tensor) -> Tensor:
        """Scans, shape (B, 1, H, W), in a style; 0 where they are 0."""
        h = self.start(_seen(x))
        h = self.outer[0](h, style)
        deep = self.down(nnf.silu(h))
        for block in self.inner:
            deep = block(deep, style)
        h = self.outer[1](h + self.up(nnf.interpolate(deep, scale_factor=2)), style)
        return (x + nnf.pixel_shuffle(self.finish(nnf.silu(h)), 2)) * (x > 0)

    def encode(self, x: Tensor, site: Tensor) -> Tensor:
        """The style of scans of known sites, shape (B, style_dim)."""
        return _of_site(self.style_encoder(_seen(x)), site, self.n_sites)

    def sample(self, site: Tensor, generator: torch.Generator) -> Tensor:
        """Styles drawn for sites, shape (B, style_dim)."""
        shape = (len(site), NOISE_DIM)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return _of_site(self.mapping(noise.to(site.device)), site, self.n_sites)

    def render(self, x: Tensor, source: Condition, target: Condition) -> Tensor:
        """Scans in the mean style of other sites; the source plays no part."""
        return self.generate(x, self.site_styles[target.site])


class Discriminator(nn.Module):
    """Tells real from rendered scans, for each site."""

    def __init__(self, config: StyleGANConfig, n_sites: int) -> None:
        super().__init__()
        self.n_sites = n_sites
        self.trunk = _trunk(config, n_sites)

    def forward(self, x: Tensor, site: Tensor) -> Tensor:
        """Above 0 for scans that it classifies as real, shape (B,)."""
        return _of_site(self.trunk(_seen(x)), site, self.n_sites)[:, 0]


def discriminator_loss(
    discriminator: Discriminator, real: Tensor, fake: Tensor, site: Tensor, target: Tensor
) -> Tensor:
    """Loss for rendered scans at `target` against real ones at `site`.

    Non-saturating, with a penalty of the gradient at real scans (R1: Mescheder et al. 2018).
    """
    real = real.requires_grad_()
    logits = discriminator(real, site)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    rough = gradient.square().sum((1, 2, 3)).mean() / 2
    loss = nnf.softplus(-logits).mean() + nnf.softplus(discriminator(fake, target)).mean()
    return loss + ROUGH * rough


def generator_loss(
    model: StyleGAN,
    discriminator: Discriminator,
    x: Tensor,
    site: Tensor,
    style: Tensor,
    target: Tensor,
) -> Tensor:
    """Loss of the generator: adversarial, style, cycle consistency and identity.

    Parameters
    ----------
    x : torch.Tensor, shape (B, 1, H, W)
    site, target : torch.Tensor, shape (B,), int64
    style : torch.Tensor, shape (B, style_dim)
        Of the target.
    """
    fake, source_style = model.generate(x, style), model.encode(x, site)
    taken = nnf.softplus(-discriminator(fake, target)).mean()
    styled = nnf.l1_loss(model.encode(fake, target), style)
    back = nnf.l1_loss(model.generate(fake, source_style), x)
    itself = nnf.l1_loss(model.generate(x, source_style), x)
    return taken + styled + CYCLE * back + IDENTITY * itself


ROUGH = 1.0
CYCLE, IDENTITY = 10.0, 5.0
"""Weights of the gradient's penalty, and of mean absolute errors of intensities, which differ by
some hundredths."""


def _seen(x: Tensor) -> Tensor:
    """Scans as the networks see them: four sub-images, brain about -2 to 2, 0 outside."""
    return nnf.pixel_unshuffle(5 * (x - 0.6) * (x > 0), 2)


def _trunk(config: StyleGANConfig, out: int) -> nn.Sequential:
    """From four sub-images to `out` numbers of each scan."""
    widths = [config.channels * m for m in (1, 2, 4, 4, 4)]
    layers: list[nn.Module] = [nn.Conv2d(4, widths[0], 3, padding=1)]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [
            nn.LeakyReLU(0.2),
            nn.Conv2d(before, after, 3, padding=1, stride=2),
        ]
    layers += [nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * widths[-1], out))


def _of_site(values: Tensor, site: Tensor, n_sites: int) -> Tensor:
    """The part that belongs to each scan's site, shape (B, D)."""
    return values.view(len(values), n_sites, -1)[torch.arange(len(site), device=site.device), site]


def train_style_gan(
    data: SliceData, config: StyleGANConfig, schedule: TrainingSchedule
) -> StyleGAN:
    """Train a style-encoding GAN; every site is drawn equally often.

    In every other step the style is drawn by the mapping network, else it is that of another scan
    of the batch. At the end the mean style of each site is kept.

    Parameters, returned value and errors are those of :func:`ddae_app.methods.cvae.train_cvae`.
    """
    batch = 8
    sizes = config, len(data.site_names)
    model = schedule.build(lambda: StyleGAN(*sizes))
    discriminator = schedule.build(lambda: Discriminator(*sizes))
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    steps = schedule.steps(batch)
    slow = list(model.mapping.parameters())
    fast = [p for name, p in model.named_parameters() if not name.startswith('mapping')]
    betas = 0.0, 0.99
    groups = [{'params': fast, 'lr': 1e-3}, {'params': slow, 'lr': 1e-5}]
    learn = Learner(torch.optim.Adam(groups, betas=betas), steps)
    learn_to_discriminate = Learner(
        torch.optim.Adam(discriminator.parameters(), 1e-3, betas=betas), steps
    )
    turn = 0

    def step(x: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        nonlocal turn
        turn += 1
        site = condition.site
        order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
        target = site[order]

        def style() -> Tensor:
            if turn % 2:
                return model.sample(target, generator)
            return model.encode(x[order], target)

        with torch.no_grad():
            fake = model.generate(x, style())
        learn_to_discriminate(discriminator_loss(discriminator, x.clone(), fake, site, target))
        discriminator.requires_grad_(False)
        loss = generator_loss(model, discriminator, x, site, style(), target)
        learn(loss)
        discriminator.requires_grad_(True)
        averaged.update_parameters(model)
        return loss

    schedule.run(data, batch, step)
    trained = averaged.module
    assert isinstance(trained, StyleGAN)
    trained.eval().requires_grad_(False)
    trained.site_styles.copy_(_mean_styles(trained, data, schedule.device))
    return trained


@torch.inference_mode()
def _mean_styles(model: StyleGAN, data: SliceData, device: torch.device) -> Tensor:
    """Mean style of the scans of each site, shape (S, style_dim)."""
    sums = torch.zeros_like(model.site_styles)
    counts = torch.zeros(len(sums), 1, device=device)
    for first in range(0, len(data), 64):
        rows = np.arange(first, min(first + 64, len(data)))
        x, site = batch_of(data, rows).to(device), condition_of(data, rows).site.to(device)
        sums.index_add_(0, site, model.encode(x, site))
        counts.index_add_(0, site, torch.ones(len(site), 1, device=device))
    return sums / counts


class StyleGANHarmonizer(NetworkHarmonizer[StyleGAN, StyleGANInfo]):
    """Slices as a style-encoding GAN renders them in the mean style of another site."""

    method = 'style-gan'
    label_blind = True
    info_class = StyleGANInfo

    @staticmethod
    def build(info: StyleGANInfo) -> StyleGAN:
        """A network of these sizes."""
        return StyleGAN(info.config, len(info.sites))

    @staticmethod
    def train(data: SliceData, schedule: TrainingSchedule) -> tuple[StyleGAN, dict[str, Any]]:
        """A trained network, and what its model file says beside what all say."""
        config = StyleGANConfig(image_size=data.images.shape[-1])
        return train_style_gan(data, config, schedule), {'config': config}


def train_model(request: TrainingRequest) -> TrainedModel:
    """Train a style-encoding GAN for the train level."""
    return train_slice_network(request, StyleGANHarmonizer)
