"""Site appearance: what a site does to all of its scans alike, measured and removed.

The appearance of a site has four parts: a contrast curve, the intensities at the edge of the
brain, and the average scan. :class:`SiteAppearance` takes scans to the intensity scale that all
sites share, and back to that of any site; :func:`fit_site_appearance` measures it in scans of
many subjects, :func:`measure_appearance` in a few scans of one site.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from ddae_app.imaging.intensities import CEILING
from ddae_app.imaging.noise import noise_sd
from ddae_app.methods.condition import batch_of, condition_of
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.config import CURVE_LEVELS, EDGE_PIXELS, ModelConfig
from ddae_app.methods.ddae.fields import Shape, from_knots, knot_shape, slices_from, to_knots
from ddae_app.methods.ddae.intensity import (
    at_depth,
    edge_depth,
    edge_means,
    map_intensities,
    rising,
    tissue_quantiles,
)
from ddae_app.methods.site_effects import Regression

log = logging.getLogger('ddae_app')

KNOTS = CURVE_LEVELS + 1
"""The curve's knots: these, and 0, which stays 0."""

DARKEST = 1e-4
"""Of the brain on the common scale."""

AVERAGE_SMOOTHING_PIXELS = 3.0
"""The site's part of an average is smooth; the part of its few subjects is not."""

ONE_SCAN_SMOOTHING = 1 / 8
"""The same, of the image's width, where the appearance is measured in one scan alone."""

MAX_SLICES_FOR_NOISE = 1000

BRAIN = 0.05
"""Where an average image exceeds this, there is brain."""


@dataclass(frozen=True)
class Appearance:
    """The appearance of the site of each scan of a batch.

    Attributes
    ----------
    curve : torch.Tensor, shape (B, K)
        Rising intensities, from 0; the k-th corresponds to the k-th of the common curve.
    edge : torch.Tensor, shape (B, EDGE_PIXELS)
        Mean intensity, in the common contrast, at each depth below the edge of the brain.
    average : torch.Tensor, shape (B, n, H, W)
        Average scan of the site, on the common scale, at the slices in question.
    """

    curve: Tensor
    edge: Tensor
    average: Tensor

    def equals(self, other: Appearance) -> Tensor:
        """Whether each row is the same in both, shape (B,), bool."""
        same = (self.curve == other.curve).all(dim=1)
        same &= (self.edge == other.edge).all(dim=1)
        return same & (self.average == other.average).flatten(1).all(dim=1)


def stack_appearances(rows: Sequence[Appearance]) -> Appearance:
    """The rows of several batches in one."""
    parts = zip(*((row.curve, row.edge, row.average) for row in rows), strict=True)
    return Appearance(*(torch.cat(part) for part in parts))


