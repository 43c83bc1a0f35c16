"""The harmonisers whose models are files."""

from __future__ import annotations

from pathlib import Path

from ddae_app.methods.base import StoredHarmonizer
from ddae_app.methods.combat import ComBat
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.modelfile import read_model_info
from ddae_app.methods.slice_network import CVAEHarmonizer, StyleGANHarmonizer


def load_harmonizer(path: str | Path, device: str = 'auto') -> StoredHarmonizer:
    """The harmoniser in a model file, whatever its method.

    Raises
    ------
    ModelError
        If the file is unusable.
    UsageError
        If the device is not there.
    """
    method = read_model_info(path).method
    if method == 'combat':
        return ComBat.load(path)
    if method == 'cvae':
        return CVAEHarmonizer.load(path, device)
    if method == 'style-gan':
        return StyleGANHarmonizer.load(path, device)
    return DDAEHarmonizer.load(path, device)
