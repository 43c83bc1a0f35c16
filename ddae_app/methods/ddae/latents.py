"""What a DDAE makes of scans inside, to be looked at: codes, and the scans themselves again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ddae_app.methods.data import make_condition
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render

BATCH = 32


@torch.inference_mode()
def latent_codes(
    harmonizer: DDAEHarmonizer, images: np.ndarray, sites: Sequence[str], told: Sequence[str]
) -> np.ndarray:
    """``[z_k, z_u]`` of medial slices: ``z_k`` of the sites told, age and sex untold.

    Parameters
    ----------
    harmonizer : DDAEHarmonizer
        With a model, of the medial slice or of whole scans.
    images : np.ndarray, shape (N, H, W), float32
    sites, told : sequence of str, length N
        Sites of the model: where each was acquired, and where it is said to be from.

    Returns
    -------
    np.ndarray, shape (N, z_k_dim + z_u_dim)
    """
    bundle = harmonizer.bundle
    assert bundle is not None
    model, found = bundle.model, []
    for x, home, claimed in _batches(model, bundle.info.sites, images, sites, told):
        z_u = model.encode(model.to_common(x, model.look(home)), home.position)
        found.append(torch.cat([model.embed(claimed), z_u], 1).cpu().numpy())
    return np.concatenate(found)


def reconstructed(
    harmonizer: DDAEHarmonizer, images: np.ndarray, sites: Sequence[str]
) -> np.ndarray:
    """Medial slices, shape (N, H, W), rendered at the site that they come from."""
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
    sites: Sequence[str],
    told: Sequence[str],
) -> list[tuple[torch.Tensor, Condition, Condition]]:
    """Slices, shape (B, 1, H, W), with what they are and what they are said to be."""
    device, batches = model.alpha_bar.device, []
    for first in range(0, len(images), BATCH):
        rows = range(first, min(first + BATCH, len(images)))
        x = torch.from_numpy(images[rows.start : rows.stop, None]).to(device)
        middle = np.full(len(rows), model.config.depth // 2)
        home, claimed = (
            make_condition(
                [np.nan] * len(rows),
                [None] * len(rows),
                [known.index(of[i]) for i in rows],
                middle,
            ).to(device)
            for of in (sites, told)
        )
        batches.append((x, home, claimed))
    return batches
