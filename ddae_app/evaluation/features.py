"""What networks see in images: the spaces in which distributions are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as nnf

Features = Callable[[np.ndarray], np.ndarray]
"""From images, shape (N, H, W), to features, shape (N, F)."""

MRI_FEATURES = 32
MRI_WEIGHTS = 'mri-features.safetensors'
"""The packaged weights, made by ``benchmarks/features.py``."""

BATCH = 64


class MriFeatureNetwork(nn.Module):
    """Tells what scanner a slice comes from, and whose it is: the features are what that takes.

    Slices are of 128 x 128 pixels. It was trained on simulated slices of simulated people in
    eighty simulated scanners.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.BatchNorm2d(after),
                nn.SiLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(2 * widths[-1], MRI_FEATURES)
        self.norm = nn.BatchNorm1d(MRI_FEATURES, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features, shape (B, 32), of images, shape (B, 1, 128, 128).

        Each has about mean 0 and variance 1 over the scans that it was trained on.
        """
        seen = self.layers(nnf.pixel_unshuffle(images, 2)).flatten(2)
        return self.norm(self.project(torch.cat([seen.mean(2), seen.std(2)], 1)))


@cache
def mri_features() -> Features:
    """The packaged network."""
    network = MriFeatureNetwork()
    network.load_state_dict(load_file(str(files('ddae_app') / 'data' / MRI_WEIGHTS)))
    network = network.eval().requires_grad_(False)

    def see(images: np.ndarray) -> np.ndarray:
        return in_batches(images, lambda x: network(x[:, None]))

    return see


@torch.inference_mode()
def in_batches(images: np.ndarray, see: Callable[[Tensor], Tensor]) -> np.ndarray:
    """What a network sees in images, shape (N, H, W), some at a time; shape (N, F), float64."""
    x = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    return torch.cat([see(part) for part in x.split(BATCH)]).numpy().astype(np.float64)
