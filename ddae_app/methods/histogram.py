"""Histogram matching: the brain intensities of each scan become those typical of the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ddae_app.errors import UsageError
from ddae_app.imaging.similarity import brain_quantiles
from ddae_app.methods.base import check_request, in_brain, training_data

LEVELS = np.linspace(0, 1, 257)


@dataclass(frozen=True)
class HistogramMatching:
    """A rising intensity curve per scan, whatever the place, the tissue and the source site.

    Attributes
    ----------
    sites : tuple of str
    reference : np.ndarray, shape (S, Q)
        Median over the site's scans of each intensity quantile (Nyul and Udupa 1999, with all
        quantiles as landmarks).
    """

    sites: tuple[str, ...] = ()
    reference: np.ndarray | None = None

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> HistogramMatching:
        """A copy that knows the sites of these slices."""
        data = training_data(images, cohort)
        sites = np.array(data.sites)
        quantiles = np.stack([brain_quantiles(image, LEVELS) for image in data.images])
        medians = [np.median(quantiles[sites == site], axis=0) for site in data.site_names]
        return HistogramMatching(data.site_names, np.stack(medians))

    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.methods.base.Harmonizer`.

        The cohort plays no part.
        """
        if self.reference is None:
            raise UsageError('this histogram matching knows no sites yet; call fit first')
        check_request(images, cohort, target_site, self.sites)
        reference = self.reference[self.sites.index(target_site)]
        out = np.empty(images.shape, np.float32)
        for image, matched in zip(images, out, strict=True):
            curve = brain_quantiles(image, LEVELS), reference
            matched[...] = in_brain(np.interp(image, *curve), image)
        return out
