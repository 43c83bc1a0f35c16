"""How good a scan is, and what harmonisation did to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.filters import threshold_multiotsu
from sklearn.mixture import GaussianMixture

from ddae_app.imaging.similarity import brain_quantiles, gradient_correlation, ssim

MOST_VOXELS = 50_000
"""As many tell the tissues as well as all."""


def tissue_contrast(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Contrast and noise of the brain's tissues, as MRIQC has them, without a segmentation.

    Grey and white matter are the two brighter of three Gaussians that make up the histogram of
    the brain.

    Parameters
    ----------
    image : np.ndarray, shape (X, Y, Z)
        Bias-corrected.
    mask : np.ndarray, shape (X, Y, Z), bool
        The brain.

    Returns
    -------
    dict of str to float
        ``cjv``: coefficient of joint variation of grey and white matter, lower is better (Ganzetti
        et al. 2016, doi:10.3389/fninf.2016.00010); ``snr_grey``, ``snr_white``: mean over
        standard deviation of each (Magnotta and Friedman 2006, doi:10.1007/s10278-005-9256-5).
        Empty where the brain has not three intensities.
    """
    brain = image[mask].astype(np.float64)
    brain = np.sort(brain[:: max(len(brain) // MOST_VOXELS, 1)])
    if np.unique(brain).size < 3:
        return {}
    limits = threshold_multiotsu(brain, classes=3, nbins=256)
    parts = np.split(brain, np.searchsorted(brain, limits))
    mixture = GaussianMixture(
        3,
        weights_init=[len(part) / len(brain) for part in parts],
        means_init=[[part.mean()] for part in parts],
        precisions_init=[[[1 / max(part.var(), 1e-12)]] for part in parts],
    ).fit(brain[:, None])
    found = sorted(zip(mixture.means_[:, 0], np.sqrt(mixture.covariances_[:, 0, 0]), strict=True))
    (grey, sd_grey), (white, sd_white) = ((float(m), float(sd)) for m, sd in found[1:])
    return {
        'cjv': (sd_grey + sd_white) / abs(white - grey),
        'snr_grey': grey / sd_grey,
        'snr_white': white / sd_white,
    }


def fidelity(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How much of a scan's structure is left after harmonisation.

    Parameters
    ----------
    before, after : np.ndarray, shape (N, H, W)
        Slices, 0 outside the brain, brain about 0 to 1.

    Returns
    -------
    dict of str to float
        ``ssim``: mean structural similarity (Wang et al., 2004), data range 1;
        ``gradient_correlation``: Pearson correlation of the in-plane gradient's size in the
        brain, 1 when every edge is where it was; ``mean_absolute_change``: in the brain.
    """
    brain = before > 0
    return {
        'ssim': ssim(before, after, brain),
        'gradient_correlation': gradient_correlation(before, after, brain),
        'mean_absolute_change': float(np.abs(after - before)[brain].mean()),
    }


def quantile_distance(
    stack: np.ndarray, levels: Sequence[float], reference: Sequence[float]
) -> float:
    """Wasserstein-1 distance between a scan's brain intensities and a site's typical ones.

    Parameters
    ----------
    stack : np.ndarray, shape (N, H, W)
        Slices, 0 outside the brain.
    levels, reference : sequence of float, length Q
        Quantile levels, ascending, 0 to 1, and the site's intensity at each.
    """
    return float(np.trapezoid(np.abs(brain_quantiles(stack, levels) - reference), levels))
