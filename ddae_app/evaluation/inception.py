"""The Inception network that FID is defined with, and its features of grayscale images.

Szegedy et al. 2016 (arXiv 1512.00567), with the pooling of the TensorFlow network whose weights
were published in December 2015. The packages that hold it, pytorch-fid and torch-fidelity, need
torchvision, which clashes with a PyTorch for CPUs only. This module reads the same weights.
"""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.errors import UsageError
from ddae_app.evaluation.features import Features, in_batches
from ddae_app.files import not_fetched

WEIGHTS_NAME = 'weights-inception-2015-12-05-6726825d.pth'
DIGEST = '6726825d'
"""First digits of the SHA-256 of the published weights, which also end the file's name."""

SIDE = 299
WHITE = 0.75
"""Share of the range that an intensity of 1 is mapped to, since a few pixels exceed 1."""

STEM = (
    '1a_3x3 3 32 3/2; 2a_3x3 32 32 3/1; 2b_3x3 32 64 3; max; '
    '3b_1x1 64 80 1; 4a_3x3 80 192 3/1; max'
)
"""Layers before the mixed ones: name, input and output channels, kernel, stride if not padded."""

A = (
    'branch1x1 64 1; branch5x5_1 48 1 > branch5x5_2 64 5; '
    'branch3x3dbl_1 64 1 > branch3x3dbl_2 96 3 > branch3x3dbl_3 96 3; mean > branch_pool {} 1'
)
B = 'branch3x3 384 3/2; branch3x3dbl_1 64 1 > branch3x3dbl_2 96 3 > branch3x3dbl_3 96 3/2; max'
C = (
    'branch1x1 192 1; branch7x7_1 {0} 1 > branch7x7_2 {0} 1x7 > branch7x7_3 192 7x1; '
    'branch7x7dbl_1 {0} 1 > branch7x7dbl_2 {0} 7x1 > branch7x7dbl_3 {0} 1x7 > '
    'branch7x7dbl_4 {0} 7x1 > branch7x7dbl_5 192 1x7; mean > branch_pool 192 1'
)
D = (
    'branch3x3_1 192 1 > branch3x3_2 320 3/2; branch7x7x3_1 192 1 > branch7x7x3_2 192 1x7 > '
    'branch7x7x3_3 192 7x1 > branch7x7x3_4 192 3/2; max'
)
E = (
    'branch1x1 320 1; branch3x3_1 384 1 > branch3x3_2a 384 1x3 | branch3x3_2b 384 3x1; '
    'branch3x3dbl_1 448 1 > branch3x3dbl_2 384 3 > branch3x3dbl_3a 384 1x3 | '
    'branch3x3dbl_3b 384 3x1; {} > branch_pool 192 1'
)
MIXED = {
    'Mixed_5b': (192, A.format(32)),
    'Mixed_5c': (256, A.format(64)),
    'Mixed_5d': (288, A.format(64)),
    'Mixed_6a': (288, B),
    'Mixed_6b': (768, C.format(128)),
    'Mixed_6c': (768, C.format(160)),
    'Mixed_6d': (768, C.format(160)),
    'Mixed_6e': (768, C.format(192)),
    'Mixed_7a': (768, D),
    'Mixed_7b': (1280, E.format('mean')),
    'Mixed_7c': (2048, E.format('peak')),
}
"""Input channels, and the branches that are concatenated. A branch is a sequence of layers (name,
output channels, kernel, and stride where it is not padded), the last of which may be parallel."""

POOLS = {
    'max': nn.MaxPool2d(3, 2),
    'peak': nn.MaxPool2d(3, 1, 1),
    # Pixels beyond the border do not count.
    'mean': nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}


