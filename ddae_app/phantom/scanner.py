"""The effect of a site on an image: contrast, bias field, blur, noise and intensity scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from ddae_app.phantom.head import Surroundings
from ddae_app.phantom.seeds import generator

CURVE_KNOTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.3)
"""Signals at which the contrast curve of a scanner is given; white matter is 1."""

ORIENTATIONS = ('LAS', 'RAS', 'PSR', 'LPS', 'ASR', 'RSA')
"""Orientations in which scanners write their files."""

BIAS_SITE_SD = 0.13
"""Standard deviation between sites of the coefficients of the log bias field, per 100 mm."""

BIAS_SCAN_SD = 0.04
"""The same between the scans of one site."""

DEEP_GRAY_MM = ((12.0, -1.0, 4.0), (26.0, 19.0, 4.0), (12.0, 29.0, 4.0))
"""Thalamus, putamen and caudate nucleus of both sides, relative to the isocenter."""

DEEP_GRAY_SD_MM = 10.0

SOFT_SHARE = 0.8
"""Signal of muscle and skin, as a share of that of gray matter."""

FAT_LEVEL = 1.15
"""Signal of fat before the curve; white matter is 1."""


Tissues = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""CSF, GM and WM fractions and detail, as ``Anatomy.tissues`` returns them."""


