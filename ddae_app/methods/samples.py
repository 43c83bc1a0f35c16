"""One scan of each site as a model renders it at every site, for a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.data import SliceData


@dataclass(frozen=True)
class Samples:
    """One scan of each site, rendered at every site.

    Attributes
    ----------
    sites : tuple of str, length S
    images : np.ndarray, shape (S, 2 + S, H, W), float32
        The scan, its rendering at its own site, and its renderings at each site.
    """

    sites: tuple[str, ...]
    images: np.ndarray


def transformed_samples(harmonizer: Harmonizer, data: SliceData) -> Samples:
    """Samples of any harmonizer.

    Parameters
    ----------
    harmonizer : Harmonizer
        Fitted to the sites of `data`.
    data : SliceData
        Of single slices.
    """
    chosen = one_of_each_site(data, np.arange(len(data)))
    scans, cohort = data.images[chosen, 0], cohort_of(data).iloc[chosen]
    at = [harmonizer.transform(scans, cohort, site) for site in data.site_names]
    home = np.stack([images[i] for i, images in enumerate(at)])
    return Samples(data.site_names, np.stack([scans, home, *at], axis=1))


def one_of_each_site(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """The scan of each site with most brain, among some rows where these hold one of the site."""
    sites, chosen = np.array(data.sites), []
    for site in data.site_names:
        candidates = rows[sites[rows] == site]
        candidates = candidates if len(candidates) else np.flatnonzero(sites == site)
        brain = [np.count_nonzero(data.images[row]) for row in candidates]
        chosen.append(candidates[np.argmax(brain)])
    return np.array(chosen)
