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
from ddae_app.methods.ddae.config import EDGE_PIXELS, ModelConfig
from ddae_app.methods.ddae.fields import Shape, from_knots, knot_shape, to_knots
from ddae_app.methods.ddae.intensity import (
    edge_depth,
    map_intensities,
    rising,
    tissue_quantiles,
)
from ddae_app.methods.ddae.shading import remove_shading, usual_white
from ddae_app.methods.ddae.sharpness import AXES, roughness, soften
from ddae_app.methods.site_effects import Evidence, Regression, site_effects

log = logging.getLogger('ddae_app')

LEVELS = 65
"""Quantile levels of rendered scans, which have no noise that would blur their quantiles."""

KNOTS = LEVELS + 1
QUANTILE_LEVELS = np.linspace(0, 1, LEVELS)

MAX_SLICES = 2_800
"""In all, of equally many scans of each site; they are held in memory together."""

LEAST_SCANS = 3
"""Of each site, however many sites there are: one or two do not say how people differ."""

SPREAD_SMOOTHING_PIXELS = 1.5
LEAST_BRAIN_SHARE = 0.9
"""Of scans with brain at a pixel: elsewhere, they differ mostly in who has brain there."""

LARGEST_SPREAD = 2.0
"""From one site to another, and no less than its inverse."""

LARGEST_TO_ALL = 8.0
"""The same of one site to all, whose scans may be of other people."""

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
        knots (:mod:`ddae_app.methods.ddae.fields`); 1 where it is not measured.
    rendered : torch.Tensor, shape (n_sites + 1, K)
        Intensity quantiles, on the common scale, of the scans of each site after they have been
        rendered as of an unknown site; all are equal before they are measured.
    softness : torch.Tensor, shape (n_sites + 1, 3)
        How much softer the scans of each site are than those of all sites, as
        :func:`ddae_app.methods.ddae.sharpness.soften` takes it.
    variance : torch.Tensor, shape (d, h, w)
        Squared distance of scans from the average, as knots: what a spread of 1 means.
    rough : torch.Tensor, shape (3,)
        Roughness of scans, as :func:`ddae_app.methods.ddae.sharpness.roughness` measures it: what
        a softness of 0 means.
    """

    white: Tensor
    white_level: Tensor
    spread: Tensor
    rendered: Tensor
    softness: Tensor
    variance: Tensor
    rough: Tensor

    def __init__(self, shape: Shape, n_sites: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer('white', torch.zeros(shape))
        self.register_buffer('white_level', torch.tensor(0.0))
        self.register_buffer('spread', torch.ones(n_sites + 1, *knot_shape(shape)))
        rendered = torch.linspace(0, 1, KNOTS, device='cpu').repeat(n_sites + 1, 1)
        self.register_buffer('rendered', rendered)
        self.register_buffer('softness', torch.zeros(n_sites + 1, len(AXES)))
        self.register_buffer('variance', torch.zeros(knot_shape(shape)))
        self.register_buffer('rough', torch.zeros(len(AXES)))

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
        common = self.unshaded(common, position)
        return self.of_target(common, average, position, source, target)

    def unshaded(self, common: Tensor, position: Tensor) -> Tensor:
        """The first step of :meth:`forward`, which has nothing to do with any site."""
        if not self.white.any():
            return common
        return remove_shading(common, self.white, self.white_level, position)

    def of_target(
        self, common: Tensor, average: Tensor, position: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """All later steps of :meth:`forward`."""
        common = self.respread(common, average, position, source, target)
        # Contrast was measured in scans that are as sharp as those of an unknown site.
        sharp = soften(common, -self.softness[source])
        sharp = torch.where(common > 0, sharp.clamp(min=DARKEST), 0)
        mapped = map_intensities(sharp, self.rendered[source], self.rendered[target])
        softness = self.softness[target]
        change = soften(mapped, softness) - soften(sharp, softness)
        return soften(common, softness - self.softness[source]) + change

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
        ratio = ratio.clamp(1 / LARGEST_SPREAD, LARGEST_SPREAD)
        ratio = from_knots(ratio, position, common.shape[1], self.shape)
        moved = average + (common - average) * ratio
        return torch.where(common > 0, moved.clamp(min=DARKEST), 0)


def fit_residual_correction(
    config: ModelConfig,
    appearance: SiteAppearance,
    data: SliceData,
    rows: np.ndarray,
    render: Render,
    reference: ResidualCorrection | None = None,
    earlier: tuple[Evidence, Evidence] | None = None,
) -> tuple[ResidualCorrection, tuple[Evidence, Evidence, np.ndarray] | None]:
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
        Of the sites ``data.site_names``, and of those of `earlier`.
    data : SliceData
    rows : np.ndarray of int
        The scans to use, those that the site appearance was fitted to.
    render : callable
        Renders scans without any residual correction.
    reference : ResidualCorrection, optional
        Whose white matter, spread, roughness and contrast to take as those of an unknown site,
        where these were measured with the same networks; those of these scans without it.
    earlier : tuple of Evidence, optional
        What scans of other sites say of the contrast before rendering, and what rendered scans
        say. With it goes a `reference`.

    Returns
    -------
    ResidualCorrection
        Of the sites of the appearance. Spread and softness of those that were measured before are
        not among what is measured here.
    tuple of Evidence, Evidence and np.ndarray, or None
        As `earlier`, with these scans, and the intensity quantiles of each scan on the common
        scale, shape (N, LEVELS); None where nothing is measured.
    """
    shape = data.depth, *data.images.shape[2:]
    device = appearance.curve.device
    new = ResidualCorrection(shape, len(appearance.curve) - 1).to(device)
    if not config.site_curve or config.condition_dropout == 0:
        return new, None
    of_all = Regression(data, rows, earlier[0] if earlier else None)
    before = np.concatenate(
        [
            tissue_quantiles(appearance.common_scans(data, some), LEVELS)
            for some in data.chunks(rows)
        ]
    )
    added_before, usual_before, _ = of_all.effects('before', [before])
    chosen = evenly_by_site(data, rows)
    rows, of_chosen = rows[chosen], before[chosen]
    of_rendered = Regression(data, rows, earlier[1] if earlier else None)
    images = 'slices' if data.depth == 1 else 'scans'
    log.info('rendering %d %s to measure residual site effects', len(rows), images)
    scans = _rendered(appearance, data, rows, render)
    condition, own = condition_of(data, rows), len(data.site_names)
    if reference is None:
        white, level = usual_white(scans)
    else:
        white, level = reference.white.cpu(), reference.white_level.cpu()
    new.white.copy_(white)
    new.white_level.copy_(level)
    scans = [remove_shading(x, white, level, condition.position[:1]) for x in scans]
    if measures_spread(config):
        spread, variance = _spread(scans, data, rows, reference)
        new.spread[:own] = spread.to(new.spread)
        new.variance.copy_(variance)
        source, position = condition.site.to(device), condition.position.to(device)
        average = appearance.average_at(position[:1], data.depth)
        unknown = torch.full_like(source[:1], -1)
        scans = [
            new.respread(x.to(device), average, position[:1], source[i : i + 1], unknown).cpu()
            for i, x in enumerate(scans)
        ]
    responses = _responses(scans)
    softness = torch.zeros(own, len(AXES))

    def sharpened() -> Iterable[Tensor]:
        return (soften(x, -softness[s][None]) for x, s in zip(scans, condition.site, strict=True))

    def curves() -> Tensor:
        after = np.stack([brain_quantiles(x.numpy(), QUANTILE_LEVELS) for x in sharpened()])
        # What rendering changes in the quantiles of a scan differs less between subjects than the
        # quantiles themselves. So a site's part of the change is estimated from the few scans
        # that are rendered, and its part of the quantiles before, from all scans, is added.
        added, usual, _ = of_rendered.effects('change', [after - of_chosen])
        # Sites differ from an unknown one by what they add, and not by who was scanned there.
        known = reference.rendered[-1].cpu().numpy() if reference else None
        unknown = rising(usual_before + usual) if known is None else known
        of_sites = [rising(unknown[1:] + each) for each in added_before + added]
        return torch.from_numpy(np.stack([*of_sites, unknown]))

    for _ in range(ROUNDS):
        current = curves()
        rough = [
            roughness(map_intensities(x, current[s][None], current[-1:]), _interior(x))
            for x, s in zip(sharpened(), condition.site, strict=True)
        ]
        added, common, _ = of_rendered.effects('rough', [torch.cat(rough).numpy()])
        found = torch.from_numpy(np.stack([*(common + added[:own]), common])).float()
        usual = found[-1] if reference is None else reference.rough.cpu()
        step = (found[:own] - usual) @ torch.linalg.pinv(responses).T
        softness = (softness + step).clamp(-LARGEST_AMOUNT, LARGEST_AMOUNT)
    new.softness[:own] = softness.to(new.softness)
    new.rough.copy_(usual)
    new.rendered.copy_(curves())
    return new, (of_all.evidence(), of_rendered.evidence(), before)


