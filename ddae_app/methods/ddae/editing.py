"""From one site to another: shared-noise editing, and denoising.

Scans are normalized here (:meth:`~ddae_app.methods.ddae.appearance.SiteAppearance.normalize`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.condition import Condition
from ddae_app.methods.ddae.appearance import Appearance
from ddae_app.methods.ddae.config import BATCH_SIZE
from ddae_app.methods.ddae.intensity import edge_depth
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.schedule import (
    NOISE_MARGIN,
    noise_level,
    noise_times,
    split_prediction,
)

FIRST_NOISE = 1.0
"""Noise level at which rendering starts, in deviations from the average of the site."""

FIRST_NOISE_WITHOUT_AVERAGE = 20.0
"""The same where the networks have to learn the average themselves, which takes more noise."""

LAST_NOISE = 0.1
"""The least noise in rendering; images that are noisier themselves need more."""

SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Whole pixels, down and right, over which denoising is averaged."""


@dataclass(frozen=True)
class BrainSlices:
    """The slices of scans that show brain, as the noise network takes them.

    Attributes
    ----------
    scan, depth : torch.Tensor, shape (M,), int64
        Index of the scan of each slice, and its depth in it.
    z_u : torch.Tensor, shape (M, z_u_dim)
    batch_size : int
        Slices that the network sees at once.
    """

    scan: Tensor
    depth: Tensor
    z_u: Tensor
    batch_size: int

    @classmethod
    def of(cls, model: DDAE, common: Tensor, condition: Condition, batch_size: int) -> BrainSlices:
        """Those of scans on the common scale, shape (B, n, H, W)."""
        scan, depth = (common > 0).flatten(2).any(dim=2).nonzero(as_tuple=True)
        z_u = [
            model.encode(common[s, d][:, None], condition.slices(s, d).position)
            for s, d in ((scan[i], depth[i]) for i in _parts(len(scan), batch_size))
        ]
        none = common.new_zeros(0, model.config.z_u_dim)
        return cls(scan, depth, torch.cat([none, *z_u]), batch_size)

    def clean(self, model: DDAE, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clean scans that the model estimates.

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
        clean_scans = torch.zeros_like(x_t)
        for rows in _parts(len(self.scan), self.batch_size):
            scan, depth = self.scan[rows], self.depth[rows]
            near = _neighbors(depth, model.config.context, x_t.shape[1])
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
            clean_scans[scan, depth] = clean[:, 0]
        return clean_scans


def _parts(count: int, most: int) -> list[slice]:
    """So many slices, at most so many at once; none of no slices, which networks do not take."""
    return [slice(first, first + most) for first in range(0, count, most)]


@torch.inference_mode()
def edit_to_site(
    model: DDAE,
    x: Tensor,
    source: Condition,
    target: Condition,
    steps: int,
    appearance: Appearance | None = None,
    noise_sd: Tensor | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """The scan in the appearance of the target, plus what the model changes between the two sites.

    The same noise is added to the scan and to its rendering, and both are denoised, one as of the
    source and one as of the target; the difference of the two clean scans moves the rendering.
    From much noise to little, this follows the difference of two probability flows without
    inverting either (FlowEdit: Kulikov et al. 2024, arXiv 2412.08629; here on the clean images of
    a diffusion). An error of the network that is common to both cancels, so the scan keeps its
    fine detail. The paper instead inverts under the source and decodes under the target.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        Slices of scans, from the position of `source` on. What exceeds ``CEILING`` is added
        again at the end.
    source, target : Condition
        Of the scans, and of the rendering.
    steps : int
        Noise levels; there are two evaluations per level and slice.
    appearance : Appearance, optional
        Of ``x``, where it is not that of the source site.
    noise_sd : torch.Tensor, shape (B,), optional
        Standard deviation of the noise of ``x`` on the common scale. It is part of the noise of
        each level, if the networks were trained so.
    batch_size : int
        Slices that the networks see at once.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        Not clipped. Exactly ``x`` where source and target agree.
    """
    n, sites = x.shape[1], model.appearance
    seen, at_target = x.clamp(0, CEILING), model.appearance_of(target, n)
    appearance = appearance or model.appearance_of(source, n)
    common = sites.to_common(seen, appearance)
    x_0 = sites.normalize(common, appearance)
    same = (model.embed(source) == model.embed(target)).all(dim=1)
    change = torch.zeros_like(x_0)
    # With equal codes the networks would see each scan twice, and the difference would be 0.
    if not same.all():
        slices = BrainSlices.of(model, common, source, batch_size)
        change = change_of_codes(model, x_0, slices, source, target, steps, noise_sd)
    rendering = x - seen + sites.restore(x_0 + change, at_target, edge_depth(seen))
    # Rounding may differ between batches; where nothing changes, nothing may.
    same &= appearance.equals(at_target)
    return torch.where(same[:, None, None, None], x, rendering)


def change_of_codes(
    model: DDAE,
    x_0: Tensor,
    slices: BrainSlices,
    source: Condition,
    target: Condition,
    steps: int,
    noise_sd: Tensor | None,
) -> Tensor:
    """What the networks change in normalized scans from one code to another.

    Parameters
    ----------
    model : DDAE
    x_0 : torch.Tensor, shape (B, n, H, W)
        Normalized scans.
    slices : BrainSlices
        Of them.
    source, target, steps, noise_sd
        As :func:`edit_to_site` takes them.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        To be added; 0 for scans of which the codes are the same.
    """
    sites = model.appearance
    first = FIRST_NOISE if model.config.site_average else FIRST_NOISE_WITHOUT_AVERAGE
    # Below the noise of a site the networks were not trained for it.
    last = max(LAST_NOISE, NOISE_MARGIN * (sites.noise.max() / sites.deviation).item())
    times = noise_times(model.alpha_bar, max(first, last), last, steps)
    scan_noise = torch.zeros(len(x_0), device=x_0.device)
    if model.config.noise_corrected and noise_sd is not None:
        scan_noise = noise_sd / sites.deviation
    levels = [*(noise_level(model.alpha_bar[t]).item() for t in times), 0.0]
    # All scans get the same noise, so that no result depends on the rest of the batch.
    generator = torch.Generator().manual_seed(0)
    change = torch.zeros_like(x_0)
    for t, now, after in zip(times, levels[:-1], levels[1:], strict=True):
        added = (now**2 - scan_noise.square()).clamp(min=0).sqrt()[:, None, None, None]
        noisy = x_0 + added * torch.randn(x_0.shape[1:], generator=generator).to(x_0.device)
        share, at = model.alpha_bar[t].sqrt(), torch.full((len(x_0),), t, device=x_0.device)
        from_source = slices.clean(model, share * noisy, at, source)
        from_target = slices.clean(model, share * (noisy + change), at, target)
        change = torch.lerp(from_target - from_source, change, after / now)
    return change


@torch.inference_mode()
def denoise_at_site(
    model: DDAE, x: Tensor, target: Condition, noise_sd: Tensor, batch_size: int = BATCH_SIZE
) -> Tensor:
    """The clean scan that the model estimates, given the noise level of ``x``.

    This is ``E[x_0 | x_t]`` at the time whose noise is that of the scan itself; nothing is added.
    It is averaged over small shifts of the scan (cycle spinning: Coifman and Donoho 1995), since
    the network does not treat all pixels exactly alike. The network is given an unknown site where
    it was trained for it. On the common scale, noise and anatomy are the same at all sites, and
    sites with little noise have trained the network for less noise than the target may have.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        Slices of scans in the appearance of the target. What exceeds ``CEILING`` is added again at
        the end.
    target : Condition
    noise_sd : torch.Tensor, shape (B,)
        Standard deviation of the noise on the common scale; at 0 a scan stays as it is.
    batch_size : int
        Slices that the networks see at once.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
    """
    sites, seen = model.appearance, x.clamp(0, CEILING)
    appearance = model.appearance_of(target, x.shape[1])
    common = sites.to_common(seen, appearance)
    slices = BrainSlices.of(model, common, target, batch_size)
    levels = noise_level(model.alpha_bar[1:])
    t = (levels - (noise_sd / sites.deviation)[:, None]).abs().argmin(dim=1) + 1
    x_t = model.alpha_bar[t][:, None, None, None].sqrt() * sites.normalize(common, appearance)
    # Without condition dropout the networks have not been trained for unknown sites.
    unknown = target.at_unknown_site() if model.config.condition_dropout else target
    clean = torch.zeros_like(common)
    for down, right in SHIFTS:
        moved = slices.clean(model, torch.roll(x_t, (down, right), (2, 3)), t, unknown)
        clean = clean + torch.roll(moved, (-down, -right), (2, 3)) / len(SHIFTS)
    denoised = x - seen + sites.restore(clean, appearance, edge_depth(seen))
    return torch.where(noise_sd[:, None, None, None] > 0, denoised, x)


def _neighbors(depth: Tensor, k: int, n: int) -> Tensor:
    """The slices that the noise network sees for each of `n`, shape (M, 2 k + 1).

    Beyond either end it sees the last one again.
    """
    return (depth[:, None] + torch.arange(-k, k + 1, device=depth.device)).clamp(0, n - 1)
