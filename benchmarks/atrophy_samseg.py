"""Changes of a known size, measured by SAMSEG.

    python -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install "numpy<2" samseg==0.4a0
    python -m benchmarks.atrophy_samseg BIDS_DIR PREPROC_DIR WORK_DIR ENVIRONMENT [--segmented 2]
        [--methods truth source ddae-calibrated]

The scans are those of ``benchmarks.atrophy``, from the same WORK_DIR. Three classes of intensity
depend on contrast; SAMSEG (Puonti et al. 2016, doi:10.1016/j.neuroimage.2016.09.011) deforms an
atlas, and fits the intensities of each scan anew. It runs in an environment of its own, since it
needs an older numpy, and takes six minutes of a processor for a scan. Therefore only the first
``--segmented`` people are measured, at their own scanner: unchanged, and with the changes of
``--visits``, the largest ones of the ventricles unless stated otherwise. Their first scan at the
target's scanner is measured as well.

The table gives the slope of the measured change on that in the truth (the same brains at the
target's scanner, without noise, by SAMSEG too), its least and most over people with several
changes, and how far the first scans of the two scanners are apart, in percent. None of the changes
moves the skull: where the intracranial volume is not that of the other scans of the person, SAMSEG
has failed, as it sometimes does in heads without a skull, and the visit is left out of all methods
and named; where it is a first scan, so is the person. Segmented scans are kept in
``WORK_DIR/atrophy-<seed>-<people>-<per site>/samseg/``, and not segmented again.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks.atrophy import GIVEN, METHODS, change, draw, harmonized, line
from benchmarks.phantoms import TARGET
from benchmarks.real_anatomy import parser_of_folders
from benchmarks.volumes import CORNER, GRID
from ddae_app.files import staged

STRUCTURES = {
    'ventricles': ('Lateral-Ventricle', 'Inf-Lat-Vent'),
    'cortex': ('Cerebral-Cortex',),
    'hippocampi': ('Hippocampus',),
    'white matter': ('Cerebral-White-Matter',),
}
"""Measured volumes, each of both sides, by the names that SAMSEG gives them."""

INTRACRANIAL, FARTHEST = 'intracranial', 0.03
"""A volume that is the same in all scans of a person, and how far from their median it may be, as
a share."""

USUAL = ['truth', 'source', 'ddae-calibrated']


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument('environment', type=Path, help='with SAMSEG')
    parser.add_argument('--people', type=int, default=8, help='as given to benchmarks.atrophy')
    parser.add_argument('--per-site', type=int, default=20, help='as given to benchmarks.atrophy')
    parser.add_argument('--segmented', type=int, default=2, help='people')
    parser.add_argument('--visits', nargs='+', type=int, default=[7, 8])
    parser.add_argument('--methods', nargs='+', default=USUAL, choices=[*GIVEN, *METHODS])
    args = parser.parse_args()
    folder = args.work_dir / f'atrophy-{args.seed}-{args.people}-{args.per_site}'
    training, visits = draw(args, folder)
    rows = measured_rows(visits.table, args.segmented, args.visits)
    found = {}
    for name in args.methods:
        outputs = dict(enumerate(harmonized(name, training, visits, folder)))
        volumes = []
        for row in rows:
            # The truth is that of the target's scanner at all sites.
            if name != 'truth' or visits.table.site[row] != TARGET:
                into = folder / 'samseg' / f'{name}-{row}'
                stats = segmented(outputs[row], into, args.environment)
                volumes.append({'row': row, **volumes_of(stats)})
        found[name] = visits.table.join(pd.DataFrame(volumes).set_index('row'), how='inner')
    if 'truth' in found:
        table = compare(found)
        (folder / 'samseg.md').write_text(table)
        print(table)


def measured_rows(table: pd.DataFrame, people: int, visits: list[int]) -> list[int]:
    """Rows of the first people: first scans at their own and the target's scanner, and changes."""
    chosen = table[table.person.isin(table.person.unique()[:people])]
    own = chosen[chosen.visit > 0].groupby('person').site.first()
    first = (chosen.visit == 0) & chosen.site.isin([TARGET])
    first |= (chosen.visit == 0) & (chosen.site == chosen.person.map(own))
    return chosen.index[first | chosen.visit.isin(visits)].tolist()


