"""The steps of training: draw a batch, compute the gradient, move the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ddae_app.errors import DdaeError
from ddae_app.methods.condition import Condition, batch_of, condition_of
from ddae_app.methods.data import SliceData, balanced_rows
from ddae_app.methods.ddae.augment import random_contrast, random_shift
from ddae_app.methods.ddae.checkpoint import TrainState
from ddae_app.methods.ddae.config import TrainConfig
from ddae_app.methods.ddae.losses import Objective, Sealed
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.recorded import Recorded

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Steps:
    """The optimizer steps of a training; what is random in one follows from (seed, step).

    A GPU computes one step while the CPU prepares the next. The loss of a step is therefore read
    after the following one; :meth:`settle` reads it at once.

    Parameters
    ----------
    fabric : Fabric
    state : TrainState
        The steps change it.
    data : SliceData
    site_slices : sequence of np.ndarray, shape (M, 2)
        Row and position of the slices of each site to learn from.
    config : TrainConfig
    seed : int
    """

    def __init__(
        self,
        fabric: Fabric,
        state: TrainState,
        data: SliceData,
        site_slices: Sequence[np.ndarray],
        config: TrainConfig,
        seed: int,
    ) -> None:
        self._fabric, self._state, self._data = fabric, state, data
        self._site_slices, self._config, self._seed = site_slices, config, seed
        self._objective = fabric.setup_module(Objective(state.model), move_to_device=False)
        self._generator = torch.Generator(fabric.device)
        self._recorded: Recorded | None = None
        self._unread: _Loss | None = None
        self._loss = math.nan

    @property
    def loss(self) -> float:
        """Of the last step whose loss was read."""
        return self._loss

    def take(self) -> None:
        """Take a step.

        Raises
        ------
        DdaeError
            If the loss of the step before is not finite.
        """
        state, config, step = self._state, self._config, self._state.step
        rng = np.random.default_rng(seed_of(self._seed, step, 'rows'))
        rows, positions = balanced_rows(self._site_slices, config.batch_size, rng).T
        x = batch_of(self._data, rows, positions, state.model.config.context)
        loss = self._gradient(x, condition_of(self._data, rows, positions))
        nn.utils.clip_grad_norm_(state.model.parameters(), config.grad_clip)
        state.optimizer.param_groups[0]['lr'] = _learning_rate(config, step)
        state.optimizer.step()
        # The average forgets the first, random weights quickly: its half-life grows with the run.
        decay = 0.5 ** (config.batch_size / config.ema_halflife_images)
        _follow(state.average, state.model, min(decay, (1 + step) / (10 + step)))
        state.step += 1
        self.settle()
        self._unread = _Loss.of(loss, step)
        if loss.device.type == 'cpu' or math.isnan(self._loss):
            self.settle()

    def settle(self) -> None:
        """Read the loss of the last step, if it was not.

        Raises
        ------
        DdaeError
            If it is not finite.
        """
        if self._unread is None:
            return
        (value, step), self._unread = self._unread.read(), None
        if not math.isfinite(value):
            config = self._config
            raise DdaeError(
                f'the training loss is {value} after {step * config.batch_size} images, a finite '
                f'number is expected; lower learning_rate (now {config.learning_rate})'
            )
        self._loss = value
        self._state.losses.append(value)

    def _gradient(self, x: Tensor, condition: Condition) -> Tensor:
        """The loss of a batch on the CPU, after which each weight has its gradient."""
        fabric, step = self._fabric, self._state.step
        self._state.model.train()
        inputs = x, condition.age, condition.sex, condition.site, condition.position
        # Several processes exchange gradients on the way, which is not recorded.
        if fabric.device.type == 'cuda' and fabric.world_size == 1 and self._recorded is None:
            self._recorded = Recorded(self._compute, inputs, self._generator)
        torch.manual_seed(seed_of(self._seed, step, 'dropout'))
        self._generator.manual_seed(seed_of(self._seed, step, 'draws'))
        if self._recorded is not None:
            return self._recorded(inputs)
        return self._compute(*(part.to(fabric.device) for part in inputs))

    def _compute(self, x: Tensor, *labels: Tensor) -> Tensor:
        state, config, draw = self._state, self._config, self._generator
        condition = Condition(*labels)
        x_0, common = normalized(state.model, x, condition)
        view = random_contrast(common, draw) if state.model.config.encoder_augment else common
        x_0, view = random_shift((x_0, view), config.shift_pixels, draw)
        mine = slice(self._fabric.global_rank, None, self._fabric.world_size)
        loss = self._objective(Sealed(x_0, view, condition, draw, mine, config.lone_fraction))
        state.optimizer.zero_grad()
        self._fabric.backward(loss)
        reduced = self._fabric.all_reduce(loss.detach(), reduce_op='mean')
        assert isinstance(reduced, Tensor)
        return reduced


class _Loss(NamedTuple):
    """The loss of a step, on its way to the CPU."""

    value: Tensor
    step: int
    arrival: torch.cuda.Event | None

    @classmethod
    def of(cls, loss: Tensor, step: int) -> _Loss:
        if loss.device.type != 'cuda':
            return cls(loss, step, None)
        value, arrival = loss.to('cpu', non_blocking=True), torch.cuda.Event()
        arrival.record()
        return cls(value, step, arrival)

    def read(self) -> tuple[float, int]:
        if self.arrival is not None:
            self.arrival.synchronize()
        return float(self.value), self.step


def normalized(model: DDAE, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
    """Normalized slices between their neighbors; and the slices alone, on the common scale.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, 2 k + 1, H, W)
    condition : Condition
        Of the slices in the middle.

    Returns
    -------
    x_0 : torch.Tensor, shape (B, 2 k + 1, H, W)
    common : torch.Tensor, shape (B, 1, H, W)
    """
    k = model.config.context
    appearance = model.appearance_of(
        replace(condition, position=condition.position - k), 2 * k + 1
    )
    common = model.appearance.to_common(x, appearance)
    return model.appearance.normalize(common, appearance), common[:, k : k + 1]


def seed_of(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose at one step."""
    words = np.random.SeedSequence((seed, step, *purpose.encode())).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _learning_rate(config: TrainConfig, step: int) -> float:
    warm = (step + 1) * config.batch_size / max(config.warmup_images, 1)
    left = (config.steps - step) / max(config.steps * config.decay_fraction, 1)
    return config.learning_rate * min(1.0, warm, left)


@torch.no_grad()
def _follow(average: DDAE, model: DDAE, decay: float) -> None:
    """Move the averaged weights to the new ones; with a gradient, each step would be kept."""
    # One call for all of them: a GPU would wait for as many calls as there are parameters.
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
