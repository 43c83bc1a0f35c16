"""Statistical power and false alarms, as ``benchmarks.power``, of whole volumes.

    python -m benchmarks.power_volumes BIDS_DIR PREPROC_DIR WORK_DIR [--people 24] [--loss 3]

People and scanners are those of ``benchmarks.atrophy``: ``--people`` of those from whom the
packaged networks did not learn are scanned at each of four simulated scanners, as they are and
with the loss; methods are fitted to ``--fitted`` scans of the others at each scanner, among whom
are patients as in the studies. The share of gray matter is measured in the whole brain, and that
of the three tissues in its octants as well, for ComBat on features. Finished methods are kept.
``power.md`` and the features are written to ``WORK_DIR/power-volumes-<seed>-<people>-<loss>/``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.atrophy import METHODS, SITES
from benchmarks.known_atrophy import resized
from benchmarks.phantoms import TARGET
from benchmarks.power import WORLDS, analyze
from benchmarks.real_anatomy import common_brains, draw_scanner, parser_of_folders, scan
from benchmarks.volumes import SHAPE
from ddae_app.imaging.anatomy import tissue_shares
from ddae_app.methods.base import Harmonizer
from ddae_app.methods.data import SliceData
from ddae_app.phantom.seeds import generator

PATIENTS = dict(zip(SITES, (0.15, 0.4, 0.6, 0.85), strict=True))
"""Share of patients at each site."""

FILES = 'brains.npy', 'images.npy', 'truth.npy'


@dataclass(frozen=True)
class People:
    """People as they are (0) and with the loss (1); arrays are mapped into memory from files.

    Attributes
    ----------
    table : pandas.DataFrame
        Columns ``person``, ``age`` and ``sex``.
    brains : np.ndarray, shape (N, 2, D, H, W)
    test, others : np.ndarray of int
        Who is measured, and who may be fitted to.
    images : np.ndarray, shape (T, S, 2, D, H, W)
        Of those to measure, at each of ``SITES``.
    truth : np.ndarray, shape (T, 2, D, H, W)
        At the target's scanner without noise.
    """

    table: pd.DataFrame
    brains: np.ndarray
    test: np.ndarray
    others: np.ndarray
    images: np.ndarray
    truth: np.ndarray

    def training(self, seed: int, per_site: int, *, patients: bool) -> SliceData:
        """Scans to fit to: some of the others at each scanner."""
        images, sites, who = [], [], []
        for site in SITES:
            rng = generator(seed, 'fitting', site)
            ill = round(PATIENTS[site] * per_site) if patients else 0
            for i, person in enumerate(rng.permutation(self.others)[:per_site]):
                brain = self.brains[person, int(i < ill)]
                images.append(scan(brain, draw_scanner(site, seed, axes=3), rng)[0])
                sites.append(site)
                who.append(person)
        of = self.table.iloc[who]
        return SliceData(
            np.stack(images), tuple(sites), of.age.to_numpy(float), tuple(of.sex), tuple(of.person)
        )

    def measured(
        self, method: str, world: str, harmonizer: Harmonizer | None
    ) -> Iterator[dict[str, object]]:
        """Features of each person at each scanner, a row each."""
        states = (0, 1) if world == WORLDS[0] else (0,)
        for i, (number, site), ill in product(range(len(self.test)), enumerate(SITES), states):
            who = self.table.iloc[self.test[i] : self.test[i] + 1].assign(site=site)
            image = self.truth[i, ill] if method == 'truth' else self.images[i, number, ill]
            if harmonizer is not None:
                image = harmonizer.transform(np.array(image)[None], who, TARGET)[0]
            named = {'method': method, 'world': world, 'ill': ill}
            yield who.iloc[0].to_dict() | named | shares(image)


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument('--people', type=int, default=24)
    parser.add_argument('--fitted', type=int, default=20, help='scans at each scanner')
    parser.add_argument('--draws', type=int, default=500)
    parser.add_argument('--loss', type=float, default=3.0, help='percent of the cortex')
    parser.add_argument('--per-site', type=int, default=60, help='people of a study at each site')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work_dir / f'power-volumes-{args.seed}-{args.people}-{args.loss:g}'
    folder.mkdir(parents=True, exist_ok=True)
    people = draw(args, folder)
    found = []
    for number, world in enumerate(WORLDS):
        own = folder / f'world-{number}'
        own.mkdir(exist_ok=True)
        training = None
        for method in ('truth', 'source', *METHODS):
            file = own / f'{method}.tsv'
            if not file.is_file():
                print(f'{world}: {method} ...', flush=True)
                harmonizer = None
                if method in METHODS:
                    training = training or people.training(
                        args.seed, args.fitted, patients=world == WORLDS[0]
                    )
                    harmonizer = METHODS[method](training, own)
                rows = list(people.measured(method, world, harmonizer))
                pd.DataFrame(rows).to_csv(file, sep='\t', index=False)
            found.append(pd.read_csv(file, sep='\t', dtype={'person': str}))
    table = analyze(pd.concat(found), PATIENTS, args.seed, args.draws, args.per_site)
    (folder / 'power.md').write_text(table)
    print(table)


def draw(args: argparse.Namespace, folder: Path) -> People:
    """The people and their scans, which are stored when they are drawn first."""
    table = folder / 'people.tsv'
    if not table.is_file():
        data, brains = common_brains(args.bids_dir, args.preproc_dir, folder)
        order = generator(args.seed, 'people').permutation(len(data))
        test = order[: args.people].tolist()
        scanners = {site: draw_scanner(site, args.seed, axes=3) for site in SITES}
        shapes = (len(data), 2), (len(test), len(SITES), 2), (len(test), 2)
        both, images, truth = (
            np.lib.format.open_memmap(folder / name, mode='w+', dtype=np.float32,
                                      shape=(*shape, *SHAPE))
            for name, shape in zip(FILES, shapes, strict=True)
        )  # fmt: skip
        for person, brain in enumerate(brains):
            both[person] = brain, resized(brain, {'cortex': -args.loss})
            for i, ill in product([test.index(person)] if person in test else [], (0, 1)):
                truth[i, ill] = scan(both[person, ill], scanners[TARGET], None)[0]
                for number, site in enumerate(SITES):
                    rng = generator(args.seed, 'test', site, str(person))
                    images[i, number, ill] = scan(both[person, ill], scanners[site], rng)[0]
            print(f'  {data.subjects[person]}', flush=True)
        for stored in (both, images, truth):
            stored.flush()
        rows = {'person': data.subjects, 'age': data.ages, 'sex': data.sexes}
        pd.DataFrame(rows).to_csv(table, sep='\t', index=False)
    people = pd.read_csv(table, sep='\t', dtype={'person': str})
    order = generator(args.seed, 'people').permutation(len(people))
    both, images, truth = (np.load(folder / name, mmap_mode='r') for name in FILES)
    return People(people, both, order[: args.people], order[args.people :], images, truth)


def shares(image: np.ndarray) -> dict[str, float]:
    """Shares of the tissues in a volume, and in its octants."""
    values = tissue_shares(image)
    halves = [(slice(0, n // 2), slice(n // 2, n)) for n in image.shape]
    for number, octant in enumerate(product(*halves)):
        of_octant = tissue_shares(image[octant])
        values |= {f'{tissue}_{number}': share for tissue, share in of_octant.items()}
    return values


if __name__ == '__main__':
    main()
