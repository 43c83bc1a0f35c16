"""The DDAE exactly as its paper describes it, for comparison in the quality benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.ddim import Denoiser, ddim_decode, ddim_invert, denoiser
from ddae_app.methods.condition import make_condition
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.intensity import edge_depth


@dataclass(frozen=True)
class Literal:
    """DDIM inversion at the source site and decoding at the target site, with all labels given.

    Attributes
    ----------
    trained : DDAEHarmonizer
    random : bool
        Whether decoding starts from random noise, so that ``z_u`` alone carries the image.
    steps : int
        Network evaluations in each direction.
    batch_size : int
    """

    trained: DDAEHarmonizer
    random: bool
    steps: int = 16
    batch_size: int = 16

    def transform(self, images, cohort, target_site) -> np.ndarray:
        assert self.trained.bundle is not None
        model, sites = self.trained.bundle.model, self.trained.sites
        generator, parts = torch.Generator().manual_seed(0), []
        for i in range(0, len(images), self.batch_size):
            rows = slice(i, i + self.batch_size)
            x = torch.from_numpy(images[rows])[:, None].clamp(0, 1)
            part = cohort.iloc[rows]
            labels = part['age'].to_numpy(), part['sex'].tolist()
            source = make_condition(*labels, [sites.index(s) for s in part['site']])
            target = make_condition(*labels, [sites.index(target_site)] * len(x))
            with torch.inference_mode():
                shared, appearance = model.appearance, model.appearance_of(source)
                common = shared.to_common(x, appearance)
                z_u = model.encode(common, source.position)
                at_source, at_target = (
                    within_range(denoiser(model, model.embed(c), z_u), model.alpha_bar)
                    for c in (source, target)
                )
                x_0 = shared.normalize(common, appearance)
                x_T = (
                    torch.randn(x.shape, generator=generator)
                    if self.random
                    else ddim_invert(at_source, x_0, model.alpha_bar, self.steps)
                )
                y = ddim_decode(at_target, x_T, model.alpha_bar, self.steps)
                y = shared.restore(y, model.appearance_of(target), edge_depth(x))
            parts.append(torch.where(x > 0, y.clamp(min=0), 0)[:, 0].numpy())
        return np.concatenate(parts)


def within_range(denoise: Denoiser, alpha_bar: torch.Tensor) -> Denoiser:
    """Clip clean images to [-1, 1], as Ho et al. 2020 do, since errors grow near pure noise."""

    def clipped(x_t: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        x_0 = denoise(x_t, t)[0].clamp(-1, 1)
        return x_0, (x_t - alpha_bar[t].sqrt() * x_0) / (1 - alpha_bar[t]).sqrt()

    return clipped
