"""Slices of scans as the pipeline cuts them, without running all of it.

Each person lies in each scanner in a pose of their own, on the scanner's own voxels. Only a slab
around the slice is rendered. It is resampled and masked by the pipeline's own functions;
registration is the true pose and a small error, and what bias correction leaves is part of the
true field, and what it leaves of the scanner on average.
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
from ddae_app.phantom.dataset import draw_pose, moved, voxel_centres
from ddae_app.phantom.population import Subject
from ddae_app.phantom.scanner import Scanner, render
from ddae_app.phantom.seeds import generator

MARGIN_VOXELS = 3.0
"""Above and below the slice: what blur and interpolation reach."""

ERROR_SHIFT_MM, ERROR_LINEAR, ENLARGED = 0.8, 0.016, 0.01
"""What registration misses the pose by: standard deviations of the shift and of each of the nine
numbers of the linear part; and by how much brains come out larger than they are, on average.
Measured on 36 phantoms that ANTs registered."""


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
    """Scan one person, and again in the target's scanner, in the same pose.

    Parameters and result are those of :func:`~benchmarks.phantom_slices.draw_visit`, but for what
    follows here. The mask is found in each image as the pipeline finds it; so truth and retest
    have that of the target's own voxels.

    Parameters
    ----------
    points : np.ndarray, shape (H, W, 3)
        Of an axial slice.
    corrections : mapping of str to Correction
        Of the scanners, by site.
    percentile : float
        Of the brain's intensities that becomes 1: images are scaled, the truth as the retest is,
        for noise lifts the percentile.
    """
    anatomy, prefix = subject.anatomy(), f'sub-{subject.label}'
    pose = draw_pose(anatomy, generator(seed, 'scan', prefix))
    found = pose @ _registration_error(generator(seed, 'registration', prefix), points)

    def scan(by: Scanner, what: str | None) -> tuple[np.ndarray, np.ndarray]:
        rng = None if what is None else generator(seed, what, prefix)
        slab = _slab(anatomy, by, pose, moved(points, found), rng, bias_strength)
        resampled = resample_to_grid(slab, found, _grid(points))
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
    """What a scanner shows of a slice, given in scanner mm, and about it, on its own voxels."""
    spacing = np.array(scanner.voxel_mm)
    voxels = voxel_centres(scanner)
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
    """A map of template mm that is nearly none, about the middle of the points; (4, 4)."""
    centre = points.reshape(-1, 3).mean(axis=0)
    error = np.eye(4)
    error[:3, :3] += rng.normal(0, ERROR_LINEAR, (3, 3)) - ENLARGED * np.eye(3)
    error[:3, 3] = centre + rng.normal(0, ERROR_SHIFT_MM, 3) - error[:3, :3] @ centre
    return error


def _grid(points: np.ndarray) -> Grid:
    """The grid, of one slice, whose voxel centres the points are."""
    (height, width), first = points.shape[:2], points[0, 0]
    affine = np.diag([points[1, 0, 0] - first[0], points[0, 1, 1] - first[1], 1.0, 1.0])
    affine[:3, 3] = first
    return Grid((height, width, 1), affine)
