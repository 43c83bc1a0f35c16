"""The effect of bias correction and scaling on the scans of a scanner, measured on a few of them.

N4 takes a part of the anatomy for a bias field, depending on contrast and noise, so that its
result still depends on the scanner. It needs whole scans, and would take most of the time if it
were run for every simulated slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.bias import correct_bias
from ddae_app.imaging.brain import stripped_mask
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import resample_to_grid
from ddae_app.imaging.slices import extract_slices
from ddae_app.phantom.dataset import acquire, moved
from ddae_app.phantom.population import draw_subjects
from ddae_app.phantom.scanner import BIAS_SCAN_SD, Scanner, render
from ddae_app.phantom.seeds import generator
from ddae_app.settings import Protocol

SEED = 5000
"""Seed of the subjects on whom the correction is measured; no other study has them."""

SMOOTHING_PIXELS = 4.0


@dataclass(frozen=True)
class Correction:
    """The average effect of the pipeline, beyond the share of the field that every slice keeps.

    Attributes
    ----------
    field : np.ndarray, shape (H, W), float32
        Factor of the intensities of a slice.
    gain : float
        Intensity percentile of the whole brain over that of the slice.
    """

    field: np.ndarray
    gain: float


def measure_correction(
    scanner: Scanner,
    subjects: int,
    grid: Grid,
    protocol: Protocol,
    points: np.ndarray,
    scanner_seed: int = 0,
    bias_strength: float = 0.3,
) -> Correction:
    """Process the scans of some subjects by the pipeline, with the true registration.

    Parameters
    ----------
    scanner : Scanner
    subjects : int
        Number of subjects.
    grid : Grid
        The grid of the model.
    protocol : Protocol
        A protocol of the medial slice.
    points : np.ndarray, shape (H, W, 3)
        Positions of the pixels in template mm.
    scanner_seed : int
        Seed of the scanner and of the population of its site.
    bias_strength : float
        Share of the field that every slice keeps, which is not included in the result.
    """
    total, weight, gains = np.zeros(points.shape[:2]), np.zeros(points.shape[:2]), []
    for subject in draw_subjects(scanner.site, subjects, SEED, scanner_seed):
        prefix = f'sub-{subject.label}'
        tissues, places, pose = acquire(
            subject.anatomy(), scanner, generator(SEED, 'scan', prefix)
        )
        noise, again = (generator(SEED, 'scan noise', prefix) for _ in range(2))
        jitter = again.normal(
            0, BIAS_SCAN_SD, len(scanner.bias)
        )  # the first numbers that rendering draws
        affine = np.diag([*scanner.voxel_mm, 1.0])
        affine[:3, 3] = places[0, 0, 0]
        scan = nib.Nifti1Image(render(scanner, tissues, places, noise), affine)
        raw = resample_to_grid(scan, pose, grid)
        corrected = correct_bias(raw)
        mask = stripped_mask(corrected)
        before, after = (
            extract_slices(np.asarray(image.dataobj), mask, grid, protocol)
            for image in (raw, corrected)
        )
        slices = [stack.data[0] * stack.scale for stack in (before, after)]
        brain = (slices[0] > 0) & (slices[1] > 0)
        change = np.log(slices[1][brain] / slices[0][brain])
        field = np.log(scanner.bias_field(moved(points, pose), jitter))[brain]
        left = change + (1 - bias_strength) * field
        total[brain] += left - left.mean()
        weight += brain
        inside = after.data[0][after.data[0] > 0]
        gains.append(1 / np.percentile(inside, protocol.intensity_percentile))
    smooth = gaussian_filter(total, SMOOTHING_PIXELS) / np.maximum(
        gaussian_filter(weight, SMOOTHING_PIXELS), 1e-6
    )
    return Correction(np.exp(smooth).astype(np.float32), float(np.mean(gains)))
