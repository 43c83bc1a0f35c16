"""Where preprocessing put the brains of each site: what no harmonization of intensities changes.

``python -m benchmarks.real ... --take-away`` writes ``placement.md``: by site, mean and standard
deviation over people. slices: the slice of the mean brain of the target that the medial slice of
a person is most like, counted upward from its medial one. forward: by how many pixels that slice
lies more to the front. front, back, width: of the brain mask in the medial slice, pixels.
Likeness is the correlation of intensities in the interior, so that contrast plays little part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import shift

from benchmarks.real_scans import Scans
from ddae_app.imaging.slices import TRAINING_NEIGHBORS

SHIFTS = np.arange(-4, 4.5, 0.5)
"""Pixels to the front that are tried."""


def write_placement(scans: Scans, target: str, folder: Path) -> None:
    """Write where the brains of each site are, relative to the mean brain of the target.

    Parameters
    ----------
    scans : Scans
    target : str
    folder : Path
        For ``placement.md``.
    """
    middle = scans.stacks.shape[1] // 2
    near = slice(middle - TRAINING_NEIGHBORS, middle + TRAINING_NEIGHBORS + 1)
    mean = scans.stacks[scans.sites == target][:, near].mean(axis=0)
    found = np.array([place(image, mean, scans.interior) for image in scans.slices()])
    columns = 'slices', 'forward', 'front', 'back', 'width'
    lines = [['site', 'people', *columns], ['---'] * (2 + len(columns))]
    for site in np.unique(scans.sites):
        of_site = found[scans.sites == site]
        figures = zip(of_site.mean(axis=0), of_site.std(axis=0, ddof=1), strict=True)
        lines.append([site, str(len(of_site)), *(f'{m:.2f} ({sd:.2f})' for m, sd in figures)])
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    (folder / 'placement.md').write_text(table + '\n')
    print(table)


def place(image: np.ndarray, mean: np.ndarray, interior: np.ndarray) -> tuple[float, ...]:
    """Slices, forward, front, back and width of one medial slice.

    Parameters
    ----------
    image : np.ndarray, shape (H, W)
        The axes are left to right and back to front; 0 outside the brain.
    mean : np.ndarray, shape (D, H, W)
        Slices of a mean brain, the medial one in the middle.
    interior : np.ndarray of bool, shape (H, W)
    """
    middle = len(mean) // 2
    alike = [_correlation(image, each, interior) for each in mean]
    moved = [
        _correlation(shift(image, (0, -by), order=1), mean[middle], interior) for by in SHIFTS
    ]
    across, along = (np.flatnonzero((image > 0).any(axis=axis)) for axis in (1, 0))
    return (
        float(np.argmax(alike)) - middle,
        float(SHIFTS[np.argmax(moved)]),
        float(along[-1]),
        float(along[0]),
        float(across[-1] - across[0]),
    )


def _correlation(image: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    return float(np.corrcoef(image[where], other[where])[0, 1])
