"""A trained model as one safetensors file: weights, and all that is needed to use them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from ddae_app.errors import ModelError
from ddae_app.files import write_atomically
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.modelfile import ADVICE, BundleInfo, metadata_of, open_bundle, parse_info


@dataclass(frozen=True)
class Bundle:
    """A model ready for use.

    Attributes
    ----------
    model : DDAE
        In evaluation mode.
    info : BundleInfo
    path : Path
    sha256 : str
        Of the whole file.
    """

    model: DDAE
    info: BundleInfo
    path: Path
    sha256: str


def build_network(info: BundleInfo) -> DDAE:
    """A network of this shape, with random weights."""
    return DDAE(info.config, len(info.sites), info.age_mean, info.age_sd)


def save_bundle(path: str | os.PathLike, model: DDAE, info: BundleInfo) -> None:
    """Write a bundle, whole or not at all; the same content gives the same bytes.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    model : DDAE
        Its (moving-average) weights are stored as float32.
    info : BundleInfo
    """
    weights = {k: v.detach().cpu().float().contiguous() for k, v in model.state_dict().items()}
    write_atomically(Path(path), save(weights, metadata_of(info)))


def load_bundle(path: str | os.PathLike, device: torch.device | str = 'cpu') -> Bundle:
    """Read a model, checking everything before memory is given to it.

    Parameters
    ----------
    path : path
    device : torch.device

    Raises
    ------
    ModelError
        As :func:`~ddae_app.methods.modelfile.read_model_info`, or if the weights do not fit the
        configuration or are not finite.
    """
    path = Path(path)
    with open_bundle(path, 'pt') as file:
        info = parse_info(path, file.metadata() or {})
        if not isinstance(info, BundleInfo):
            raise ModelError(f'{path}: a model of {info.method}, where one of ddae is expected')
        found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
        with torch.device('meta'):  # shapes only, so that a hostile configuration costs nothing
            expected = {k: tuple(v.shape) for k, v in build_network(info).state_dict().items()}
        if found != expected:
            wrong = sorted(found.items() ^ expected.items())[0][0]
            raise ModelError(
                f'{path}: weight {wrong!r} has shape {found.get(wrong)}, but the configuration '
                f'in the file needs {expected.get(wrong)}; {ADVICE}'
            )
        weights = {k: file.get_tensor(k) for k in found}
    for name, weight in weights.items():
        if weight.dtype != torch.float32 or not weight.isfinite().all():
            raise ModelError(f'{path}: weight {name!r} is not finite float32; {ADVICE}')
    model = build_network(info)
    model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    with path.open('rb') as raw:
        sha256 = hashlib.file_digest(raw, 'sha256').hexdigest()
    # Channels last: measured 15 % faster on a CPU.
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Bundle(model, info, path, sha256)
