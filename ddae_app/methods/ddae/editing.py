"""The noise process and its deterministic reversal, as pure functions.

Images are normalised here (:meth:`ddae_app.methods.ddae.model.DDAE.normalise`), and time runs
from 0 (clean) to T (noise): ``alpha_bar[0] = 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddae_app.methods.ddae.appearance import CEILING, Look, edge_depth

if TYPE_CHECKING:
    from ddae_app.methods.ddae.encoders import Condition
    from ddae_app.methods.ddae.model import DDAE

FIRST_NOISE = 1.0
"""Noise level at which rendering starts, in deviations from the average of the site."""

FIRST_NOISE_WITHOUT_AVERAGE = 20.0
"""The same where the networks have to learn the average themselves, which takes more noise."""

LAST_NOISE = 0.1
"""The least noise in rendering; images that are noisier themselves need more."""

NOISE_MARGIN = 1.25
"""The networks are trained, and render, at this many times the noise of an image at least."""

RHO = 7.0

SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Whole pixels, down and right, over which denoising is averaged."""

BATCH_SIZE = 8
"""Slices at once; more are no faster on a CPU."""

Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps (x_t, t) to the clean image and the noise that it sees in x_t."""


def noise_schedule(schedule: str, timesteps: int) -> Tensor:
    """``alpha_bar``, the share of signal variance left at each time.

    Parameters
    ----------
    schedule : {'linear', 'cosine'}
        Betas from 1e-4 to 0.02 for T = 1000, rescaled for other T (Ho et al. 2020), or squared
        cosine with betas up to 0.999 (Nichol and Dhariwal 2021, eq. 17).
    timesteps : int
        T.

    Returns
    -------
    torch.Tensor, shape (T + 1,), float32
        Strictly decreasing from 1.
    """
    if schedule == 'linear':
        scale = 1000 / timesteps
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
    else:
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = 1 - f[1:] / f[:-1]
    alpha_bar = torch.cumprod(1 - betas.clamp(max=0.999), dim=0)
    return torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]).float()


def q_sample(x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """``x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise`` (Ho et al. 2020, eq. 4)."""
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


def training_target(prediction: str, x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network should answer: the noise, or ``v`` (Salimans and Ho 2022, sec. 4)."""
    if prediction == 'epsilon':
        return noise
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0


def split_prediction(
    prediction: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor
) -> tuple[Tensor, Tensor]:
    """The clean image and the noise that the network's answer implies.

    Parameters
    ----------
    prediction : {'epsilon', 'v'}
    output, x_t : torch.Tensor, shape (B, 1, H, W)
    alpha_bar : torch.Tensor
        At the time of ``x_t``, broadcastable to it.

    Returns
    -------
    x_0, noise : torch.Tensor, shape (B, 1, H, W)
    """
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == 'epsilon':
        return (x_t - sigma * output) / signal, output
    return signal * x_t - sigma * output, sigma * x_t + signal * output


def step_times(timesteps: int, steps: int) -> list[int]:
    """``steps + 1`` times from 0 to T, evenly spaced."""
    return [round(i * timesteps / steps) for i in range(steps + 1)]


def ddim_decode(denoise: Denoiser, x_T: Tensor, alpha_bar: Tensor, steps: int) -> Tensor:
    """From noise to image by deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0).

    Parameters
    ----------
    denoise : callable
    x_T : torch.Tensor, shape (B, 1, H, W)
    alpha_bar : torch.Tensor, shape (T + 1,)
    steps : int
        Evaluations of ``denoise``.

    Returns
    -------
    torch.Tensor, shape (B, 1, H, W)
    """
    times = step_times(len(alpha_bar) - 1, steps)
    x = x_T
    for now, after in zip(times[:0:-1], times[-2::-1], strict=True):
        x = q_sample(*denoise(x, now), alpha_bar[after])
    return x


def ddim_invert(denoise: Denoiser, x_0: Tensor, alpha_bar: Tensor, steps: int) -> Tensor:
    """From image to noise by the same steps backwards (Song et al. 2021, sec. 4.3).

    Parameters and result mirror :func:`ddim_decode`. The first evaluation sees the clean image
    at time 1, the lowest that the network was trained for.
    """
    times = step_times(len(alpha_bar) - 1, steps)
    x = x_0
    for now, after in zip(times[:-1], times[1:], strict=True):
        x = q_sample(*denoise(x, max(now, 1)), alpha_bar[after])
    return x


