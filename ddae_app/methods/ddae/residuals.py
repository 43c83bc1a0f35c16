"""Residual correction: what rendering leaves of each site, measured and removed.

Four residual site effects are corrected, in this order: the shading that each scan has by itself,
how far scans are spread around the average, sharpness, and contrast.
:class:`ResidualCorrection` applies the correction to rendered scans;
:func:`fit_residual_correction` measures it with the networks fixed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from ddae_app.imaging.similarity import brain_quantiles
from ddae_app.methods.condition import Condition, batch_of, condition_of, label_blind
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import DARKEST, SiteAppearance
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.fields import Shape, from_knots, knot_shape, to_knots
from ddae_app.methods.ddae.intensity import (
    EDGE_PIXELS,
    edge_depth,
    map_intensities,
    rising,
    tissue_quantiles,
)
from ddae_app.methods.ddae.shading import remove_shading, white_matter
from ddae_app.methods.ddae.sharpness import AXES, roughness, soften
from ddae_app.methods.site_effects import site_effects

log = logging.getLogger('ddae_app')

LEVELS = 65
"""Quantile levels of rendered scans, which have no noise that would blur their quantiles."""

KNOTS = LEVELS + 1

MAX_SCANS, MAX_SLICES = 2800, 7_500
"""In all, equally many of each site; they are held in memory together."""

GRAY_SHARE = 0.7
"""Of the pixels of the brain; brighter ones are assumed to be white matter."""

WHITE_SMOOTHING_PIXELS = 2.0
LEAST_WHITE_SHARE = 0.05
"""Of scans with white matter at a pixel, for its intensity to be known there."""

SPREAD_SMOOTHING_PIXELS = 1.5
LEAST_BRAIN_SHARE = 0.9
"""Of scans with brain at a pixel: elsewhere, they differ mostly in who has brain there."""

LARGEST_SPREAD = 2.0
"""And no less than its inverse."""

TRIED_AMOUNT = 0.05
"""Of softening, from which the response of the roughness to softening is measured."""

LARGEST_AMOUNT = 0.15
"""More would be a visible blur or sharpening."""

ROUNDS = 3

SLICES_AT_ONCE = 16

Render = Callable[[Tensor, Condition, Condition], Tensor]
"""Renders scans of a source condition as of a target condition."""

Scans = list[Tensor]
"""Each of shape (1, D, H, W), rendered and on the common scale."""


class ResidualCorrection(nn.Module):
    """The residual effects of each site, and of an unknown one.

    Parameters
    ----------
    shape : tuple of int
        ``(D, H, W)`` of a scan.
    n_sites : int

    Attributes
    ----------
    white : torch.Tensor, shape (D, H, W)
        Usual intensity of white matter in rendered scans, on the common scale, at the places where
        it usually is; 0 elsewhere, and everywhere before it is measured.
    white_level : torch.Tensor, shape ()
        Brighter pixels may be white matter.
    spread : torch.Tensor, shape (n_sites + 1, d, h, w)
        Distance of the scans of each site from the average, relative to that of all sites, as
        knots (:mod:`ddae_app.methods.ddae.fields`); 1 before it is measured.
    rendered : torch.Tensor, shape (n_sites + 1, K)
        Intensity quantiles, on the common scale, of the scans of each site after they have been
        rendered as of an unknown site; all are equal before they are measured.
    softness : torch.Tensor, shape (n_sites + 1, 3)
        How much softer the scans of each site are than those of all sites, as
        :func:`ddae_app.methods.ddae.sharpness.soften` takes it.
    """

    white: Tensor
    white_level: Tensor
    spread: Tensor
    rendered: Tensor
    softness: Tensor

    def __init__(self, shape: Shape, n_sites: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer('white', torch.zeros(shape))
        self.register_buffer('white_level', torch.tensor(0.0))
        self.register_buffer('spread', torch.ones(n_sites + 1, *knot_shape(shape)))
        rendered = torch.linspace(0, 1, KNOTS).repeat(n_sites + 1, 1)
        self.register_buffer('rendered', rendered)
        self.register_buffer('softness', torch.zeros(n_sites + 1, 3))

    def forward(
        self, common: Tensor, average: Tensor, position: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """Rendered scans without their own shading, and with the residual effects of the target.

        Parameters
        ----------
        common : torch.Tensor, shape (B, n, H, W)
            Rendered scans on the common scale; 0 outside the brain.
        average : torch.Tensor, shape (B, n, H, W)
            The average scan of all sites at the same slices.
        position : torch.Tensor, shape (B,), int64
            First slice.
        source, target : torch.Tensor, shape (B,), int64
            Index of the site from which, and as of which, each scan was rendered.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
        """
        if self.white.any():
            common = remove_shading(common, self.white, self.white_level, position)
        common = self.respread(common, average, position, source, target)
        common = soften(common, self.softness[target] - self.softness[source])
        return map_intensities(common, self.rendered[source], self.rendered[target])

    def changes_nothing(self, source: Tensor, target: Tensor) -> Tensor:
        """Whether the correction from one site to another is none, shape (B,), bool."""
        same = (self.rendered[source] == self.rendered[target]).all(dim=1)
        same &= (self.softness[source] == self.softness[target]).all(dim=1)
        same &= (self.spread[source] == self.spread[target]).flatten(1).all(dim=1)
        return same & ~self.white.any()

    def respread(
        self, common: Tensor, average: Tensor, position: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """Scans as far from the average as those of the target site.

        Parameters and result as those of :meth:`forward`; 0 where ``common`` is 0, and nowhere
        else.
        """
        ratio = self.spread[target] / self.spread[source]
        ratio = from_knots(ratio, position, common.shape[1], self.shape)
        moved = average + (common - average) * ratio
        return torch.where(common > 0, moved.clamp(min=DARKEST), 0)


def fit_residual_correction(
    config: ModelConfig,
    appearance: SiteAppearance,
    data: SliceData,
    rows: np.ndarray,
    render: Render,
) -> ResidualCorrection:
    """Measure what rendering leaves of each site.

    Scans of each site are rendered as of an unknown one. The place and intensity of their white
    matter show the shading of each scan by itself. The distance of the scans of a site from their
    average at each voxel shows what no curve can correct: a site where deep gray matter or fine
    detail is weaker than at others. Then softness and contrast of each site are measured in turns,
    since a flat contrast looks soft and softness makes a contrast flat.

    Parameters
    ----------
    config : ModelConfig
        Nothing is measured without ``site_curve``, or where the networks were trained without
        unknown sites (``condition_dropout`` 0).
    appearance : SiteAppearance
        Of the sites ``data.site_names``.
    data : SliceData
    rows : np.ndarray of int
        The scans to use, those that the site appearance was fitted to.
    render : callable
        Renders scans without any residual correction.

    Returns
    -------
    ResidualCorrection
    """
    shape = data.depth, *data.images.shape[2:]
    device = appearance.curve.device
    new = ResidualCorrection(shape, len(data.site_names)).to(device)
    if not config.site_curve or config.condition_dropout == 0:
        return new
    before = np.concatenate(
        [
            tissue_quantiles(appearance.common_scans(data, some), LEVELS)
            for some in data.chunks(rows)
        ]
    )
    effects_before, _, _ = site_effects(data, rows, [before])
    chosen = _evenly_by_site(data, rows)
    rows, before = rows[chosen], before[chosen]
    log.info('rendering %d scans to measure residual site effects', len(rows))
    scans = _rendered(appearance, data, rows, render)
    condition = condition_of(data, rows)
    white, level = _usual_white(scans)
    new.white.copy_(white)
    new.white_level.copy_(level)
    scans = [remove_shading(x, white, level, condition.position[:1]) for x in scans]
    if config.site_average:
        new.spread[:-1] = to_knots(_spread(scans, data, rows)).to(new.spread)
        source, position = condition.site.to(device), condition.position.to(device)
        average = appearance.average_at(position[:1], data.depth)
        unknown = torch.full_like(source[:1], -1)
        scans = [
            new.respread(x.to(device), average, position[:1], source[i : i + 1], unknown).cpu()
            for i, x in enumerate(scans)
        ]
    responses = _responses(scans)
    softness = torch.zeros(len(data.site_names), len(AXES))

    def sharpened() -> Iterable[Tensor]:
        return (soften(x, -softness[s][None]) for x, s in zip(scans, condition.site, strict=True))

    for _ in range(ROUNDS):
        curves = _curves(sharpened(), data, rows, before, effects_before)
        rough = [
            roughness(map_intensities(x, curves[s][None], curves[-1:]), _interior(x))
            for x, s in zip(sharpened(), condition.site, strict=True)
        ]
        effects, _, _ = site_effects(data, rows, [torch.cat(rough).numpy()])
        step = torch.from_numpy(effects).float() @ torch.linalg.pinv(responses).T
        softness = (softness + step).clamp(-LARGEST_AMOUNT, LARGEST_AMOUNT)
    new.softness[:-1] = softness.to(new.softness)
    new.rendered.copy_(_curves(sharpened(), data, rows, before, effects_before))
    return new


def _evenly_by_site(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """Which of the rows to render: as many of each site as memory and time allow."""
    sites = np.array(data.sites)[rows]
    by_site = [np.flatnonzero(sites == site) for site in data.site_names if (sites == site).any()]
    most = max(1, min(MAX_SCANS, MAX_SLICES // data.depth) // len(by_site))
    return np.concatenate([i[:: math.ceil(len(i) / most)] for i in by_site])


def _rendered(
    appearance: SiteAppearance, data: SliceData, rows: np.ndarray, render: Render
) -> Scans:
    """Scans rendered as of an unknown site."""
    device, scans = appearance.curve.device, []
    step = max(1, SLICES_AT_ONCE // data.depth)
    for i in range(0, len(rows), step):
        some = rows[i : i + step]
        source = label_blind(condition_of(data, some).site.tolist()).to(device)
        unknown = source.at_unknown_site()
        y = render(batch_of(data, some).to(device), source, unknown)
        common = appearance.to_common(y, appearance(unknown.site, unknown.position, data.depth))
        scans += common.cpu().split(1)
    return scans


def _interior(x: Tensor) -> Tensor:
    return edge_depth(x) > EDGE_PIXELS


def _usual_white(scans: Scans) -> tuple[Tensor, Tensor]:
    """Usual intensity of white matter where it is usual, (D, H, W), and the level it exceeds."""
    brains = [x[x > 0].numpy() for x in scans]
    level = torch.tensor(np.mean([np.quantile(b, GRAY_SHARE) for b in brains if b.size])).float()
    share = torch.zeros_like(scans[0][0])
    total = torch.zeros_like(share)
    for x in scans:
        there = white_matter(x, level)[0]
        share += there / len(scans)
        total += x[0] * there / len(scans)
    smooth = partial(gaussian_filter, sigma=WHITE_SMOOTHING_PIXELS)
    near = smooth(share.numpy())
    mean = smooth(total.numpy()) / np.maximum(near, 1e-6)
    return torch.from_numpy(np.where(near > LEAST_WHITE_SHARE, mean, 0)), level


def _spread(scans: Scans, data: SliceData, rows: np.ndarray) -> Tensor:
    """How much further from their average the scans of each site are, (S, D, H, W).

    The scale that belongs to the average as a location, as in ComBat (Johnson et al. 2007):
    squared distances, by regression on site, age, age squared and sex as well, because subjects
    differ more the older they are.
    """
    effects, common, _ = site_effects(data, rows, (x.numpy() for x in scans))
    average = common + effects
    share = np.mean([(x > 0).numpy() for x in scans], axis=0)
    brain = share > LEAST_BRAIN_SHARE
    smooth = partial(gaussian_filter, sigma=(0, *[SPREAD_SMOOTHING_PIXELS] * 3))
    squares = (
        smooth(np.square(x.numpy() - average[s]) * brain)
        for x, s in zip(scans, condition_of(data, rows).site, strict=True)
    )
    effects, common, _ = site_effects(data, rows, squares)
    ratio = 1 + effects / np.maximum(common, 1e-8)
    spread = np.sqrt(np.clip(ratio, LARGEST_SPREAD**-2, LARGEST_SPREAD**2))
    return torch.from_numpy(np.where(brain, spread, 1))


def _curves(
    scans: Iterable[Tensor],
    data: SliceData,
    rows: np.ndarray,
    before: np.ndarray,
    effects_before: np.ndarray,
) -> Tensor:
    """Intensity quantiles of each site, and last the common ones, shape (S + 1, K).

    What rendering changes in the quantiles of a scan differs less between subjects than the
    quantiles themselves. So a site's part of the change is estimated from the few scans that are
    rendered, and its part of the quantiles before rendering, from all scans, is added.
    """
    levels = np.linspace(0, 1, LEVELS)
    after = np.stack([brain_quantiles(x.numpy(), levels) for x in scans])
    change, _, _ = site_effects(data, rows, [after - before])
    common = after.mean(axis=0)
    curves = np.concatenate([common + effects_before + change, common[None]])
    return torch.from_numpy(np.stack([rising(curve) for curve in curves]))


def _responses(scans: Scans) -> Tensor:
    """How much rougher scans along each axis (row) get per softening along each (column)."""

    def after(amount: Tensor) -> Tensor:
        rough = [roughness(soften(x, amount[None]), _interior(x)) for x in scans]
        return torch.cat(rough).mean(dim=0)

    tried = TRIED_AMOUNT * torch.eye(len(AXES))
    return torch.stack([(after(a) - after(-a)) / (2 * TRIED_AMOUNT) for a in tried], dim=1)
