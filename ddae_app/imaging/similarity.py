"""How alike two scans are, and the intensities of the brain that comparisons rest on.

Scans are 0 outside the brain, and the brain is about 0 to 1. What is brighter than ``CEILING``
counts as that, so that a vessel or a spike weighs no more than other voxels do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from skimage.metrics import structural_similarity

from ddae_app.imaging.intensities import CEILING


def slice_ssim(slices: Iterable[np.ndarray], reference: Iterable[np.ndarray]) -> np.ndarray:
    """Structural similarity (SSIM) of each slice to its reference, data range 1.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861.

    Parameters
    ----------
    slices, reference : iterable of np.ndarray, shape (H, W)
        0 outside the brain, brain about 0 to 1.

    Returns
    -------
    np.ndarray, shape (N,)
        1 where a slice equals its reference.
    """
    return np.array(
        [
            structural_similarity(np.minimum(a, CEILING), np.minimum(b, CEILING), data_range=1.0)
            for a, b in zip(slices, reference, strict=True)
        ]
    )


def ssim(scan: np.ndarray, reference: np.ndarray, brain: np.ndarray) -> float:
    """Structural similarity of a scan to its reference, as the mean over its slices.

    Parameters
    ----------
    scan, reference : np.ndarray, shape (D, H, W)
        0 outside the brain, brain about 0 to 1.
    brain : np.ndarray, shape (D, H, W), bool
        Slices without any of it are left out.

    Returns
    -------
    float
        1 where the scans are equal; NaN where there is no brain.
    """
    shown = brain.any(axis=(1, 2))
    if not shown.any():
        return np.nan
    return float(np.mean(slice_ssim(scan[shown], reference[shown])))


def gradient_correlation(scan: np.ndarray, reference: np.ndarray, brain: np.ndarray) -> float:
    """Pearson correlation of the in-plane gradient magnitude over the brain voxels of a scan.

    The voxels of all slices are pooled, so that every voxel has the same weight.

    Parameters
    ----------
    scan, reference : np.ndarray, shape (D, H, W)
    brain : np.ndarray, shape (D, H, W), bool

    Returns
    -------
    float
        1 where every edge is in its place, exactly so where the scans are equal; NaN where there
        is no brain or no edge.
    """
    edges = [
        np.hypot(*np.gradient(np.minimum(x, CEILING), axis=(1, 2)))[brain]
        for x in (scan, reference)
    ]
    if not all(edge.size and np.ptp(edge) > 0 for edge in edges):
        return np.nan
    if np.array_equal(*edges):
        return 1.0
    return float(np.corrcoef(*edges)[0, 1].clip(-1, 1))


def brain_quantiles(scan: np.ndarray, levels: Sequence[float] | np.ndarray) -> np.ndarray:
    """Quantiles of the intensities above 0, which are those of the brain.

    Parameters
    ----------
    scan : np.ndarray, any shape
        0 outside the brain.
    levels : sequence of float, length Q
        Quantile levels, 0 to 1.

    Returns
    -------
    np.ndarray, shape (Q,)
        In the units of the scan; zeros where no voxel is above 0.
    """
    brain = np.minimum(scan[scan > 0], CEILING)
    return np.quantile(brain if brain.size else np.zeros(1), levels)