def denoiser(model: DDAE, z_k: Tensor, z_u: Tensor) -> Denoiser:
    """The model under fixed codes, as DDIM wants it; for single slices."""

    def denoise(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        times = torch.full((len(x_t),), t, device=x_t.device)
        output = model(x_t, times, z_k, z_u)
        return split_prediction(model.config.prediction, output, x_t, model.alpha_bar[t])

    return denoise


@dataclass(frozen=True)
class Slices:
    """The slices of scans that show brain, as the noise network takes them.

    Attributes
    ----------
    scan, depth : torch.Tensor, shape (M,), int64
        Of which scan each is, and how far down in it.
    z_u : torch.Tensor, shape (M, z_u_dim)
    batch_size : int
        How many the network sees at once.
    """

    scan: Tensor
    depth: Tensor
    z_u: Tensor
    batch_size: int

    @classmethod
    def of(cls, model: DDAE, common: Tensor, condition: Condition, batch_size: int) -> Slices:
        """Those of scans on the common scale, shape (B, n, H, W)."""
        scan, depth = (common > 0).flatten(2).any(dim=2).nonzero(as_tuple=True)
        z_u = [
            model.encode(common[s, d][:, None], condition.slices(s, d).position)
            for s, d in zip(scan.split(batch_size), depth.split(batch_size), strict=True)
        ]
        none = common.new_zeros(0, model.config.z_u_dim)
        return cls(scan, depth, torch.cat([none, *z_u]), batch_size)

    def clean(self, model: DDAE, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the model takes for the clean scans.

        Parameters
        ----------
        model : DDAE
        x_t : torch.Tensor, shape (B, n, H, W)
        t : torch.Tensor, shape (B,), int64
        condition : Condition
            Of the scans.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            0 in slices without brain.
        """
        found = torch.zeros_like(x_t)
        for rows in torch.arange(len(self.scan), device=x_t.device).split(self.batch_size):
            scan, depth = self.scan[rows], self.depth[rows]
            near = model.neighbours(depth, x_t.shape[1])
            output = model(
                x_t[scan[:, None], near],
                t[scan],
                model.embed(condition.slices(scan, depth)),
                self.z_u[rows],
            )
            noisy, alpha_bar = x_t[scan, depth][:, None], model.alpha_bar[t[scan]]
            clean, _ = split_prediction(
                model.config.prediction, output, noisy, alpha_bar[:, None, None, None]
            )
            found[scan, depth] = clean[:, 0]
        return found


@torch.inference_mode()
def render_at_site(
    model: DDAE,
    x: Tensor,
    source: Condition,
    target: Condition,
    steps: int,
    look: Look | None = None,
    noise_sd: Tensor | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """The scan with the look of the target, and what else the model sees change between the two.

    The same noise is added to the scan and to its rendering, and both are denoised, one as of the
    source and one as of the target; what their clean scans differ by moves the rendering. From
    much noise to little, this follows the difference of two probability flows without inverting
    either (FlowEdit: Kulikov et al. 2024, arXiv 2412.08629; here on a diffusion's clean images).
    An error of the network that is common to both cancels, so the scan keeps its own fine
    detail. Not in the paper, which inverts under the source and decodes under the target.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        Slices of scans, from the position that `source` tells on. What exceeds ``CEILING`` is
        kept on top.
    source, target : Condition
        What ``x`` is known to be, and what it shall become.
    steps : int
        Noise levels; there are two evaluations per level and slice.
    look : Look, optional
        Of ``x``, where it is not that of the source site.
    noise_sd : torch.Tensor, shape (B,), optional
        Standard deviation of the noise of ``x`` on the common scale, which counts as a part of
        the noise of each level if the networks were trained so.
    batch_size : int
        Slices that the networks see at once.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        Not clipped. Exactly ``x`` where source and target agree.
    """
    n = x.shape[1]
    seen, at_target = x.clamp(0, CEILING), model.look(target, n)
    look = look or model.look(source, n)
    common = model.to_common(seen, look)
    slices = Slices.of(model, common, source, batch_size)
    x_0 = model.normalise(common, look)
    first = FIRST_NOISE if model.config.site_average else FIRST_NOISE_WITHOUT_AVERAGE
    # Below the noise of a site the networks were not trained for it.
    last = max(LAST_NOISE, NOISE_MARGIN * (model.noise.max() / model.deviation).item())
    times = noise_times(model.alpha_bar, max(first, last), last, steps)
    own = torch.zeros(len(x), device=x.device)
    if model.config.noise_corrected and noise_sd is not None:
        own = noise_sd / model.deviation
    levels = [*(noise_level(model.alpha_bar[t]).item() for t in times), 0.0]
    # Everybody gets the same noise, so that nothing depends on who else is in the batch.
    generator = torch.Generator().manual_seed(0)
    change = torch.zeros_like(x_0)
    for t, now, after in zip(times, levels[:-1], levels[1:], strict=True):
        added = (now**2 - own.square()).clamp(min=0).sqrt()[:, None, None, None]
        noisy = x_0 + added * torch.randn(x.shape[1:], generator=generator).to(x.device)
        share, at = model.alpha_bar[t].sqrt(), torch.full((len(x),), t, device=x.device)
        from_source = slices.clean(model, share * noisy, at, source)
        from_target = slices.clean(model, share * (noisy + change), at, target)
        change = torch.lerp(from_target - from_source, change, after / now)
    rendering = x - seen + model.restore(x_0 + change, at_target, edge_depth(seen))
    # Rounding may differ between batches; where nothing changes, nothing may.
    same = (model.embed(source) == model.embed(target)).all(dim=1)
    same &= (look.curve == at_target.curve).all(dim=1)
    same &= (look.edge == at_target.edge).all(dim=1)
    same &= (look.average == at_target.average).flatten(1).all(dim=1)
    return torch.where(same[:, None, None, None], x, rendering)


@torch.inference_mode()
def denoise_at_site(
    model: DDAE, x: Tensor, target: Condition, noise_sd: Tensor, batch_size: int = BATCH_SIZE
) -> Tensor:
    """What the model takes for the clean scan, given that ``x`` has this much noise.

    ``E[x_0 | x_t]`` at the time whose noise is that of the scan itself; nothing is added. It is
    the mean over small shifts of the scan (cycle spinning: Coifman and Donoho 1995), for the
    network does not do quite the same at every pixel. The network takes the site for unknown,
    where it can: what is noise and what is anatomy is the same everywhere once the look is taken
    off, and the quiet sites have taught it about less noise than the target may have.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        Slices of scans that look like the target; what exceeds ``CEILING`` is kept on top.
    target : Condition
    noise_sd : torch.Tensor, shape (B,)
        Standard deviation of the noise on the common scale; at 0 a scan stays as it is.
    batch_size : int
        Slices that the networks see at once.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
    """
    seen, look = x.clamp(0, CEILING), model.look(target, x.shape[1])
    common = model.to_common(seen, look)
    slices = Slices.of(model, common, target, batch_size)
    levels = noise_level(model.alpha_bar[1:])
    t = (levels - (noise_sd / model.deviation)[:, None]).abs().argmin(dim=1) + 1
    x_t = model.alpha_bar[t][:, None, None, None].sqrt() * model.normalise(common, look)
    unknown = _of_unknown_site(model, target)
    clean = torch.zeros_like(common)
    for down, right in SHIFTS:
        moved = slices.clean(model, torch.roll(x_t, (down, right), (2, 3)), t, unknown)
        clean = clean + torch.roll(moved, (-down, -right), (2, 3)) / len(SHIFTS)
    denoised = x - seen + model.restore(clean, look, edge_depth(seen))
    return torch.where(noise_sd[:, None, None, None] > 0, denoised, x)


def _of_unknown_site(model: DDAE, condition: Condition) -> Condition:
    """The same people at an unknown site, if training has shown the network one."""
    if model.config.condition_dropout == 0:
        return condition
    return replace(condition, site=torch.full_like(condition.site, -1))


def noise_level(alpha_bar: Tensor) -> Tensor:
    """Standard deviation of the noise where the image's is 1: ``sqrt(1 / alpha_bar - 1)``."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def noise_times(alpha_bar: Tensor, first: float, last: float, steps: int) -> list[int]:
    """Times whose noise levels fall from `first` to `last` as in Karras et al. 2022, eq. 5."""
    share = torch.linspace(0, 1, steps, device=alpha_bar.device)
    wanted = (first ** (1 / RHO) + share * (last ** (1 / RHO) - first ** (1 / RHO))) ** RHO
    levels = noise_level(alpha_bar[1:])
    return [int((levels - level).abs().argmin()) + 1 for level in wanted]
