"""Slices of scans as the pipeline extracts them, without running the whole pipeline.

Each scan has its own pose and is rendered on the voxels of the scanner, but only in a slab around
the slice. Functions of the pipeline resample and mask it. The registration is the true pose with a
small error. Bias correction leaves a share of the true field and its average effect on the
scanner.
"""

from __future__ import annotations

from collections.abc import Mapping

import nibabel as nib
import numpy as np

from benchmarks.phantom_correction import Correction
from benchmarks.phantom_slices import Visit
from ddae_app.imaging.brain import foreground
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import resample_to_grid
from ddae_app.phantom.anatomy import Anatomy
from ddae_app.phantom.dataset import draw_pose, moved, voxel_centers
from ddae_app.phantom.population import Subject
from ddae_app.phantom.scanner import Scanner, render
from ddae_app.phantom.seeds import generator

MARGIN_VOXELS = 3.0
"""Thickness of the slab above and below the slice, which blur and interpolation need."""

ERROR_SHIFT_MM, ERROR_LINEAR, ENLARGED = 0.8, 0.016, 0.01
"""Registration error: standard deviations of the shift and of each coefficient of the linear part,
and the average enlargement of brains. Measured on 36 phantoms that ANTs registered."""


def resampled_visit(
    subject: Subject,
    scanner: Scanner,
    seed: int,
    points: np.ndarray,
    target: Scanner | None = None,
    bias_strength: float = 0.3,
    *,
    corrections: Mapping[str, Correction],
    percentile: float,
) -> Visit:
    """Scan one subject in a scanner, and in the same pose in the scanner of the target.

    Parameters and result are those of :func:`~benchmarks.phantom_slices.draw_visit`, with the
    exceptions below. The mask is computed from each image as in the pipeline, so truth and retest
    have the mask of the voxels of the target.

    Parameters
    ----------
    points : np.ndarray, shape (H, W, 3)
        Positions of the pixels of an axial slice.
    corrections : mapping of str to Correction
        By site.
    percentile : float
        Percentile of the intensities of the brain that becomes 1. The truth is scaled as the
        retest, because noise raises the percentile.
    """
    anatomy, prefix = subject.anatomy(), f'sub-{subject.label}'
    pose = draw_pose(anatomy, generator(seed, 'scan', prefix))
    registration = pose @ _registration_error(generator(seed, 'registration', prefix), points)

    def scan(by: Scanner, what: str | None) -> tuple[np.ndarray, np.ndarray]:
        rng = None if what is None else generator(seed, what, prefix)
        slab = _slab(anatomy, by, pose, moved(points, registration), rng, bias_strength)
        resampled = resample_to_grid(slab, registration, _grid(points))
        image = np.asarray(resampled.dataobj)[..., 0] * corrections[by.site].field
        mask = foreground(image)
        return np.where(mask, image, 0), mask

    def top(image: np.ndarray, by: Scanner) -> float:
        return float(np.percentile(image[image > 0], percentile)) * corrections[by.site].gain

    image, mask = scan(scanner, 'scan noise')
    image /= top(image, scanner)
    if target is None:
        return Visit(image, mask, None, None)
    truth, retest = (scan(target, what)[0] for what in (None, 'retest'))
    scale = top(retest, target)
    return Visit(image, mask, truth / scale, retest / scale)


def _slab(
    anatomy: Anatomy,
    scanner: Scanner,
    pose: np.ndarray,
    points: np.ndarray,
    rng: np.random.Generator | None,
    bias_strength: float,
) -> nib.Nifti1Image:
    """A scan of the slab around a slice, given in scanner mm, on the voxels of the scanner."""
    spacing = np.array(scanner.voxel_mm)
    voxels = voxel_centers(scanner)
    reached = points[..., 2] / spacing[2] + (voxels.shape[2] - 1) / 2
    low = max(0, int(reached.min() - MARGIN_VOXELS))
    voxels = voxels[:, :, low : int(reached.max() + MARGIN_VOXELS) + 2]
    first = points[0, 0]
    across = np.cross(points[-1, 0] - first, points[0, -1] - first)
    distance = (voxels - first) @ (across / np.linalg.norm(across))
    near = abs(distance) < MARGIN_VOXELS * spacing.max()
    tissues = np.zeros((4, *near.shape), np.float32)
    tissues[:, near] = anatomy.tissues(moved(voxels[near], np.linalg.inv(pose)))
    image = render(scanner, tuple(tissues), voxels, rng, bias_strength, uneven_noise=True)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = voxels[0, 0, 0]
    return nib.Nifti1Image(image, affine)


def _registration_error(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """A map of template mm close to the identity, about the center of the points; (4, 4)."""
    center = points.reshape(-1, 3).mean(axis=0)
    error = np.eye(4)
    error[:3, :3] += rng.normal(0, ERROR_LINEAR, (3, 3)) - ENLARGED * np.eye(3)
    error[:3, 3] = center + rng.normal(0, ERROR_SHIFT_MM, 3) - error[:3, :3] @ center
    return error


def _grid(points: np.ndarray) -> Grid:
    """The grid of one slice whose voxel centers are the points."""
    (height, width), first = points.shape[:2], points[0, 0]
    affine = np.diag([points[1, 0, 0] - first[0], points[0, 1, 1] - first[1], 1.0, 1.0])
    affine[:3, 3] = first
    return Grid((height, width, 1), affine)
