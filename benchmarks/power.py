"""Statistical power and false alarms: what a study finds whose scans were pooled from many sites.

    python -m benchmarks.power BIDS_DIR PREPROC_DIR WORK_DIR [--draws 500] [--loss 3]

People and scanners are those of ``benchmarks.real_anatomy``: medial slices of everybody from whom
the packaged networks did not learn, at seven simulated scanners. A study has ``--per-site`` people
at each site. Real people are too few for that, so they are drawn with replacement, each to a site
and to a group at random, and the share of patients differs from site to site (``PATIENTS``). In
one world patients have lost ``--loss`` percent of the gray matter of the cortex
(``benchmarks.known_atrophy``), in the other nothing.

The share of gray matter is measured in each slice (``tissue_shares``) and explained by group, age,
its square and sex. ``found`` is the share of studies with p < 0.05 for the group, and an effect of
the right sign, in the first world (power); ``false`` the share with p < 0.05 in the second, where
0.05 is right. Both have Wilson's 95 % interval for this number of studies, which does not say what
other scanners or people would give: compare seeds. ``effect`` is the mean estimated effect of the
group in the first world, relative to that in the truth, and ``spread`` its standard deviation over
the studies, in the same unit. ICC and CV are over the seven scanners, at which everybody is
(``benchmarks.reliability``), without atrophy.

Methods are fitted once in each world, to as many people a site, who are drawn in the same way.
ComBat on features is fitted in each study, with the group preserved, as users do (``neuroCombat``;
features are the shares of three tissues in the slice and in its four quadrants). Written to
``WORK_DIR/power-<seed>-<per site>-<loss>/``: ``power.md``, and ``features.tsv``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from benchmarks.known_atrophy import resized
from benchmarks.phantoms import SEEN, TARGET
from benchmarks.quality import BATCH
from benchmarks.real_anatomy import (
    NEAR,
    common_brains,
    draw_scanner,
    near_medial,
    parser_of_folders,
    scan,
)
from benchmarks.reliability import agreement
from ddae_app.imaging.anatomy import TISSUES, tissue_shares
from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.find import packaged_model
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.phantom.seeds import generator

PATIENTS = dict(zip(SEEN, (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85), strict=True))
"""Share of patients at each site."""

WORLDS = 'with effect', 'without'
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class People:
    """Slices near the medial one, shape (N, 2, 9, H, W): as they are, and with the loss."""

    table: pd.DataFrame
    brains: np.ndarray


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument('--draws', type=int, default=500)
    parser.add_argument('--loss', type=float, default=3.0, help='percent of the cortex')
    parser.add_argument('--per-site', type=int, default=60)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work_dir / f'power-{args.seed}-{args.per_site}-{args.loss:g}'
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'features.tsv'
    if not file.is_file():
        people = with_loss(args.bids_dir, args.preproc_dir, args.work_dir, args.loss)
        measured = pd.concat(measure(people, args.seed, args.per_site))
        measured.to_csv(file, sep='\t', index=False)
    features = pd.read_csv(file, sep='\t', dtype={'person': str})
    table = analyze(features, PATIENTS, args.seed, args.draws, args.per_site)
    (folder / 'power.md').write_text(table)
    print(table)


def with_loss(bids_dir: Path, preproc_dir: Path, folder: Path, loss: float) -> People:
    """Everybody as they are, and with the loss; stored in files when they are drawn first."""
    table, store = folder / 'people.tsv', folder / f'people-{loss:g}.npy'
    if not store.is_file():
        data, brains = common_brains(bids_dir, preproc_dir, folder)
        slices = []
        for name, brain in zip(data.subjects, brains, strict=True):
            slices.append([near_medial(brain), near_medial(resized(brain, {'cortex': -loss}))])
            print(f'  {name}', flush=True)
        people = {'person': data.subjects, 'age': data.ages, 'sex': data.sexes}
        pd.DataFrame(people).to_csv(table, sep='\t', index=False)
        np.save(store, np.array(slices, np.float32))
    return People(pd.read_csv(table, sep='\t'), np.load(store))


def measure(people: People, seed: int, per_site: int) -> Iterator[pd.DataFrame]:
    """Features of each person at each site: by method, world, and without or with the loss."""
    who = np.repeat(np.arange(len(people.table)), len(SEEN))
    sites = np.tile(SEEN, len(people.table))
    scanners = {site: draw_scanner(site, seed) for site in SEEN}
    scans = []
    for ill in (0, 1):
        rngs = [generator(seed, 'test', site, f'{i}') for i, site in zip(who, sites, strict=True)]
        scans.append([scan(people.brains[i, ill, NEAR], scanners[site], rng)[0]
                      for i, site, rng in zip(who, sites, rngs, strict=True)])  # fmt: skip
    images = np.array(scans)
    table = people.table.iloc[who].assign(site=sites).reset_index(drop=True)
    truth = [[scan(brain[ill, NEAR], scanners[TARGET], None)[0] for brain in people.brains]
             for ill in (0, 1)]  # fmt: skip
    for world in WORLDS:
        training = deal(people, scanners, seed, per_site, ill=world == WORLDS[0])
        for name, fit in METHODS.items():
            print(f'{world}: {name} ...', flush=True)
            harmonizer = fit(training)
            for ill in (0, 1) if world == WORLDS[0] else (0,):
                if name == 'truth':
                    out = np.array(truth[ill])[who]
                elif harmonizer is None:
                    out = images[ill]
                else:
                    out = harmonizer.transform(images[ill], table, TARGET)
                values = pd.DataFrame([shares(image) for image in out])
                yield pd.concat(
                    [table.assign(method=name, world=world, ill=ill), values], axis='columns'
                )


def deal(people: People, scanners: dict, seed: int, per_site: int, ill: bool) -> SliceData:
    """Scans for fitting: some people at each site, of whom some are patients."""
    images, sites, who = [], [], []
    for site in SEEN:
        rng = generator(seed, 'fitting', site)
        chosen = rng.integers(len(people.table), size=per_site)
        patients = round(PATIENTS[site] * per_site) if ill else 0
        for i, person in enumerate(chosen):
            for brain in people.brains[person, int(i < patients)]:
                images.append(scan(brain, scanners[site], rng)[0])
                sites.append(site)
                who.append(person)
    of = people.table.iloc[who]
    return SliceData(
        np.stack(images)[:, None], tuple(sites), of.age.to_numpy(float), tuple(of.sex),
        tuple(of.person),
    )  # fmt: skip


def shares(image: np.ndarray) -> dict[str, float]:
    """Shares of the tissues in a slice, and in its quadrants."""
    values = tissue_shares(image)
    down, across = (n // 2 for n in image.shape)
    for number, part in enumerate((image[:down, :across], image[:down, across:],
                                   image[down:, :across], image[down:, across:])):  # fmt: skip
        values |= {f'{tissue}_{number}': share for tissue, share in tissue_shares(part).items()}
    return values


def _calibrated(training: SliceData, *, keep_noise: bool = False) -> Harmonizer:
    bundle = calibrate(load_bundle(packaged_model('medial').path), training)
    return DDAEHarmonizer(bundle=bundle, device='cpu', batch_size=BATCH, keep_noise=keep_noise)


METHODS: dict[str, Callable[[SliceData], Harmonizer | None]] = {
    'truth': lambda training: None,
    'source': lambda training: None,
    'histogram': lambda data: HistogramMatching().fit(data.images[:, 0], cohort_of(data)),
    'combat': lambda data: ComBat().fit(data.images[:, 0], cohort_of(data)),
    'ddae-calibrated': _calibrated,
    'ddae-noise-kept': partial(_calibrated, keep_noise=True),
}

ANALYSES = {
    'truth: no scanner': ('truth', 'plain'),
    'source': ('source', 'plain'),
    'source, site as a covariate': ('source', 'site'),
    'ComBat on features': ('source', 'combat'),
    'histogram matching': ('histogram', 'plain'),
    'histogram matching, site as a covariate': ('histogram', 'site'),
    'ComBat per pixel': ('combat', 'plain'),
    'ComBat per pixel, site as a covariate': ('combat', 'site'),
    'DDAE, calibrated': ('ddae-calibrated', 'plain'),
    'DDAE, calibrated, site as a covariate': ('ddae-calibrated', 'site'),
    'DDAE, calibrated, ComBat on features': ('ddae-calibrated', 'combat'),
    'DDAE, calibrated, noise kept': ('ddae-noise-kept', 'plain'),
    'DDAE, calibrated, noise kept, site as a covariate': ('ddae-noise-kept', 'site'),
}
"""By the name of the row: the images, and the analysis of their features."""


def analyze(
    features: pd.DataFrame, patients: dict[str, float], seed: int, draws: int, per_site: int
) -> str:
    """The table, in Markdown; the share of patients is by site."""
    rng = generator(seed, 'studies')
    people = features.person.unique()
    studies = [study(people, patients, per_site, rng) for _ in range(draws)]
    lines = ['| | found | false | effect | spread | ICC | CV, % |', '| --- ' * 7 + '|']
    unit = None
    for label, (method, analysis) in ANALYSES.items():
        cells, effects = [label], np.zeros(0)
        for world in WORLDS:
            known = features[(features.method == method) & (features.world == world)]
            known = known.set_index(['person', 'site', 'ill']).sort_index()
            results = np.array([result(known, each, world, analysis) for each in studies])
            # A loss that looks like a gain was not found.
            right = (results[:, 0] < 0) | (world != WORLDS[0])
            found = int(((results[:, 1] < SIGNIFICANT) & right).sum())
            low, high = stats.binomtest(found, draws).proportion_ci(method='wilson')
            cells.append(f'{found / draws:.2f} ({low:.2f} to {high:.2f})')
            effects = results[:, 0] if world == WORLDS[0] else effects
        unit = unit or float(effects.mean())
        cells += [f'{effects.mean() / unit:.2f}', f'{effects.std(ddof=1) / abs(unit):.2f}']
        healthy = features[(features.method == method) & (features.world == WORLDS[1])]
        grid = healthy.pivot(index='person', columns='site', values='gray').to_numpy()
        icc, cv = agreement(grid)
        cells += [f'{icc:.3f}', f'{100 * cv:.2f}'] if analysis == 'plain' else ['', '']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def study(
    people: np.ndarray, patients: dict[str, float], per_site: int, rng: np.random.Generator
) -> pd.DataFrame:
    """People at each site, some of whom are patients."""
    parts = []
    for site, share in patients.items():
        drawn = {'person': people[rng.integers(len(people), size=per_site)], 'site': site}
        is_patient = np.arange(per_site) < round(share * per_site)
        parts.append(pd.DataFrame(drawn).assign(patient=is_patient.astype(int)))
    return pd.concat(parts, ignore_index=True)


def result(
    features: pd.DataFrame, study: pd.DataFrame, world: str, analysis: str
) -> tuple[float, float]:
    """The effect of the group, and its p-value."""
    ill = study.patient if world == WORLDS[0] else 0
    rows = list(study.assign(ill=ill)[['person', 'site', 'ill']].itertuples(index=False))
    seen = features.loc[rows].reset_index()
    seen['patient'] = study.patient.to_numpy()
    gray = combat_on_features(seen) if analysis == 'combat' else seen.gray.to_numpy()
    age = (seen.age - seen.age.mean()) / seen.age.std()
    columns = [seen.patient, np.ones(len(seen)), age, age**2, seen.sex == 'M']
    if analysis == 'site':
        columns += [seen.site == site for site in study.site.unique()[1:]]
    return group_effect(np.column_stack(columns).astype(float), gray)


def group_effect(design: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Coefficient of the first column by least squares, and its two-sided p-value."""
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    left = len(values) - design.shape[1]
    variance = np.square(values - design @ coefficients).sum() / left * inverse[0, 0]
    effect = float(coefficients[0])
    return effect, float(2 * stats.t.sf(abs(effect) / np.sqrt(variance), left))


def combat_on_features(seen: pd.DataFrame) -> np.ndarray:
    """Shares of gray matter after ComBat on all features, with age, sex and group preserved."""
    from neuroCombat import neuroCombat

    names = [c for c in seen.columns if c.split('_')[0] in TISSUES]
    with contextlib.redirect_stdout(io.StringIO()):
        adjusted = neuroCombat(
            dat=seen[names].to_numpy().T,
            covars=seen[['site', 'age', 'sex', 'patient']],
            batch_col='site', categorical_cols=['sex', 'patient'], continuous_cols=['age'],
        )  # fmt: skip
    return np.asarray(adjusted['data'])[names.index('gray')]


if __name__ == '__main__':
    main()
