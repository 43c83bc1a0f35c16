"""Measures of what harmonization changed in the anatomy of a scan."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter
from skimage.filters import threshold_multiotsu

from ddae_app.imaging.intensities import CEILING

TISSUES = {'csf': 'CSF', 'gray': 'gray matter', 'white': 'white matter'}
"""Tissue classes by the names of their columns, from dark to bright on a T1-weighted image."""

HISTOGRAM_BINS = 256
NOISE_VOXELS, SURROUNDINGS_VOXELS, STRUCTURE_VOXELS = 1.0, 4.0, 1.5
"""Standard deviations of three Gaussians: the first removes noise, the second defines the
neighborhood of a voxel, and the third is the size of the structures that are searched for."""

CURVE_LEVELS = 48
LEAST_VARIANCE = 2e-4
"""Where the local variance of a scan is much smaller than this, its gain is about 1."""

EDGE_VOXELS = 3
MOST_UNEXPLAINED = 0.10
MOST_SHARE_CHANGE = 0.15


def tissue_thresholds(brain: np.ndarray) -> tuple[float, float] | None:
    """Intensities between CSF and gray matter, and between gray and white matter.

    They minimize the variance within the three classes (Otsu 1979,
    doi:10.1109/TSMC.1979.4310076). CSF is darkest on T1-weighted images, and white matter is
    brightest.

    Parameters
    ----------
    brain : np.ndarray, any shape
        Intensities of brain voxels, about 0 to 1.

    Returns
    -------
    (float, float), or None
        None where :func:`class_limits` finds none.
    """
    # Brighter voxels, such as vessels, form no class of their own.
    return class_limits(np.minimum(brain, CEILING))


def class_limits(values: np.ndarray) -> tuple[float, float] | None:
    """Limits between three classes of values, as :func:`tissue_thresholds` finds them.

    Returns
    -------
    (float, float), or None
        None where values do not differ enough for three classes: their histogram has fewer than
        three bins that hold any.
    """
    counts, _ = np.histogram(values, HISTOGRAM_BINS)
    if np.count_nonzero(counts) < 3:
        return None
    low, high = threshold_multiotsu(values, classes=3, nbins=HISTOGRAM_BINS)
    return low, high


def tissue_shares(scan: np.ndarray) -> dict[str, float]:
    """Shares of the brain that are CSF, gray and white matter, by :func:`tissue_thresholds`.

    Parameters
    ----------
    scan : np.ndarray, shape (D, H, W)
        0 outside the brain, brain about 0 to 1.

    Returns
    -------
    dict of str to float
        The keys are those of ``TISSUES``. The shares sum to 1, or are all 0 if the brain has too
        few different intensities.
    """
    brain = scan[scan > 0]
    thresholds = tissue_thresholds(brain)
    if thresholds is None:
        return dict.fromkeys(TISSUES, 0.0)
    shares = np.bincount(np.digitize(brain, thresholds), minlength=3) / brain.size
    return dict(zip(TISSUES, shares.tolist(), strict=True))


def unexplained(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Structure in a harmonized scan that no change of contrast or shading explains.

    Another scanner shows the same anatomy in another contrast and shading. The harmonized scan
    should therefore follow from the scan by one contrast curve and by a local gain and offset
    (guided filter: He, Sun and Tang 2013, doi:10.1109/TPAMI.2012.213). What does not follow was
    added or removed. Both scans are smoothed first, because noise is not structure, and clipped to
    ``CEILING``, because a vessel or a spike makes other voxels look alike. Nothing is more
    unexplained than it is changed, so that an unchanged scan has none.

    Parameters
    ----------
    before, after : np.ndarray, shape (D, H, W)
        0 outside the brain, brain about 0 to 1.

    Returns
    -------
    np.ndarray, shape (D, H, W), float32
        Root mean square of the unexplained intensity within about three voxels. It is 0 near the
        edge of the brain, where voxels are mixed with what lies outside.
    """
    brain = before > 0
    seen, y = (
        _local_mean(np.minimum(scan, CEILING), brain, NOISE_VOXELS) for scan in (before, after)
    )
    x = np.where(brain, _follow_curve(seen, y, brain), 0)
    mean_x, mean_y = (_local_mean(v, brain, SURROUNDINGS_VOXELS) for v in (x, y))
    variance = _local_mean(x * x, brain, SURROUNDINGS_VOXELS) - mean_x**2
    covariance = _local_mean(x * y, brain, SURROUNDINGS_VOXELS) - mean_x * mean_y
    gain = (covariance + LEAST_VARIANCE) / (variance + LEAST_VARIANCE)
    rest = y - mean_y - gain * (x - mean_x)
    power = np.minimum(
        _local_mean(rest**2, brain, STRUCTURE_VOXELS),
        _local_mean((y - seen) ** 2, brain, STRUCTURE_VOXELS),
    )
    return np.where(_core(brain), np.sqrt(np.maximum(power, 0)), 0).astype(np.float32)


