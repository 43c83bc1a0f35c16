"""Where the networks run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddae_app.errors import UsageError
from ddae_app.settings import check_value

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """The device that a user asked for.

    Parameters
    ----------
    name : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:n``.

    Raises
    ------
    UsageError
        If the name is none of these, or that GPU is not there.
    """
    import torch  # takes memory and seconds that preprocessing alone can do without

    try:
        check_value('device', name)
    except ValueError as error:
        raise UsageError(f'--device {error}') from error
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == 'auto':
        return torch.device('cuda' if n_gpus else 'cpu')
    kind, _, number = name.partition(':')
    if kind == 'cuda' and int(number or 0) >= n_gpus:
        raise UsageError(
            f'--device {name}: PyTorch sees {n_gpus} CUDA devices; give --device cpu or auto, or '
            'make the GPU visible (docker run --gpus all, singularity --nv)'
        )
    # PyTorch reads no number that begins with 0, and takes 128 for another one.
    return torch.device(kind, int(number)) if number else torch.device(kind)
