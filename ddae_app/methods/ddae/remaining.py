"""Remaining contrast: what all steps together leave of a site, from its outputs at each target.

The residual correction takes each site to an unknown one, and from there to the target. In theory
that is enough. In fact, sharpening does not quite undo softening, a curve that holds for the mean
of some quantiles does not hold for each scan, and much of what the common scale leaves of a site
is taken for chance. So the intensity quantiles of the outputs are compared once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ddae_app.imaging.intensities import CEILING
from ddae_app.imaging.similarity import brain_quantiles
from ddae_app.methods.base import DARKEST
from ddae_app.methods.condition import Condition
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import SiteAppearance
from ddae_app.methods.ddae.intensity import edge_depth, map_intensities, rising
from ddae_app.methods.ddae.residuals import KNOTS, QUANTILE_LEVELS, ResidualCorrection
from ddae_app.methods.double_sampling import effects_by_value

Rendered = tuple[Tensor, Condition]
"""Scans of some sites, shape (B, D, H, W), after they were rendered as of an unknown site without
residual correction, and the condition of their sources."""


class RemainingContrast(nn.Module):
    """A contrast curve for each pair of sites.

    Parameters
    ----------
    n_sites : int

    Attributes
    ----------
    quantiles : torch.Tensor, shape (n_sites + 1, n_sites + 1, K)
        Intensity quantiles of the outputs at each target (first axis) from each source; the last
        site is an unknown one. Those from a source that is not measured at a target are those
        that the target has itself.
    """

    quantiles: Tensor

    def __init__(self, n_sites: int) -> None:
        super().__init__()
        even = torch.linspace(0, 1, KNOTS, device='cpu')
        self.register_buffer('quantiles', even.repeat(n_sites + 1, n_sites + 1, 1))

    def forward(self, y: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Outputs in the contrast of the target's own.

        Parameters
        ----------
        y : torch.Tensor, shape (B, n, H, W)
            0 outside the brain.
        source, target : torch.Tensor, shape (B,), int64
            Index of each site; -1 for an unknown one.
        """
        given, wanted = self.quantiles[target, source], self.quantiles[target, target]
        same = (given == wanted).all(dim=1)[:, None, None, None]
        return torch.where(same, y, map_intensities(y, given, wanted))


@torch.inference_mode()
def fit_remaining_contrast(
    appearance: SiteAppearance,
    residuals: ResidualCorrection,
    data: SliceData,
    rows: np.ndarray,
    before: np.ndarray,
    chosen: np.ndarray,
    rendered: Sequence[Rendered],
) -> RemainingContrast:
    """Measure what is left of each site in its outputs.

    At a target whose own scans are not among these, it is not known what outputs should be like:
    there, the sources are made alike.

    Parameters
    ----------
    appearance : SiteAppearance
        Of the sites ``data.site_names``, and then any others.
    residuals : ResidualCorrection
        Of the same sites.
    data : SliceData
    rows : np.ndarray of int, length N
        The scans to use.
    before : np.ndarray, shape (N, K)
        Their intensity quantiles before they are rendered, on the common scale.
    chosen : np.ndarray of int, length M
        Which of the rows are rendered.
    rendered : sequence
        Of these, in their order.
    """
    own, n_sites = len(data.site_names), len(appearance.curve) - 1
    new = RemainingContrast(n_sites).to(appearance.curve.device)
    parts = [
        [
            [brain_quantiles(output, QUANTILE_LEVELS) for output in outputs]
            for outputs in _outputs(appearance, residuals, y, condition)
        ]
        for y, condition in rendered
    ]
    for target, found in enumerate(np.concatenate(parts, axis=1)):
        effects = effects_by_value(data, rows[chosen], found, rows, before)
        mean = found.mean(axis=0)
        itself = mean + effects[target] if target < own else mean
        new.quantiles[target] = torch.from_numpy(rising(itself))
        for source in range(own):
            new.quantiles[target, source] = torch.from_numpy(rising(mean + effects[source]))
    return new


def _outputs(
    sites: SiteAppearance, residuals: ResidualCorrection, y: Tensor, source: Condition
) -> Iterator[np.ndarray]:
    """What :func:`ddae_app.methods.ddae.render.render` makes of scans, but for their noise.

    At each target, of all sites of the appearance.
    """
    n, position, seen = y.shape[1], source.position, y.clamp(max=CEILING)
    common = sites.to_common(seen, sites(torch.full_like(source.site, -1), position, n))
    average, depth = sites.average_at(position, n), edge_depth(seen)
    common = residuals.unshaded(common, position)
    for target in range(len(sites.curve) - 1):
        index = torch.full_like(source.site, target)
        there = sites(index, position, n)
        corrected = residuals.of_target(common, average, position, source.site, index)
        corrected = torch.where(y > 0, corrected + there.average - average, 0)
        output = sites.from_common(corrected, there, depth)
        yield torch.where(y > 0, output.clamp(min=DARKEST), 0).cpu().numpy()
