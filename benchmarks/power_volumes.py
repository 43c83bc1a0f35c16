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
from benchmarks.real_anatomy import Scanner, common_brains, draw_scanner, parser_of_folders, scan
from benchmarks.volumes import SHAPE
from ddae_app.imaging.anatomy import tissue_shares
from ddae_app.methods.base import Harmonizer
from ddae_app.methods.data import SliceData
from ddae_app.phantom.seeds import generator

PATIENTS = dict(zip(SITES, (0.15, 0.4, 0.6, 0.85), strict=True))
"""Share of patients at each site."""


@dataclass(frozen=True)
class World:
    """People at four scanners.

    Attributes
    ----------
    name : str
        Of ``WORLDS``.
    table : pandas.DataFrame
        Columns ``person``, ``age`` and ``sex``.
    brains : np.ndarray, shape (N, 2, D, H, W)
        As they are, and with the loss; mapped into memory.
    scanners : dict of str to Scanner
    seed : int
    """

    name: str
    table: pd.DataFrame
    brains: np.ndarray
    scanners: dict[str, Scanner]
    seed: int

    @property
    def states(self) -> tuple[int, ...]:
        """0, without the loss, and 1, with it, where there is one."""
        return (0, 1) if self.name == WORLDS[0] else (0,)

    def training(self, others: np.ndarray, per_site: int) -> SliceData:
        """Scans to fit to: some of the others at each scanner, some of whom are patients."""
        images, sites, who = [], [], []
        for site in SITES:
            rng = generator(self.seed, 'fitting', site)
            patients = round(PATIENTS[site] * per_site) * max(self.states)
            for i, person in enumerate(rng.permutation(others)[:per_site]):
                brain = self.brains[person, int(i < patients)]
                images.append(scan(brain, self.scanners[site], rng)[0])
                sites.append(site)
                who.append(person)
        of = self.table.iloc[who]
        return SliceData(
            np.stack(images), tuple(sites), of.age.to_numpy(float), tuple(of.sex), tuple(of.person)
        )

    def measured(
        self, test: np.ndarray, method: str, harmonizer: Harmonizer | None
    ) -> Iterator[dict[str, object]]:
        """Features of each person at each scanner, a row each."""
        for person, site, ill in product(test, SITES, self.states):
            who = self.table.iloc[person : person + 1].assign(site=site)
            brain, rng = self.brains[person, ill], generator(self.seed, 'test', site, str(person))
            if method == 'truth':
                image, _ = scan(brain, self.scanners[TARGET], None)
            else:
                image, _ = scan(brain, self.scanners[site], rng)
            if harmonizer is not None:
                image = harmonizer.transform(image[None], who, TARGET)[0]
            named = {'method': method, 'world': self.name, 'ill': ill}
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
    people, brains = with_loss(args.bids_dir, args.preproc_dir, folder, args.loss)
    order = generator(args.seed, 'people').permutation(len(people))
    test, others = order[: args.people], order[args.people :]
    scanners = {site: draw_scanner(site, args.seed, axes=3) for site in SITES}
    found = []
    for number, name in enumerate(WORLDS):
        world = World(name, people, brains, scanners, args.seed)
        own = folder / f'world-{number}'
        own.mkdir(exist_ok=True)
        for method in ('truth', 'source', *METHODS):
            file = own / f'{method}.tsv'
            if not file.is_file():
                print(f'{name}: {method} ...', flush=True)
                fit = METHODS.get(method)
                harmonizer = fit(world.training(others, args.fitted), own) if fit else None
                rows = list(world.measured(test, method, harmonizer))
                pd.DataFrame(rows).to_csv(file, sep='\t', index=False)
            found.append(pd.read_csv(file, sep='\t', dtype={'person': str}))
    table = analyze(pd.concat(found), PATIENTS, args.seed, args.draws, args.per_site)
    (folder / 'power.md').write_text(table)
    print(table)


def with_loss(
    bids_dir: Path, preproc_dir: Path, folder: Path, loss: float
) -> tuple[pd.DataFrame, np.ndarray]:
    """Everybody, and their brains as they are and with the loss, shape (N, 2, D, H, W).

    They are drawn when they are asked for first, and then mapped into memory from a file.
    """
    table, store = folder / 'people.tsv', folder / 'brains.npy'
    if not table.is_file():
        data, brains = common_brains(bids_dir, preproc_dir, folder)
        shape = (len(data), 2, *SHAPE)
        both = np.lib.format.open_memmap(store, mode='w+', dtype=np.float32, shape=shape)
        for row, brain in enumerate(brains):
            both[row] = brain, resized(brain, {'cortex': -loss})
            print(f'  {data.subjects[row]}', flush=True)
        both.flush()
        people = {'person': data.subjects, 'age': data.ages, 'sex': data.sexes}
        pd.DataFrame(people).to_csv(table, sep='\t', index=False)
    return pd.read_csv(table, sep='\t', dtype={'person': str}), np.load(store, mmap_mode='r')


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