def segmented(stack: np.ndarray, folder: Path, environment: Path) -> Path:
    """Volumes of structures, as SAMSEG writes them, of a stack of slices, shape (D, H, W)."""
    stats = folder.with_suffix('.stats')
    if not stats.is_file():
        print(f'{folder.name} ...', flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        affine = GRID.affine.copy()
        affine[:3, 3] = (GRID.affine @ [*CORNER, 1])[:3]
        image = nib.Nifti1Image(np.moveaxis(np.asarray(stack, np.float32), 0, 2), affine)
        nib.save(image, folder / 'scan.nii.gz')
        with (folder / 'log.txt').open('w') as log:
            subprocess.run(
                [environment / 'bin' / 'run_samseg', '--threads', '1', '-i',
                 folder / 'scan.nii.gz', '-o', folder / 'out'],
                check=True, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        with staged(stats) as temporary:
            shutil.copyfile(folder / 'out' / 'samseg.stats', temporary)
        shutil.rmtree(folder)
    return stats


def volumes_of(stats: Path) -> dict[str, float]:
    """Volumes of ``STRUCTURES`` and within the skull in a file of SAMSEG, mm3."""
    told = {}
    for row in stats.read_text().splitlines():
        name, volume, _ = row.removeprefix('# Measure ').split(', ')
        told[name] = float(volume)
    return {
        name: sum(told[f'{side}-{part}'] for side in ('Left', 'Right') for part in parts)
        for name, parts in STRUCTURES.items()
    } | {INTRACRANIAL: told['Intra-Cranial']}


def failures(found: dict[str, pd.DataFrame]) -> dict[int, list[str]]:
    """The methods in whose scans SAMSEG has failed, by the rows of the visits."""
    every = pd.concat(found.values())
    usual = every.groupby('person')[INTRACRANIAL].median()
    rows: dict[int, list[str]] = {}
    for method, table in found.items():
        off = (table[INTRACRANIAL] / table.person.map(usual) - 1).abs() > FARTHEST
        for row in table.index[off]:
            rows.setdefault(row, []).append(method)
    return rows


def compare(found: dict[str, pd.DataFrame]) -> str:
    """The table, in Markdown."""
    failed, every = failures(found), pd.concat(found.values())
    visits = every[~every.index.duplicated()]
    notes = [
        f'Left out: visit {visits.visit[row]} of {visits.person[row]}, where SAMSEG failed in '
        f'{", ".join(methods)}.'
        for row, methods in failed.items()
    ]
    bad = visits.loc[[*failed]]
    # Without a first scan, there is nothing to compare the others of the person with.
    lost = bad.person[bad.visit == 0].unique()
    notes += [
        f'With it, all visits of {person} are left out, since it is a first scan.'
        for person in lost
    ]
    found = {
        method: table[~table.index.isin(bad.index) & ~table.person.isin(lost)]
        for method, table in found.items()
    }
    columns = '', 'volume', 'slope', 'over people', 'scanners apart, %'
    lines = ['| ' + ' | '.join(columns) + ' |', '| --- ' * len(columns) + '|']
    truth = found['truth']
    for method, table in found.items():
        if method == 'truth':
            continue
        for name in STRUCTURES:
            pairs, apart = [], []
            for person in truth.person.unique():
                pairs.append(change(table, truth, name, person, False))
                own = table[(table.person == person) & (table.visit == 0)].set_index('site')[name]
                apart += [
                    100 * abs(own[site] / own[TARGET] - 1) for site in own.index.drop(TARGET)
                ]
            slopes = [line([pair])[0] for pair in pairs if pair.shape[1] > 1]
            of_people = f'{min(slopes):.2f} to {max(slopes):.2f}' if len(slopes) > 1 else ''
            lines.append(
                f'| {method} | {name} | {line(pairs)[0]:.2f} | {of_people} | '
                f'{np.mean(apart):.1f} |'
            )
    return '\n'.join([*lines, '', *notes]) + '\n'


if __name__ == '__main__':
    main()
