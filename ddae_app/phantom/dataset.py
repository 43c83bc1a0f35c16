"""Multi-site BIDS datasets of phantoms, optionally with the truth at every other site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ddae_app.errors import UsageError
from ddae_app.phantom.anatomy import BRAIN_CENTER_MM, Anatomy
from ddae_app.phantom.files import (
    sidecar,
    truth_metadata,
    write_image,
    write_json,
    write_raw_description,
    write_truth_description,
)
from ddae_app.phantom.population import Subject, draw_subjects, site_names
from ddae_app.phantom.scanner import Scanner, Tissues, draw_scanner, render
from ddae_app.phantom.seeds import generator

FIELD_OF_VIEW_MM = (190.0, 224.0, 200.0)
"""Along x, y, z; it contains the largest head at the largest displacement."""

HEAD_FIELD_OF_VIEW_MM = (208.0, 256.0, 240.0)
"""The same for whole heads; it ends in the neck."""

TRUTH_FOLDER = Path('derivatives', 'truth')


@dataclass(frozen=True)
class Design:
    """The design of a phantom dataset.

    Attributes
    ----------
    n_sites : int
        1 to 26.
    subjects_per_site : int
    seed : int
        Seed of the subjects, their positions in the scanner and the noise.
    scanner_seed : int
        Seed of the scanners and the populations of the sites.
    sessions, runs : int
        Number of repeated scans of each subject, at other positions. 0 omits ``ses-`` or ``run-``
        from the names.
    traveling : bool
        Whether every scan is also rendered, without noise, at every other site.
    voxel_mm : float, optional
        Size of cubic voxels at every site, instead of the voxel size of the scanner.
    """

    n_sites: int = 7
    subjects_per_site: int = 4
    seed: int = 0
    scanner_seed: int = 0
    sessions: int = 0
    runs: int = 0
    traveling: bool = False
    voxel_mm: float | None = None


def write_dataset(out: Path, design: Design) -> list[Path]:
    """Write a raw BIDS dataset, and, with `traveling`, its truth under ``derivatives/truth``.

    Each file is written whole or not at all, and the same design gives the same bytes.

    Parameters
    ----------
    out : Path
        Folder to create; it may exist if it is empty.
    design : Design

    Returns
    -------
    list of Path
        The raw T1w images.

    Raises
    ------
    UsageError
        `out` is not an empty folder, or the design is not valid.
    """
    sites = site_names(design.n_sites)
    _check(design)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f'{out} is not an empty folder; name another folder, or empty this one')
    scanners = {site: _scanner(site, design) for site in sites}
    subjects = [
        subject
        for site in sites
        for subject in draw_subjects(
            site, design.subjects_per_site, design.seed, design.scanner_seed
        )
    ]
    write_raw_description(out, subjects, str(design))
    if design.traveling:
        write_truth_description(out / TRUTH_FOLDER)
    return [
        path for subject in subjects for path in _write_subject(out, design, subject, scanners)
    ]


def acquire(
    anatomy: Anatomy,
    scanner: Scanner,
    rng: np.random.Generator,
    extent_mm: tuple[float, float, float] = FIELD_OF_VIEW_MM,
) -> tuple[Tissues, np.ndarray, np.ndarray]:
    """Put a head into a scanner, slightly rotated and off center, and sample its tissues.

    Returns
    -------
    tissues : tuple of 4 np.ndarray, shape (X, Y, Z)
        As :meth:`Anatomy.tissues` returns them, on the voxels of the scanner.
    points : np.ndarray, shape (X, Y, Z, 3)
        Centers of the voxels in scanner mm, axes RAS.
    matrix : np.ndarray, shape (4, 4)
        Template mm to scanner mm, which registration has to recover.
    """
    matrix, points = draw_pose(anatomy, rng), voxel_centers(scanner, extent_mm)
    return anatomy.tissues(moved(points, np.linalg.inv(matrix))), points, matrix


def draw_pose(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Template mm to scanner mm, shape (4, 4), of a head slightly rotated and off center."""
    turn = Rotation.from_euler('xyz', np.clip(rng.normal(0, 4, 3), -9, 9), degrees=True)
    shift = np.clip(rng.normal(0, 4, 3), -9, 9)
    matrix = np.eye(4)
    matrix[:3, :3] = turn.as_matrix() @ anatomy.head[:3, :3]
    matrix[:3, 3] = shift - matrix[:3, :3] @ np.array(BRAIN_CENTER_MM)
    return matrix


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Positions, shape (..., 3), after an affine map."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _check(design: Design) -> None:
    for name, value, low in (
        ('subjects per site', design.subjects_per_site, 1),
        ('sessions', design.sessions, 0),
        ('runs', design.runs, 0),
        ('seed', design.seed, 0),
        ('scanner seed', design.scanner_seed, 0),
    ):
        if value < low:
            raise UsageError(f'{value} for {name}; expected {low} or more')
    if design.voxel_mm is not None and not 0.5 <= design.voxel_mm <= 10:
        raise UsageError(f'voxels of {design.voxel_mm} mm; expected 0.5 to 10 mm')


def _scanner(site: str, design: Design) -> Scanner:
    scanner = draw_scanner(site, design.scanner_seed)
    if design.voxel_mm is None:
        return scanner
    return replace(scanner, voxel_mm=(design.voxel_mm,) * 3)


def voxel_centers(
    scanner: Scanner, extent_mm: tuple[float, float, float] = FIELD_OF_VIEW_MM
) -> np.ndarray:
    """Centers of the voxels of a scanner, in scanner mm, shape (X, Y, Z, 3)."""
    axes = [
        step * (np.arange(n) - (n - 1) / 2)
        for step, n in (
            (step, round(extent / step))
            for step, extent in zip(scanner.voxel_mm, extent_mm, strict=True)
        )
    ]
    return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)


def _write_subject(
    out: Path, design: Design, subject: Subject, scanners: dict[str, Scanner]
) -> Iterator[Path]:
    anatomy, scanner = subject.anatomy(), scanners[subject.site]
    for folder, prefix in _scan_names(subject, design):
        rng = generator(design.seed, 'scan', prefix)
        tissues, points, _ = acquire(anatomy, scanner, rng)
        raw = folder / f'{prefix}_T1w.nii.gz'
        write_image(out / raw, render(scanner, tissues, points, rng), points, scanner)
        write_json(sidecar(out / raw), scanner.acquisition)
        others = [other for site, other in scanners.items() if site != subject.site]
        for other in others if design.traveling else ():
            path = out / TRUTH_FOLDER / folder / f'{prefix}_desc-site{other.site}_T1w.nii.gz'
            write_image(path, render(other, tissues, points), points, scanner)
            write_json(sidecar(path), truth_metadata(raw, other))
        yield out / raw


def _scan_names(subject: Subject, design: Design) -> Iterator[tuple[Path, str]]:
    for session in range(1, design.sessions + 1) or (None,):
        for run in range(1, design.runs + 1) or (None,):
            folder, prefix = Path(f'sub-{subject.label}'), f'sub-{subject.label}'
            if session is not None:
                folder, prefix = folder / f'ses-{session:02d}', f'{prefix}_ses-{session:02d}'
            if run is not None:
                prefix = f'{prefix}_run-{run}'
            yield folder / 'anat', prefix
