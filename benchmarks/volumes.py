"""Quality on whole volumes of phantoms whose truth is known: one command, one table.

    python benchmarks/volumes.py WORK_DIR [--seed 0] [--images 12800] [--methods ddae ...]

Sites, people and scanners as in ``quality.py``, every slice of each. Volumes lie on the model's
grid as preprocessing leaves them. Some people are also scanned in their own space, turned in the
scanner's own voxels; these scans are resampled onto the grid, harmonised, and what that changes is
brought back. What has been done is found in WORK_DIR and not done again. The table goes to
``WORK_DIR/volumes-<seed>/volumes.tsv`` and ``volumes.md``.

Columns, source sites but the target unless another is named: psnr (dB) and ssim (slices with
brain) to the truth; psnr_unseen, of the site never seen; drift: how far the shares of CSF, grey
and white matter are from the truth's, mean, in hundredths of the brain; stripes: how much rougher
through the slices than within them what was changed is; native_psnr and native_ssim, in the scans'
own space; site_linear and site_histogram, probes on other people's outputs as in ``quality.py``;
seconds a volume. The row of the truth tells what each column would be, were a method perfect.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from phantoms import PROTOCOL, SEEN, SITES, TARGET, UNSEEN
from quality import say, write_tables
from scipy.ndimage import affine_transform, gaussian_filter

from ddae_app.evaluation import fidelity, probes
from ddae_app.imaging.anatomy import stripe_index, tissue_shares
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.native import native_difference
from ddae_app.imaging.slices import crop_start
from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.data import LEAST_BRAIN, SliceData
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.train import train
from ddae_app.methods.find import training_preset
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.phantom.dataset import acquire
from ddae_app.phantom.population import Subject, draw_subjects
from ddae_app.phantom.scanner import Scanner, render
from ddae_app.phantom.seeds import generator
from ddae_app.phantom.slices import draw_scanners, draw_visit

VOLUMES = replace(PROTOCOL, slices='all')
GRID = model_grid(VOLUMES.template, VOLUMES.grid)
CORNER = (*crop_start(GRID.shape, VOLUMES.slice_shape), 0)
SHAPE = (VOLUMES.depth, *VOLUMES.slice_shape)
SPACING = (GRID.spacing[2], *GRID.spacing[:2])
BIAS_LEFT = 0.3
"""Of the bias field, by bias correction, which these volumes have behind them."""

Transform = Callable[[np.ndarray, Subject], np.ndarray]
"""A stack of slices (D, H, W) and whose it is, to the stack at the target."""


@dataclass(frozen=True)
class Bench:
    """Volumes in files, mapped into memory, and who they are of."""

    data: SliceData
    judged: np.ndarray
    truth: np.ndarray
    people: list[Subject]
    scanners: dict[str, Scanner]
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train-per-site', type=int, default=60)
    parser.add_argument('--test-per-site', type=int, default=8)
    parser.add_argument('--native-per-site', type=int, default=2)
    parser.add_argument('--images', type=int, default=12_800, help='slices seen in training')
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work_dir / f'volumes-{args.seed}'
    bench = draw(folder, args.seed, args.train_per_site, args.test_per_site)
    for name in args.methods:
        file = folder / f'{name}.json'
        if not file.is_file():
            print(f'{name} ...', flush=True)
            method = METHODS[name](bench, folder / name, args.images)
            native = 0 if name == 'truth' else args.native_per_site
            file.write_text(json.dumps(judge(bench, method, native)))
    rows = {n: json.loads(f.read_text()) for n in METHODS if (f := folder / f'{n}.json').is_file()}
    write_tables(folder, rows, 'volumes')
    print((folder / 'volumes.md').read_text())


def draw(folder: Path, seed: int, train_per_site: int, test_per_site: int) -> Bench:
    """The phantoms of a seed, drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    scanners = draw_scanners(SITES, seed)
    learn = _people(SEEN, train_per_site, 1000 + seed, seed)
    judge = _people(SITES, test_per_site, 2000 + seed, seed)
    learnt = _store(folder / 'learn.npy', learn, scanners, 1000 + seed, truth=False)
    _store(folder / 'judge.npy', judge, scanners, 2000 + seed, truth=True)
    data = SliceData(
        learnt,
        tuple(person.site for person in learn),
        np.array([float(person.age) for person in learn]),
        tuple(person.sex for person in learn),
        tuple(person.label for person in learn),
    )
    maps = (np.load(folder / name, mmap_mode='r') for name in ('judge.npy', 'truth.npy'))
    return Bench(data, *maps, judge, scanners, seed)


