"""Where preprocessing put the brains of each site: what no harmonization of intensities changes.

``python -m benchmarks.real ... --take-away`` writes ``placement.md``: by site, mean and standard
deviation over people. slices: the slice of the mean brain of the target that the medial slice of
a person is most like, counted upward from its medial one. forward: by how many pixels that slice
lies more to the front. front, back, width: of the brain mask in the medial slice, pixels.
Likeness is the correlation of intensities in the interior, so that contrast plays little part.
``aligned.md``: accuracy of the linear probe, as in ``take-away.md``, on the source scans as they
are, and after each was moved by what was found, to another slice and to the front or back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import shift

from benchmarks.real_scans import Scans, interior_of
from benchmarks.real_tables import Ends, write_intervals
from benchmarks.real_take_away import KINDS, accuracy
from ddae_app.imaging.slices import TRAINING_NEIGHBORS

SHIFTS = np.arange(-4, 4.5, 0.5)
"""Pixels to the front that are tried."""

EDGE = 1e-3
"""What is darker after a shift is mixed with what lies outside the brain."""

ALIGNED = 'mask', 'inside', 'inside, histogram removed', 'inside, tissues alone'
"""Rows of the take-away table that are found again where scans are aligned."""


def write_placement(scans: Scans, target: str, folder: Path) -> None:
    """Write where the brains of each site are, relative to the mean brain of the target.

    Parameters
    ----------
    scans : Scans
    target : str
    folder : Path
        For ``placement.md``.
    """
    _, mean = _near(scans, target)
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


def write_aligned(
    scans: Scans, target: str, deals: int, folder: Path, sites: Sequence[str] | None = None
) -> None:
    """Write what the probe finds in the scans as they are, and where they are aligned.

    Parameters
    ----------
    scans : Scans
    target : str
        To whose mean brain scans are aligned.
    deals : int
    folder : Path
        For ``aligned.md`` and ``aligned.tsv``, with the names of `sites` if there are any.
    sites : sequence of str, optional
        That probes have to tell apart; all by default.
    """
    moved = aligned(scans, target)
    both = replace(scans, interior=scans.interior & interior_of(moved))
    rows: dict[str, dict[str, list[Ends]]] = {}
    for name, slices in (('as they are', scans.slices()), ('aligned', moved)):
        rows[name] = {kind: [] for kind in ALIGNED}
        for number in range(deals):
            chosen = scans.deal(number)[1]
            chosen = chosen[np.isin(scans.sites[chosen], sites or scans.sites)]
            half = both.take(chosen)
            for kind, found in rows[name].items():
                found.append(accuracy(half, KINDS[kind](slices[chosen], half), number))
    write_intervals(folder, '-'.join(['aligned', *(sites or ())]), rows, first='scans')


def aligned(scans: Scans, target: str) -> np.ndarray:
    """The slice of each scan that is where the medial one of the target's mean is, (N, H, W)."""
    near, mean = _near(scans, target)
    out = np.zeros_like(scans.slices())
    for image, stack in zip(out, near, strict=True):
        up, forward, *_ = place(stack[TRAINING_NEIGHBORS], mean, scans.interior)
        found = stack[int(TRAINING_NEIGHBORS - up)]
        image[:] = shift(found, (0, -forward), order=1)
    return np.where(out > EDGE, out, 0)


def _near(scans: Scans, target: str) -> tuple[np.ndarray, np.ndarray]:
    """The slices near the medial one of all scans, and their mean at the target."""
    middle = scans.stacks.shape[1] // 2
    near = scans.stacks[:, middle - TRAINING_NEIGHBORS : middle + TRAINING_NEIGHBORS + 1]
    return near, near[scans.sites == target].mean(axis=0)


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