def measures_spread(config: ModelConfig) -> bool:
    """Whether the spread of scans is measured: not of whole volumes.

    Of these, too few are rendered to know the spread at a voxel of a site.
    """
    return config.site_average and config.depth == 1


def evenly_by_site(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """Which of the rows to render: as many of each site as memory and time allow."""
    sites = np.array(data.sites)[rows]
    by_site = [np.flatnonzero(sites == site) for site in data.site_names if (sites == site).any()]
    most = max(LEAST_SCANS, MAX_SLICES // data.depth // len(by_site))
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


def _spread(
    scans: Scans, data: SliceData, rows: np.ndarray, reference: ResidualCorrection | None
) -> tuple[Tensor, Tensor]:
    """How much further from their average the scans of each site are, and the usual squares.

    The scale that belongs to the average as a location, as in ComBat (Johnson et al. 2007):
    squared distances, by regression on site, age, age squared and sex as well, because subjects
    differ more the older they are. Both as knots, (S, d, h, w) and (d, h, w).
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
    usual = to_knots(torch.from_numpy(common)[None])[0]
    if reference is not None:
        shape = common.shape
        first = torch.zeros(1, dtype=torch.int64)
        there = from_knots(reference.variance.cpu()[None], first, shape[0], shape)[0]
        effects = effects + common - there.numpy()
        usual, common = reference.variance.cpu(), there.numpy()
    ratio = 1 + effects / np.maximum(common, 1e-8)
    spread = np.sqrt(np.clip(ratio, LARGEST_TO_ALL**-2, LARGEST_TO_ALL**2))
    return to_knots(torch.from_numpy(np.where(brain, spread, 1))), usual


def _responses(scans: Scans) -> Tensor:
    """How much rougher scans along each axis (row) get per softening along each (column)."""

    def after(amount: Tensor) -> Tensor:
        rough = [roughness(soften(x, amount[None]), _interior(x)) for x in scans]
        return torch.cat(rough).mean(dim=0)

    tried = TRIED_AMOUNT * torch.eye(len(AXES))
    return torch.stack([(after(a) - after(-a)) / (2 * TRIED_AMOUNT) for a in tried], dim=1)
