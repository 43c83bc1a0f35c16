"""Random contrast for the semantic encoder's input, and small random shifts of the image itself.

Contrast is changed for the encoder alone, so that ``z_u`` cannot hold it and only ``z_k`` can
explain it. Nothing here knows a label. Every draw comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

KNOTS = 6
"""Straight pieces of a contrast curve."""


def random_contrast(x: Tensor, generator: torch.Generator) -> Tensor:
    """What another scanner might have made of the same anatomy.

    A monotone contrast curve, a smooth bias field, a mild blur and Rician noise.

    Parameters
    ----------
    x : torch.Tensor, shape (B, 1, H, W), range [0, 1]
        0 outside the brain.
    generator : torch.Generator
        On the device of ``x``.

    Returns
    -------
    torch.Tensor, shape (B, 1, H, W), range [0, 1]
        0 where ``x`` is 0.
    """
    y = monotone_curve(x, generator)
    y = bias_field(y, generator)
    y = blur(y, generator)
    y = rician_noise(y, generator)
    return torch.where(x > 0, y.clamp(0, 1), 0)


def monotone_curve(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random rising piecewise-linear curve per image, from (0, 0) to (1, 0.7 to 1).

    Parameters and result as :func:`random_contrast`.
    """
    B = len(x)
    # Rises that differ by a factor of about e^0.8 either way; never flat, so nothing is merged.
    rise = torch.exp(0.8 * _normal((B, KNOTS), x, generator))
    top = 1 - 0.3 * _uniform((B, 1), x, generator)
    curve = nnf.pad(rise.cumsum(dim=1) / rise.sum(dim=1, keepdim=True) * top, (1, 0))
    position = x.flatten(1).clamp(0, 1) * KNOTS
    left = position.floor().clamp(max=KNOTS - 1).long()
    low, high = curve.gather(1, left), curve.gather(1, left + 1)
    return torch.lerp(low, high, position - left).reshape(x.shape)


def bias_field(x: Tensor, generator: torch.Generator) -> Tensor:
    """Times a smooth positive field of about 10 % per image; as :func:`random_contrast`."""
    coarse = 0.1 * _normal((len(x), 1, 4, 4), x, generator)
    field = nnf.interpolate(coarse, size=x.shape[2:], mode='bicubic', align_corners=True)
    return x * field.exp()


def blur(x: Tensor, generator: torch.Generator) -> Tensor:
    """A Gaussian of 0 to 1 pixel standard deviation per image; as :func:`random_contrast`."""
    B = len(x)
    sigma = _uniform((B, 1), x, generator).clamp(min=0.1)
    offset = torch.arange(-3, 4, device=x.device)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True))[:, None]
    images = x.transpose(0, 1)  # one group to each image
    images = nnf.conv2d(images, kernel[:, :, None, :], padding=(0, 3), groups=B)
    return nnf.conv2d(images, kernel[:, :, :, None], padding=(3, 0), groups=B).transpose(0, 1)


def rician_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Magnitude noise of 0 to 0.05 standard deviation; as :func:`random_contrast`."""
    sigma = 0.05 * _uniform((len(x), 1, 1, 1), x, generator)
    real, imaginary = (_normal(x.shape, x, generator) for _ in range(2))
    return torch.hypot(x + sigma * real, sigma * imaginary)


def random_shift(
    images: Sequence[Tensor], pixels: int, generator: torch.Generator
) -> list[Tensor]:
    """The rows of several batches moved alike, by a random number of whole pixels.

    Whole ones, for interpolation would change the noise and sharpness of a site.

    Parameters
    ----------
    images : sequence of torch.Tensor, each of shape (B, n, H, W)
        Alike at opposite edges, for what leaves at one comes in at the other.
    pixels : int
        Largest shift along each axis; 0 returns the images themselves.
    generator : torch.Generator
        On the device of the images.

    Returns
    -------
    list of torch.Tensor, of the same shapes
    """
    if not pixels:
        return list(images)
    B, _, height, width = images[0].shape
    device = images[0].device
    shift = torch.randint(-pixels, pixels + 1, (2, B, 1), generator=generator, device=device)
    row = (torch.arange(height, device=device) - shift[0]) % height
    column = (torch.arange(width, device=device) - shift[1]) % width
    each = torch.arange(B, device=device)[:, None, None]
    # The axis of the slices comes out last.
    return [
        x.movedim(1, 3)[each, row[:, :, None], column[:, None, :]].movedim(3, 1) for x in images
    ]


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device)
