"""Changes of a known size: volumes of structures before and after harmonization.

    python -m benchmarks.atrophy BIDS_DIR PREPROC_DIR WORK_DIR [--people 8] [--atropos]

Whole volumes of real people from whom the packaged networks did not learn, at four simulated
scanners (``benchmarks.real_anatomy``, in three dimensions). Methods are fitted to ``--per-site``
other people at each scanner. Each of ``--people`` is scanned once at every scanner, and eight
times more at one of them with ventricles, cortex and hippocampi that are 1 to 10 % smaller or
larger (``benchmarks.known_atrophy``).

The change of a volume, in percent of that person's first scan, is compared with the change that
is measured in the truth: the same two brains at the target's scanner, without noise. The table
gives the slope of the former on the latter with an interval over people (bootstrap), the offset,
and what is left (standard deviation), for two scans at the same scanner and for two at different
ones; then ICC and CV of the first scans over the scanners (``benchmarks.reliability``). The aim
is a slope of 1 +- 0.03 and an offset within 0.2 %. A second table has PSNR and SSIM to the truth.

Volumes are those of three classes by Otsu's thresholds (``tissue_shares``) and, with
``--atropos``, by Atropos of ANTs, which is fitted to each image anew and takes 10 seconds a
volume: CSF in and around the ventricles, gray matter in and around the hippocampi, and all CSF,
gray and white matter. Tables, measured volumes and harmonized scans are written to
``WORK_DIR/atrophy-<seed>-<people>-<per site>/``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from benchmarks.known_atrophy import STRUCTURES, find, resized
from benchmarks.phantoms import SEEN, TARGET
from benchmarks.real_anatomy import common_brains, draw_scanner, parser_of_folders, scan
from benchmarks.reliability import agreement
from benchmarks.volumes import SHAPE, VOLUMES
from ddae_app.evaluation import fidelity
from ddae_app.imaging.anatomy import tissue_thresholds
from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.data import LEAST_BRAIN, SliceData
from ddae_app.methods.ddae.bundle import load_bundle, save_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.find import packaged_model
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.phantom.seeds import generator

SITES = SEEN[:4]
PERCENT = (-10.0, -5.0, -2.0, -1.0, 1.0, 2.0, 5.0, 10.0)
ORDERS = {'ventricles': (1, 0), 'cortex': (3, 1), 'hippocampi': (5, 2)}
"""Each structure takes all of ``PERCENT``, in an order of its own: step and start."""

MEASURES = {
    'ventricles': (0, 'ventricles'),
    'hippocampi': (1, 'hippocampi'),
    'CSF': (0, None),
    'gray matter': (1, None),
    'white matter': (2, None),
}
"""Tissue class of each measured volume, and the structure around which it is measured."""

MARGIN = 3
"""Voxels around a structure that are measured with it."""

RESAMPLED = 1000


@dataclass(frozen=True)
class Visits:
    """Scans of the people to judge on, in files that are mapped into memory.

    Attributes
    ----------
    table : pandas.DataFrame
        Columns ``person``, ``age``, ``sex``, ``site`` and ``visit``: 0, or the number of a change.
    images, truth : np.ndarray, shape (N, D, H, W)
    around : dict of str to np.ndarray, shape (D, H, W), bool
        Surroundings of the structures, by person and name.
    """

    table: pd.DataFrame
    images: np.ndarray
    truth: np.ndarray
    around: dict[tuple[str, str], np.ndarray]


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument('--people', type=int, default=8)
    parser.add_argument('--per-site', type=int, default=20)
    parser.add_argument('--atropos', action='store_true')
    names = [*GIVEN, *METHODS]
    parser.add_argument('--methods', nargs='+', default=names, choices=names)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work_dir / f'atrophy-{args.seed}-{args.people}-{args.per_site}'
    folder.mkdir(parents=True, exist_ok=True)
    training, visits = draw(args, folder)
    segmentations = ['otsu', *['atropos'] * args.atropos]
    for name in args.methods:
        for segmentation in segmentations:
            file = folder / f'{name}-{segmentation}.tsv'
            if not file.is_file():
                print(f'{name}, {segmentation} ...', flush=True)
                outputs = harmonized(name, training, visits, folder)
                measured = pd.concat(measure(outputs, visits, SEGMENTATIONS[segmentation]))
                measured.to_csv(file, sep='\t', index=False)
    for segmentation in segmentations:
        found = {name: pd.read_csv(file, sep='\t') for name in names
                 if (file := folder / f'{name}-{segmentation}.tsv').is_file()}  # fmt: skip
        table = analyze(found) + '\n' + nearness(found)
        (folder / f'{segmentation}.md').write_text(table)
        print(f'{segmentation}\n\n{table}')


def draw(args: argparse.Namespace, folder: Path) -> tuple[SliceData, Visits]:
    """Scans to fit to, and scans to judge on; both are stored when they are drawn first."""
    data, brains = common_brains(args.bids_dir, args.preproc_dir, folder)
    order = generator(args.seed, 'people').permutation(len(data))
    test, others = order[: args.people], order[args.people :]
    scanners = {site: draw_scanner(site, args.seed, axes=3) for site in SITES}
    people = {site: generator(args.seed, 'fitting', site).permutation(others)[: args.per_site]
              for site in SITES}  # fmt: skip
    sites = [site for site in SITES for _ in people[site]]
    who = [int(person) for site in SITES for person in people[site]]
    table = pd.DataFrame(_visits(data, test))
    done, names = folder / 'drawn', ('fitting.npy', 'images.npy', 'truth.npy', 'around.npy')
    if not done.is_file():
        sizes = len(who), len(table), len(table), len(test) * len(STRUCTURES)
        kinds = np.float32, np.float32, np.float32, np.bool_
        fitting, images, truth, around = (
            np.lib.format.open_memmap(folder / name, mode='w+', dtype=kind, shape=(n, *SHAPE))
            for name, n, kind in zip(names, sizes, kinds, strict=True)
        )
        for person, brain in enumerate(brains):
            for row in [i for i, other in enumerate(who) if other == person]:
                rng = generator(args.seed, 'fitting', sites[row], f'{person}')
                fitting[row] = scan(brain, scanners[sites[row]], rng)[0]
            if person not in test:
                continue
            found = {name: find(brain, name) for name in STRUCTURES}
            first = list(test).index(person) * len(STRUCTURES)
            for i, structure in enumerate(found.values()):
                around[first + i] = ndimage.binary_dilation(structure.inside, iterations=MARGIN)
            for row in np.flatnonzero(table.person == data.subjects[person]):
                visit = table.iloc[row]
                rng = generator(args.seed, 'visit', visit.site, visit.person, f'{visit.visit}')
                changed = resized(brain, changes(visit.visit), found)
                images[row] = scan(changed, scanners[visit.site], rng)[0]
                # Noise raises the percentile that becomes 1, so the truth is scaled as a retest.
                again = generator(args.seed, 'retest', visit.person, f'{visit.visit}')
                ideal, own = scan(changed, scanners[TARGET], None)
                truth[row] = ideal * np.float32(own / scan(changed, scanners[TARGET], again)[1])
            print(f'  {data.subjects[person]} drawn', flush=True)
        for stored in (fitting, images, truth, around):
            stored.flush()
        done.touch()
    fitting, images, truth, around = (np.load(folder / name, mmap_mode='r') for name in names)
    training = SliceData(
        fitting, tuple(sites), data.ages[who], tuple(data.sexes[i] for i in who),
        tuple(data.subjects[i] for i in who),
    )  # fmt: skip
    keys = [(data.subjects[person], name) for person in test for name in STRUCTURES]
    return training, Visits(table, images, truth, dict(zip(keys, around, strict=True)))


def _visits(data: SliceData, test: np.ndarray) -> Iterator[dict[str, object]]:
    """One visit to each scanner, and one for each change, at one of the sources."""
    sources = [site for site in SITES if site != TARGET]
    for number, person in enumerate(test):
        who = {
            'person': data.subjects[person],
            'age': data.ages[person],
            'sex': data.sexes[person],
        }
        own = sources[number % len(sources)]
        for site in SITES:
            yield {**who, 'site': site, 'visit': 0}
        for visit in range(1, len(PERCENT) + 1):
            yield {**who, 'site': own, 'visit': visit}


def changes(visit: int) -> dict[str, float]:
    """Percent of each structure at a visit, none at visit 0."""
    if visit == 0:
        return {}
    return {
        name: PERCENT[(step * visit + start) % len(PERCENT)]
        for name, (step, start) in ORDERS.items()
    }


def harmonized(
    name: str, training: SliceData, visits: Visits, folder: Path
) -> Iterator[np.ndarray]:
    """The outputs of a method, visit by visit, shape (D, H, W), which are stored."""
    if name in GIVEN:
        yield from GIVEN[name](visits)
        return
    stored, done = folder / f'{name}.npy', folder / f'{name}.done'
    if not done.is_file():
        harmonizer = METHODS[name](training, folder)
        outputs = np.lib.format.open_memmap(
            stored, mode='w+', dtype=np.float32, shape=visits.images.shape
        )
        for row, image in enumerate(visits.images):
            visit = visits.table[row : row + 1]
            outputs[row] = harmonizer.transform(np.array(image)[None], visit, TARGET)[0]
        outputs.flush()
        done.touch()
    yield from np.load(stored, mmap_mode='r')


def measure(
    outputs: Iterator[np.ndarray], visits: Visits, classify: Callable[[np.ndarray], np.ndarray]
) -> Iterator[pd.DataFrame]:
    """Volumes in voxels, a row to each visit."""
    for row, image in enumerate(outputs):
        visit, classes = visits.table[row : row + 1], classify(image)
        person = visit.person.item()
        values = {
            name: classes[tissue][visits.around[person, structure]].sum()
            if structure
            else classes[tissue].sum()
            for name, (tissue, structure) in MEASURES.items()
        }
        if visit.visit.item() == 0:
            values |= similarity(image, visits.truth[row])
        yield visit.assign(**values)


def similarity(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR, and SSIM of the slices with brain."""
    shown = (truth > 0).mean(axis=(1, 2)) >= LEAST_BRAIN
    psnr = fidelity.psnr(image[None], truth[None])[0]
    return {'psnr': float(psnr), 'ssim': float(fidelity.ssim(image[shown], truth[shown]).mean())}


