"""The latents of a DDAE, and its reconstructions, for figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ddae_app.methods.condition import Condition, label_blind
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render

BATCH = 32


@torch.inference_mode()
def latents_of(
    harmonizer: DDAEHarmonizer, images: np.ndarray, sites: Sequence[str], given: Sequence[str]
) -> np.ndarray:
    """``[z_k, z_u]`` of medial slices, age and sex unknown.

    Parameters
    ----------
    harmonizer : DDAEHarmonizer
        With a model, of the medial slice or of whole scans.
    images : np.ndarray, shape (N, H, W), float32
    sites, given : sequence of str, length N
        Sites of the model: where each was acquired, and that of which ``z_k`` is.

    Returns
    -------
    np.ndarray, shape (N, z_k_dim + z_u_dim)
    """
    bundle = harmonizer.bundle
    assert bundle is not None
    model, latents = bundle.model, []
    for x, source, condition in _batches(model, bundle.info.sites, images, sites, given):
        common = model.appearance.to_common(x, model.appearance_of(source))
        z_u = model.encode(common, source.position)
        latents.append(torch.cat([model.embed(condition), z_u], 1).cpu().numpy())
    return np.concatenate(latents)


def reconstructed(
    harmonizer: DDAEHarmonizer, images: np.ndarray, sites: Sequence[str]
) -> np.ndarray:
    """Medial slices, shape (N, H, W), rendered at their own site."""
    bundle = harmonizer.bundle
    assert bundle is not None
    parts = _batches(bundle.model, bundle.info.sites, images, sites, sites)
    return np.concatenate(
        [render(bundle.model, x, home, home)[:, 0].cpu().numpy() for x, home, _ in parts]
    )


def _batches(
    model: DDAE,
    known: Sequence[str],
    images: np.ndarray,
    *sites: Sequence[str],
) -> list[tuple[torch.Tensor, Condition, Condition]]:
    """Slices, shape (B, 1, H, W), with their conditions at either of two sites."""
    batches = []
    for first in range(0, len(images), BATCH):
        rows = range(first, min(first + BATCH, len(images)))
        x = torch.from_numpy(images[rows.start : rows.stop, None]).to(model.device)
        middle = np.full(len(rows), model.config.depth // 2)
        source, given = (
            label_blind([known.index(of[i]) for i in rows], middle).to(model.device)
            for of in sites
        )
        batches.append((x, source, given))
    return batches
