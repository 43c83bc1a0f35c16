"""What bias correction and scaling make of a scanner's scans, measured on a few of them.

N4 takes some of the anatomy for a field, more or less so by contrast and noise; what it leaves
shows the scanner. It works on whole scans, and would take most of the time of drawing slices.
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
"""Of the study whose people it is measured on; they are in no other."""

SMOOTHING_PIXELS = 4.0


@dataclass(frozen=True)
class Correction:
    """What comes, on average, to the part of a scanner's field that every slice is left with.

    Attributes
    ----------
    field : np.ndarray, shape (H, W), float32
        Factor of the slice's intensities.
    gain : float
        The percentile that becomes 1: that of the whole brain over that of the slice.
    """

    field: np.ndarray
    gain: float


def measure_correction(
    scanner: Scanner,
    people: int,
    grid: Grid,
    protocol: Protocol,
    points: np.ndarray,
    scanner_seed: int = 0,
    bias_strength: float = 0.3,
) -> Correction:
    """Take some people through the pipeline, registered perfectly.

    Parameters
    ----------
    scanner : Scanner
    people : int
    grid : Grid
        Of the model.
    protocol : Protocol
        Of the medial slice.
    points : np.ndarray, shape (H, W, 3)
        Positions of its pixels in template mm.
    scanner_seed : int
        Made the scanner and its site's population.
    bias_strength : float
        Part of the field that every slice is left with; it is not counted again.
    """
    total, weight, gains = np.zeros(points.shape[:2]), np.zeros(points.shape[:2]), []
    for subject in draw_subjects(scanner.site, people, SEED, scanner_seed):
        prefix = f'sub-{subject.label}'
        tissues, places, pose = acquire(
            subject.anatomy(), scanner, generator(SEED, 'scan', prefix)
        )
        noise, again = (generator(SEED, 'scan noise', prefix) for _ in range(2))
        jitter = again.normal(0, BIAS_SCAN_SD, len(scanner.bias))  # what rendering draws first
        affine = np.diag([*scanner.voxel_mm, 1.0])
        affine[:3, 3] = places[0, 0, 0]
        scan = nib.Nifti1Image(render(scanner, tissues, places, noise), affine)
        raw = resample_to_grid(scan, pose, grid)
        corrected = correct_bias(raw)
        mask = stripped_mask(corrected, 'brain')
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
