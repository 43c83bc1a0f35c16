"""What the baselines that are networks share: the harmonizer, and the course of their training."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ddae_app.errors import DdaeError, UsageError
from ddae_app.files import write_atomically
from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.base import (
    Progress,
    ProgressCallback,
    TrainedModel,
    TrainingRequest,
    check_request,
    cohort_of,
    in_brain,
    known_sites,
    model_info,
    training_data,
)
from ddae_app.methods.condition import Condition, batch_of, condition_of, make_condition
from ddae_app.methods.data import SliceData, balanced_rows, check_shape
from ddae_app.methods.device import resolve_device
from ddae_app.methods.modelfile import ModelInfo, metadata_of
from ddae_app.methods.weights import load_network
from ddae_app.settings import Protocol

IMAGES = 64_000
"""To be seen in training, where nothing else is asked for."""

WARM_SHARE = 0.1
"""Of the training, in which the learning rate rises."""

FEWEST_STEPS = 20
"""That a schedule is laid out for; with ten, PyTorch divides by 0."""

MOST_GRADIENT = 1000.0
"""Norm above which a gradient is shortened; only a failing run has such gradients."""

Step = Callable[[Tensor, Condition, torch.Generator], Tensor]
"""From a batch to the loss that it had before the step."""

Network = TypeVar('Network', bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class SliceNetworkInfo(ModelInfo):
    """Everything in the file of a network that takes single slices but the weights.

    Attributes
    ----------
    config : object
        Sizes of the network, ``image_size`` among them.
    """

    config: Any

    @property
    def network(self) -> dict[str, object]:
        """Sizes of its network."""
        return vars(self.config)

    def _checks(self) -> dict[str, bool]:
        return (
            super()._checks()
            | self._slice_checks(self.config.image_size)
            | {f'{self.protocol.depth} slices a scan, and takes one': self.protocol.depth == 1}
        )


Info = TypeVar('Info', bound=SliceNetworkInfo)


@dataclass(frozen=True)
class TrainingSchedule:
    """How long and on what a network is trained.

    Attributes
    ----------
    images : int
        To be seen in all.
    device : torch.device
    seed : int
    progress : callable, optional
        Called with a :class:`~ddae_app.methods.base.Progress` after each step.
    """

    images: int
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    seed: int = 0
    progress: ProgressCallback | None = None

    def steps(self, batch: int) -> int:
        """Number of steps of so many images each."""
        return max(1, math.ceil(self.images / batch))

    def build(self, make: Callable[[], Network]) -> Network:
        """A network whose first weights follow from the seed."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == 'cuda' else []):
            torch.manual_seed(self.seed)
            return make().to(self.device)

    def run(self, data: SliceData, batch: int, step: Step) -> None:
        """Train step by step; every site is drawn equally often."""
        sites = np.array(data.sites)
        site_rows = [np.flatnonzero(sites == site) for site in data.site_names]
        rng = np.random.default_rng(self.seed)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        started, steps = time.monotonic(), self.steps(batch)
        for number in range(1, steps + 1):
            rows = balanced_rows(site_rows, batch, rng)
            x, condition = batch_of(data, rows), condition_of(data, rows)
            loss = step(x.to(self.device), condition.to(self.device), generator)
            if self.progress:
                pace = (time.monotonic() - started) / number
                seconds_left = pace * (steps - number)
                self.progress(
                    Progress(number * batch, self.images, loss.item(), None, seconds_left)
                )


