"""Reading the weights of a network, with every check before memory is given to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ddae_app.errors import ModelError
from ddae_app.methods.modelfile import ADVICE, open_model, parse_info

STORED = torch.float32, torch.float16
"""What weights are stored as; the packaged networks as the second, which takes half the space."""

Network = TypeVar('Network', bound=nn.Module)


def load_network(path: Path, method: str, build: Callable[[Any], Network]) -> tuple[Any, Network]:
    """What a model file says of itself, and its network on the CPU, in evaluation mode.

    Parameters
    ----------
    path : Path
    method : str
        What the model has to be of.
    build : callable
        From the information to a network of these sizes, with any weights.

    Raises
    ------
    ModelError
        As :func:`~ddae_app.methods.modelfile.parse_info`, or if the weights do not fit the sizes
        or are not finite.
    """
    with open_model(path, 'pt') as file:
        info = parse_info(path, file.metadata() or {}, method)
        network = build_checked(path, file, lambda: build(info))
    return info, network.eval().requires_grad_(False)


def build_checked(path: Path, file: Any, build: Callable[[], Network]) -> Network:
    """A network with the weights of an open safetensors file.

    Raises
    ------
    ModelError
        If there is no such network, or the weights do not fit it or are not finite numbers of a
        type in ``STORED``.
    """
    stored = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    # Shapes only, so that a hostile configuration costs nothing. Constants of a network name their
    # device: PyTorch would import for a second and a half to compute them without values.
    try:
        with torch.device('meta'):
            expected = {k: tuple(v.shape) for k, v in build().state_dict().items()}
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        raise ModelError(
            f'{path}: the configuration in the file is of no network ({error}); {ADVICE}'
        ) from error
    if stored != expected:
        wrong = sorted(stored.items() ^ expected.items())[0][0]
        raise ModelError(
            f'{path}: weight {wrong!r} has shape {stored.get(wrong)}, but the configuration '
            f'in the file needs {expected.get(wrong)}; {ADVICE}'
        )
    weights = {k: file.get_tensor(k) for k in stored}
    for name, weight in weights.items():
        if weight.dtype not in STORED or not weight.isfinite().all():
            raise ModelError(f'{path}: weight {name!r} is not finite float32; {ADVICE}')
    network = build()
    network.load_state_dict(weights)
    return network
