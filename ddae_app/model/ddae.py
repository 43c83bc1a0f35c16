"""The Disentangled Diffusion Autoencoder: two encoders and a noise network."""

from __future__ import annotations

from torch import Tensor, nn

from ddae_app.model.diffusion import noise_schedule
from ddae_app.model.encoders import Condition, ConditionEncoder, SemanticEncoder
from ddae_app.model.presets import ModelConfig
from ddae_app.model.unet import UNet


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
    """

    alpha_bar: Tensor

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

    def encode(self, x_0: Tensor) -> Tensor:
        """``z_u = s_phi(x_0)``.

        Parameters
        ----------
        x_0 : torch.Tensor, shape (B, 1, H, W), range [-1, 1]

        Returns
        -------
        torch.Tensor, shape (B, z_u_dim)
        """
        return self.semantic(x_0)

    def embed(self, condition: Condition) -> Tensor:
        """``z_k = f_psi(c)``, shape (B, z_k_dim)."""
        return self.condition(condition)

    def forward(self, x_t: Tensor, t: Tensor, z_k: Tensor, z_u: Tensor) -> Tensor:
        """What ``config.prediction`` names, for noisy images.

        Parameters
        ----------
        x_t : torch.Tensor, shape (B, 1, H, W)
        t : torch.Tensor, shape (B,), int64, range [1, T]
        z_k : torch.Tensor, shape (B, z_k_dim)
        z_u : torch.Tensor, shape (B, z_u_dim)

        Returns
        -------
        torch.Tensor, shape (B, 1, H, W)
        """
        return self.unet(x_t, t, z_k, z_u)
