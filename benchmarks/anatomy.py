"""Whether anatomy survives harmonisation, and whether the anatomy guard sees it where it does not.

    python -m benchmarks.anatomy WORK_DIR [--seed 0] [--people 2]

Takes the phantoms and the model that ``volumes.py WORK_DIR --methods ddae`` left there. Two tables
go to ``WORK_DIR/volumes-<seed>/``.

``guard.md``: harmonised scans of test people, as they are and with hallucinations planted: the
lateral ventricles filled, balls added to white matter, a lesion of the scan smoothed away. The
largest value of ``anatomy_unexplained`` among them, the least, and how many are flagged.

``lesions.md``: lesions that no training scan has, in scans of test people: their contrast to what
surrounds them, in steps from grey to white matter, over that in the truth (a scan of the same
person and lesion by the target's scanner, without noise): of the scan, and of what became of it.
And contrast to noise, after over before.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from benchmarks.phantom_lesions import Lesion
from benchmarks.phantom_slices import draw_visit
from benchmarks.phantoms import SEEN, TARGET
from benchmarks.volumes import (
    BIAS_LEFT,
    CORNER,
    GRID,
    SHAPE,
    Bench,
    Transform,
    as_stack,
    brightness,
    ddae,
    draw,
    xyz,
)
from ddae_app.imaging.anatomy import MOST_UNEXPLAINED, unexplained
from ddae_app.imaging.noise import noise_sd
from ddae_app.phantom.population import Subject
from ddae_app.phantom.seeds import generator

RADII_MM = (3.0, 4.5, 6.0)
FARTHEST_SEEN_MM = 24.0
"""Two lesions are further apart than this."""

VENTRICLES_MM = ((-28.0, 28.0), (-50.0, 32.0), (0.0, 32.0))
"""A box around the lateral ventricles, along x, y, z."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--people', type=int, default=2, help='of each source site')
    parser.add_argument('--images', type=int, default=12_800)
    args = parser.parse_args()
    folder = args.work_dir / f'volumes-{args.seed}'
    bench = draw(folder, args.seed, 60, 8)
    transform = ddae(bench, folder / 'ddae', args.images)
    guard: dict[str, list[float]] = {}
    lesions: dict[str, list[tuple[float, float, float]]] = {}
    for site in SEEN:
        if site == TARGET:
            continue
        for person in [p for p in bench.people if p.site == site][: args.people]:
            _one_person(bench, person, transform, guard, lesions)
            print(f'  {person.label} done', flush=True)
    (folder / 'guard.md').write_text(_guard_table(guard))
    (folder / 'lesions.md').write_text(_lesion_table(lesions))
    for name in ('guard', 'lesions'):
        print((folder / f'{name}.md').read_text())


def points() -> np.ndarray:
    """Of the volumes' voxels, template mm, shape (X, Y, Z, 3)."""
    x, y, z = (slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True))
    return GRID.points((x, y, z))


def _one_person(
    bench: Bench,
    person: Subject,
    transform: Transform,
    guard: dict[str, list[float]],
    survival: dict[str, list[tuple[float, float, float]]],
) -> None:
    places = points()
    scan, truth = _visit(bench, person, places, ())
    after = transform(scan, person)
    lesions = _lesions(person, truth, places, bench.seed)
    ill, ill_truth = _visit(bench, person, places, lesions)
    found = transform(ill, person)

    def judge(name: str, before: np.ndarray, harmonised: np.ndarray) -> None:
        guard.setdefault(name, []).append(float(unexplained(before, harmonised).max()))

    judge('as it is', scan, after)
    judge('as it is, six lesions', ill, found)
    judge('ventricles filled', scan, _without_ventricles(after, places))
    for lesion in lesions:
        share = np.moveaxis(lesion.share(places), 2, 0)
        near = gaussian_filter(share, 2) > 0.01
        name = f'{lesion.kind}, radius {lesion.radius_mm:g} mm'
        # One of them, as the target shows it, in a rendering that has none; and one of the scan,
        # in whose rendering it is not.
        added = np.where(near, after + ill_truth - truth, after)
        judge(f'added: {name}', scan, np.where(after > 0, np.maximum(added, 0.01), 0))
        judge(f'smoothed away: {name}', np.where(near, ill, scan), after)
        contrast = [_contrast(x, share, truth) for x in (ill, found, ill_truth)]
        gain = noise_sd(ill) / max(noise_sd(found), 1e-4) * contrast[1] / contrast[0]
        rows = survival.setdefault(name, [])
        rows.append((contrast[0] / contrast[2], contrast[1] / contrast[2], gain))


