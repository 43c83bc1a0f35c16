"""Scanners drawn at random, wide enough that a real one is a draw from them.

They act on brains in template space, real or simulated, as a scanner and the preprocessing of its
scans would: a contrast that differs by tissue, a contrast curve, what bias correction leaves of
the shading, blur and thick slices, noise that resampling has smoothed, and cut tails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from ddae_app.imaging.intensities import CEILING, brain_scale

KNOTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
"""Intensities at which a contrast curve is given; bright white matter is 1."""

DEEP_GRAY = ((0.56, 0.50, 0.42), (0.63, 0.59, 0.40), (0.56, 0.63, 0.44))
"""Thalamus, putamen and caudate nucleus of the right side: left to right, back to front and up,
as shares of the field of view."""

DEEP_GRAY_SD = 0.045
FINE_VOXELS = 2.0
"""Structures smaller than this are what a scanner shows with more or less detail."""

BIAS_KNOTS = 4
LEAST_INTENSITY = 1e-3
"""Of the brain: 0 means outside."""

TAIL_PERCENT = 0.5


@dataclass(frozen=True)
class RandomScanner:
    """A scanner and what preprocessing leaves of it, the same for all of its subjects.

    Attributes
    ----------
    curve : tuple of float
        Intensities that ``KNOTS`` become, ascending from 0.
    deep_gray : float
        Added to deep gray matter.
    detail : float
        Factor of fine structures.
    bias : np.ndarray, shape (4, 4, 4)
        Logarithm of the shading, at knots over the field of view.
    scan_bias : float
        Standard deviation of what each scan adds to it.
    blur : tuple of float
        Standard deviation of the point spread along each axis, voxels.
    thick : tuple of float
        Thickness of acquired slices along each axis, voxels; 1 where they are as thin as these.
    noise : float
        Standard deviation of each channel of the Rician noise.
    smooth : tuple of float
        Standard deviation of the Gaussian that resampling applied to the noise, voxels.
    cut_low, cut_high : bool
        Whether the darkest and the brightest half percent of the brain are cut off.
    """

    curve: tuple[float, ...]
    deep_gray: float
    detail: float
    bias: np.ndarray
    scan_bias: float
    blur: tuple[float, float, float]
    thick: tuple[float, float, float]
    noise: float
    smooth: tuple[float, float, float]
    cut_low: bool
    cut_high: bool


def draw_random_scanner(rng: np.random.Generator) -> RandomScanner:
    """One of the family."""
    knots = np.array(KNOTS)
    steps = np.diff(knots ** rng.uniform(0.6, 1.6)) * np.exp(rng.normal(0, 0.25, len(knots) - 1))
    curve = np.concatenate([[0.0], np.cumsum(steps)])
    curve /= curve[KNOTS.index(1.0)]
    thick = np.ones(3)
    if rng.random() < 0.4:
        thick[rng.integers(3)] = rng.uniform(1, 2.2)
    blur, smooth = rng.uniform(0.1, 0.8, 3), rng.uniform(0, 0.6, 3)
    return RandomScanner(
        curve=tuple(curve.tolist()),
        deep_gray=float(rng.normal(0, 0.05)),
        detail=float(np.exp(rng.normal(0, 0.3))),
        bias=rng.normal(0, 0.06, (BIAS_KNOTS,) * 3),
        scan_bias=float(rng.uniform(0.01, 0.04)),
        blur=(float(blur[0]), float(blur[1]), float(blur[2])),
        thick=(float(thick[0]), float(thick[1]), float(thick[2])),
        noise=float(np.exp(rng.uniform(np.log(0.003), np.log(0.05)))),
        smooth=(float(smooth[0]), float(smooth[1]), float(smooth[2])),
        cut_low=bool(rng.random() < 0.15),
        cut_high=bool(rng.random() < 0.35),
    )


def scan(
    anatomy: np.ndarray,
    scanner: RandomScanner,
    rng: np.random.Generator | None,
    percentile: float,
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """A preprocessed scan of an anatomy.

    Parameters
    ----------
    anatomy : np.ndarray, shape (D, H, W), float32
        A brain in template space, of ordinary contrast, tissue in [0, 1]; 0 outside.
    scanner : RandomScanner
    rng : np.random.Generator, optional
        Draws the noise and the shading of this scan; None is a scan without them, which has what
        all scans of the scanner share.
    percentile : float
        Of the brain, which becomes 1.
    reference : np.ndarray, optional
        A scan of the same anatomy whose scale to take, since noise moves the percentile.

    Returns
    -------
    np.ndarray, shape (D, H, W), float32
        0 outside the brain.
    """
    brain = anatomy > 0
    x = np.clip(anatomy, 0, CEILING).astype(np.float32)
    fine = x - _smoothed(x, brain, (FINE_VOXELS,) * 3)
    x = x + (scanner.detail - 1) * fine
    x = x + scanner.deep_gray * _deep_gray(x.shape) * _gray(anatomy)
    table = np.linspace(0, KNOTS[-1], 1024)
    x = np.interp(x, table, PchipInterpolator(KNOTS, scanner.curve)(table)).astype(np.float32)
    own = 0.0 if rng is None else rng.normal(0, scanner.scan_bias, scanner.bias.shape)
    x = x * np.exp(_field(scanner.bias + own, x.shape))
    x = _thick(_smoothed(x, brain, scanner.blur), brain, scanner.thick)
    if rng is not None:
        real, imaginary = (_noise(x.shape, scanner, rng) for _ in range(2))
        x = np.hypot(np.maximum(x, 0) + real, imaginary)
    inside = x[brain]
    if scanner.cut_low:
        inside = np.maximum(inside, np.percentile(inside, TAIL_PERCENT))
    if scanner.cut_high:
        inside = np.minimum(inside, np.percentile(inside, 100 - TAIL_PERCENT))
    scale = 1.0
    if reference is None:
        scale, _ = brain_scale(inside, percentile)
    out = np.zeros(x.shape, np.float32)
    out[brain] = np.maximum(inside / scale, LEAST_INTENSITY)
    return out


def _smoothed(x: np.ndarray, brain: np.ndarray, sigma: tuple[float, ...]) -> np.ndarray:
    """Gaussian smoothing within the brain, for there is nothing around it to be mixed with."""
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma, truncate=3)
    smooth = ndimage.gaussian_filter(x, sigma, truncate=3)
    return np.where(brain, smooth / np.maximum(weight, 1e-3), 0)


def _thick(x: np.ndarray, brain: np.ndarray, thick: tuple[float, ...]) -> np.ndarray:
    """What thick slices leave: their mean, interpolated between their centers."""
    for axis, width in enumerate(thick):
        if width > 1:
            sigma = [0.0, 0.0, 0.0]
            sigma[axis] = 0.3 * width
            x = _smoothed(x, brain, tuple(sigma))
            n = x.shape[axis]
            centers = np.arange(0, n - 1 + width, width)
            there = np.clip(np.rint(centers), 0, n - 1).astype(int)
            place = np.interp(np.arange(n), centers, np.arange(len(centers)))
            low = np.minimum(place.astype(int), len(centers) - 2)
            share = np.expand_dims(place - low, tuple(a for a in range(3) if a != axis))
            a, b = x.take(there[low], axis), x.take(there[low + 1], axis)
            known = brain.take(there[low], axis) & brain.take(there[low + 1], axis)
            x = np.where(brain & known, a + share * (b - a), x)
    return x.astype(np.float32)


def _noise(shape: tuple[int, ...], scanner: RandomScanner, rng: np.random.Generator) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), scanner.smooth)
    return scanner.noise * noise / noise.std()


def _field(knots: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth field through knots that are spread evenly over the volume."""
    for axis, n in enumerate(shape):
        m = knots.shape[axis]
        weights = ndimage.zoom(np.eye(m), (n / m, 1), order=3, mode='nearest')
        knots = np.moveaxis(np.tensordot(weights, knots, axes=(1, axis)), 0, axis)
    return knots.astype(np.float32)


def _gray(anatomy: np.ndarray) -> np.ndarray:
    """Share of gray matter by intensity: 1 in the middle between dark and bright."""
    return np.clip(1 - np.abs(anatomy - 0.65) / 0.3, 0, 1)


def _deep_gray(shape: tuple[int, ...]) -> np.ndarray:
    """Proximity to the deep gray nuclei of both sides, in [0, 1]."""
    up, right, front = (np.linspace(0, 1, n, dtype=np.float32) for n in shape)
    near = np.zeros(shape, np.float32)
    for x, y, z in DEEP_GRAY:
        along_up, along_front = (
            np.exp(-np.square((axis - at) / DEEP_GRAY_SD) / 2)
            for axis, at in ((up, z), (front, y))
        )
        either = np.exp(-np.square((np.abs(right - 0.5) - (x - 0.5)) / DEEP_GRAY_SD) / 2)
        near = np.maximum(
            near, along_up[:, None, None] * either[None, :, None] * along_front[None, None]
        )
    return near
