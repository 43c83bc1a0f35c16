"""Train the packaged networks, on real and simulated brains under scanners drawn at random.

    python -m benchmarks.universal BIDS_DIR PREPROC_DIR WORK_DIR [--images 64000]
        [--scanners 50] [--device cuda] [--threads 2]

``BIDS_DIR`` is the dataset of real scans, ``PREPROC_DIR`` what ``ddae-app ... participant
--stage preproc`` made of it. The networks learn from every second person of each site, in the
order of their labels; the others are never seen, so that the networks can be judged on them. The
brains are taken to the common scale of their sites, and then scanned anew by many scanners that
``benchmarks.random_scanners`` draws. A run that was stopped resumes. The networks are written to
``WORK_DIR/networks/``, which ``benchmarks.references`` makes the packaged models from.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.quality import say
from benchmarks.random_scanners import RandomScanner, draw_random_scanner, scan
from benchmarks.volumes import CORNER, GRID, SHAPE, VOLUMES, as_stack, brightness, xyz
from ddae_app.imaging import volumes
from ddae_app.imaging.intensities import CEILING
from ddae_app.imaging.slices import training_stacks
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.config import ModelConfig, TrainConfig
from ddae_app.methods.ddae.presets import preset_of
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.device import resolve_device
from ddae_app.methods.modelfile import ModelIdentity
from ddae_app.phantom.anatomy import BRAIN_CENTER_MM
from ddae_app.phantom.population import draw_subjects
from ddae_app.phantom.scanner import draw_scanner, render, with_tissue_contrast
from ddae_app.phantom.seeds import generator

SEED = 21
SCANNERS = 50
PER_SCANNER = {'Real': 8, 'Phantom': 6}
"""Brains of each kind that a scanner scans."""

SIMULATED = 0.2
"""Part of the scanners, of those that scan simulated brains."""

PHANTOMS = 24
LEVELS = 255
NAME = 'universal'


def networks(images: int) -> tuple[ModelConfig, TrainConfig]:
    """The configuration of the packaged networks, for whole volumes, and of their training."""
    preset = preset_of('tiny', images)
    model = replace(
        preset.model,
        depth=VOLUMES.depth,
        volume_depth=VOLUMES.depth,
        condition_dropout=0.3,
    )
    training = replace(
        preset.train,
        lone_fraction=0.25,
        residual_correction=False,
        ema_halflife_images=max(1, images // 20),
        validation_interval_images=max(1, images // 20),
    )
    return model, training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('preproc_dir', type=Path)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--images', type=int, default=64_000, help='slices shown in training')
    parser.add_argument('--scanners', type=int, default=SCANNERS)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=2, help='of the CPU')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    learnt = brains(args.bids_dir, args.preproc_dir, args.work_dir)
    data = draw(learnt, args.work_dir, args.scanners, args.threads)
    model, training = networks(args.images)
    path = train(
        data, model, training, VOLUMES, args.work_dir / 'networks', seed=SEED,
        identity=ModelIdentity(NAME, 'real and simulated brains under random scanners'),
        control=TrainingControl(progress=say), device=resolve_device(args.device),
    )  # fmt: skip
    print(path)


@dataclass(frozen=True)
class Brains:
    """Brains of ordinary contrast, and whose they are."""

    images: list[np.ndarray]
    ages: list[float]
    sexes: list[str]
    names: list[str]


def real_data(bids_dir: Path, preproc_dir: Path, store: Path, *, learnt: bool | None) -> SliceData:
    """Whole preprocessed scans with their labels, in a file that is mapped into memory.

    Parameters
    ----------
    bids_dir, preproc_dir, store : Path
        The dataset, its derivatives, and the file to write.
    learnt : bool, optional
        Only the people whom the networks learn from, or only the others; None for all.
    """
    people = pd.read_csv(bids_dir / 'participants.tsv', sep='\t').sort_values('participant_id')
    order = people.groupby('site').cumcount()
    if learnt is not None:
        people = people[(order % 2 == 0) == learnt]
    images = np.lib.format.open_memmap(
        store, mode='w+', dtype=np.float32, shape=(len(people), *SHAPE)
    )
    for row, name in enumerate(people.participant_id):
        stem = f'{name}_space-{VOLUMES.template}_res-{VOLUMES.grid[0]}_desc-'
        image, mask = (
            np.asarray(volumes.read(preproc_dir / name / 'anat' / (stem + end)).dataobj)
            for end in ('preproc_T1w.nii.gz', 'brain_mask.nii.gz')
        )
        images[row] = training_stacks(image, mask > 0, GRID, VOLUMES)[0]
    images.flush()
    return SliceData(
        np.load(store, mmap_mode='r'),
        tuple(people.site),
        people.age.to_numpy(float),
        tuple(people.sex),
        tuple(people.participant_id),
    )


def real_brains(bids_dir: Path, preproc_dir: Path, work_dir: Path) -> Brains:
    """The people to learn from, without what their own scanners do to all scans alike."""
    data = real_data(bids_dir, preproc_dir, work_dir / 'real.npy', learnt=True)
    model, _ = networks(1)
    rows = np.arange(len(data))
    appearance = fit_site_appearance(model, data, rows)
    images = [appearance.common_scans(data, some) for some in data.chunks(rows)]
    sexes = [sex or '' for sex in data.sexes]
    return Brains(list(np.concatenate(images)), list(data.ages), sexes, list(data.subjects))


def phantom_brains() -> Brains:
    """Simulated people, none of whom any benchmark has, each in a contrast of its own."""
    points = GRID.points(tuple(slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True)))
    place = points - np.array(BRAIN_CENTER_MM)
    subjects = draw_subjects('PhantomZ', PHANTOMS, 9000 + SEED)
    images = []
    for subject in subjects:
        tissues = subject.anatomy().tissues(points)
        scanner = with_tissue_contrast(draw_scanner(subject.label, 9000 + SEED), 9000 + SEED)
        image = render(replace(scanner, blur_mm=(0.5, 0.5, 0.5)), tissues, place, None, 0.0)
        brain = np.sum(tissues[:3], axis=0) > 0.5
        images.append(as_stack(image / brightness(image, brain), brain).astype(np.float32))
    return Brains(
        images,
        [float(subject.age) for subject in subjects],
        [subject.sex for subject in subjects],
        [subject.label for subject in subjects],
    )


def brains(bids_dir: Path, preproc_dir: Path, work_dir: Path) -> dict[str, Brains]:
    """Real and simulated brains, kept in a file that another machine can train from as well.

    They are rounded to eight bits, which is finer than the noise that the scanners add.
    """
    file = work_dir / 'brains.npz'
    if not file.is_file():
        drawn = {'Real': real_brains(bids_dir, preproc_dir, work_dir), 'Phantom': phantom_brains()}
        arrays: dict[str, np.ndarray] = {}
        for kind, some in drawn.items():
            images = np.stack(some.images)
            levels = np.rint(images.clip(0, CEILING) * (LEVELS / CEILING)).clip(1, LEVELS)
            arrays[f'{kind}.images'] = np.where(images > 0, levels, 0).astype(np.uint8)
            for name in ('ages', 'sexes', 'names'):
                arrays[f'{kind}.{name}'] = np.array(getattr(some, name))
        np.savez_compressed(file, **arrays)
    with np.load(file) as stored:
        return {
            kind: Brains(
                list(stored[f'{kind}.images']),
                *(stored[f'{kind}.{name}'].tolist() for name in ('ages', 'sexes', 'names')),
            )
            for kind in ('Real', 'Phantom')
        }


def draw(of: dict[str, Brains], work_dir: Path, scanners: int, processes: int) -> SliceData:
    """The scans to learn from, which are stored in files when they are drawn first."""
    simulated = round(SIMULATED * scanners)
    sites = [
        (of[kind], f'{kind}{number:02d}', PER_SCANNER[kind])
        for kind, n in (('Real', scanners - simulated), ('Phantom', simulated))
        for number in range(n)
    ]
    return stored_scans(work_dir / 'scans', sites, _scans_of_site, processes)


def stored_scans(
    stem: Path,
    sites: Sequence[tuple[Brains, str, int]],
    scans_of: Callable[[Brains, str, int], tuple[np.ndarray, pd.DataFrame]],
    processes: int,
) -> SliceData:
    """Scans of several sites, which are stored in files when they are drawn first.

    Parameters
    ----------
    stem : Path
        Of the files, whose names end in ``.npy`` and ``.tsv``.
    sites : sequence of (Brains, str, int)
        Who is scanned, the name of the site, and how many scans.
    scans_of : callable
        Draws the scans of a site, and their labels.
    processes : int
    """
    store, table = stem.with_suffix('.npy'), stem.with_suffix('.tsv')
    if not table.is_file():
        n = sum(per_site for _, _, per_site in sites)
        images = np.lib.format.open_memmap(store, mode='w+', dtype=np.float32, shape=(n, *SHAPE))
        people: list[pd.DataFrame] = []
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            done = 0
            for scans, who in pool.map(scans_of, *zip(*sites, strict=True)):
                images[done : done + len(scans)] = scans
                people.append(who)
                done += len(scans)
                print(f'  {done} of {n} scans drawn', flush=True)
        images.flush()
        pd.concat(people).to_csv(table, sep='\t', index=False)
    people = pd.read_csv(table, sep='\t')
    return SliceData(
        np.load(store, mmap_mode='r'),
        tuple(people.site),
        people.age.to_numpy(float),
        tuple(people.sex),
        tuple(people.subject),
    )


def _scans_of_site(brains: Brains, site: str, n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Scans of some of the people by a random scanner, and the people's labels."""
    rng = generator(SEED, 'random scanner', site)
    scanner = draw_random_scanner(rng)
    chosen = rng.permutation(len(brains.names))[:n]
    scans = np.stack([_scan(brains.images[who], scanner, rng) for who in chosen])
    return scans, labels_of(brains, chosen, site)


def labels_of(brains: Brains, chosen: np.ndarray, site: str) -> pd.DataFrame:
    """Site, age, sex and name of these people."""
    ages, sexes, names = (
        [values[who] for who in chosen] for values in (brains.ages, brains.sexes, brains.names)
    )
    return pd.DataFrame({'site': site, 'age': ages, 'sex': sexes, 'subject': names})


def _scan(brain: np.ndarray, scanner: RandomScanner, rng: np.random.Generator) -> np.ndarray:
    """A scan of a brain of eight bits or, as often, of its mirror image."""
    return scanned(brain[:, ::-1] if rng.random() < 0.5 else brain, scanner, rng)


def scanned(brain: np.ndarray, scanner: RandomScanner, rng: np.random.Generator) -> np.ndarray:
    """A scan of a brain of eight bits."""
    intensities = brain * np.float32(CEILING / LEVELS)
    return scan(intensities, scanner, rng, VOLUMES.intensity_percentile)


if __name__ == '__main__':
    main()
