"""The Disentangled Diffusion Autoencoder: two encoders and a noise network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddae_app.methods.ddae.appearance import (
    EDGE_PIXELS,
    KNOTS,
    RENDERED_KNOTS,
    Look,
    at_depth,
    edge_depth,
    map_intensities,
)
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.editing import noise_schedule
from ddae_app.methods.ddae.encoders import Condition, ConditionEncoder, SemanticEncoder
from ddae_app.methods.ddae.fields import from_knots, knot_shape, slices_from
from ddae_app.methods.ddae.unet import UNet

DARKEST = 1e-4
"""Of the brain on the common scale."""


class DDAE(nn.Module):
    """``z_u = s_phi(x_0)``, ``z_k = f_psi(c)`` and ``eps_theta(x_t, t, z_k, z_u)``.

    Letters as in Ijishakin, Lawry Aguila et al. 2024 (arXiv 2408.15890); the layers are
    reconstructed, not stated in the paper.

    Parameters
    ----------
    config : ModelConfig
    n_sites : int
        Sites that have a code of their own.
    age_mean, age_sd : float
        Years, of the training images.

    Attributes
    ----------
    alpha_bar : torch.Tensor, shape (T + 1,)
        The noise schedule; follows from ``config``, so it is not among the weights.
    curve : torch.Tensor, shape (n_sites + 1, K)
        Contrast curve of each site, and last the common one, which is that of an unknown site;
        all are equal where ``config.site_curve`` is off.
    edge : torch.Tensor, shape (n_sites + 1, EDGE_PIXELS)
        Mean intensity of each site, in its curve's common contrast, by the depth below the edge
        of the brain, and last of an unknown one; all are equal where ``config.site_edge`` is off.
    average : torch.Tensor, shape (D, H, W)
        Average scan of all sites on the common scale, brain in [0, 1]; 0.5 everywhere where
        ``config.site_average`` is off.
    effect : torch.Tensor, shape (n_sites + 1, d, h, w)
        What each site adds to it, as knots (:mod:`ddae_app.methods.ddae.fields`); an unknown one,
        the last, adds nothing.
    deviation : torch.Tensor, shape ()
        Root mean square distance of images from these; 0.5 where it is off.
    white : torch.Tensor, shape (D, H, W)
        Usual intensity of white matter once rendered, on the common scale, where it is usually
        found; 0 elsewhere, and everywhere before it is measured.
    white_level : torch.Tensor, shape ()
        What is brighter may be white matter.
    spread : torch.Tensor, shape (n_sites + 1, d, h, w)
        How much further each site's images then are from the average than those of all sites, as
        knots; 1 before it is measured.
    rendered : torch.Tensor, shape (n_sites + 1, K)
        Intensity quantiles, on the common scale, of each site's images once they are rendered as
        of an unknown site; all are equal before they are measured.
    softness : torch.Tensor, shape (n_sites + 1, 3)
        How much softer each site's images then are than those of all sites, as
        :func:`ddae_app.methods.ddae.sharpness.soften` takes it.
    noise : torch.Tensor, shape (n_sites + 1,)
        Standard deviation of the noise in the training images of each site, on the common scale;
        0 where ``config.noise_corrected`` is off.
    """

    alpha_bar: Tensor
    curve: Tensor
    edge: Tensor
    average: Tensor
    effect: Tensor
    deviation: Tensor
    white: Tensor
    white_level: Tensor
    spread: Tensor
    rendered: Tensor
    softness: Tensor
    noise: Tensor

    def __init__(
        self, config: ModelConfig, n_sites: int, age_mean: float = 0.0, age_sd: float = 1.0
    ) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config)
        self.semantic = SemanticEncoder(config)
        self.condition = ConditionEncoder(config, n_sites, age_mean, age_sd)
        schedule = noise_schedule(config.schedule, config.timesteps)
        self.register_buffer('alpha_bar', schedule, persistent=False)
        shape = config.depth, config.image_size, config.image_size
        knots = knot_shape(shape)
        self.register_buffer('curve', torch.linspace(0, 1, KNOTS).repeat(n_sites + 1, 1))
        self.register_buffer('edge', torch.zeros(n_sites + 1, EDGE_PIXELS))
        self.register_buffer('average', torch.full(shape, 0.5))
        self.register_buffer('effect', torch.zeros(n_sites + 1, *knots))
        self.register_buffer('deviation', torch.tensor(0.5))
        self.register_buffer('white', torch.zeros(shape))
        self.register_buffer('white_level', torch.tensor(0.0))
        self.register_buffer('spread', torch.ones(n_sites + 1, *knots))
        rendered = torch.linspace(0, 1, RENDERED_KNOTS).repeat(n_sites + 1, 1)
        self.register_buffer('rendered', rendered)
        self.register_buffer('softness', torch.zeros(n_sites + 1, 3))
        self.register_buffer('noise', torch.zeros(n_sites + 1))

    def look(self, condition: Condition, n: int = 1) -> Look:
        """How the sites of scans look, at `n` slices from each position on."""
        site, position = condition.site, condition.position
        average = self.average_at(position, n)
        effect = from_knots(self.effect[site], position, n, self._shape)
        average = torch.where(average > 0, (average + effect).clamp(min=0), 0)
        return Look(self.curve[site], self.edge[site], average)

    def average_at(self, position: Tensor, n: int = 1) -> Tensor:
        """The average scan of all sites at some slices, shape (B, n, H, W)."""
        return self.average[slices_from(position, n).clamp(0, len(self.average) - 1)]

    @property
    def _shape(self) -> tuple[int, int, int]:
        depth, height, width = self.average.shape
        return depth, height, width

    def to_common(self, x: Tensor, look: Look) -> Tensor:
        """Images of some look on the intensity scale that all sites share.

        Parameters
        ----------
        x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        look : Look

        Returns
        -------
        torch.Tensor, shape (B, n, H, W), range [0, 1]
            0 where ``x`` is 0, and nowhere else.
        """
        common = map_intensities(x, look.curve, self.curve[-1:].expand_as(look.curve))
        depth = edge_depth(x)
        common = common + at_depth(self.edge[-1:] - look.edge, depth)
        # The brain stays where it is, for its edge is looked for again.
        return torch.where(depth > 0, common.clamp(min=DARKEST), 0)

    def normalise(self, common: Tensor, look: Look) -> Tensor:
        """Images on the common scale as the networks see them.

        Parameters
        ----------
        common : torch.Tensor, shape (B, n, H, W), range [0, 1]
        look : Look

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            Deviations from the average of the site, of about unit variance in the brain.
        """
        return (common - look.average) / self.deviation

    def restore(self, x_0: Tensor, look: Look, depth: Tensor) -> Tensor:
        """Deviations as images of some look: :meth:`normalise` and :meth:`to_common` undone.

        Parameters as :meth:`normalise` returns and :meth:`from_common` takes them.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            Not negative.
        """
        return self.from_common(x_0 * self.deviation + look.average, look, depth)

    def from_common(self, common: Tensor, look: Look, depth: Tensor) -> Tensor:
        """:meth:`to_common` undone.

        Parameters
        ----------
        common : torch.Tensor, shape (B, n, H, W)
        look : Look
        depth : torch.Tensor, shape (B, n, H, W)
            Of the pixels, as :func:`~ddae_app.methods.ddae.appearance.edge_depth` tells it.

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            Not negative.
        """
        common = (common + at_depth(look.edge - self.edge[-1:], depth)).clamp(min=0)
        return map_intensities(common, self.curve[-1:].expand_as(look.curve), look.curve)

    def respread(self, common: Tensor, source: Condition, target: Condition) -> Tensor:
        """Scans as far from the average as those of the target site.

        Parameters
        ----------
        common : torch.Tensor, shape (B, n, H, W)
            On the common scale; 0 outside the brain.
        source, target : Condition

        Returns
        -------
        torch.Tensor, shape (B, n, H, W)
            0 where ``common`` is 0, and nowhere else.
        """
        position, n = source.position, common.shape[1]
        average = self.average_at(position, n)
        ratio = self.spread[target.site] / self.spread[source.site]
        moved = average + (common - average) * from_knots(ratio, position, n, self._shape)
        return torch.where(common > 0, moved.clamp(min=DARKEST), 0)

    def encode(self, common: Tensor, position: Tensor) -> Tensor:
        """``z_u = s_phi(x)``; the site, which it must not tell, plays no part in what it sees.

        Parameters
        ----------
        common : torch.Tensor, shape (B, 1, H, W), range [0, 1]
            Slices on the common scale.
        position : torch.Tensor, shape (B,), int64
            Of each, in its scan.

        Returns
        -------
        torch.Tensor, shape (B, z_u_dim)
        """
        return self.semantic((common - self.average_at(position)) / self.deviation)

    def neighbours(self, depth: Tensor, n: int) -> Tensor:
        """Which of `n` slices the noise network sees for each, shape (M, 2 k + 1), itself amid.

        Beyond either end it sees the last one again.
        """
        k = self.config.context
        return (depth[:, None] + torch.arange(-k, k + 1, device=depth.device)).clamp(0, n - 1)

    def embed(self, condition: Condition) -> Tensor:
        """``z_k = f_psi(c)``, shape (B, z_k_dim)."""
        return self.condition(condition)

    def forward(self, x_t: Tensor, t: Tensor, z_k: Tensor, z_u: Tensor) -> Tensor:
        """What ``config.prediction`` names, for noisy slices.

        Parameters
        ----------
        x_t : torch.Tensor, shape (B, 2 k + 1, H, W)
            The slice amid its ``k = config.context`` neighbours on either side.
        t : torch.Tensor, shape (B,), int64, range [1, T]
        z_k : torch.Tensor, shape (B, z_k_dim)
        z_u : torch.Tensor, shape (B, z_u_dim)

        Returns
        -------
        torch.Tensor, shape (B, 1, H, W)
        """
        return self.unet(x_t, t, z_k, z_u)
