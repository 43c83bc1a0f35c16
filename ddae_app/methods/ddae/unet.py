"""The noise network: a pixel-unshuffle U-Net modulated by time, ``z_k`` and ``z_u``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.methods.ddae.config import ModelConfig


class Codes(NamedTuple):
    """What modulates every block: time (B, D_t), known (B, D_k) and unknown (B, D_u) codes."""

    time: Tensor
    z_k: Tensor
    z_u: Tensor


class GroupNorm(nn.GroupNorm):
    """Group normalization with at least four channels to a group, at most 32 groups.

    The result has the type of the input. By default, PyTorch makes it fp32 where the rest of a
    network is bf16, and so all that follows up to the next convolution, which takes twice as long.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels // 4), channels)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return nnf.group_norm(x, self.num_groups, weight, bias, self.eps)


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of the time step (Vaswani et al. 2017), shape (B, dim).

    Parameters
    ----------
    t : torch.Tensor, shape (B,)
        Time steps, 1 to T.
    dim : int
        Even.
    """
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class AdaptiveNorm(nn.Module):
    """Group norm, then scale and shift by time and ``z_k``, and scale by ``z_u``.

    The order and the scale-only ``z_u`` follow Diffusion Autoencoders (Preechakul et al. 2022,
    AdaGN); the ``z_k`` term is reconstructed, not stated in the paper.
    """

    def __init__(self, channels: int, time_dim: int, z_k_dim: int, z_u_dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.time = nn.Linear(time_dim, 2 * channels)
        self.z_k = nn.Linear(z_k_dim, 2 * channels)
        self.z_u = nn.Linear(z_u_dim, channels)

    def forward(self, x: Tensor, codes: Codes) -> Tensor:
        t_scale, t_shift = self.time(codes.time)[:, :, None, None].chunk(2, dim=1)
        k_scale, k_shift = self.z_k(codes.z_k)[:, :, None, None].chunk(2, dim=1)
        u_scale = self.z_u(codes.z_u)[:, :, None, None]
        # ((h (1 + t_s) + t_b) (1 + k_s) + k_b) (1 + u_s), as one scale and one shift.
        scale = (1 + t_scale) * (1 + k_scale) * (1 + u_scale)
        shift = (t_shift * (1 + k_scale) + k_shift) * (1 + u_scale)
        return torch.addcmul(shift, self.norm(x), scale)


class ResBlock(nn.Module):
    """Two 3x3 convolutions beside a skip; the second starts at zero.

    Parameters
    ----------
    c_in, c_out : int
        Channels.
    dropout : float
    code_dims : tuple of int, optional
        Sizes of the time, known and unknown codes; without them the block is unconditional.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        dropout: float = 0.0,
        code_dims: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = AdaptiveNorm(c_out, *code_dims) if code_dims else GroupNorm(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, codes: Codes | None = None) -> Tensor:
        h = self.conv1(nnf.silu(self.norm1(x)))
        h = self.norm2(h) if codes is None else self.norm2(h, codes)
        return self.skip(x) + self.conv2(self.dropout(nnf.silu(h)))


class SelfAttention(nn.Module):
    """Single-head self-attention over the pixels of a feature map; the projection starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        q, k, v = self.qkv(pixels).chunk(3, dim=-1)
        # With an axis for the one head: only so does PyTorch take its fast kernels.
        h = nnf.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        h = self.out(h)
        return x + h.transpose(1, 2).reshape(x.shape)


class Stem(nn.Module):
    """First convolution of a network: pixels to channels, and where they lie.

    In template space a place means something: bias fields and the average brain depend on it, and
    convolutions alone do not know it.
    """

    grid: Tensor | None

    def __init__(self, config: ModelConfig, width: int, slices: int = 1) -> None:
        super().__init__()
        self.unshuffle = config.unshuffle
        side = torch.linspace(-1, 1, config.image_size // config.unshuffle, device='cpu')
        y, x = torch.meshgrid(side, side, indexing='ij')
        grid = torch.stack([y, x, x**2 + y**2])[None] if config.coordinates else None
        self.register_buffer('grid', grid, persistent=False)
        extra = 3 if config.coordinates else 0
        self.conv = nn.Conv2d(slices * config.unshuffle**2 + extra, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of images, shape (B, slices, H, W)."""
        h = nnf.pixel_unshuffle(x, self.unshuffle)
        if self.grid is not None:
            h = torch.cat([h, self.grid.expand(len(h), -1, -1, -1)], dim=1)
        return self.conv(h)


class UNet(nn.Module):
    """``eps_theta(x_t, t, z_k, z_u)``, or v, depending on the configuration.

    Parameters
    ----------
    config : ModelConfig
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        pixels = config.unshuffle**2
        time_dim = 4 * config.channels
        code_dims = (time_dim, config.z_k_dim, config.z_u_dim)
        self.unshuffle = config.unshuffle
        self.channels = config.channels
        self.time = nn.Sequential(
            nn.Linear(config.channels, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        self.stem = Stem(config, widths[0], 2 * config.context + 1)

        def stage(c_in: int, c_out: int, size: int) -> nn.ModuleList:
            block = ResBlock(c_in, c_out, config.dropout, code_dims)
            attends = size in config.attention
            return nn.ModuleList([block, SelfAttention(c_out) if attends else nn.Identity()])

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c = widths[0]
        for width, size in zip(widths, config.resolutions, strict=True):
            level = nn.ModuleList()
            for _ in range(config.blocks):
                level.append(stage(c, width, size))
                c = width
            self.down.append(level)
        self.middle = nn.ModuleList([ResBlock(c, c, config.dropout, code_dims) for _ in range(2)])
        for width, size in zip(reversed(widths), reversed(config.resolutions), strict=True):
            level = nn.ModuleList()
            for _ in range(config.blocks):
                level.append(stage(c + width, width, size))
                c = width
            self.up.append(level)
        self.norm = GroupNorm(c)
        self.head = nn.Conv2d(c, pixels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor, z_k: Tensor, z_u: Tensor) -> Tensor:
        """The network's prediction, shape (B, 1, H, W)."""
        codes = Codes(nnf.silu(self.time(time_embedding(t, self.channels))), z_k, z_u)
        h = self.stem(x_t)
        skips = []
        for i, level in enumerate(self.down):
            h = nnf.avg_pool2d(h, 2) if i else h
            for block, attention in level:  # type: ignore[attr-defined]
                h = attention(block(h, codes))
                skips.append(h)
        for block in self.middle:
            h = block(h, codes)
        for i, level in enumerate(self.up):
            h = nnf.interpolate(h, scale_factor=2, mode='nearest') if i else h
            for block, attention in level:  # type: ignore[attr-defined]
                h = attention(block(torch.cat([h, skips.pop()], dim=1), codes))
        h = self.head(nnf.silu(self.norm(h)))
        return nnf.pixel_shuffle(h, self.unshuffle)
