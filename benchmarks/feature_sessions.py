"""Several sessions of a person: what ComBat and the DDAE leave of sites, and of change over time.

    python -m benchmarks.feature_sessions TABLE PEOPLE

People are those of one hospital in TABLE and PEOPLE (as for :mod:`benchmarks.tables`), and
simulated ones with maps of thickness (:mod:`benchmarks.surfaces`), dealt into made-up sites. Each
has one to three sessions, two years apart, which differ by age and by noise. Sites shift all
values, and scale either what the sessions of a person differ by, as longitudinal ComBat takes it,
or what people differ by as well, or all, or one of them skews its values. Methods are fitted to
one half of the people. Of the other half, two figures are printed, as Markdown: the distance to
the truth, and that of what the sessions of a person differ by, root mean squares in standard
deviations (of maps as of tables).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.feature_truth import HOSPITAL, Case, OnFsaverage
from benchmarks.surfaces import simulate
from benchmarks.tables import labels_of, read, table_of
from ddae_app.features.ddae import geometry_of
from ddae_app.features.fit import fit_model
from ddae_app.features.matrix import FeatureMatrix
from ddae_app.features.people import CovariateDesign, RowLabels

NOISE = 0.4
"""Of a session, in standard deviations of people."""

KINDS = (
    'sites scale what sessions differ by',
    'sites scale what people differ by as well',
    'sites scale all values',
    'sites scale all values, one skews them',
    'sites scale all values; last session at another site',
)

Fields = Callable[[int], np.ndarray]
"""Draws so many patterns over all features, of SD 1."""


def cases(
    source: FeatureMatrix, labels: RowLabels, n_sites: int, fields: Fields, seed: int
) -> list[Case]:
    """Sessions of people, of whom `source` has the first and without site effects."""
    rng = np.random.default_rng(seed)
    mean, sd = source.values.mean(axis=0), source.values.std(axis=0)
    z, design = (source.values - mean) / sd, CovariateDesign.fit(labels, spline=False)
    columns = np.column_stack([np.ones(len(z)), design.columns(labels)])
    slopes = np.linalg.lstsq(columns, z, rcond=None)[0]
    person = z - columns @ slopes
    sessions = rng.integers(1, 4, len(z))
    who = np.repeat(np.arange(len(z)), sessions)
    visit = np.concatenate([np.arange(n) for n in sessions])
    last = visit == sessions[who] - 1
    at = rng.integers(n_sites, size=len(z))[who]
    known = replace(labels.rows(who), subjects=np.array([f'{i:04d}' for i in who]))
    known = replace(known, ages=known.ages + 2.0 * visit)
    expected = np.column_stack([np.ones(len(who)), design.columns(known)]) @ slopes
    noise = NOISE * np.sqrt([[0.7], [0.3]])
    session = noise[0] * rng.normal(size=expected.shape) + noise[1] * fields(len(who))
    truth = expected + person[who] + session
    shift = 0.25 * rng.normal(size=(n_sites, 1)) + 0.4 * fields(n_sites)
    scale = np.exp(0.15 * (rng.normal(size=(n_sites, 1)) + fields(n_sites)))
    skewed = np.where(
        (at == 1)[:, None], truth + 0.2 * np.clip(truth, -2, 3) ** 2, truth * scale[at]
    )
    moved = np.where(last & (visit > 0), (at + 1) % n_sites, at)
    made = (
        (expected + person[who] + session * scale[at], at),
        (expected + (person[who] + session) * scale[at], at),
        (truth * scale[at], at),
        (skewed, at),
        (truth * scale[moved], moved),
    )
    rows = source.rows(who)
    return [
        Case(
            name,
            replace(rows, values=mean + sd * (values + shift[sites])),
            replace(known, sites=np.array([f'S{i}' for i in sites])),
            mean + sd * truth,
            sd,
        )
        for name, (values, sites) in zip(KINDS, made, strict=True)
    ]


def table_cases(table: Path, people: Path, seed: int) -> list[Case]:
    """Regions of real people, at three sites."""
    values, known = read(table, people)
    here = np.flatnonzero(known['site'] == HOSPITAL)
    varies = values.iloc[here].to_numpy(float).std(axis=0) > 0
    rng = np.random.default_rng(seed + 1000)
    return cases(
        table_of(values.iloc[here].loc[:, varies]),
        labels_of(known).rows(here),
        3,
        lambda n: (
            rng.normal(size=(n, 1)) + np.zeros(varies.sum())
            if n > 3
            else rng.normal(size=(n, varies.sum()))
        ),
        seed,
    )


def map_cases(people: int, seed: int) -> list[Case]:
    """Simulated thickness on fsaverage3, at five sites."""
    made = simulate(people, 1, vertices=642, strange=False, seed=seed)
    cortex = np.flatnonzero(made.cortex)
    names = tuple(f'{"LR"[i // 642]}{i % 642}' for i in cortex)
    labels, n = (None,) * people, tuple(map(str, range(people)))
    source = OnFsaverage(Path('maps'), n, labels, names, made.truth[:, cortex], 'fsaverage3')
    basis = geometry_of(source.maps, names).bands.basis
    rng = np.random.default_rng(seed + 1000)

    def fields(count: int) -> np.ndarray:
        found = rng.normal(size=(count, basis.shape[1])) @ basis.T
        return found / found.std(axis=1, keepdims=True)

    return cases(source, made.labels, 5, fields, seed)


def measured(case: Case, seed: int) -> list[float]:
    """Both figures of source, ComBat, the DDAE that scales sessions as a whole, and the DDAE."""
    people = np.unique(case.labels.subjects)
    shown = np.random.default_rng(seed).permutation(people)[: len(people) // 2]
    fit = np.isin(case.labels.subjects, shown)
    parts = case.source.rows(np.flatnonzero(fit)), case.labels.rows(np.flatnonzero(fit))
    combat, ddae = (
        fit_model(*parts, name='half', method=method, seed=seed, allow_few=True)[0]
        for method in ('combat', 'ddae')
    )
    assert ddae.ddae is not None
    whole = replace(ddae, ddae=replace(ddae.ddae, sessions=None))
    outputs = [m.harmonized(case.source, case.labels) for m in (combat, whole, ddae)]
    one = np.bincount(case.labels.persons)[case.labels.persons] == 1
    assert outputs[1][one].tobytes() == outputs[2][one].tobytes()
    new = np.flatnonzero(~fit)
    persons = case.labels.rows(new).persons
    several = np.bincount(persons)[persons] > 1
    found = []
    for values in (case.source.values, *outputs):
        away = ((values - case.truth) / case.unit)[new]
        sums = np.zeros((persons.max() + 1, away.shape[1]))
        np.add.at(sums, persons, away)
        within = away - (sums / np.bincount(persons)[:, None])[persons]
        change = float(np.sqrt(np.square(within[several]).mean()))
        found += [case.distance(values, new, new), change]
    return found


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('table', 'people'):
        parser.add_argument(name, type=Path)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--on-cortex', type=int, default=500, help='people with maps')
    asked = parser.parse_args()
    print('| | source | ComBat | DDAE, sessions scaled as a whole | DDAE |\n|---|---|---|---|---|')
    for kind, of in (
        ('table', lambda seed: table_cases(asked.table, asked.people, seed)),
        ('maps', lambda seed: map_cases(asked.on_cortex, seed)),
    ):
        by_seed = [of(seed) for seed in range(asked.seeds)]
        for same in zip(*by_seed, strict=True):
            found = np.mean([measured(case, seed) for seed, case in enumerate(same)], axis=0)
            pairs = ' | '.join(f'{d:.3f}; {c:.3f}' for d, c in found.reshape(-1, 2))
            print(f'| {kind}; {same[0].name} | {pairs} |', flush=True)


if __name__ == '__main__':
    main()
