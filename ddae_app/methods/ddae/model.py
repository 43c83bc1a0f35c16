"""The Disentangled Diffusion Autoencoder: networks, site appearance and residual correction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddae_app.methods.condition import Condition
from ddae_app.methods.ddae.appearance import Appearance, SiteAppearance
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.encoders import ConditionEncoder, SemanticEncoder
from ddae_app.methods.ddae.evidence import StoredEvidence
from ddae_app.methods.ddae.remaining import RemainingContrast
from ddae_app.methods.ddae.residuals import ResidualCorrection
from ddae_app.methods.ddae.schedule import noise_schedule
from ddae_app.methods.ddae.unet import UNet


class Networks(nn.Module):
    """What is trained: ``s_phi``, ``f_psi`` and ``eps_theta``.

    Letters as in Ijishakin, Lawry Aguila et al. 2024 (arXiv 2408.15890); the layers are
    reconstructed, not stated in the paper.

    Parameters
    ----------
    config : ModelConfig
    n_sites : int
        Sites that have a code of their own.
    age_mean, age_sd : float
        Years, of the training scans.

    Attributes
    ----------
    alpha_bar : torch.Tensor, shape (T + 1,)
        The noise schedule; follows from ``config``, so it is not among the weights.
    """

    alpha_bar: Tensor

    def __init__(
        self, config: ModelConfig, n_sites: int, age_mean: float = 0.0, age_sd: float = 1.0
    ) -> None:
        super().__init__()
        self.config, self._n_sites = config, n_sites
        self.unet = UNet(config)
        self.semantic = SemanticEncoder(config)
        self.condition = ConditionEncoder(config, n_sites, age_mean, age_sd)
        schedule = noise_schedule(config.schedule, config.timesteps)
        self.register_buffer('alpha_bar', schedule, persistent=False)

    @property
    def n_sites(self) -> int:
        """Sites that have a code of their own."""
        return self._n_sites

    def for_sites(self, sites: Sequence[str], known: Sequence[str]) -> Networks:
        """A copy for other sites, on the same device.

        Parameters
        ----------
        sites : sequence of str
            Of the copy, in the order of their codes.
        known : sequence of str
            Those of these networks. A site of the same name keeps its code; one that is new gets
            that of an unknown site.
        """
        encoder = self.condition
        copy = Networks(self.config, len(sites), encoder.age_mean, encoder.age_sd)
        weights = self.state_dict()
        rows = [known.index(site) if site in known else -1 for site in sites]
        # The last row is that of an unknown site.
        weights['condition.site'] = weights['condition.site'][[*rows, -1]]
        copy.load_state_dict(weights)
        return copy.to(self.alpha_bar.device)


class DDAE(nn.Module):
    """``z_u = s_phi(x_0)``, ``z_k = f_psi(c)`` and ``eps_theta(x_t, t, z_k, z_u)``.

    The networks see deviations from the average scan of a site, on an intensity scale that all
    sites share; the site appearance takes scans there and back.

    Parameters
    ----------
    networks : Networks
    appearance : SiteAppearance, optional
    residuals : ResidualCorrection, optional
        Of the sites of the networks, in their order, like the appearance. Without them, all sites
        are the same.
    remaining : RemainingContrast, optional
        Likewise.
    evidence : StoredEvidence, optional
        What appearance and residual correction were measured from, for a later calibration.
    """

    def __init__(
        self,
        networks: Networks,
        appearance: SiteAppearance | None = None,
        residuals: ResidualCorrection | None = None,
        remaining: RemainingContrast | None = None,
        evidence: StoredEvidence | None = None,
    ) -> None:
        super().__init__()
        config = networks.config
        shape = config.depth, config.image_size, config.image_size
        self.networks = networks
        self.appearance = appearance or SiteAppearance(shape, networks.n_sites)
        self.residuals = residuals or ResidualCorrection(shape, networks.n_sites)
        self.remaining = remaining or RemainingContrast(networks.n_sites)
        self.evidence = evidence

    @property
    def config(self) -> ModelConfig:
        """Shape of the networks and of the noise process."""
        return self.networks.config

    @property
    def alpha_bar(self) -> Tensor:
        """The noise schedule, shape (T + 1,)."""
        return self.networks.alpha_bar

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.alpha_bar.device

    def appearance_of(self, condition: Condition, n: int = 1) -> Appearance:
        """The appearance of the sites of scans, at `n` slices from each position on."""
        return self.appearance(condition.site, condition.position, n)

    def encode(self, common: Tensor, position: Tensor) -> Tensor:
        """``z_u = s_phi(x)``; the site, which must not enter it, plays no part.

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
        average = self.appearance.average_at(position)
        return self.networks.semantic((common - average) / self.appearance.deviation)

    def embed(self, condition: Condition) -> Tensor:
        """``z_k = f_psi(c)``, shape (B, z_k_dim)."""
        return self.networks.condition(condition)

    def forward(self, x_t: Tensor, t: Tensor, z_k: Tensor, z_u: Tensor) -> Tensor:
        """What ``config.prediction`` names, for noisy slices.

        Parameters
        ----------
        x_t : torch.Tensor, shape (B, 2 k + 1, H, W)
            The slice between its ``k = config.context`` neighbors on either side.
        t : torch.Tensor, shape (B,), int64, range [1, T]
        z_k : torch.Tensor, shape (B, z_k_dim)
        z_u : torch.Tensor, shape (B, z_u_dim)

        Returns
        -------
        torch.Tensor, shape (B, 1, H, W)
        """
        return self.networks.unet(x_t, t, z_k, z_u)

    def noise_in(self, condition: Condition) -> Tensor:
        """Standard deviation of the noise in normalized scans of each site, shape (B,)."""
        return self.appearance.noise[condition.site] / self.appearance.deviation
