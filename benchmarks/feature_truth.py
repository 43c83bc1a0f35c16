"""Features of simulated sites, of which the truth is known: how near does each method come to it?

    python -m benchmarks.feature_truth TABLE PEOPLE

Maps are those of :mod:`benchmarks.surfaces`. Tables are the regions of real people of one hospital
(TABLE and PEOPLE as for :mod:`benchmarks.tables`), who are dealt into three made-up sites. Sites
shift and scale the values, by amounts that differ between features; in some settings, a site bends
them as well. Every method is fitted to one half of the people, and what is printed is its distance
to the truth in the other half, as Markdown. Of tables, there is the accuracy of a probe of the
site as well, beside a bound: all that a site does is known but what it adds to each region.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.surfaces import Simulated, simulate
from benchmarks.tables import labels_of, read, table_of
from ddae_app.features.evaluation import Refit, evaluate
from ddae_app.features.fit import fit_model
from ddae_app.features.matrix import FeatureMatrix
from ddae_app.features.people import CovariateDesign, RowLabels
from ddae_app.methods.location_scale import SiteRegression

HOSPITAL, SITES = 'Guys', 3

FEW = (5, 10, 20, 50)
"""People, in whom a site is measured that no model was fitted to."""


@dataclass(frozen=True)
class OnFsaverage(FeatureMatrix):
    """Simulated maps, without files."""

    mesh: str = ''

    @property
    def maps(self) -> str:
        """What is mapped on which mesh."""
        return f'thickness on {self.mesh}'

    def in_one_unit(self) -> dict[str, np.ndarray]:
        """The median of each row."""
        return {self.maps: np.median(self.values, axis=1)}


@dataclass(frozen=True)
class Case:
    """Features with and without what sites do to them.

    Attributes
    ----------
    name : str
    source : FeatureMatrix, N rows
    labels : RowLabels
    truth : np.ndarray, shape (N, F)
    unit : np.ndarray, shape (F,)
        In which the distance is told.
    """

    name: str
    source: FeatureMatrix
    labels: RowLabels
    truth: np.ndarray
    unit: np.ndarray

    def halves(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to fit to, and the others."""
        rng, rows = np.random.default_rng(seed), np.zeros(len(self.truth), dtype=bool)
        for site in self.labels.site_names:
            here = rng.permutation(np.flatnonzero(self.labels.sites == site))
            rows[here[: len(here) // 2]] = True
        return np.flatnonzero(rows), np.flatnonzero(~rows)

    def distance(self, values: np.ndarray, rows: np.ndarray, where: np.ndarray) -> float:
        """Root mean square, in some rows, without the mean difference of others.

        Harmonization brings sites together, and does not tell where the truth is.
        """
        away = (values - self.truth) / self.unit
        return float(np.sqrt(np.square(away[rows] - away[where].mean(axis=0)).mean()))


def maps(mesh: str, vertices: int, people: int, *, strange: bool, scaled: bool, seed: int) -> Case:
    """Simulated thickness at five sites, in mm."""
    made = simulate(people, 5, vertices=vertices, strange=strange, scaled=scaled, seed=seed)
    name = 'maps, ' + ('bent at two sites' if strange else 'all values scaled')
    return case_of(made, mesh, name if scaled else 'maps, as ComBat takes it')


def case_of(made: Simulated, mesh: str, name: str) -> Case:
    """Simulated maps without their medial wall, in mm."""
    vertices = len(made.cortex) // 2
    cortex = np.flatnonzero(made.cortex)
    names = tuple(f'{"LR"[i // vertices]}{i % vertices}' for i in cortex)
    n = len(made.source)
    source = OnFsaverage(
        Path('maps'), tuple(map(str, range(n))), (None,) * n, names, made.source[:, cortex], mesh
    )
    return Case(name, source, made.labels, made.truth[:, cortex], np.ones(len(cortex)))


def tables(table: Path, people: Path, seed: int) -> list[Case]:
    """Regions of real people at simulated sites, in standard deviations."""
    values, known = read(table, people)
    here = np.flatnonzero(known['site'] == HOSPITAL)
    truth, labels = values.to_numpy(float)[here], labels_of(known).rows(here)
    varies = truth.std(axis=0) > 0
    truth = truth[:, varies]
    rng = np.random.default_rng(seed)
    n, p = truth.shape
    site = rng.integers(SITES, size=n)
    labels = replace(labels, sites=np.array([f'S{i}' for i in site]))
    mean, sd = truth.mean(axis=0), truth.std(axis=0)
    z = (truth - mean) / sd
    covariates = CovariateDesign.fit(labels, spline=False).columns(labels)
    design = np.column_stack([np.ones(n), covariates])
    explained = design @ np.linalg.lstsq(design, z, rcond=None)[0]
    shift = 0.25 * rng.normal(size=(SITES, 1)) + 0.4 * rng.normal(size=(SITES, p))
    scale = np.exp(0.15 * (rng.normal(size=(SITES, 1)) + rng.normal(size=(SITES, p))))[site]
    first = (site == 1)[:, None]
    made: dict[str, np.ndarray] = {
        'table, as ComBat takes it': explained + (z - explained) * scale,
        'table, all values scaled': z * scale,
        'table, flattened at one site': np.where(first, np.tanh(z), z * scale),
        'table, skewed at one site': np.where(first, z + 0.2 * np.clip(z, -2, 3) ** 2, z * scale),
    }
    return [
        Case(
            name,
            replace(
                table_of(values.iloc[here].loc[:, varies]), values=mean + sd * (v + shift[site])
            ),
            labels,
            truth,
            sd,
        )
        for name, v in made.items()
    ]


def distances(case: Case, seed: int) -> list[float]:
    """Of source, ComBat, the site appearance of the DDAE alone, and the DDAE."""
    fit, new = case.halves(seed)
    parts = case.source.rows(fit), case.labels.rows(fit)
    combat, ddae = (
        fit_model(*parts, name='half', method=method, seed=seed, allow_few=True)[0]
        for method in ('combat', 'ddae')
    )
    assert ddae.ddae is not None
    alone = replace(ddae, ddae=replace(ddae.ddae, trust=np.zeros_like(ddae.ddae.trust)))
    outputs = [m.harmonized(case.source, case.labels) for m in (combat, alone, ddae)]
    return [case.distance(v, new, new) for v in (case.source.values, *outputs)]


def calibrated(case: Case, seed: int) -> list[float]:
    """Of the source, and of a site measured in few people by a model of the others."""
    fit, new = case.halves(seed)
    last = case.labels.site_names[-1]
    others, mine = fit[case.labels.sites[fit] != last], fit[case.labels.sites[fit] == last]
    theirs = new[case.labels.sites[new] == last]
    model, _ = fit_model(
        case.source.rows(others), case.labels.rows(others), name='others', method='ddae', seed=seed
    )
    known = model.harmonized(case.source.rows(others), case.labels.rows(others))
    values = case.source.values.copy()
    values[others] = known
    found = [case.distance(values, theirs, others)]
    for n in FEW:
        with_site = model.calibrated(case.source.rows(mine[:n]), case.labels.rows(mine[:n]))
        values[theirs] = with_site.harmonized(case.source.rows(theirs), case.labels.rows(theirs))
        found.append(case.distance(values, theirs, others))
    return found


def told_site(case: Case, seed: int) -> list[float]:
    """Accuracy of the site in people not fitted to: source, ComBat, DDAE, bound and truth."""
    labels, truth = case.labels, case.truth
    names, sites = np.unique(labels.sites, return_inverse=True)

    def fitted(method: str) -> Refit:
        def refit(rows: np.ndarray) -> np.ndarray:
            parts = case.source.rows(rows), labels.rows(rows)
            model, _ = fit_model(*parts, name='half', method=method, seed=seed, allow_few=True)
            return model.harmonized(case.source, labels)

        return refit

    def bound(rows: np.ndarray) -> np.ndarray:
        known = labels.rows(rows)
        covariates = CovariateDesign.fit(known, spline=False).columns(known)
        error = SiteRegression.fit(truth[rows], np.eye(len(names))[sites[rows]], covariates)
        return truth - (error.intercepts - error.intercepts.mean(axis=0))[sites]

    candidates = {
        'source': case.source.values,
        'ComBat': fitted('combat'),
        'DDAE': fitted('ddae'),
        'bound': bound,
        'truth': lambda _: truth,
    }
    results = evaluate(candidates, labels, seed=seed).values()
    return [result.estimates['site_linear'].value for result in results]


def averaged(measure: Callable[[Case, int], list[float]], cases: dict[int, list[Case]]) -> None:
    """Print a row for each case, the mean over seeds."""
    for same in zip(*cases.values(), strict=True):
        found = [measure(case, seed) for case, seed in zip(same, cases, strict=True)]
        cells = ' | '.join(f'{value:.4f}' for value in np.mean(found, axis=0))
        print(f'| {same[0].name} | {cells} |', flush=True)


def main() -> None:
    """Print three tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('table', 'people'):
        parser.add_argument(name, type=Path)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--mesh', default='fsaverage3')
    parser.add_argument('--vertices', type=int, default=642)
    parser.add_argument('--per-site', type=int, default=200, help='people of each site of maps')
    asked = parser.parse_args()
    kinds = [(False, False), (False, True), (True, True)]
    cases = {
        seed: [
            maps(
                asked.mesh,
                asked.vertices,
                asked.per_site,
                strange=strange,
                scaled=scaled,
                seed=seed,
            )
            for strange, scaled in kinds
        ]
        for seed in range(asked.seeds)
    }
    print('| | source | ComBat | site appearance | DDAE |\n|---|---|---|---|---|')
    averaged(distances, cases)
    of_tables = {seed: tables(asked.table, asked.people, seed) for seed in range(asked.seeds)}
    averaged(distances, of_tables)
    print('\n| site | source | ComBat | DDAE | bound | truth |\n|---|---|---|---|---|---|')
    averaged(told_site, of_tables)
    print('\n| a site that the model does not know | source |', end='')
    print(' |'.join(f' {n} people' for n in FEW), '|\n' + '|---' * (len(FEW) + 2) + '|')
    averaged(calibrated, {seed: [parts[-1]] for seed, parts in cases.items()})


if __name__ == '__main__':
    main()
