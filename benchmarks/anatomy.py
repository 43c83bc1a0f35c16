"""Whether harmonization preserves anatomy, and whether the anatomy flag detects failures.

    python -m benchmarks.anatomy WORK_DIR [--method ddae-calibrated] [--seed 0] [--subjects 2]

It uses the phantoms and the model that ``python -m benchmarks.volumes WORK_DIR --methods METHOD``
wrote to WORK_DIR, or makes them. Two tables are written to ``WORK_DIR/volumes-<seed>/METHOD/``.

``guard.md``: harmonized scans of test subjects, unchanged and with simulated hallucinations:
filled lateral ventricles, balls added to white matter, and lesions of the scan that are smoothed
away. The table gives the least, median and largest ``anatomy_unexplained`` and how many scans are
flagged.

``lesions.md``: lesions, which no training scan contains, in scans of test subjects. Their contrast
to the surrounding tissue, in units of the contrast of gray and white matter, is divided by that in
the truth, which is the same subject and lesion in the scanner of the target without noise. The
table gives this ratio for the scan and for the harmonized scan, and the gain in contrast-to-noise
ratio.
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
    METHODS,
    SHAPE,
    Bench,
    Transform,
    as_stack,
    brightness,
    draw,
    xyz,
)
from ddae_app.imaging.anatomy import MOST_UNEXPLAINED, unexplained
from ddae_app.imaging.noise import noise_sd
from ddae_app.phantom.population import Subject
from ddae_app.phantom.seeds import generator

RADII_MM = (3.0, 4.5, 6.0)
LEAST_GAP_MM = 24.0
"""Least distance between two lesions."""

VENTRICLES_MM = ((-28.0, 28.0), (-50.0, 32.0), (0.0, 32.0))
"""A box around the lateral ventricles along x, y, z."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--method', choices=('ddae-calibrated', 'ddae'), default='ddae-calibrated')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--subjects', type=int, default=2, help='of each source site')
    parser.add_argument('--images', type=int, default=12_800, help='shown to ddae in its training')
    args = parser.parse_args()
    folder = args.work_dir / f'volumes-{args.seed}'
    bench = draw(folder, args.seed, 60, 8)
    folder /= args.method
    transform = METHODS[args.method](bench, folder, args.images)
    guard: dict[str, list[float]] = {}
    lesions: dict[str, list[tuple[float, float, float]]] = {}
    for site in SEEN:
        if site == TARGET:
            continue
        for subject in [p for p in bench.subjects if p.site == site][: args.subjects]:
            _one_subject(bench, subject, transform, guard, lesions)
            print(f'  {subject.label} done', flush=True)
    (folder / 'guard.md').write_text(_guard_table(guard))
    (folder / 'lesions.md').write_text(_lesion_table(lesions))
    for name in ('guard', 'lesions'):
        print((folder / f'{name}.md').read_text())


def points() -> np.ndarray:
    """Positions of the voxels of the volumes, template mm, shape (X, Y, Z, 3)."""
    x, y, z = (slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True))
    return GRID.points((x, y, z))


def _one_subject(
    bench: Bench,
    subject: Subject,
    transform: Transform,
    guard: dict[str, list[float]],
    survival: dict[str, list[tuple[float, float, float]]],
) -> None:
    places = points()
    scan, truth = _visit(bench, subject, places, ())
    after = transform(scan, subject)
    lesions = _lesions(subject, truth, places, bench.seed)
    ill, ill_truth = _visit(bench, subject, places, lesions)
    harmonized_ill = transform(ill, subject)

    def measure(name: str, before: np.ndarray, harmonized: np.ndarray) -> None:
        guard.setdefault(name, []).append(float(unexplained(before, harmonized).max()))

    measure('unchanged', scan, after)
    measure('unchanged, six lesions', ill, harmonized_ill)
    measure('ventricles filled', scan, _without_ventricles(after, places))
    for lesion in lesions:
        share = np.moveaxis(lesion.share(places), 2, 0)
        near = gaussian_filter(share, 2) > 0.01
        name = f'{lesion.kind}, radius {lesion.radius_mm:g} mm'
        # First, a lesion is added to a rendering of a scan without lesions. Then, the scan has a
        # lesion that its rendering lacks.
        added = np.where(near, after + ill_truth - truth, after)
        measure(f'added: {name}', scan, np.where(after > 0, np.maximum(added, 0.01), 0))
        measure(f'smoothed away: {name}', np.where(near, ill, scan), after)
        contrast = [_contrast(x, share, truth) for x in (ill, harmonized_ill, ill_truth)]
        gain = noise_sd(ill) / max(noise_sd(harmonized_ill), 1e-4) * contrast[1] / contrast[0]
        rows = survival.setdefault(name, [])
        rows.append((contrast[0] / contrast[2], contrast[1] / contrast[2], gain))


def _lesions(
    subject: Subject, truth: np.ndarray, places: np.ndarray, seed: int
) -> tuple[Lesion, ...]:
    """One lesion of each size and kind in white matter, far from each other."""
    rng = generator(seed, 'lesion', subject.label)
    white = binary_erosion(truth > np.quantile(truth[truth > 0], 0.7), iterations=2)
    candidates, lesions = np.argwhere(white), list[Lesion]()
    for radius, kind in itertools.product(RADII_MM, ('dark', 'bright')):
        while True:
            z, x, y = candidates[rng.integers(len(candidates))]
            center = places[x, y, z]
            gaps = [np.linalg.norm(center - other.center_mm) for other in lesions]
            if not gaps or min(gaps) > LEAST_GAP_MM:
                break
        lesions.append(Lesion(tuple(center.tolist()), radius, kind))
    return tuple(lesions)


def _visit(
    bench: Bench, subject: Subject, places: np.ndarray, lesions: Sequence[Lesion]
) -> tuple[np.ndarray, np.ndarray]:
    """The scan and its truth as stacks, scaled as without the lesions."""
    scanners, seed = bench.scanners, 2000 + bench.seed
    target, source = scanners[TARGET], scanners[subject.site]
    well = draw_visit(subject, source, seed, places, target, BIAS_LEFT)
    ill = (
        draw_visit(subject, source, seed, places, target, BIAS_LEFT, lesions) if lesions else well
    )
    assert well.retest is not None and ill.truth is not None
    scale = brightness(well.image, well.mask), brightness(well.retest, well.mask)
    return as_stack(ill.image / scale[0], ill.mask), as_stack(ill.truth / scale[1], ill.mask)


def _without_ventricles(after: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The scan with white matter in place of the lateral ventricles."""
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
    """Contrast of a lesion to the shell around it, in units of that of gray and white matter."""
    inside = share > 0.9
    near = binary_dilation(share > 0, iterations=4) & ~binary_dilation(share > 0, iterations=1)
    levels = np.quantile(truth[truth > 0], (0.3, 0.55, 0.7, 0.95))
    gray = scan[(truth > levels[0]) & (truth < levels[1])].mean()
    white = scan[(truth > levels[2]) & (truth < levels[3])].mean()
    return float((scan[inside].mean() - scan[near & (scan > 0)].mean()) / (white - gray))


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