def _people(sites: tuple[str, ...], n: int, seed: int, scanner_seed: int) -> list[Subject]:
    return [person for site in sites for person in draw_subjects(site, n, seed, scanner_seed)]


def _store(
    file: Path, people: list[Subject], scanners: dict[str, Scanner], seed: int, *, truth: bool
) -> np.ndarray:
    """Scans of everybody, one after another; each is drawn once, whenever it is interrupted."""
    shape = (len(people), *SHAPE)
    files = [file, file.with_name('truth.npy')] if truth else [file]
    done = file.with_suffix('.done')
    if not done.is_file():
        points = GRID.points(
            tuple(slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True))
        )
        maps = [
            np.lib.format.open_memmap(f, mode='w+', dtype=np.float32, shape=shape) for f in files
        ]
        for row, person in enumerate(people):
            target = scanners[TARGET] if truth else None
            visit = draw_visit(person, scanners[person.site], seed, points, target, BIAS_LEFT)
            maps[0][row] = as_stack(visit.image / brightness(visit.image, visit.mask), visit.mask)
            if visit.truth is not None and visit.retest is not None:
                # Noise lifts the percentile that becomes 1: the truth has the retest's scale.
                scale = brightness(visit.retest, visit.mask)
                maps[1][row] = as_stack(visit.truth / scale, visit.mask)
            if row % 20 == 0:
                print(f'  {row} of {len(people)} volumes drawn', flush=True)
        for each in maps:
            each.flush()
        done.touch()
    return np.load(file, mmap_mode='r')


