"""Which planted changes of features the anatomy guard marks, and whom else.

    python -m benchmarks.feature_guard [--table TABLE PEOPLE]

Tables are the regions of real people of three hospitals (TABLE and PEOPLE as for
:mod:`benchmarks.tables`), and those of one hospital at made-up sites, one of which skews the
values (:mod:`benchmarks.feature_truth`); maps are simulated thickness at five sites, two of which
bend the values (:mod:`benchmarks.surfaces`). In each draw, one person of each site gets a change,
in the harmonized values or in the source. What is printed is how many of these rows are marked,
and which share of the others, as Markdown. What the guard says of the source does not depend on
the method, and is told of ComBat, which is fitted to the changed source.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.feature_truth import maps, tables
from benchmarks.tables import labels_of, read, table_of
from ddae_app.features.fit import fit_model
from ddae_app.features.guard import check_anatomy
from ddae_app.features.matrix import FeatureMatrix
from ddae_app.features.model import FeatureModel
from ddae_app.features.people import RowLabels
from ddae_app.imaging.icosahedron import sphere

REGION, LESION = 0.34, 0.1
"""On the unit sphere: the radius of a region, one of 35 of a hemisphere, and of a lesion."""

DEPTH = 1.0
"""Of a lesion, mm."""


@dataclass(frozen=True)
class Case:
    """Features of people.

    Attributes
    ----------
    name : str
    table : FeatureMatrix, N rows
    labels : RowLabels
    mirror : np.ndarray of int, shape (F,)
        The feature of the other hemisphere.
    places : np.ndarray, shape (F, 3), or None
        On the unit sphere, the right hemisphere 9 away.
    """

    name: str
    table: FeatureMatrix
    labels: RowLabels
    mirror: np.ndarray
    places: np.ndarray | None = None

    def region(self, rng: np.random.Generator) -> np.ndarray:
        """One feature of a table, or the vertices around one; shape (F,), bool."""
        center = rng.integers(len(self.table.features))
        if self.places is None:
            return np.arange(len(self.table.features)) == center
        return np.linalg.norm(self.places - self.places[center], axis=1) < REGION

    def lesion(self, rng: np.random.Generator) -> np.ndarray:
        """How much thinner the cortex is, in mm, shape (F,)."""
        assert self.places is not None
        center = rng.integers(len(self.table.features))
        away = np.linalg.norm(self.places - self.places[center], axis=1)
        return DEPTH * np.exp(-0.5 * np.square(away / LESION))


Change = Callable[[np.ndarray, int, Case, np.random.Generator], np.ndarray]
"""From values of all people, shape (N, F), and the number of one, to other values of that one."""


def _scaled(factor: float) -> Change:
    def change(values: np.ndarray, i: int, case: Case, rng: np.random.Generator) -> np.ndarray:
        return np.where(case.region(rng), factor * values[i], values[i])

    return change


def _of_another(values: np.ndarray, i: int, case: Case, rng: np.random.Generator) -> np.ndarray:
    others = np.flatnonzero(case.labels.sites == case.labels.sites[i])
    return values[rng.choice(others[others != i])]


def _mirrored(values: np.ndarray, i: int, case: Case, rng: np.random.Generator) -> np.ndarray:
    return values[i][case.mirror]


def _average(values: np.ndarray, i: int, case: Case, rng: np.random.Generator) -> np.ndarray:
    return values.mean(axis=0)


def _lesion(values: np.ndarray, i: int, case: Case, rng: np.random.Generator) -> np.ndarray:
    return values[i] - case.lesion(rng)


def _failed(values: np.ndarray, i: int, case: Case, rng: np.random.Generator) -> np.ndarray:
    """Of a third of the features, only 0.3 to 0.7 was found."""
    wrong = rng.random(len(case.table.features)) < 1 / 3
    return values[i] * np.where(wrong, rng.uniform(0.3, 0.7, len(wrong)), 1)


PLANTS: dict[str, Change] = {
    'nothing': lambda values, i, case, rng: values[i],
    'harmonized: a region halved': _scaled(0.5),
    'harmonized: a region doubled': _scaled(2.0),
    'harmonized: a region 10 % smaller': _scaled(0.9),
    'harmonized: the values of another person of the site': _of_another,
    'harmonized: left and right swapped': _mirrored,
    'harmonized: the mean of all people': _average,
    'a lesion of 1 mm that harmonization removes': _lesion,
    'source: a lesion of 1 mm, which stays': _lesion,
    'source: a region halved': _scaled(0.5),
    'source: a region doubled': _scaled(2.0),
    'source: a third of the features 0.3 to 0.7 of what they are': _failed,
}
"""By their names, which say where they are planted."""


def marked(case: Case, model: FeatureModel, harmonized: np.ndarray) -> np.ndarray:
    """Which rows the guard marks, shape (N,), bool."""
    found = check_anatomy(model, case.table, case.labels, harmonized)
    return np.array([found.row(i)['anatomy_flag'] != 'none' for i in range(len(harmonized))])


def draw(
    case: Case, model: FeatureModel, harmonized: np.ndarray, plant: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Change one person of each site; whether these are marked, and whether the others are."""
    rng, change, labels = np.random.default_rng(seed), PLANTS[plant], case.labels
    rows = [rng.choice(np.flatnonzero(labels.sites == site)) for site in labels.site_names]
    values = harmonized if plant.startswith('harmonized') else case.table.values
    changed = values.copy()
    for row in rows:
        changed[row] = change(values, row, case, rng)
    if plant.startswith('harmonized'):
        harmonized = changed
    else:
        case = replace(case, table=replace(case.table, values=changed))
    if plant.startswith('source'):
        model, _ = fit_model(case.table, labels, name='guard', allow_few=True)
        harmonized = model.harmonized(case.table, labels)
    flags = marked(case, model, harmonized)
    return flags[rows], np.delete(flags, rows)