def _lesions(
    person: Subject, truth: np.ndarray, places: np.ndarray, seed: int
) -> tuple[Lesion, ...]:
    """One of each size and kind in white matter, far from each other."""
    rng = generator(seed, 'lesion', person.label)
    white = binary_erosion(truth > np.quantile(truth[truth > 0], 0.7), iterations=2)
    candidates, lesions = np.argwhere(white), list[Lesion]()
    for radius, kind in itertools.product(RADII_MM, ('dark', 'bright')):
        while True:
            z, x, y = candidates[rng.integers(len(candidates))]
            centre = places[x, y, z]
            gaps = [np.linalg.norm(centre - other.centre_mm) for other in lesions]
            if not gaps or min(gaps) > FARTHEST_SEEN_MM:
                break
        lesions.append(Lesion(tuple(centre.tolist()), radius, kind))
    return tuple(lesions)


def _visit(
    bench: Bench, person: Subject, places: np.ndarray, lesions: Sequence[Lesion]
) -> tuple[np.ndarray, np.ndarray]:
    """The scan and its truth as stacks, each scaled as it is without the lesions."""
    scanners, seed = bench.scanners, 2000 + bench.seed
    target, own = scanners[TARGET], scanners[person.site]
    well = draw_visit(person, own, seed, places, target, BIAS_LEFT)
    ill = draw_visit(person, own, seed, places, target, BIAS_LEFT, lesions) if lesions else well
    assert well.retest is not None and ill.truth is not None
    scale = brightness(well.image, well.mask), brightness(well.retest, well.mask)
    return as_stack(ill.image / scale[0], ill.mask), as_stack(ill.truth / scale[1], ill.mask)


def _without_ventricles(after: np.ndarray, places: np.ndarray) -> np.ndarray:
    """White matter in place of the lateral ventricles."""
    inside = np.ones(after.shape, bool)
    for axis, (low, high) in enumerate(VENTRICLES_MM):
        where = np.moveaxis(places[..., axis], 2, 0)
        inside &= (where > low) & (where < high)
    brain = after > 0
    dark = brain & (gaussian_filter(after, 1) < np.quantile(after[brain], 0.1)) & inside
    dark = binary_dilation(dark, iterations=1) & brain
    soft = gaussian_filter(dark.astype(np.float32), 0.7)
    return np.where(brain, after + soft * (np.quantile(after[brain], 0.8) - after), 0)


def _contrast(scan: np.ndarray, share: np.ndarray, truth: np.ndarray) -> float:
    """Of a lesion to the shell around it, in steps from grey to white matter."""
    inside = share > 0.9
    near = binary_dilation(share > 0, iterations=4) & ~binary_dilation(share > 0, iterations=1)
    levels = np.quantile(truth[truth > 0], (0.3, 0.55, 0.7, 0.95))
    grey = scan[(truth > levels[0]) & (truth < levels[1])].mean()
    white = scan[(truth > levels[2]) & (truth < levels[3])].mean()
    return float((scan[inside].mean() - scan[near & (scan > 0)].mean()) / (white - grey))


def _guard_table(guard: dict[str, list[float]]) -> str:
    lines = [
        f'| flagged above {MOST_UNEXPLAINED:g} | scans | least | median | largest | flagged |'
    ]
    lines.append('| --- ' * 6 + '|')
    for name, values in guard.items():
        flagged = sum(value > MOST_UNEXPLAINED for value in values)
        lines.append(
            f'| {name} | {len(values)} | {min(values):.3f} | {np.median(values):.3f} | '
            f'{max(values):.3f} | {flagged} |'
        )
    return '\n'.join(lines) + '\n'


def _lesion_table(lesions: dict[str, list[tuple[float, float, float]]]) -> str:
    lines = [
        '| lesion | scans | contrast of the scan, over the truth | after | spread | CNR gain |'
    ]
    lines.append('| --- ' * 6 + '|')
    for name, rows in lesions.items():
        scan, after, to_noise = np.array(rows).T
        lines.append(
            f'| {name} | {len(rows)} | {np.mean(scan):.3f} | {np.mean(after):.3f} | '
            f'{after.min():.3f} to {after.max():.3f} | {np.mean(to_noise):.2f} |'
        )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