class SiteAppearance(nn.Module):
    """The appearance of each site, and of an unknown one.

    Parameters
    ----------
    shape : tuple of int
        ``(D, H, W)`` of a scan.
    n_sites : int

    Attributes
    ----------
    curve : torch.Tensor, shape (n_sites + 1, K)
        Contrast curve of each site, and last the common one, which is that of an unknown site;
        all are equal where ``config.site_curve`` is off.
    edge : torch.Tensor, shape (n_sites + 1, EDGE_PIXELS)
        Mean intensity of each site, in the common contrast, by the depth below the edge of the
        brain, and last of an unknown one; all are equal where ``config.site_edge`` is off.
    average : torch.Tensor, shape (D, H, W)
        Average scan of all sites on the common scale, brain in [0, 1]; 0.5 everywhere where
        ``config.site_average`` is off.
    effect : torch.Tensor, shape (n_sites + 1, d, h, w)
        What each site adds to the average, as knots (:mod:`ddae_app.methods.ddae.fields`); an
        unknown one, the last, adds nothing.
    deviation : torch.Tensor, shape ()
        Root mean square distance of images from their average; 0.5 where it is off.
    noise : torch.Tensor, shape (n_sites + 1,)
        Standard deviation of the noise in the images of each site, on the common scale; 0 where
        ``config.noise_corrected`` is off.
    """

    curve: Tensor
    edge: Tensor
    average: Tensor
    effect: Tensor
    deviation: Tensor
    noise: Tensor

    def __init__(self, shape: Shape, n_sites: int) -> None:
        super().__init__()
        self.shape = shape
        curve = torch.linspace(0, 1, KNOTS, device='cpu').repeat(n_sites + 1, 1)
        self.register_buffer('curve', curve)
        self.register_buffer('edge', torch.zeros(n_sites + 1, EDGE_PIXELS))
        self.register_buffer('average', torch.full(shape, 0.5))
        self.register_buffer('effect', torch.zeros(n_sites + 1, *knot_shape(shape)))
        self.register_buffer('deviation', torch.tensor(0.5))
        self.register_buffer('noise', torch.zeros(n_sites + 1))

    def forward(self, site: Tensor, position: Tensor, n: int = 1) -> Appearance:
        """The appearance of some sites.

        Parameters
        ----------
        site : torch.Tensor, shape (B,), int64
            Index of each site; -1 for an unknown one.
        position : torch.Tensor, shape (B,), int64
            First slice.
        n : int
            Slices from there on.
        """
        average = self.average_at(position, n)
        effect = from_knots(self.effect[site], position, n, self.shape)
        average = torch.where(average > 0, (average + effect).clamp(min=0), 0)
        return Appearance(self.curve[site], self.edge[site], average)

    def average_at(self, position: Tensor, n: int = 1) -> Tensor:
        """The average scan of all sites at `n` slices from each position on, (B, n, H, W)."""
        return self.average[slices_from(position, n).clamp(0, len(self.average) - 1)]

    def to_common(self, x: Tensor, appearance: Appearance) -> Tensor:
        """Scans on the intensity scale that all sites share.

        Parameters
        ----------
        x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        appearance : Appearance
            Of the scans.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W), range [0, 1]
            0 where ``x`` is 0, and nowhere else.
        """
        common = map_intensities(x, appearance.curve, self.curve[-1:].expand_as(appearance.curve))
        depth = edge_depth(x)
        common = common + at_depth(self.edge[-1:] - appearance.edge, depth)
        # The brain stays where it is, since its edge is measured again later.
        return torch.where(depth > 0, common.clamp(min=DARKEST), 0)

    def from_common(self, common: Tensor, appearance: Appearance, depth: Tensor) -> Tensor:
        """Scans of an appearance from the common scale: the inverse of :meth:`to_common`.

        Parameters
        ----------
        common : torch.Tensor, shape (B, n, H, W)
        appearance : Appearance
        depth : torch.Tensor, shape (B, n, H, W)
            Of the pixels, as :func:`~ddae_app.methods.ddae.intensity.edge_depth` measures it.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            Not negative.
        """
        common = (common + at_depth(appearance.edge - self.edge[-1:], depth)).clamp(min=0)
        return map_intensities(
            common, self.curve[-1:].expand_as(appearance.curve), appearance.curve
        )

    def normalize(self, common: Tensor, appearance: Appearance) -> Tensor:
        """Scans on the common scale as the noise network takes them.

        Parameters
        ----------
        common : torch.Tensor, shape (B, n, H, W), range [0, 1]
        appearance : Appearance

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            Deviations from the average of the site, of about unit variance in the brain.
        """
        return (common - appearance.average) / self.deviation

    def restore(self, x_0: Tensor, appearance: Appearance, depth: Tensor) -> Tensor:
        """Scans of an appearance from deviations: undoes :meth:`normalize` and :meth:`to_common`.

        Parameters as :meth:`normalize` returns and :meth:`from_common` takes them.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            Not negative.
        """
        return self.from_common(x_0 * self.deviation + appearance.average, appearance, depth)

    def common_scans(self, data: SliceData, rows: np.ndarray) -> np.ndarray:
        """Scans of known sites on the common scale, shape (N, D, H, W)."""
        condition = condition_of(data, rows).to(self.curve.device)
        appearance = self(condition.site, condition.position, data.depth)
        return self.to_common(batch_of(data, rows).to(self.curve.device), appearance).cpu().numpy()


