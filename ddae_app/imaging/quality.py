"""Quality measures of a scan and of its harmonization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture

from ddae_app.imaging.anatomy import EDGE_VOXELS, TISSUES, class_limits
from ddae_app.imaging.intensities import BRIGHT_PERCENTILE, CEILING, brain_scale
from ddae_app.imaging.noise import MARGIN_PIXELS
from ddae_app.imaging.similarity import brain_quantiles, gradient_correlation, ssim

MOST_VOXELS = 50_000
"""A sample of this size gives the same tissue statistics as all voxels."""

_NO_BRAIN = 'the slices show no brain'
_FEW_INTENSITIES = 'the brain has too few different intensities'

WHY_NOT = {
    **dict.fromkeys(('cjv', 'snr_gray', 'snr_white'), _FEW_INTENSITIES),
    **dict.fromkeys((f'{tissue}_share_change' for tissue in TISSUES), _FEW_INTENSITIES),
    **dict.fromkeys(
        ('ssim', 'mean_absolute_change', 'target_distance_before', 'target_distance_after'),
        _NO_BRAIN,
    ),
    'gradient_correlation': 'the brain shows no edge, before or after',
    'noise_sd': f'no brain in the slices lies deeper than {MARGIN_PIXELS} pixels, so that a DDAE '
    'removes no noise',
    'anatomy_unexplained': f'no brain in the slices lies deeper than {EDGE_VOXELS} voxels',
}
"""Why a measure is NaN, by its name."""


def unchecked(measures: Mapping[str, Any]) -> str:
    """Which of some measures could not be taken, and why; ``none`` if all were."""
    missing: dict[str, list[str]] = {}
    for name, reason in WHY_NOT.items():
        if name in measures and not np.isfinite(measures[name]):
            missing.setdefault(reason, []).append(name)
    parts = [f'{", ".join(names)}, because {reason}' for reason, names in missing.items()]
    return '; '.join(parts) or 'none'


def tissue_contrast(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Contrast and noise of the brain tissues as MRIQC defines them, without a segmentation.

    A mixture of three Gaussians is fitted to the histogram of the brain. The two brighter ones
    are gray and white matter.

    Parameters
    ----------
    image : np.ndarray, shape (X, Y, Z)
        The bias-corrected scan.
    mask : np.ndarray, shape (X, Y, Z), bool
        The brain.

    Returns
    -------
    dict of str to float
        ``cjv``: coefficient of joint variation of gray and white matter; lower is better (Ganzetti
        et al. 2016, doi:10.3389/fninf.2016.00010); ``snr_gray``, ``snr_white``: mean over
        standard deviation of each (Magnotta and Friedman 2006, doi:10.1007/s10278-005-9256-5).
        NaN if the brain has too few different intensities.
    """
    brain = image[mask].astype(np.float64)
    brain = np.sort(brain[:: max(len(brain) // MOST_VOXELS, 1)])
    scale, _ = brain_scale(brain, BRIGHT_PERCENTILE)
    # Vessels and spikes are no tissue.
    brain = brain[brain <= CEILING * scale]
    # The mixture has absolute tolerances, for intensities of 1 and more.
    brain = brain / scale if 0 < scale < 1 else brain
    limits = class_limits(brain)
    parts = np.split(brain, np.searchsorted(brain, limits or ()))
    # Values lie on either side of the middle of their bin, where the limits are.
    if limits is None or not all(part.size for part in parts):
        return dict.fromkeys(('cjv', 'snr_gray', 'snr_white'), np.nan)
    mixture = GaussianMixture(
        3,
        weights_init=[len(part) / len(brain) for part in parts],
        means_init=[[part.mean()] for part in parts],
        precisions_init=[[[1 / max(part.var(), 1e-12)]] for part in parts],
    ).fit(brain[:, None])
    deviations = np.sqrt(mixture.covariances_[:, 0, 0])
    tissues = sorted(zip(mixture.means_[:, 0], deviations, strict=True))
    (gray, sd_gray), (white, sd_white) = ((float(m), float(sd)) for m, sd in tissues[1:])
    return {
        'cjv': (sd_gray + sd_white) / abs(white - gray),
        'snr_gray': gray / sd_gray,
        'snr_white': white / sd_white,
    }


def fidelity(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How much of the structure of a scan harmonization preserves.

    Parameters
    ----------
    before, after : np.ndarray, shape (D, H, W)
        0 outside the brain, brain about 0 to 1.

    Returns
    -------
    dict of str to float
        ``ssim`` and ``gradient_correlation``: as :mod:`ddae_app.imaging.similarity` defines them.
        ``mean_absolute_change``: of the intensity of brain voxels. NaN where there is no brain;
        exactly 1, 1 and 0 where nothing changed.
    """
    brain = before > 0
    change = np.abs(np.minimum(after, CEILING) - np.minimum(before, CEILING))[brain]
    return {
        'ssim': ssim(before, after, brain),
        'gradient_correlation': gradient_correlation(before, after, brain),
        'mean_absolute_change': float(change.mean()) if change.size else np.nan,
    }


def quantile_distance(
    stack: np.ndarray, levels: Sequence[float], reference: Sequence[float]
) -> float:
    """Wasserstein-1 distance of the brain intensities of a scan from the typical ones of a site.

    Parameters
    ----------
    stack : np.ndarray, shape (D, H, W)
        0 outside the brain.
    levels, reference : sequence of float, length Q
        Quantile levels, ascending from 0 to 1, and the intensity of the site at each.

    Returns
    -------
    float
        In the units of the scan; NaN where it shows no brain.
    """
    if not (stack > 0).any():
        return np.nan
    return float(np.trapezoid(np.abs(brain_quantiles(stack, levels) - reference), levels))
