"""The networks of the DDAE for features: ``s_phi``, ``f_psi`` and ``eps_theta``.

The same on a table and on the cortex, but that on the cortex, points have neighbors, and there are
coarser levels (convolutions on the icosahedral mesh: Zhao et al. 2019, doi
10.1007/978-3-030-20351-1_67).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddae_app.imaging.icosahedron import MeshLevel
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.encoders import ConditionEncoder
from ddae_app.methods.ddae.schedule import noise_level, noise_schedule
from ddae_app.methods.feature_ddae.geometry import Geometry

CONFIG = ModelConfig(
    z_u_dim=16, z_u_noise=0.5, age_dim=8, sex_dim=4, site_dim=8, schedule='cosine',
    prediction='v', times='lognormal', condition_dropout=0.1,
)  # fmt: skip
"""Of the latents and of the noise process; what concerns images is not used."""

CHANNELS, WIDE, CODE = 16, 32, 64
"""At the finest level and at the others, and of what modulates all of them."""

OWN = 8
"""Numbers that each feature of a table learns, in place of a place on the sphere."""

WAVES = 8


class FeatureNetworks(nn.Module):
    """``z_u = s_phi(x_0)``, ``z_k = f_psi(c)`` and what is noise in ``x_t``.

    Parameters
    ----------
    geometry : Geometry
        V points with H values each: features of a table, or vertices of both hemispheres.
    n_sites : int
    age_mean, age_sd : float
        Years, of the rows that they are trained on.

    Attributes
    ----------
    alpha_bar : torch.Tensor, shape (T + 1,)
        The noise schedule, which is not among the weights.
    """

    alpha_bar: Tensor

    def __init__(
        self, geometry: Geometry, n_sites: int, age_mean: float = 0.0, age_sd: float = 1.0
    ) -> None:
        super().__init__()
        self.config, self.n_sites = CONFIG, n_sites
        self.register_buffer(
            'alpha_bar', noise_schedule(CONFIG.schedule, CONFIG.timesteps), persistent=False
        )
        self.condition = ConditionEncoder(CONFIG, n_sites, age_mean, age_sd)
        points, values = geometry.points, geometry.values
        self.semantic = nn.Sequential(
            nn.Linear(points * values, 2 * CONFIG.z_u_dim),
            nn.SiLU(),
            nn.Linear(2 * CONFIG.z_u_dim, CONFIG.z_u_dim),
        )
        self.places: Tensor
        if geometry.places is None:
            self.places = nn.Parameter(0.1 * torch.randn(points, OWN, device='cpu'))
        else:
            places = torch.from_numpy(geometry.places.astype(np.float32))
            self.register_buffer('places', places, persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * WAVES, CODE), nn.SiLU(), nn.Linear(CODE, CODE))
        self.latents = nn.Linear(CONFIG.z_k_dim + CONFIG.z_u_dim, CODE)
        self.stem = nn.Linear(values + self.places.shape[1], CHANNELS)
        self.first = Block(CHANNELS)
        self.last = nn.ModuleList(Block(CHANNELS) for _ in range(2))
        self.levels = nn.ModuleList(
            Coarser(CHANNELS if i == 0 else WIDE, fine, coarse)
            for i, (fine, coarse) in enumerate(
                zip(geometry.levels, geometry.levels[1:], strict=False)
            )
        )
        self.head = nn.Linear(CHANNELS, values)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def encode(self, x_0: Tensor) -> Tensor:
        """``z_u``, shape (B, z_u_dim), of standardized features (B, 1, H, V)."""
        return nnf.layer_norm(self.semantic(x_0.flatten(1)), (self.config.z_u_dim,))

    def forward(self, x_t: Tensor, t: Tensor, z_k: Tensor, z_u: Tensor) -> Tensor:
        """``v`` of noisy features.

        Parameters
        ----------
        x_t : torch.Tensor, shape (B, 1, H, V)
        t : torch.Tensor, shape (B,), int64, range [1, T]
        z_k : torch.Tensor, shape (B, z_k_dim)
        z_u : torch.Tensor, shape (B, z_u_dim)

        Returns
        -------
        torch.Tensor, shape (B, 1, H, V)
        """
        level = noise_level(self.alpha_bar[t]).log()[:, None]
        angle = level * (0.5 * torch.arange(WAVES, device=level.device) + 0.25)
        code = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        code = nnf.silu(code + self.latents(torch.cat([z_k, z_u], dim=1)))
        points = x_t[:, 0].transpose(1, 2)
        places = self.places.expand(len(points), -1, -1)
        h = self.first(self.stem(torch.cat([points, places], dim=2)), code)
        h = self._through(h, code, 0)
        for block in self.last:
            h = block(h, code)
        return self.head(h).transpose(1, 2)[:, None]

    def _through(self, h: Tensor, code: Tensor, i: int) -> Tensor:
        """Down to the coarser levels from the i-th on, and up again."""
        if i == len(self.levels):
            return h
        level = self.levels[i]
        assert isinstance(level, Coarser)
        return h + level.up(self._through(level.down(h, code), code, i + 1))


class Block(nn.Module):
    """A residual block on points, or on the rings around them; the code modulates it.

    Parameters
    ----------
    channels : int
    rings : np.ndarray of int, shape (V, K), optional
        The points that a convolution sees; without, each sees itself alone.
    """

    rings: Tensor

    def __init__(self, channels: int, rings: np.ndarray | None = None) -> None:
        super().__init__()
        self.seen = 1 if rings is None else rings.shape[1]
        if rings is not None:
            self.register_buffer('rings', torch.from_numpy(rings.ravel()), persistent=False)
        self.norm = nn.LayerNorm(channels)
        self.gather = nn.Linear(self.seen * channels, channels)
        self.modulate = nn.Linear(CODE, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        """Features of points, shape (B, V, channels)."""
        seen = nnf.silu(self.norm(h))
        if self.seen > 1:
            seen = seen.index_select(1, self.rings).reshape(*h.shape[:2], -1)
        scale, shift = self.modulate(code)[:, None].chunk(2, dim=2)
        return h + self.out(nnf.silu(self.gather(seen) * (1 + scale) + shift))


class Coarser(nn.Module):
    """From a level of the mesh to the next coarser one, and back.

    Parameters
    ----------
    channels : int
        Of the finer level.
    fine, coarse : MeshLevel
    """

    rings: Tensor
    parents: Tensor

    def __init__(self, channels: int, fine: MeshLevel, coarse: MeshLevel) -> None:
        super().__init__()
        self.size = len(coarse.rings)
        rings = torch.from_numpy(fine.rings[: self.size].ravel())
        self.register_buffer('rings', rings, persistent=False)
        self.register_buffer('parents', torch.from_numpy(fine.parents), persistent=False)
        self.widen, self.narrow = nn.Linear(channels, WIDE), nn.Linear(WIDE, channels)
        self.block = Block(WIDE, coarse.rings)

    def down(self, h: Tensor, code: Tensor) -> Tensor:
        """The mean of each ring, after which neighbors are convolved."""
        rings = h.index_select(1, self.rings).reshape(len(h), self.size, -1, h.shape[2])
        return self.block(self.widen(rings.mean(dim=2)), code)

    def up(self, h: Tensor) -> Tensor:
        """A new vertex is the mean of the two between which it lies."""
        h = self.narrow(h)
        return torch.cat([h, h[:, self.parents].mean(dim=2)], dim=1)
