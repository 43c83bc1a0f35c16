"""One process or many, through Lightning Fabric; training is the same for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.distributed import DistError

from ddae_app.errors import DdaeError, UsageError

PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which may preprocess a dataset meanwhile."""

PRECISIONS: dict[str, Literal['32-true', 'bf16-mixed']] = {
    'fp32': '32-true',
    'bf16': 'bf16-mixed',
}


def start_fabric(
    device: torch.device | str, precision: str = 'auto', local_processes: int = 1
) -> Fabric:
    """Join the processes that ``torchrun`` started; alone without it.

    Parameters
    ----------
    device : torch.device
        Of a process that is alone; of several, each takes the GPU of its own local rank.
    precision : {'auto', 'fp32', 'bf16'}
        ``auto`` is bf16 on a GPU, fp32 on a CPU.
    local_processes : int
        How many ``torchrun`` started on each node.

    Raises
    ------
    UsageError
        If a single GPU is named and there are several processes.
    """
    device = torch.device(device)
    launcher = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else None
    world = launcher.world_size() if launcher else 1
    if precision == 'auto':
        precision = 'bf16' if device.type == 'cuda' else 'fp32'
    accelerator = 'cuda' if device.type == 'cuda' else 'cpu'
    if launcher is None or world == 1:
        devices = [device.index or 0] if device.type == 'cuda' else 1
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=PRECISIONS[precision],
            # Else a process inside a batch job waits for as many as the job has tasks.
            plugins=[LightningEnvironment()],
        )
    if device.index is not None:
        raise UsageError(
            f'--device {device} with {world} processes, each of which takes its own GPU; give '
            '--device cuda or auto'
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=local_processes,
        num_nodes=world // local_processes,
        strategy=DDPStrategy(timeout=PATIENCE),
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


def precision_of(fabric: Fabric) -> str:
    """The precision of a training, as ``start_fabric`` takes it."""
    named = fabric.strategy.precision.precision
    return next((ours for ours, theirs in PRECISIONS.items() if theirs == named), str(named))


@contextmanager
def others_needed(fabric: Fabric) -> Iterator[None]:
    """Report in one line that another process of the training has ended.

    Raises
    ------
    DdaeError
        In place of the errors of NCCL (a class of its own) and Gloo (known by its text alone).
    """
    try:
        yield
    except RuntimeError as e:
        lost = isinstance(e, DistError) or 'gloo' in str(e) or 'Connection' in str(e)
        if fabric.world_size == 1 or not lost:
            raise
        raise DdaeError(
            'another process of this training ended and has reported why; run the same command '
            'again to resume'
        ) from e