def xyz(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return shape[1], shape[2], shape[0]


def as_stack(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.where(mask, volume, 0), 2, 0)


def brightness(volume: np.ndarray, mask: np.ndarray) -> float:
    return float(np.percentile(volume[mask], VOLUMES.intensity_percentile))


def judge(bench: Bench, transform: Transform, native_per_site: int) -> dict[str, float | None]:
    """The columns of one method; None where it does not apply."""
    found: dict[str, list] = {name: [] for name in COLUMNS}
    coarse, quantiles, sites, people, seconds = [], [], [], [], []
    for row, person in enumerate(bench.people):
        source, truth = (np.array(maps[row]) for maps in (bench.judged, bench.truth))
        started = time.perf_counter()
        out = transform(source, person)
        seconds.append(time.perf_counter() - started)
        if person.site == UNSEEN:
            found['psnr_unseen'].append(fidelity.psnr(out[None], truth[None])[0])
            continue
        coarse.append(gaussian_filter(out, 2)[::4, ::4, ::4].ravel())
        quantiles.append(np.quantile(out[out > 0], probes.QUANTILE_LEVELS))
        sites.append(person.site)
        people.append(person.label)
        if person.site != TARGET:
            for name, value in _compared(out, source, truth).items():
                found[name].append(value)
    for person in _first(bench.people, native_per_site):
        for name, value in _in_native_space(bench, person, transform).items():
            found[name].append(value)
    means = {name: float(np.mean(values)) if values else np.nan for name, values in found.items()}
    scores = {name: mean if np.isfinite(mean) else None for name, mean in means.items()}
    labels = np.array(sites), np.array(people)
    scores['site_linear'] = probes.linear_accuracy(np.array(coarse), *labels)
    scores['site_histogram'] = probes.linear_accuracy(np.array(quantiles), *labels)
    return scores | {'seconds': float(np.median(seconds))}


COLUMNS = ('psnr', 'ssim', 'psnr_unseen', 'drift', 'stripes', 'native_psnr', 'native_ssim')


def _compared(out: np.ndarray, source: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    shown = (truth > 0).mean(axis=(1, 2)) >= LEAST_BRAIN
    shares = [list(tissue_shares(scan).values()) for scan in (out, truth)]
    return {
        'psnr': fidelity.psnr(out[None], truth[None])[0],
        'ssim': fidelity.ssim(out[shown], truth[shown]).mean(),
        'drift': 100 * np.abs(np.subtract(*shares)).mean(),
        'stripes': stripe_index(out - source, source > 0, SPACING),
    }


def _first(people: list[Subject], n: int) -> Iterator[Subject]:
    """The first of each source site but the target."""
    for site in SEEN:
        if site != TARGET:
            yield from [person for person in people if person.site == site][:n]


def _in_native_space(bench: Bench, person: Subject, transform: Transform) -> dict[str, float]:
    """A scan in the scanner's own voxels, harmonised on the grid and brought back."""
    seed, anatomy = 2000 + bench.seed, person.anatomy()
    scanner, target = bench.scanners[person.site], bench.scanners[TARGET]
    pose, noise, visit = (generator(seed, k, person.label) for k in ('pose', 'scan', 'visit'))
    tissues, points, matrix = acquire(anatomy, scanner, pose)
    scan = render(scanner, tissues, points, noise, BIAS_LEFT)
    truth = render(target, tissues, points, None, BIAS_LEFT)
    retest = render(target, tissues, points, visit, BIAS_LEFT)
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = points[0, 0, 0]
    box = GRID.affine.copy()
    box[:3, 3] = (GRID.affine @ [*CORNER, 1])[:3]

    def on_grid(volume: np.ndarray) -> np.ndarray:
        to_scan = np.linalg.inv(affine) @ matrix @ box
        return affine_transform(volume, to_scan, output_shape=xyz(SHAPE), order=1)

    brain = on_grid((scan > 0).astype(np.float32)) > 0.5
    before, again = on_grid(scan), on_grid(retest)
    top, scale = brightness(before, brain), brightness(again, brain)
    stack = as_stack(before / top, brain)
    change = np.moveaxis(transform(stack, person) - stack, 0, 2)
    added = native_difference(change, brain, box, matrix, nib.Nifti1Image(scan, affine))
    found = scan / top + added
    images = np.moveaxis(found, 2, 0), np.moveaxis(truth / scale, 2, 0)
    shown = (images[1] > 0).mean(axis=(1, 2)) >= LEAST_BRAIN
    return {
        'native_psnr': fidelity.psnr(images[0][None], images[1][None])[0],
        'native_ssim': fidelity.ssim(images[0][shown], images[1][shown]).mean(),
    }


def source(bench: Bench, folder: Path, images: int) -> Transform:
    return lambda stack, person: stack


def truth(bench: Bench, folder: Path, images: int) -> Transform:
    """Looks the answer up; there is none for scans in their own space."""
    rows = {person.label: row for row, person in enumerate(bench.people)}
    return lambda stack, person: np.array(bench.truth[rows[person.label]])


def histogram(bench: Bench, folder: Path, images: int) -> Transform:
    learnt = HistogramMatching().fit(bench.data.images, cohort_of(bench.data))
    return _fitted(learnt)


def _fitted(learnt: Harmonizer) -> Transform:
    def transform(stack: np.ndarray, person: Subject) -> np.ndarray:
        known = {'site': [person.site], 'age': [float(person.age)], 'sex': [person.sex]}
        return learnt.transform(stack[None], pd.DataFrame(known), TARGET)[0]

    return transform


def combat(bench: Bench, folder: Path, images: int) -> Transform:
    """Per voxel, of all voxels at once; it cannot harmonise a site that it has not seen."""
    fitted = _fitted(ComBat(protocol=VOLUMES).fit(bench.data.images, cohort_of(bench.data)))
    return lambda stack, person: (
        np.full_like(stack, np.nan) if person.site == UNSEEN else fitted(stack, person)
    )


def ddae(bench: Bench, folder: Path, images: int) -> Transform:
    """A DDAE; where one has been trained already, that one."""
    preset, path = training_preset('tiny', images), folder / 'phantom-tiny.safetensors'
    if not path.is_file():
        train(
            bench.data, replace(preset.model, depth=VOLUMES.depth), preset.train, VOLUMES, folder,
            name=path.stem, dataset='simulated volumes of benchmarks/volumes.py', phantom=True,
            progress=say,
        )  # fmt: skip
    return _fitted(replace(DDAEHarmonizer.load(path, 'cpu'), unseen_site='agnostic'))


METHODS = {
    'truth': truth,
    'source': source,
    'histogram': histogram,
    'combat': combat,
    'ddae': ddae,
}


if __name__ == '__main__':
    main()