@dataclass(frozen=True)
class Scanner:
    """The scanner and protocol of a site, the same for all of its subjects.

    Attributes
    ----------
    site : str
    voxel_mm : tuple of float
        Voxel size along x, y, z (right, front, up), before reorientation.
    orientation : str
        Axis codes of the written file, e.g. ``'PSR'``.
    levels : tuple of float
        Signal of CSF, GM and WM before the curve, ascending; WM is 1.
    curve : tuple of float
        Values of the contrast curve at ``CURVE_KNOTS``, ascending; 0 at 0 and 1 at 1.
    bias : tuple of float
        Nine coefficients of the log bias field, a quadratic in the position over 100 mm.
    blur_mm : tuple of float
        Standard deviation of the point-spread function along x, y, z.
    noise : float
        Standard deviation of each channel of the Rician noise; white matter is 1.
    scale : float
        Intensity of white matter in the file, where the bias field is 1.
    acquisition : dict
        BIDS sidecar keys of the scanner and the sequence.
    detail : float
        Factor of the intensity that the tissue fractions do not explain.
    deep_gray : float
        Intensity added to deep gray matter, in units of the contrast of gray and white matter.
    """

    site: str
    voxel_mm: tuple[float, float, float]
    orientation: str
    levels: tuple[float, float, float]
    curve: tuple[float, ...]
    bias: tuple[float, ...]
    blur_mm: tuple[float, float, float]
    noise: float
    scale: float
    acquisition: dict[str, str | float]
    detail: float = 1.0
    deep_gray: float = 0.0

    def contrast(self, signal: np.ndarray) -> np.ndarray:
        """Apply the smooth, monotonic contrast curve to signals between 0 and 1.3."""
        table = np.linspace(0, CURVE_KNOTS[-1], 1024)
        return np.interp(signal, table, PchipInterpolator(CURVE_KNOTS, self.curve)(table))

    def bias_field(self, points: np.ndarray, jitter: np.ndarray | float = 0.0) -> np.ndarray:
        """Multiplicative bias field.

        Parameters
        ----------
        points : np.ndarray, shape (..., 3)
            Scanner mm; the isocenter is 0.
        jitter : np.ndarray, shape (9,), or float
            Added to the coefficients of the site, for one scan.

        Returns
        -------
        np.ndarray, shape (...)
            About 0.6 to 1.6 in the brain.
        """
        x, y, z = np.moveaxis(points, -1, 0) / 100
        terms = (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
        coefficients = np.asarray(self.bias) + jitter
        return np.exp(sum(c * term for c, term in zip(coefficients, terms, strict=True)))


def draw_scanner(site: str, seed: int = 0) -> Scanner:
    """The scanner of a site, which depends only on the name of the site and the scanner seed."""
    rng = generator(seed, 'scanner', site)
    knots = np.array(CURVE_KNOTS)
    steps = np.diff(knots ** rng.uniform(0.7, 1.45)) * np.exp(rng.normal(0, 0.15, knots.size - 1))
    curve = np.concatenate([[0.0], np.cumsum(steps)])
    curve /= curve[CURVE_KNOTS.index(1.0)]
    in_plane = rng.uniform(1.2, 1.7)
    voxel = np.full(3, in_plane)
    voxel[rng.integers(3)] = rng.uniform(in_plane, 2.2)
    x, y, z = np.round(voxel, 2)
    blur = voxel * rng.uniform(0.35, 0.6)
    return Scanner(
        site=site,
        voxel_mm=(float(x), float(y), float(z)),
        orientation=str(rng.choice(ORIENTATIONS)),
        levels=(float(rng.uniform(0.15, 0.35)), float(rng.uniform(0.62, 0.8)), 1.0),
        curve=tuple(curve.tolist()),
        bias=tuple(rng.normal(0, BIAS_SITE_SD, 9).tolist()),
        blur_mm=(float(blur[0]), float(blur[1]), float(blur[2])),
        noise=float(rng.uniform(0.01, 0.035)),
        scale=float(np.exp(rng.uniform(np.log(200), np.log(4000)))),
        acquisition={
            'Modality': 'MR',
            'Manufacturer': 'ddae-app',
            'ManufacturersModelName': f'Simulated {site}',
            'InstitutionName': site,
            'StationName': site,
            'DeviceSerialNumber': f'{site}-{seed}',
            'MRAcquisitionType': '3D',
            'PulseSequenceType': 'Simulated MPRAGE',
            'MagneticFieldStrength': float(rng.choice([1.5, 3.0])),
            'RepetitionTime': float(np.round(rng.uniform(1.9, 2.5), 2)),
            'EchoTime': float(np.round(rng.uniform(0.002, 0.004), 5)),
            'InversionTime': float(np.round(rng.uniform(0.8, 1.1), 2)),
            'FlipAngle': float(rng.integers(7, 13)),
        },
    )


def with_tissue_contrast(scanner: Scanner, seed: int = 0) -> Scanner:
    """The scanner with a contrast that differs by tissue, which no intensity curve can correct."""
    rng = generator(seed, 'tissue contrast', scanner.site)
    return replace(
        scanner, detail=float(np.exp(rng.normal(0, 0.6))), deep_gray=float(rng.normal(0, 0.35))
    )


def render(
    scanner: Scanner,
    tissues: Tissues,
    points: np.ndarray,
    rng: np.random.Generator | None = None,
    bias_strength: float = 1.0,
    *,
    uneven_noise: bool = False,
    around: Surroundings | None = None,
) -> np.ndarray:
    """Render tissues on a regular grid in two or three dimensions.

    Parameters
    ----------
    scanner : Scanner
    tissues : tuple of np.ndarray, each of shape (H, W) or (X, Y, Z)
        CSF, GM and WM fractions and detail, as :meth:`Anatomy.tissues` returns them.
    points : np.ndarray, shape (H, W, 3) or (X, Y, Z, 3)
        Positions in scanner mm. In two dimensions, the blur across the slice is omitted.
    rng : np.random.Generator, optional
        Draws the noise and the bias field of the single scan; None renders without them.
    bias_strength : float
        Share of the bias field: 1 for a raw scan, less after bias correction, 0 for none.
    uneven_noise : bool
        Whether the noise is stronger where the field is weak, as bias correction makes it.
    around : Surroundings, optional
        The rest of the head, shown with its noise and that of the air; None shows the brain alone.

    Returns
    -------
    np.ndarray, float32
        Intensities of the scanner, 0 or more; without `around`, 0 outside the brain.
    """
    csf, gm, wm, detail = tissues
    level_csf, level_gm, level_wm = scanner.levels
    signal = level_csf * csf + level_gm * gm + level_wm * wm
    signal = signal + (level_wm - level_gm) * scanner.detail * detail
    if scanner.deep_gray:
        signal += (level_wm - level_gm) * scanner.deep_gray * gm * _deep_gray(points)
    if around is not None:
        signal += level_csf * around.fluid + SOFT_SHARE * level_gm * around.soft
        signal += FAT_LEVEL * around.fat + level_wm * around.cord
    head = np.nonzero(signal > 0)
    jitter = 0.0 if rng is None else rng.normal(0, BIAS_SCAN_SD, len(scanner.bias))
    image = np.zeros(signal.shape, dtype=np.float32)
    raw = 1.0 if uneven_noise else bias_strength
    image[head] = scanner.contrast(signal[head]) * scanner.bias_field(points[head], jitter) ** raw
    image = ndimage.gaussian_filter(image, _blur_in_voxels(scanner, points))
    shown = csf + gm + wm > 0.5 if around is None else np.ones(image.shape, dtype=bool)
    inside = image[shown]
    if rng is not None:
        real, imaginary = scanner.noise * rng.standard_normal((2, inside.size))
        inside = np.hypot(inside + real, imaginary)
    if uneven_noise:
        inside = inside / scanner.bias_field(points[shown], jitter) ** (1 - bias_strength)
    out = np.zeros_like(image)
    out[shown] = scanner.scale * inside
    return out


def _deep_gray(points: np.ndarray) -> np.ndarray:
    """Proximity of positions to the deep gray nuclei, in [0, 1]."""
    either_side = np.abs(points[..., :1]), points[..., 1:]
    apart = [np.concatenate(either_side, axis=-1) - nucleus for nucleus in DEEP_GRAY_MM]
    near = [np.exp(-np.square(a).sum(axis=-1) / (2 * DEEP_GRAY_SD_MM**2)) for a in apart]
    return np.max(near, axis=0)


def _blur_in_voxels(scanner: Scanner, points: np.ndarray) -> list[float]:
    """Blur along each axis of the grid, whose axes may be oblique."""
    origin = points[(0,) * (points.ndim - 1)]
    sigmas = []
    for axis in range(points.ndim - 1):
        step = np.abs(points[(0,) * axis + (1,) + (0,) * (points.ndim - 2 - axis)] - origin)
        # Component-wise, so the blur along an oblique axis lies between those along x, y, z.
        sigmas.append(float(np.dot(scanner.blur_mm, step) / np.dot(step, step)))
    return sigmas
