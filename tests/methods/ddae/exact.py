"""The DDAE that would be learned from sites whose pixels are Gaussian, in closed form."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ddae_app.methods.ddae.appearance import Appearance
from ddae_app.methods.ddae.schedule import noise_schedule


class SameAppearance:
    """A site appearance that changes nothing."""

    deviation, noise = torch.tensor(1.0), torch.zeros(1)

    def to_common(self, x, appearance):
        return x

    def normalize(self, common, appearance):
        return common

    def restore(self, x_0, appearance, depth):
        return x_0


class ExactModel:
    """The exact denoiser of pixels that are distributed as N(mean, sd^2), each by itself.

    Parameters
    ----------
    means, sds : sequence of float
        Of each site.
    """

    config = SimpleNamespace(
        site_average=False, prediction='v', times='lognormal', condition_dropout=0.0,
        noise_corrected=True, z_u_dim=1, context=0,
    )  # fmt: skip
    appearance = SameAppearance()

    def __init__(self, means, sds):
        self.alpha_bar = noise_schedule('cosine', 1000)
        self.means, self.sds = torch.tensor(means), torch.tensor(sds)

    def appearance_of(self, condition, n=1):
        none = torch.zeros(len(condition), 1)
        return Appearance(none, none, none[:, :, None, None])

    def encode(self, common, position):
        return torch.zeros(len(common), 1)

    def embed(self, condition):
        return condition.site[:, None].float()

    def __call__(self, x_t, t, z_k, z_u):
        rows = z_k[:, 0].long()
        mean, sd = (v[rows][:, None, None, None] for v in (self.means, self.sds))
        a = self.alpha_bar[t][:, None, None, None]
        x_0 = mean + a.sqrt() * sd**2 * (x_t - a.sqrt() * mean) / (a * sd**2 + 1 - a)
        noise = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * x_0