class Learner:
    """Takes steps down a loss, the learning rate rising at first and falling then."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer = optimizer
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group['lr'] for group in optimizer.param_groups],
            total_steps=max(steps, FEWEST_STEPS),
            pct_start=WARM_SHARE,
            cycle_momentum=False,
        )

    def __call__(self, loss: Tensor) -> None:
        if not loss.isfinite():
            raise DdaeError(
                f'the training loss is {loss.item()}; expected a finite number; check the scans'
            )
        self.optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)
        self.optimizer.step()
        self.schedule.step()


@dataclass(frozen=True)
class NetworkHarmonizer(ABC, Generic[Network, Info]):
    """A network that renders a slice anew, given another site.

    Attributes
    ----------
    model : CVAE or StyleGAN or None
        None before :meth:`fit` or :meth:`load`.
    known : SliceNetworkInfo or None
    protocol : Protocol
        How the images that it is fitted to were preprocessed.
    images : int
        To be seen in training.
    batch_size : int
        Slices at once.
    device : str
        See :func:`~ddae_app.methods.device.resolve_device`.
    seed : int
    progress : callable, optional
        Called with a :class:`~ddae_app.methods.base.Progress` after each step of training.
    """

    method: ClassVar[str]
    label_blind: ClassVar[bool]
    """Whether age and sex play no part."""

    model: Network | None = None
    known: Info | None = None
    protocol: Protocol = field(default_factory=Protocol)
    images: int = IMAGES
    batch_size: int = 8
    device: str = 'auto'
    seed: int = 0
    progress: ProgressCallback | None = None

    info_class: ClassVar[type[SliceNetworkInfo]]

    @staticmethod
    @abstractmethod
    def build(info: Info) -> Network:
        """A network of these sizes."""

    @staticmethod
    @abstractmethod
    def train(data: SliceData, schedule: TrainingSchedule) -> tuple[Network, dict[str, Any]]:
        """A trained network, and what its model file says beside what all say."""

    @property
    def info(self) -> Info:
        """What the model file says of itself."""
        return self._ready()[0]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that it was trained on; any of them can be a target."""
        return self.info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> Self:
        """A copy with a network trained on these slices.

        Raises
        ------
        UsageError
            If the scans have more than one slice, or are of another shape than ``protocol`` says.
        """
        data = training_data(images, cohort)
        if data.depth > 1:
            raise UsageError(
                f'scans of {data.depth} slices, and a {self.method} takes one; give --slices '
                'medial'
            )
        check_shape(data.images.shape[1:], self.protocol)
        schedule = TrainingSchedule(
            self.images, resolve_device(self.device), self.seed, self.progress
        )
        model, sizes = self.train(data, schedule)
        shared = dict(vars(model_info(self.method, data, self.protocol)))
        shared['training'] = replace(shared['training'], images_seen=self.images, seed=self.seed)
        shared['versions'] = shared['versions'] | {'torch': str(torch.__version__)}
        kind: Any = self.info_class
        return replace(self, model=model, known=kind(**shared, **sizes))

    @torch.inference_mode()
    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.methods.base.Harmonizer`.

        What exceeds ``CEILING`` is added again at the end.

        Raises
        ------
        UsageError
            If a source site is not one that it was trained on, or the images have another size.
        """
        info, model = self._ready()
        render: Any = model.render
        labels = check_request(images, cohort, target_site, info.sites)
        numbers = known_sites(labels.sites, info)
        size = info.config.image_size
        scans = images[:, None] if images.ndim == 3 else images
        if scans.shape[1:] != (1, size, size):
            raise UsageError(
                f'images are {scans.shape[1:]} (slices, rows, columns), the {self.method} '
                f'takes {(1, size, size)}; preprocess with the protocol of the model'
            )
        device = next(model.parameters()).device
        source = make_condition(labels.ages.tolist(), labels.sexes, numbers)
        wanted = [info.sites.index(target_site)] * len(images)
        target = make_condition(labels.ages.tolist(), labels.sexes, wanted)
        out = np.empty(scans.shape, np.float32)
        for i in range(0, len(scans), self.batch_size):
            rows = slice(i, i + self.batch_size)
            conditions = (condition[rows].to(device) for condition in (source, target))
            # Copies, for images may be read-only, or turned round.
            x = torch.tensor(np.ascontiguousarray(scans[rows]))
            seen = x.clamp(max=CEILING)
            rendered = render(seen.to(device), *conditions).cpu()
            out[rows] = (rendered + (x - seen)).numpy()
        return in_brain(out.reshape(images.shape), images)

    def facts(self) -> dict[str, Any]:
        """What was done, for sidecars."""
        return {'LabelBlind': self.label_blind}

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file."""
        info, model = self._ready()
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        write_atomically(Path(path), save(weights, metadata_of(info)))

    @classmethod
    def load(cls, path: str | Path, *, device: str = 'auto', batch_size: int = 8) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelError
            If the file is no such model, or its weights do not fit its sizes.
        UsageError
            If the device is not there.
        """
        info, model = load_network(Path(path), cls.method, cls.build)
        model = model.to(resolve_device(device))
        return cls(model, info, info.protocol, batch_size=batch_size, device=device)

    def _ready(self) -> tuple[Info, Network]:
        if self.known is None or self.model is None:
            raise UsageError(f'this {self.method} has no network yet; call fit or load first')
        return self.known, self.model


def train_slice_network(request: TrainingRequest, kind: type[NetworkHarmonizer]) -> TrainedModel:
    """Train a harmonizer of this class and write its model."""
    harmonizer = kind(
        protocol=request.protocol,
        images=request.images or IMAGES,
        device=request.device,
        seed=request.seed,
        progress=request.progress,
    ).fit(request.data.images, cohort_of(request.data))
    info = request.identified(harmonizer.info)
    return request.saved(replace(harmonizer, known=info))
