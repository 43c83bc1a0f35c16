"""The state of a training run: written to disk, and resumed from there."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ddae_app.errors import ModelError
from ddae_app.files import write_atomically
from ddae_app.methods.ddae.model import DDAE

REMEDY = 'delete it to start again, or give another folder'

MOMENTS = 'exp_avg', 'exp_avg_sq'
"""What the optimizer keeps of each weight."""

Row = tuple[int, float, float | None]
"""Images seen, mean training loss since the last row, validation loss if there is one."""


@dataclass(frozen=True)
class _Counters:
    """What a checkpoint holds beside tensors, and the settings of the run."""

    step: int
    losses: list[float]
    history: list[Row]


@dataclass
class TrainState:
    """Everything that changes while a model is trained; the only mutable thing here.

    Attributes
    ----------
    model, average : DDAE
        The weights, and their moving average.
    optimizer : torch.optim.AdamW
    step : int
        Optimizer steps done.
    losses : list of float
        Training losses since the last row of ``history``.
    history : list of Row
    """

    model: DDAE
    average: DDAE
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: DDAE, learning_rate: float, weight_decay: float) -> TrainState:
        """The state before the first step."""
        average = copy.deepcopy(model).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            learning_rate,
            weight_decay=weight_decay,
            # One operation for all weights, instead of several for each.
            fused=model.device.type == 'cuda',
        )
        return cls(model, average, optimizer)


def save_checkpoint(path: Path, state: TrainState, settings: dict[str, Any]) -> None:
    """Write the state, whole or not at all.

    Parameters
    ----------
    path : Path
    state : TrainState
        After at least one step.
    settings : dict
        JSON-able; a run that resumes must have the same.
    """
    tensors = {f'model.{k}': v for k, v in state.model.state_dict().items()}
    tensors |= {f'average.{k}': v for k, v in state.average.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        moments = state.optimizer.state[parameter]
        tensors |= {f'{m}.{name}': moments[m] for m in MOMENTS}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    counters = {'step': state.step, 'losses': state.losses, 'history': state.history}
    metadata = {'settings': json.dumps(settings), 'counters': json.dumps(counters)}
    write_atomically(path, save(tensors, metadata))


def resume(path: Path, state: TrainState, settings: dict[str, Any], steps: int) -> None:
    """Bring a fresh state to where the checkpoint left off.

    Parameters
    ----------
    path : Path
    state : TrainState
    settings : dict
        As :func:`save_checkpoint` takes them.
    steps : int
        Of the whole run.

    Raises
    ------
    ModelError
        If the file cannot be read, or is of a run with other settings or data.
    """
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            stored = msgspec.convert(json.loads(metadata['settings']), dict[str, Any])
            # Settings first: with others, the weights may not even have the same shapes.
            _refuse_other(path, stored, json.loads(json.dumps(settings)))
            counters = msgspec.convert(json.loads(metadata['counters']), _Counters)
            if not 0 < counters.step <= steps or (counters.step == steps and not counters.history):
                raise ValueError(f'step {counters.step} of {steps}')
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        _restore(state, tensors, counters)
    except (
        SafetensorError,
        OSError,
        KeyError,
        ValueError,
        RuntimeError,
        msgspec.MsgspecError,
    ) as error:
        raise ModelError(
            f'{path}: not a usable checkpoint ({str(error).splitlines()[0]}); {REMEDY}'
        ) from error


def _restore(state: TrainState, tensors: dict[str, torch.Tensor], counters: _Counters) -> None:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        prefix += '.'
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    state.model.load_state_dict(part('model'))
    state.average.load_state_dict(part('average'))
    step = torch.tensor(float(counters.step))
    moments = {
        i: {'step': step.clone()}
        # In the order in memory of the weights, which is not that of the file.
        | {m: torch.empty_like(weight).copy_(tensors[f'{m}.{name}']) for m in MOMENTS}
        for i, (name, weight) in enumerate(state.model.named_parameters())
    }
    groups = state.optimizer.state_dict()['param_groups']
    state.optimizer.load_state_dict({'state': moments, 'param_groups': groups})
    state.step, state.losses, state.history = counters.step, counters.losses, counters.history


def _refuse_other(path: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    stored, expected = _flat(stored), _flat(expected)
    differing = sorted(k for k in stored | expected if stored.get(k) != expected.get(k))
    if differing:
        k = differing[0]
        raise ModelError(
            f'{path}: checkpoint of another run: {k} is {stored.get(k)!r} there and '
            f'{expected.get(k)!r} now ({len(differing)} differ in all); {REMEDY}'
        )


def _flat(settings: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
    return flat