def _core(brain: np.ndarray) -> np.ndarray:
    """The brain without its edge, which is where :func:`unexplained` can look."""
    return binary_erosion(brain, iterations=EDGE_VOXELS, border_value=1)


def _local_mean(values: np.ndarray, brain: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-weighted mean over brain voxels; 0 outside the brain."""
    weight = gaussian_filter(brain.astype(np.float32), sigma)
    total = gaussian_filter(np.where(brain, values, 0).astype(np.float32), sigma)
    return np.where(brain, total / np.maximum(weight, 1e-3), 0)


def _follow_curve(x: np.ndarray, y: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """`x` in the contrast of `y`: the mean of `y` at each intensity of `x`."""
    inside = x[brain]
    edges = (
        np.quantile(inside, np.linspace(0, 1, CURVE_LEVELS + 1)) if inside.size else np.zeros(1)
    )
    level = np.clip(np.searchsorted(edges, inside) - 1, 0, CURVE_LEVELS - 1)
    n = np.maximum(np.bincount(level, minlength=CURVE_LEVELS), 1)
    knots = [np.bincount(level, v[brain], CURVE_LEVELS) / n for v in (x, y)]
    order = np.argsort(knots[0], kind='stable')
    return np.interp(x, knots[0][order], knots[1][order])


def evaluate_anatomy(before: np.ndarray, after: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    """Measure what harmonization changed in the anatomy of a scan, for its quality table.

    Parameters
    ----------
    before, after : np.ndarray, shape (D, H, W)
    affine : np.ndarray, shape (4, 4)
        Voxel index, in the order (row, column, slice), to mm.

    Returns
    -------
    dict
        ``anatomy_unexplained``: the largest value of :func:`unexplained`. ``anatomy_place``: its
        position in mm. ``csf_share_change``, ``gray_share_change``, ``white_share_change``: the
        change of each tissue's share of the brain. NaN stands for what cannot be measured.
        ``anatomy_flag``: why the scan should be inspected, ``not checked`` if nothing was found
        but not everything could be measured, else ``none``.
    """
    brain = before > 0
    structure = unexplained(before, after)
    worst = np.unravel_index(int(structure.argmax()), structure.shape)
    unchanged = brain.any() and np.array_equal(before, after)
    largest = float(structure[worst]) if unchanged or _core(brain).any() else np.nan
    changes = dict.fromkeys((f'{tissue}_share_change' for tissue in TISSUES), np.nan)
    shares = [tissue_shares(scan) for scan in (before, after)]
    if unchanged or all(sum(share.values()) for share in shares):
        changes = {f'{t}_share_change': shares[1][t] - shares[0][t] for t in TISSUES}
    reasons = []
    x, y, z = nib.affines.apply_affine(affine, [worst[1], worst[2], worst[0]])
    if largest > MOST_UNEXPLAINED:
        reasons.append(
            f'a structure that the scan does not show in that contrast, near ({x:.0f}, {y:.0f}, '
            f'{z:.0f}) mm'
        )
    for tissue, change in zip(TISSUES.values(), changes.values(), strict=True):
        if abs(change) > MOST_SHARE_CHANGE:
            reasons.append(f'{tissue} {100 * change:+.0f} % of the brain volume')
    measured = np.isfinite([largest, *changes.values()]).all()
    return {
        'anatomy_unexplained': largest,
        'anatomy_place': [round(float(v), 1) for v in (x, y, z)],
        **changes,
        'anatomy_flag': '; '.join(reasons) or ('none' if measured else 'not checked'),
    }