def fit_site_appearance(
    config: ModelConfig,
    data: SliceData,
    rows: np.ndarray,
    reference: SiteAppearance | None = None,
    device: torch.device | str = 'cpu',
    regression: Regression | None = None,
) -> SiteAppearance:
    """Measure the appearance of each site, at equal age and sex.

    As in ComBat (Johnson et al. 2007), a site is separated from its subjects by regression on
    site, age, age squared and sex. First come the intensity quantiles of each scan: those of a
    site, at the average age and sex, against those of all sites are its contrast curve. Then, in
    the common contrast, comes the mean at each depth below the edge of the brain; last, on the
    common scale, every pixel, of which the part that a site adds is smoothed. All are shrunk
    (James and Stein 1961) by the part that chance alone would make, so that a site of few
    subjects stays close to the common appearance.

    Parameters
    ----------
    config : ModelConfig
        ``site_curve``, ``site_edge``, ``site_average`` and ``noise_corrected`` say what to
        measure.
    data : SliceData
    rows : np.ndarray of int
        The scans to use.
    reference : SiteAppearance, optional
        Whose common scale to keep: that of the sites that a network was trained on, where it is
        to be used unchanged for the scans of other sites. Without it, that of these sites is
        measured.
    device : torch.device
    regression : Regression, optional
        Of these rows, where scans that were measured before take part in it.

    Returns
    -------
    SiteAppearance
        Of the sites of the regression, in their order: ``data.site_names``, and those that were
        measured before, of which the noise is left at 0.
    """
    regression = regression or Regression(data, rows)
    shape = data.depth, *data.images.shape[2:]
    new = SiteAppearance(shape, len(regression.sites)).to(device)
    if reference is not None:
        for name in ('average', 'deviation'):
            getattr(new, name).copy_(getattr(reference, name))
    chunks = data.chunks(rows)
    if config.site_curve:
        quantiles = [
            tissue_quantiles(batch_of(data, some).numpy(), CURVE_LEVELS) for some in chunks
        ]
        effects, common, _ = regression.effects('quantiles', [np.concatenate(quantiles)])
        curves = np.concatenate([common + effects, common[None]])
        new.curve.copy_(torch.from_numpy(np.stack([rising(curve) for curve in curves])))
        if reference is not None:
            new.curve[-1] = reference.curve[-1]
    if config.site_edge:
        means = [edge_means(new.common_scans(data, some)) for some in chunks]
        effects, common, _ = regression.effects('edge', [np.concatenate(means)])
        new.edge.copy_(torch.from_numpy(np.concatenate([common + effects, common[None]])))
        if reference is not None:
            new.edge[-1] = reference.edge[-1]
    if config.site_average:
        scans = (new.common_scans(data, some) for some in chunks)
        if reference is None:
            added, common, variance = regression.effects('average', scans)
            new.average.copy_(torch.from_numpy(common))
            brain = common > BRAIN
            deviation = float(np.sqrt(variance[brain].mean())) if brain.any() else 0.0
            new.deviation.fill_(max(deviation, 1e-2))
            knots = _smooth_knots(added)
        else:
            average = reference.average.cpu().numpy()
            added, common, _ = regression.effects(
                'average', (_spectra(_smooth_knots(some - average)) for some in scans)
            )
            knots = _from_spectra(common + added)
        new.effect[:-1] = torch.from_numpy(knots).to(new.effect)
    if config.noise_corrected:
        _measure_noise(new, data, rows)
    return new


