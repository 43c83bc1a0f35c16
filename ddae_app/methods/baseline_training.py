"""Training the networks that the DDAE is compared with: small, and in one go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ddae_app.errors import DdaeError
from ddae_app.methods.cvae import CVAE
from ddae_app.methods.data import SliceData, balanced_rows
from ddae_app.methods.ddae.config import CVAEConfig, StyleGANConfig
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.style_gan import Discriminator, StyleGAN, discriminator_loss, generator_loss

WARM_SHARE = 0.1
"""Of the training, in which the learning rate rises."""

FEWEST_STEPS = 20
"""That a schedule is laid out for; with ten, PyTorch divides by 0."""

MOST_GRADIENT = 1000.0
"""Norm above which a gradient is shortened; only what went wrong is so long."""

Tell = Callable[[int, float, float], None]
"""Told the images seen, the loss and the seconds left after each step."""

Step = Callable[[Tensor, Condition, torch.Generator], Tensor]
"""From a batch to the loss that it had before it was learnt from."""


@dataclass(frozen=True)
class Course:
    """How long and on what a network is trained.

    Attributes
    ----------
    images : int
        To be seen in all.
    device : torch.device
    seed : int
    progress : callable, optional
    """

    images: int
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    seed: int = 0
    progress: Tell | None = None

    def steps(self, batch: int) -> int:
        """Of so many images each."""
        return max(1, math.ceil(self.images / batch))

    def made(self, build: Callable[[], nn.Module]) -> nn.Module:
        """A network whose first weights follow from the seed."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == 'cuda' else []):
            torch.manual_seed(self.seed)
            return build().to(self.device)


def train_cvae(data: SliceData, config: CVAEConfig, course: Course) -> CVAE:
    """Train a conditional variational autoencoder; every site is drawn equally often.

    Parameters
    ----------
    data : SliceData
        Of single slices.
    config : CVAEConfig
    course : Course

    Returns
    -------
    CVAE
        In evaluation mode.

    Raises
    ------
    DdaeError
        If the loss is no longer finite.
    """
    batch = 32
    ages = data.ages[~np.isnan(data.ages)] if not np.isnan(data.ages).all() else np.zeros(1)
    sizes = config, len(data.site_names), float(ages.mean()), max(float(ages.std()), 1.0)
    model = course.made(lambda: CVAE(*sizes))
    assert isinstance(model, CVAE)
    learn = _Learner(torch.optim.AdamW(model.parameters(), 2e-3), course.steps(batch))

    def step(x: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        loss = model.loss(x, condition, generator)
        learn(loss)
        return loss

    _run(data, course, batch, step)
    return model.eval().requires_grad_(False)


def train_style_gan(data: SliceData, config: StyleGANConfig, course: Course) -> StyleGAN:
    """Train a style-encoding GAN; every site is drawn equally often.

    In every other step the style is drawn by the mapping network, else it is that of another scan
    of the batch. At the end the mean style of each site is kept.

    Parameters, returned value and errors are those of :func:`train_cvae`.
    """
    batch = 8
    sizes = config, len(data.site_names)
    model = course.made(lambda: StyleGAN(*sizes))
    judge = course.made(lambda: Discriminator(*sizes))
    assert isinstance(model, StyleGAN) and isinstance(judge, Discriminator)
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    steps = course.steps(batch)
    slow = list(model.mapping.parameters())
    fast = [p for name, p in model.named_parameters() if not name.startswith('mapping')]
    betas = 0.0, 0.99
    groups = [{'params': fast, 'lr': 1e-3}, {'params': slow, 'lr': 1e-5}]
    learn = _Learner(torch.optim.Adam(groups, betas=betas), steps)
    learn_to_judge = _Learner(torch.optim.Adam(judge.parameters(), 1e-3, betas=betas), steps)
    turn = 0

    def step(x: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        nonlocal turn
        turn += 1
        site = condition.site
        order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
        target = site[order]

        def style() -> Tensor:
            if turn % 2:
                return model.sample(target, generator)
            return model.encode(x[order], target)

        with torch.no_grad():
            fake = model.generate(x, style())
        learn_to_judge(discriminator_loss(judge, x.clone(), fake, site, target))
        judge.requires_grad_(False)
        loss = generator_loss(model, judge, x, site, style(), target)
        learn(loss)
        judge.requires_grad_(True)
        averaged.update_parameters(model)
        return loss

    _run(data, course, batch, step)
    found = averaged.module
    assert isinstance(found, StyleGAN)
    found.eval().requires_grad_(False)
    found.site_styles.copy_(_mean_styles(found, data, course.device))
    return found


class _Learner:
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
                f'the training loss is {loss.item()}, a finite number is expected; look at the '
                'scans'
            )
        self.optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)
        self.optimizer.step()
        self.schedule.step()


def _run(data: SliceData, course: Course, batch: int, step: Step) -> None:
    sites = np.array(data.sites)
    own_rows = [np.flatnonzero(sites == site) for site in data.site_names]
    rng = np.random.default_rng(course.seed)
    generator = torch.Generator(course.device).manual_seed(course.seed)
    started, steps = time.monotonic(), course.steps(batch)
    for number in range(1, steps + 1):
        rows = balanced_rows(own_rows, batch, rng)
        x, condition = data.batch(rows), data.condition(rows)
        loss = step(x.to(course.device), condition.to(course.device), generator)
        if course.progress:
            pace = (time.monotonic() - started) / number
            course.progress(number * batch, loss.item(), pace * (steps - number))


@torch.inference_mode()
def _mean_styles(model: StyleGAN, data: SliceData, device: torch.device) -> Tensor:
    """Mean style of the scans of each site, shape (S, style_dim)."""
    sums = torch.zeros_like(model.site_styles)
    counts = torch.zeros(len(sums), 1, device=device)
    for first in range(0, len(data), 64):
        rows = np.arange(first, min(first + 64, len(data)))
        x, site = data.batch(rows).to(device), data.condition(rows).site.to(device)
        sums.index_add_(0, site, model.encode(x, site))
        counts.index_add_(0, site, torch.ones(len(site), 1, device=device))
    return sums / counts
