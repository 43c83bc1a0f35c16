"""Brains in which a structure is smaller or larger by a known share.

A smooth displacement moves the outline of the structure along its normal, by the distance that
gives the asked volume, and fades with the distance from the outline. The rest of the brain and
the brain mask stay as they are. Brains are stacks of slices in template space, of ordinary
contrast, 0 outside the brain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from benchmarks.volumes import CORNER, GRID, SHAPE, xyz

VENTRICLES_MM = ((-32.0, 32.0), (-50.0, 34.0), (-2.0, 32.0))
"""A box around the lateral ventricles along x, y, z (MNI152)."""

HIPPOCAMPUS_MM, HIPPOCAMPUS_RADII_MM = (27.0, -20.0, -15.0), (8.0, 17.0, 7.0)
"""Center (right; mirrored on the left) and half axes of an ellipsoid of the hippocampus's size."""

STRUCTURES = 'ventricles', 'cortex', 'hippocampi'
FADES = {'ventricles': 4.0, 'cortex': 3.0, 'hippocampi': 3.0}
"""Distance from the outline, voxels, at which the displacement is small."""

SMOOTH = 0.7
"""Standard deviation, voxels, of the Gaussian that smooths the displacement."""

STEPS = 5
"""Of the secant method; the volume is nearly linear in the displacement."""


@dataclass(frozen=True)
class Structure:
    """A structure of one brain.

    Attributes
    ----------
    inside : np.ndarray, shape (D, H, W), bool
    outward : np.ndarray, shape (3, D, H, W), float32
        Displacement, voxels, that moves its outline outward by about one voxel.
    """

    inside: np.ndarray
    outward: np.ndarray


def find(brain: np.ndarray, name: str) -> Structure:
    """Find a structure of ``STRUCTURES`` in a brain, shape (D, H, W)."""
    return _FIND[name](brain)


def resized(
    brain: np.ndarray, changes: dict[str, float], known: dict[str, Structure] | None = None
) -> np.ndarray:
    """The brain with structures whose volumes are changed, in percent.

    Parameters
    ----------
    brain : np.ndarray, shape (D, H, W), float32
    changes : dict of str to float
        Percent by the names of ``STRUCTURES``; -3 is a loss of 3 %.
    known : dict of str to Structure, optional
        Those that were found before, by their names.

    Returns
    -------
    np.ndarray, shape (D, H, W), float32
    """
    total = np.zeros((3, *brain.shape), np.float32)
    for name, percent in changes.items():
        if percent:
            structure = (known or {}).get(name) or find(brain, name)
            total += _reach(structure, percent, brain > 0) * structure.outward
    return _warped(brain, total)


def _reach(structure: Structure, percent: float, brain: np.ndarray) -> float:
    """How far, in voxels, the outline has to move; by the secant method."""
    before = float(structure.inside.sum())
    wanted = before * (1 + percent / 100)
    soft = structure.inside.astype(np.float32)

    def missing(reach: float) -> float:
        return float(_pulled(soft, reach * structure.outward, 1)[brain].sum()) - wanted

    step = 0.2 if percent > 0 else -0.2
    last, now = (0.0, before - wanted), (step, missing(step))
    for _ in range(STEPS):
        if abs(now[1]) < 1e-4 * before:
            break
        reach = now[0] - now[1] * (now[0] - last[0]) / (now[1] - last[1])
        last, now = now, (reach, missing(reach))
    return now[0]


def _warped(brain: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """The brain after the displacement; beyond its edge there is CSF, as around a real one."""
    inside = brain > 0
    dark = float(np.percentile(brain[inside], 2))
    moved = _pulled(np.where(inside, brain, dark), displacement, 3)
    return np.where(inside, np.maximum(moved, 1e-3), 0).astype(np.float32)


def _pulled(image: np.ndarray, displacement: np.ndarray, order: int) -> np.ndarray:
    """The image whose points have moved by a small displacement."""
    places = np.indices(image.shape, np.float32) - displacement
    return ndimage.map_coordinates(image, places, order=order, mode='nearest')


def _ventricles(brain: np.ndarray) -> Structure:
    low, _ = _thresholds(brain)
    dark = (brain > 0) & (ndimage.gaussian_filter(brain, 0.5) < low) & _box(VENTRICLES_MM)
    labels, n = ndimage.label(ndimage.binary_opening(dark))
    sizes = ndimage.sum_labels(dark, labels, np.arange(1, n + 1))
    # Two lateral ventricles, which may touch; what is much smaller are sulci.
    inside = np.isin(labels, 1 + np.flatnonzero(sizes >= 0.25 * sizes.max()))
    return Structure(inside, _normal(inside, FADES['ventricles']))


def _cortex(brain: np.ndarray) -> Structure:
    """Gray matter, of which only the outline towards the CSF moves."""
    low, high = _thresholds(brain)
    ventricles = ndimage.binary_dilation(_ventricles(brain).inside, iterations=2)
    tissue, white = (brain > low) | ventricles, brain > high
    from_csf = _signed_distance(tissue)
    from_white = ndimage.distance_transform_edt(~white)
    depth = np.maximum(from_csf, 0)
    fixed_at_white = from_white / np.maximum(from_white + depth, 1)
    outward = _normal(tissue, FADES['cortex'], fixed_at_white.astype(np.float32))
    return Structure(tissue & ~white & ~ventricles, outward)


def _hippocampi(brain: np.ndarray) -> Structure:
    points = np.moveaxis(_points(), 2, 0)
    x, y, z = HIPPOCAMPUS_MM
    offset = np.stack([np.abs(points[..., 0]) - x, points[..., 1] - y, points[..., 2] - z], -1)
    inside = np.sum((offset / HIPPOCAMPUS_RADII_MM) ** 2, axis=-1) < 1
    return Structure(inside & (brain > 0), _normal(inside, FADES['hippocampi']))


_FIND: dict[str, Callable[[np.ndarray], Structure]] = {
    'ventricles': _ventricles,
    'cortex': _cortex,
    'hippocampi': _hippocampi,
}


def _thresholds(brain: np.ndarray) -> tuple[float, float]:
    """Between CSF and gray, and between gray and white matter."""
    low, high = threshold_multiotsu(brain[brain > 0], classes=3)
    return float(low), float(high)


def _normal(inside: np.ndarray, fade: float, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Outward normal of a region, which fades with the distance from its outline."""
    distance = _signed_distance(inside)
    smooth = ndimage.gaussian_filter(distance, 1.0)
    slope = np.stack(np.gradient(smooth)).astype(np.float32)
    length = np.maximum(np.sqrt((slope**2).sum(axis=0)), 0.5)
    share = np.exp(-np.square(distance / fade)) * weight
    return np.stack([ndimage.gaussian_filter(-axis / length * share, SMOOTH) for axis in slope])


def _signed_distance(inside: np.ndarray) -> np.ndarray:
    """Distance from the outline, voxels: positive inside."""
    there, elsewhere = (ndimage.distance_transform_edt(mask) for mask in (inside, ~inside))
    return (there - elsewhere).astype(np.float32)


def _box(sides: tuple[tuple[float, float], ...]) -> np.ndarray:
    points = _points()
    within = [
        (points[..., i] > low) & (points[..., i] < high) for i, (low, high) in enumerate(sides)
    ]
    return np.moveaxis(np.logical_and.reduce(within), 2, 0)


def _points() -> np.ndarray:
    """Positions of the voxels, template mm, shape (X, Y, Z, 3)."""
    return GRID.points(tuple(slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True)))