class Layer(nn.Module):
    """Convolution, batch normalization and rectifier; `kernel` is written as in ``MIXED``."""

    def __init__(self, before: int, after: int, kernel: str) -> None:
        super().__init__()
        size, _, stride = kernel.partition('/')
        sides = [int(side) for side in size.split('x')] * (1 if 'x' in size else 2)
        padding = (0, 0) if stride else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(
            before, after, (sides[0], sides[1]), int(stride or 1), padding, bias=False
        )
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Features, shape (B, C, H, W)."""
        return nnf.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Parallel branches whose outputs are concatenated."""

    def __init__(self, channels: int, branches: str) -> None:
        super().__init__()
        self.branches = [
            [[step.split()[0] for step in steps.split('|')] for steps in branch.split('>')]
            for branch in branches.split(';')
        ]
        for branch in branches.split(';'):
            before = channels
            for steps in branch.split('>'):
                after = before
                for step in steps.split('|'):
                    name, *sizes = step.split()
                    if name not in POOLS:
                        after = int(sizes[0])
                        self.add_module(name, Layer(before, after, sizes[1]))
                before = after

    def forward(self, x: Tensor) -> Tensor:
        """Features, shape (B, C, H, W)."""
        return torch.cat([self._through(branch, x) for branch in self.branches], 1)

    def _through(self, branch: list[list[str]], x: Tensor) -> Tensor:
        for names in branch:
            layers = [POOLS.get(name) or self.get_submodule(name) for name in names]
            x = torch.cat([layer(x) for layer in layers], 1)
        return x


class Inception(nn.Module):
    """Takes images, shape (B, 3, 299, 299), -1 to 1, to 2048 pooled features of each."""

    def __init__(self) -> None:
        super().__init__()
        self.order = []
        for layer in STEM.split(';'):
            name, *sizes = layer.split()
            if name not in POOLS:
                name = f'Conv2d_{name}'
                self.add_module(name, Layer(int(sizes[0]), int(sizes[1]), sizes[2]))
            self.order.append(name)
        for name, (channels, branches) in MIXED.items():
            self.add_module(name, Mixed(channels, branches))
            self.order.append(name)

    def forward(self, x: Tensor) -> Tensor:
        """Features, shape (B, 2048)."""
        for name in self.order:
            x = (POOLS.get(name) or self.get_submodule(name))(x)
        return x.mean((2, 3))


def inception_features(weights: Path) -> Features:
    """The features that FID is measured in (Heusel et al. 2017, arXiv 1706.08500).

    Images are shown in 256 shades of gray, with 1 at three quarters of the range.

    Parameters
    ----------
    weights : Path
        The published file, ``WEIGHTS_NAME`` of torch-fidelity.

    Raises
    ------
    UsageError
        If the file is missing, or if it is not the published one.
    """
    if message := not_fetched(weights):
        raise UsageError(f'--inception-weights {message}')
    if not weights.is_file():
        raise UsageError(f'--inception-weights {weights}: no such file')
    with weights.open('rb') as file:
        digest = file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(DIGEST):
        raise UsageError(
            f'--inception-weights {weights}: SHA-256 {digest[:8]}..., expected {DIGEST}...; '
            f'distances compare with the published weights only: give {WEIGHTS_NAME}'
        )
    state = torch.load(weights, weights_only=True)
    network = Inception()
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith('fc.')})
    network = network.eval().requires_grad_(False)

    def features(images: Tensor) -> Tensor:
        shown = (images * (WHITE * 255)).round().clamp(0, 255)
        return network((_resized(shown[:, None]).expand(-1, 3, -1, -1) - 128) / 128)

    return lambda images: in_batches(images, features)


def _resized(images: Tensor) -> Tensor:
    """Interpolate to 299 x 299 pixels, aligned at the first pixel, as FID is defined."""
    for axis in (2, 3):
        side = images.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float32) * (side / SIDE)
        near = place.floor().long()
        far = (near + 1).clamp(max=side - 1)
        share = (place - near).reshape(-1, *[1] * (3 - axis))
        images = torch.lerp(images.index_select(axis, near), images.index_select(axis, far), share)
    return images