def _smooth_knots(effects: np.ndarray) -> np.ndarray:
    smooth = np.stack([gaussian_filter(x, AVERAGE_SMOOTHING_PIXELS) for x in effects])
    return to_knots(torch.from_numpy(smooth)).numpy()


def _spectra(fields: np.ndarray) -> np.ndarray:
    """Of (N, d, h, w) fields, a discrete cosine transform each: coarse and fine are apart."""
    return dctn(fields, axes=(1, 2, 3), norm='ortho')


def _from_spectra(spectra: np.ndarray) -> np.ndarray:
    """Undoes :func:`_spectra`."""
    return idctn(spectra, axes=(1, 2, 3), norm='ortho')


def _measure_noise(appearance: SiteAppearance, data: SliceData, rows: np.ndarray) -> None:
    """The median noise of the scans of each site, on the common scale."""
    sites = np.array(data.sites)[rows]
    for i, site in enumerate(data.site_names):
        some = rows[sites == site][: math.ceil(MAX_SLICES_FOR_NOISE / data.depth)]
        noise = [
            noise_sd(scan)
            for few in data.chunks(some)
            for scan in appearance.common_scans(data, few)
        ]
        if np.isnan(noise).all():
            log.warning(
                'the noise of site %s could not be measured, because its scans show too little '
                'brain; it is taken as 0', site,
            )  # fmt: skip
        else:
            appearance.noise[i] = float(np.nanmedian(noise))


def measure_appearance(
    config: ModelConfig, appearance: SiteAppearance, images: np.ndarray, subjects: int
) -> Appearance:
    """The appearance of a site that the model does not know, from some scans of it.

    The curve follows from the mean of their quantiles, and the average from their mean on the
    common scale, smoothed the more the fewer they are. Differences between their subjects and
    those of the training sites are attributed to the site: one scan alone loses its own overall
    contrast.

    Parameters
    ----------
    config : ModelConfig
        Says what to measure.
    appearance : SiteAppearance
        Of the sites that the model knows.
    images : np.ndarray, shape (N, D, H, W), range [0, 1]
        0 outside the brain. They are clipped to ``CEILING``.
    subjects : int
        Number of subjects among the images.

    Returns
    -------
    Appearance
        Of one row.
    """
    device = appearance.curve.device
    images = np.clip(images, 0, CEILING)  # as in training, see batch_of
    unknown = appearance(
        torch.tensor([-1], device=device), torch.tensor([0], device=device), images.shape[1]
    )
    if config.site_curve:
        curve = rising(tissue_quantiles(images, CURVE_LEVELS).mean(axis=0))
        unknown = replace(unknown, curve=torch.from_numpy(curve).to(device)[None])
    scans = [torch.from_numpy(x)[None].to(device) for x in images]
    if config.site_edge:
        means = [edge_means(appearance.to_common(x, unknown).cpu().numpy()) for x in scans]
        edge = np.concatenate(means).mean(axis=0, keepdims=True)
        unknown = replace(unknown, edge=torch.from_numpy(edge).to(unknown.edge))
    if not config.site_average:
        return unknown
    total = torch.zeros_like(scans[0])
    for x in scans:
        total += appearance.to_common(x, unknown)
    mean = (total / len(scans))[0].cpu().numpy()
    null = unknown.average[0].cpu().numpy()
    brain = ((mean > BRAIN) & (null > BRAIN)).astype(np.float64)
    sigma = max(ONE_SCAN_SMOOTHING * mean.shape[-1] / subjects**0.5, AVERAGE_SMOOTHING_PIXELS)
    weight = np.maximum(gaussian_filter(brain, sigma), 1e-3)
    effect = gaussian_filter((mean - null) * brain, sigma) / weight
    average = np.maximum(null + np.where(null > 0, effect, 0), 0).astype(np.float32)
    return replace(unknown, average=torch.from_numpy(average).to(device)[None])
