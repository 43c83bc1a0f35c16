"""Quality of harmonization methods on whole volumes of phantoms: one command, one table.

    python -m benchmarks.volumes WORK_DIR [--seed 0] [--images 12800] [--methods ddae ...]

Sites, subjects and scanners are those of ``benchmarks.quality``, with all slices. The volumes are
on the grid of the model, as after preprocessing. Some subjects are also scanned in native space,
in a pose of their own and on the voxels of the scanner. These scans are resampled to the grid and
harmonized, and the change is brought back. Only ``ddae`` trains networks, which takes an hour;
``ddae-calibrated`` takes the packaged ones, calibrated on the training volumes. Finished methods
are kept in WORK_DIR and not repeated. The table is written to
``WORK_DIR/volumes-<seed>/volumes.tsv`` and ``volumes.md``.

Columns, of the source sites unless stated otherwise: psnr (dB) and ssim (slices with brain) to the
truth; psnr_unseen at the unseen site; drift: mean difference of the shares of CSF, gray and white
matter from those of the truth, in percent of the brain; stripes: how much rougher the change is
between slices than within them; native_psnr and native_ssim in native space; site_linear and
site_histogram, probes trained on other subjects as in ``benchmarks.quality``, which take five test
subjects of each site; seconds per volume.
The row of the truth gives the values of a perfect method.
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
from scipy.ndimage import affine_transform, gaussian_filter

from benchmarks.phantom_slices import draw_scanners, draw_visit
from benchmarks.phantoms import PROTOCOL, SEEN, SITES, TARGET, UNSEEN
from benchmarks.quality import say, write_tables
from benchmarks.stripes import stripe_index
from ddae_app.evaluation import fidelity, probes
from ddae_app.evaluation.data import FOLDS
from ddae_app.imaging.anatomy import tissue_shares
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.native import native_difference
from ddae_app.imaging.similarity import brain_quantiles
from ddae_app.imaging.slices import crop_start
from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.data import LEAST_BRAIN, SliceData
from ddae_app.methods.ddae.bundle import load_bundle, save_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.presets import preset_of
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.find import packaged_model
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.methods.modelfile import ModelIdentity
from ddae_app.phantom.dataset import acquire
from ddae_app.phantom.population import Subject, draw_subjects
from ddae_app.phantom.scanner import Scanner, render
from ddae_app.phantom.seeds import generator

VOLUMES = replace(PROTOCOL, slices='all')
GRID = model_grid(VOLUMES.template, VOLUMES.grid)
CORNER = (*crop_start(GRID.shape, VOLUMES.slice_shape), 0)
SHAPE = (VOLUMES.depth, *VOLUMES.slice_shape)
SPACING = (GRID.spacing[2], *GRID.spacing[:2])
BIAS_LEFT = 0.3
"""Share of the bias field that is left in these volumes, as after bias correction."""

Transform = Callable[[np.ndarray, Subject], np.ndarray]
"""Maps a stack of slices (D, H, W) and its subject to the stack at the target."""


@dataclass(frozen=True)
class Bench:
    """Volumes in files that are mapped into memory, and their subjects."""

    data: SliceData
    test: np.ndarray
    truth: np.ndarray
    subjects: list[Subject]
    scanners: dict[str, Scanner]
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train-per-site', type=int, default=60)
    parser.add_argument('--test-per-site', type=int, default=8)
    parser.add_argument('--native-per-site', type=int, default=2)
    parser.add_argument('--images', type=int, default=12_800, help='slices shown in training')
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
            file.write_text(json.dumps(evaluate(bench, method, native)))
    rows = {n: json.loads(f.read_text()) for n in METHODS if (f := folder / f'{n}.json').is_file()}
    write_tables(folder, rows, 'volumes')
    print((folder / 'volumes.md').read_text())


def draw(folder: Path, seed: int, train_per_site: int, test_per_site: int) -> Bench:
    """The phantoms of a seed, which are stored in files when they are drawn first."""
    folder.mkdir(parents=True, exist_ok=True)
    scanners = draw_scanners(SITES, seed)
    training = _subjects(SEEN, train_per_site, 1000 + seed, seed)
    test = _subjects(SITES, test_per_site, 2000 + seed, seed)
    images = _store(folder / 'train.npy', training, scanners, 1000 + seed, truth=False)
    _store(folder / 'test.npy', test, scanners, 2000 + seed, truth=True)
    data = SliceData(
        images,
        tuple(subject.site for subject in training),
        np.array([float(subject.age) for subject in training]),
        tuple(subject.sex for subject in training),
        tuple(subject.label for subject in training),
    )
    maps = (np.load(folder / name, mmap_mode='r') for name in ('test.npy', 'truth.npy'))
    return Bench(data, *maps, test, scanners, seed)


def _subjects(sites: tuple[str, ...], n: int, seed: int, scanner_seed: int) -> list[Subject]:
    return [subject for site in sites for subject in draw_subjects(site, n, seed, scanner_seed)]


def _store(
    file: Path, subjects: list[Subject], scanners: dict[str, Scanner], seed: int, *, truth: bool
) -> np.ndarray:
    """The stored scans of all subjects; they are drawn unless an earlier call completed."""
    shape = (len(subjects), *SHAPE)
    files = [file, file.with_name('truth.npy')] if truth else [file]
    done = file.with_suffix('.done')
    if not done.is_file():
        points = GRID.points(
            tuple(slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True))
        )
        maps = [
            np.lib.format.open_memmap(f, mode='w+', dtype=np.float32, shape=shape) for f in files
        ]
        for row, subject in enumerate(subjects):
            target = scanners[TARGET] if truth else None
            visit = draw_visit(subject, scanners[subject.site], seed, points, target, BIAS_LEFT)
            maps[0][row] = as_stack(visit.image / brightness(visit.image, visit.mask), visit.mask)
            if visit.truth is not None and visit.retest is not None:
                # Noise raises the percentile that becomes 1, so the truth is scaled as the retest.
                scale = brightness(visit.retest, visit.mask)
                maps[1][row] = as_stack(visit.truth / scale, visit.mask)
            if row % 20 == 0:
                print(f'  {row} of {len(subjects)} volumes drawn', flush=True)
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


def evaluate(bench: Bench, transform: Transform, native_per_site: int) -> dict[str, float | None]:
    """The columns of one method; None where it does not apply."""
    values_of: dict[str, list] = {name: [] for name in COLUMNS}
    coarse, quantiles, sites, subjects, seconds = [], [], [], [], []
    for row, subject in enumerate(bench.subjects):
        source, truth = (np.array(maps[row]) for maps in (bench.test, bench.truth))
        started = time.perf_counter()
        out = transform(source, subject)
        seconds.append(time.perf_counter() - started)
        if subject.site == UNSEEN:
            values_of['psnr_unseen'].append(fidelity.psnr(out[None], truth[None])[0])
            continue
        coarse.append(gaussian_filter(out, 2)[::4, ::4, ::4].ravel())
        quantiles.append(brain_quantiles(out, probes.QUANTILE_LEVELS))
        sites.append(subject.site)
        subjects.append(subject.label)
        if subject.site != TARGET:
            for name, value in _compared(out, source, truth).items():
                values_of[name].append(value)
    for subject in _first(bench.subjects, native_per_site):
        for name, value in _in_native_space(bench, subject, transform).items():
            values_of[name].append(value)
    means = {
        name: float(np.mean(values)) if values else np.nan for name, values in values_of.items()
    }
    scores = {name: mean if np.isfinite(mean) else None for name, mean in means.items()}
    labels = np.array(sites), np.array(subjects)
    enough = len(sites) >= FOLDS * len(set(sites))
    for name, seen in (('site_linear', coarse), ('site_histogram', quantiles)):
        scores[name] = probes.linear_accuracy(np.array(seen), *labels) if enough else None
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


def _first(subjects: list[Subject], n: int) -> Iterator[Subject]:
    """The first subjects of each source site."""
    for site in SEEN:
        if site != TARGET:
            yield from [subject for subject in subjects if subject.site == site][:n]


def _in_native_space(bench: Bench, subject: Subject, transform: Transform) -> dict[str, float]:
    """Similarity in native space, after harmonization on the grid."""
    seed, anatomy = 2000 + bench.seed, subject.anatomy()
    scanner, target = bench.scanners[subject.site], bench.scanners[TARGET]
    pose, noise, visit = (generator(seed, k, subject.label) for k in ('pose', 'scan', 'visit'))
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
    change = np.moveaxis(transform(stack, subject) - stack, 0, 2)
    added = native_difference(change, brain, box, matrix, nib.Nifti1Image(scan, affine))
    harmonized = scan / top + added
    images = np.moveaxis(harmonized, 2, 0), np.moveaxis(truth / scale, 2, 0)
    shown = (images[1] > 0).mean(axis=(1, 2)) >= LEAST_BRAIN
    return {
        'native_psnr': fidelity.psnr(images[0][None], images[1][None])[0],
        'native_ssim': fidelity.ssim(images[0][shown], images[1][shown]).mean(),
    }


def source(bench: Bench, folder: Path, images: int) -> Transform:
    return lambda stack, subject: stack


def truth(bench: Bench, folder: Path, images: int) -> Transform:
    """Returns the truth; there is none for scans in native space."""
    rows = {subject.label: row for row, subject in enumerate(bench.subjects)}
    return lambda stack, subject: np.array(bench.truth[rows[subject.label]])


def histogram(bench: Bench, folder: Path, images: int) -> Transform:
    return _fitted(HistogramMatching().fit(bench.data.images, cohort_of(bench.data)))


def _fitted(harmonizer: Harmonizer) -> Transform:
    def transform(stack: np.ndarray, subject: Subject) -> np.ndarray:
        cohort = {'site': [subject.site], 'age': [float(subject.age)], 'sex': [subject.sex]}
        return harmonizer.transform(stack[None], pd.DataFrame(cohort), TARGET)[0]

    return transform


def combat(bench: Bench, folder: Path, images: int) -> Transform:
    """ComBat of all voxels at once; it does not support an unseen site."""
    fitted = _fitted(ComBat(protocol=VOLUMES).fit(bench.data.images, cohort_of(bench.data)))
    return lambda stack, subject: (
        np.full_like(stack, np.nan) if subject.site == UNSEEN else fitted(stack, subject)
    )


def ddae(bench: Bench, folder: Path, images: int) -> Transform:
    """A DDAE, which is trained unless its file exists."""
    preset, path = preset_of('tiny', images), folder / 'phantom-tiny.safetensors'
    if not path.is_file():
        train(
            bench.data, replace(preset.model, depth=VOLUMES.depth), preset.train, VOLUMES, folder,
            identity=ModelIdentity(
                path.stem, 'simulated volumes of benchmarks/volumes.py', phantom=True
            ),
            control=TrainingControl(progress=say),
        )  # fmt: skip
    return _fitted(DDAEHarmonizer.load(path, device='cpu', unseen_site='agnostic'))


def ddae_calibrated(bench: Bench, folder: Path, images: int) -> Transform:
    """The packaged networks, of which nothing is trained here, calibrated unless that was done."""
    path = folder / 'calibrated.safetensors'
    if not path.is_file():
        bundle = calibrate(load_bundle(packaged_model('all').path), bench.data)
        folder.mkdir(parents=True, exist_ok=True)
        save_bundle(path, bundle.model, bundle.info)
    return _fitted(DDAEHarmonizer.load(path, device='cpu', unseen_site='agnostic'))


METHODS = {
    'truth': truth,
    'source': source,
    'histogram': histogram,
    'combat': combat,
    'ddae': ddae,
    'ddae-calibrated': ddae_calibrated,
}


if __name__ == '__main__':
    main()
