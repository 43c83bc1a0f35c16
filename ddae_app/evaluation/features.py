"""Image features of networks, in which distributions of images are compared."""

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
"""Takes images, shape (N, H, W), to features, shape (N, F)."""

MRI_FEATURES = 32
MRI_WEIGHTS = 'mri-features.safetensors'
"""The packaged weights, made by ``benchmarks/features.py``."""

BATCH = 64


class MriFeatureNetwork(nn.Module):
    """A network whose features were trained to predict scanner, age and sex from a slice.

    Slices have 128 x 128 pixels. The network was trained on simulated slices of simulated
    subjects, acquired with eighty simulated scanners.
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

        Each feature has about mean 0 and variance 1 over the training scans.
        """
        maps = self.layers(nnf.pixel_unshuffle(images, 2)).flatten(2)
        return self.norm(self.project(torch.cat([maps.mean(2), maps.std(2)], 1)))


@cache
def mri_features() -> Features:
    """Features of the packaged network, which is read once."""
    network = MriFeatureNetwork()
    network.load_state_dict(load_file(str(files('ddae_app') / 'data' / MRI_WEIGHTS)))
    network = network.eval().requires_grad_(False)

    def features(images: np.ndarray) -> np.ndarray:
        return in_batches(images, lambda x: network(x[:, None]))

    return features


@torch.inference_mode()
def in_batches(images: np.ndarray, features: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Compute the features of images batch by batch.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    features : callable
        Takes a tensor, shape (B, H, W), to its features, shape (B, F).

    Returns
    -------
    np.ndarray, shape (N, F), float64
    """
    x = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    return torch.cat([features(part) for part in x.split(BATCH)]).numpy().astype(np.float64)
