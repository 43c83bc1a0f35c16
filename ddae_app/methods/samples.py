"""What a model makes of some scans at every site, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.data import SliceData, make_condition
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render


@dataclass(frozen=True)
class Samples:
    """One scan of each site in every look.

    Attributes
    ----------
    sites : tuple of str, length S
    images : np.ndarray, shape (S, 2 + S, H, W), float32
        The scan; what the model takes for its clean self; and its renderings at each site.
    """

    sites: tuple[str, ...]
    images: np.ndarray


@torch.inference_mode()
def render_samples(model: DDAE, data: SliceData, rows: np.ndarray) -> Samples:
    """Render the middle slice of one scan of each site at all sites, age and sex untold.

    Parameters
    ----------
    model : DDAE
    data : SliceData
        Its ``site_names`` are the model's.
    rows : np.ndarray of int
        Images to choose from, those held out rather than those learnt from; a site without any
        shows one of all its images.
    """
    chosen, device = _one_of_each_site(data, rows), model.alpha_bar.device
    n = len(chosen)
    middle = np.full(n, data.depth // 2)
    x = data.batch(chosen, middle).to(device)

    def at(numbers: list[int]):
        return make_condition([np.nan] * n, [None] * n, numbers, middle).to(device)

    home = at(list(range(n)))
    columns = [x, render(model, x, home, home)]
    columns += [render(model, x, home, at([target] * n)) for target in range(n)]
    sheet = torch.cat(columns, dim=1)
    return Samples(data.site_names, sheet.cpu().numpy())


def transformed_samples(harmonizer: Harmonizer, data: SliceData) -> Samples:
    """What any harmoniser makes of one scan of each site; the second is what it is at home.

    Parameters
    ----------
    harmonizer : Harmonizer
        Fitted to the sites of `data`.
    data : SliceData
        Of single slices.
    """
    chosen = _one_of_each_site(data, np.arange(len(data)))
    scans, cohort = data.images[chosen, 0], cohort_of(data).iloc[chosen]
    at = [harmonizer.transform(scans, cohort, site) for site in data.site_names]
    home = np.stack([images[i] for i, images in enumerate(at)])
    return Samples(data.site_names, np.stack([scans, home, *at], axis=1))


def _one_of_each_site(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """The scans with most brain, among some rows where these hold one of the site."""
    sites, chosen = np.array(data.sites), []
    for site in data.site_names:
        own = rows[sites[rows] == site]
        own = own if len(own) else np.flatnonzero(sites == site)
        brain = [np.count_nonzero(data.images[row]) for row in own]
        chosen.append(own[np.argmax(brain)])
    return np.array(chosen)
