"""Multi-site BIDS datasets of phantoms, optionally with the truth at every other site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ddae_app.errors import UsageError
from ddae_app.phantom.anatomy import AGE_RANGE, BRAIN_CENTER_MM, Anatomy
from ddae_app.phantom.atrophy import atrophied, tissue_volumes
from ddae_app.phantom.design import YEARS_BETWEEN_SESSIONS, Design
from ddae_app.phantom.files import (
    mask_metadata,
    sidecar,
    truth_metadata,
    write_image,
    write_json,
    write_mask,
    write_raw_description,
    write_sessions,
    write_truth_description,
)
from ddae_app.phantom.head import Head, Surroundings
from ddae_app.phantom.population import Subject, draw_subjects, site_names
from ddae_app.phantom.scanner import Scanner, Tissues, draw_scanner, render
from ddae_app.phantom.seeds import generator

FIELD_OF_VIEW_MM = (190.0, 224.0, 200.0)
"""Along x, y, z; it contains the largest head at the largest displacement."""

HEAD_FIELD_OF_VIEW_MM = (208.0, 256.0, 240.0)
"""The same for whole heads; it ends in the neck."""

TRUTH_FOLDER = Path('derivatives', 'truth')


def write_dataset(out: Path, design: Design) -> list[Path]:
    """Write a raw BIDS dataset, and what is known of it under ``derivatives/truth``.

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
    design.check()
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
    write_raw_description(out, subjects, design)
    if design.traveling or design.whole_head or design.atrophy is not None:
        write_truth_description(out / TRUTH_FOLDER, design)
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


def acquire_head(
    anatomy: Anatomy, head: Head, scanner: Scanner, rng: np.random.Generator
) -> tuple[Tissues, np.ndarray, Surroundings]:
    """The same for a whole head, in a larger field of view.

    Returns
    -------
    tissues : tuple of 4 np.ndarray, shape (X, Y, Z)
    points : np.ndarray, shape (X, Y, Z, 3)
    around : Surroundings
        What is on the voxels besides the brain.
    """
    tissues, points, matrix = acquire(anatomy, scanner, rng, HEAD_FIELD_OF_VIEW_MM)
    in_template = moved(points, np.linalg.inv(matrix))
    return tissues, points, head.around(anatomy, in_template, np.sum(tissues[:3], axis=0))


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
    visits = list(_visits(subject, design, tuple(scanners)))
    if design.longitudinal:
        write_sessions(out, subject, {v.session: {'site': v.site, 'age': v.age} for v in visits})
    if design.atrophy is not None:
        volumes = {v.session: _rounded(tissue_volumes(v.anatomy)) for v in visits}
        write_sessions(out / TRUTH_FOLDER, subject, volumes)
    for visit in visits:
        for run in range(1, design.runs + 1) or (None,):
            yield _write_scan(out, design, visit, run, scanners)


@dataclass(frozen=True)
class _Visit:
    """A subject at one session; `session` is empty where names have no ``ses-``."""

    subject: Subject
    session: str
    site: str
    age: int
    anatomy: Anatomy


def _visits(subject: Subject, design: Design, sites: tuple[str, ...]) -> Iterator[_Visit]:
    anatomy = subject.anatomy()
    for number in range(design.sessions or 1):
        step = number if design.change_scanner else 0
        yield _Visit(
            subject=subject,
            session=f'ses-{number + 1:02d}' if design.sessions else '',
            site=sites[(sites.index(subject.site) + step) % len(sites)],
            age=min(subject.age + YEARS_BETWEEN_SESSIONS * number, int(AGE_RANGE[1])),
            anatomy=atrophied(anatomy, (design.atrophy or 0) * number),
        )


def _rounded(volumes: dict[str, float]) -> dict[str, float]:
    return {f'{tissue}_ml': round(volume, 2) for tissue, volume in volumes.items()}


def _write_scan(
    out: Path, design: Design, visit: _Visit, run: int | None, scanners: dict[str, Scanner]
) -> Path:
    parts = (f'sub-{visit.subject.label}', visit.session, f'run-{run}' if run else '')
    prefix = '_'.join(part for part in parts if part)
    folder = Path(*parts[:2], 'anat')
    scanner = scanners[visit.site]
    rng = generator(design.seed, 'scan', prefix)
    around = None
    if design.whole_head:
        tissues, points, around = acquire_head(visit.anatomy, visit.subject.head(), scanner, rng)
    else:
        tissues, points, _ = acquire(visit.anatomy, scanner, rng)
    raw = folder / f'{prefix}_T1w.nii.gz'
    write_image(out / raw, render(scanner, tissues, points, rng, around=around), points, scanner)
    write_json(sidecar(out / raw), scanner.acquisition)
    truth = out / TRUTH_FOLDER / folder
    if design.whole_head:
        path = truth / f'{prefix}_desc-brain_mask.nii.gz'
        write_mask(path, np.sum(tissues[:3], axis=0) > 0.5, points, scanner)
        write_json(sidecar(path), mask_metadata(raw))
    others = [other for site, other in scanners.items() if site != visit.site]
    for other in others if design.traveling else ():
        path = truth / f'{prefix}_desc-site{other.site}_T1w.nii.gz'
        write_image(path, render(other, tissues, points, around=around), points, scanner)
        write_json(sidecar(path), truth_metadata(raw, other, stripped=not design.whole_head))
    return out / raw