def _otsu(image: np.ndarray) -> np.ndarray:
    """Classes of the brain, shape (3, D, H, W), as those of ``tissue_shares``."""
    brain = image > 0
    thresholds = tissue_thresholds(image[brain])
    assert thresholds is not None  # scans show more than two intensities
    return brain & (np.digitize(image, thresholds) == np.arange(3)[:, None, None, None])


def _atropos(image: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, shape (3, D, H, W)."""
    import ants

    whole = np.ascontiguousarray(image, np.float32)
    mask = (whole > 0).astype(np.float32)
    result = ants.atropos(
        a=ants.from_numpy(whole), x=ants.from_numpy(mask), i='kmeans[3]', m='[0.1,1x1x1]',
        c='[5,0]',
    )  # fmt: skip
    return np.stack([p.numpy() for p in result['probabilityimages']])


SEGMENTATIONS = {'otsu': _otsu, 'atropos': _atropos}


def _calibrated(training: SliceData, folder: Path, *, keep_noise: bool = False) -> Harmonizer:
    path = folder / 'calibrated.safetensors'
    if not path.is_file():
        bundle = calibrate(load_bundle(packaged_model('all').path), training)
        save_bundle(path, bundle.model, bundle.info)
    return DDAEHarmonizer.load(path, device='cpu', keep_noise=keep_noise)


GIVEN: dict[str, Callable[[Visits], np.ndarray]] = {
    'truth': lambda visits: visits.truth,
    'source': lambda visits: visits.images,
}
METHODS: dict[str, Callable[[SliceData, Path], Harmonizer]] = {
    'histogram': lambda data, folder: HistogramMatching().fit(data.images, cohort_of(data)),
    'combat': lambda data, folder: ComBat(protocol=VOLUMES).fit(data.images, cohort_of(data)),
    'ddae-calibrated': _calibrated,
    'ddae-noise-kept': partial(_calibrated, keep_noise=True),
}


def analyze(found: dict[str, pd.DataFrame]) -> str:
    """The table, in Markdown."""
    columns = ['', 'volume', 'slope', 'offset, %', 'left, %', 'slope, other scanner',
               'offset, %', 'left, %', 'ICC', 'CV, %']  # fmt: skip
    lines = ['| ' + ' | '.join(columns) + ' |', '| --- ' * len(columns) + '|']
    truth = found['truth']
    for method, table in found.items():
        if method == 'truth':
            continue
        for name in MEASURES:
            cells = [method, name]
            for other_scanner in (False, True):
                pairs = [change(table, truth, name, person, other_scanner)
                         for person in truth.person.unique()]  # fmt: skip
                cells += _fitted(pairs)
            grid = table[table.visit == 0].pivot(index='person', columns='site', values=name)
            icc, cv = agreement(grid.to_numpy(float))
            lines.append('| ' + ' | '.join([*cells, f'{icc:.3f}', f'{100 * cv:.2f}']) + ' |')
    return '\n'.join(lines) + '\n'


def nearness(found: dict[str, pd.DataFrame]) -> str:
    """PSNR and SSIM to the truth, of first scans at the sources, in Markdown."""
    lines = ['| | PSNR | SSIM |', '| --- ' * 3 + '|']
    for method, table in found.items():
        if method != 'truth':
            first = table[(table.visit == 0) & (table.site != TARGET)]
            lines.append(f'| {method} | {first.psnr.mean():.2f} | {first.ssim.mean():.4f} |')
    return '\n'.join(lines) + '\n'


def change(
    table: pd.DataFrame, truth: pd.DataFrame, name: str, person: str, other_scanner: bool
) -> np.ndarray:
    """True and measured changes of a volume of one person, percent, shape (2, N)."""
    own, ideal = (each[each.person == person] for each in (table, truth))
    after, true_after = (each[each.visit > 0] for each in (own, ideal))
    site, first = after.site.iloc[0], own[own.visit == 0].set_index('site')[name]
    true_first = ideal[ideal.visit == 0][name].iloc[0]
    before = [first[s] for s in first.index if (s != site) == other_scanner]
    measured = np.concatenate([100 * (after[name].to_numpy() / b - 1) for b in before])
    true = np.tile(100 * (true_after[name].to_numpy() / true_first - 1), len(before))
    return np.stack([true, measured])


def _fitted(pairs: list[np.ndarray]) -> list[str]:
    """Slope with its interval, offset, and what is left, of the changes of all people."""
    slope, offset = line(pairs)
    true, measured = np.concatenate(pairs, axis=1)
    left = (measured - offset - slope * true).std(ddof=2)
    rng = np.random.default_rng(0)
    drawn = [line([pairs[i] for i in rng.integers(len(pairs), size=len(pairs))])[0]
             for _ in range(RESAMPLED)]  # fmt: skip
    low, high = np.percentile(drawn, (2.5, 97.5))
    return [f'{slope:.3f} ({low:.3f} to {high:.3f})', f'{offset:+.2f}', f'{left:.2f}']


def line(pairs: list[np.ndarray]) -> tuple[float, float]:
    """Slope and offset by least squares."""
    true, measured = np.concatenate(pairs, axis=1)
    slope, offset = np.polyfit(true, measured, 1)
    return float(slope), float(offset)


if __name__ == '__main__':
    main()
