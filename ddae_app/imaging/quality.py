"""What harmonisation did to a scan: similarity to the input, distance to the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity


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
    shown = brain.any(axis=(1, 2))
    ssim = [
        structural_similarity(a, b, data_range=1.0)
        for a, b in zip(before[shown], after[shown], strict=True)
    ]
    edges = [np.hypot(*np.gradient(x, axis=(1, 2)))[brain] for x in (before, after)]
    return {
        'ssim': float(np.mean(ssim)),
        'gradient_correlation': float(np.corrcoef(*edges)[0, 1]),
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
    own = np.quantile(stack[stack > 0], levels)
    return float(np.trapezoid(np.abs(own - reference), levels))