def cells_of(case: Case, method: str, draws: int) -> dict[str, str]:
    """How many are marked, by what was planted."""
    model, _ = fit_model(case.table, case.labels, name='guard', method=method, allow_few=True)
    harmonized = model.harmonized(case.table, case.labels)
    cells = {}
    for plant in PLANTS:
        skipped = 'lesion' in plant and case.places is None
        if skipped or (plant.startswith('source') and method != 'combat'):
            continue
        found = [draw(case, model, harmonized, plant, seed) for seed in range(draws)]
        hit, others = (np.concatenate(flags) for flags in zip(*found, strict=True))
        cells[plant] = f'{hit.sum()} of {hit.size}; {100 * others.mean():.1f} %'
    return cells


def real(table: Path, people: Path) -> list[Case]:
    """Regions of real people."""
    values, known = read(table, people)
    cases = [('IXI', table_of(values), labels_of(known))]
    cases += [(c.name, c.source, c.labels) for c in tables(table, people, 0)[-1:]]
    return [Case(*case, _other_side(case[1].features)) for case in cases]


def cortex(mesh: str, vertices: int, people: int) -> Case:
    """Simulated maps."""
    made = maps(mesh, vertices, people, strange=True, scaled=True, seed=0)
    names = made.source.features
    place = {name: i for i, name in enumerate(names)}
    other = {'L': 'R', 'R': 'L'}
    mirror = np.array([place.get(other[n[0]] + n[1:], i) for i, n in enumerate(names)])
    where = sphere(vertices)[[int(name[1:]) for name in names]]
    where = where + np.outer([name[0] == 'R' for name in names], [9, 0, 0])
    return Case(f'{made.name}, {mesh}', made.source, made.labels, mirror, where)


def _other_side(names: Sequence[str]) -> np.ndarray:
    """Of DLMUSE, regions of the cortex are 100 to 207, and the left one of two is odd."""
    place = {name: i for i, name in enumerate(names)}
    numbers = [int(name.removeprefix('region_')) for name in names]
    return np.array(
        [place.get(f'region_{n ^ 1}', i) if 100 <= n <= 207 else i for i, n in enumerate(numbers)]
    )


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--table', nargs=2, type=Path, metavar=('TABLE', 'PEOPLE'))
    parser.add_argument('--draws', type=int, default=10)
    parser.add_argument('--mesh', default='fsaverage4')
    parser.add_argument('--vertices', type=int, default=2562)
    parser.add_argument('--per-site', type=int, default=40, help='people of each site of maps')
    asked = parser.parse_args()
    cases = [cortex(asked.mesh, asked.vertices, asked.per_site)]
    cases = [*(real(*asked.table) if asked.table else []), *cases]
    columns = {
        f'{case.name}, {method}': cells_of(case, method, asked.draws)
        for case in cases
        for method in ('combat', 'ddae')
    }
    print('| planted |', ' | '.join(columns), '|\n|' + '---|' * (len(columns) + 1))
    for plant in PLANTS:
        print(f'| {plant} |', ' | '.join(cells.get(plant, '') for cells in columns.values()), '|')


if __name__ == '__main__':
    main()
