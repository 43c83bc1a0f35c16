"""Change over time: a known loss of gray matter, before and after harmonization.

    python -m benchmarks.longitudinal WORK [--sites 3] [--subjects 2] [--atrophy 2]

Simulated people are scanned twice, between which they lose a known share of their gray matter:
in one dataset both times at their own scanner, in another the second time at the scanner of the
next site. Both go through the whole pipeline, harmonized to PhantomA by the packaged model. Gray
matter is measured in the preprocessed and in the harmonized volume (shares of three tissues by
Otsu's thresholds, times the volume of the brain in the scan), and its change is printed, in
percent of the first session: the mean over people, their standard deviation, and the truth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from ddae_app.bids import sidecars
from ddae_app.imaging.anatomy import tissue_shares

DESIGNS = {'same scanner': (), 'another scanner': ('--change-scanner',)}
LABELS = {'scan': 'preproc', 'harmonized': 'harmonized'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('--sites', type=int, default=3)
    parser.add_argument('--subjects', type=int, default=2, help='at each site')
    parser.add_argument('--atrophy', type=float, default=2.0, help='percent of gray matter')
    args = parser.parse_args()
    print('\t'.join(['second session', 'truth', *LABELS]) + '\t(mean change in %, SD)')
    for name, flags in DESIGNS.items():
        folder = args.work / name.replace(' ', '-')
        simulate_and_run(folder, args, flags)
        rows = np.array(list(changes(folder)))
        shown = (f'{column.mean():.2f} ({column.std(ddof=1):.2f})' for column in rows.T)
        print('\t'.join([name, *shown]), flush=True)


def simulate_and_run(folder: Path, args: argparse.Namespace, flags: tuple[str, ...]) -> None:
    """Make a dataset and harmonize it; what is done already is not done again."""
    bids, out = folder / 'bids', folder / 'out'
    if not (bids / 'participants.tsv').is_file():
        asked = (
            '--sites', args.sites, '--subjects-per-site', args.subjects, '--sessions', 2,
            '--atrophy', args.atrophy, *flags,
        )  # fmt: skip
        run('ddae_app.cli.phantom', bids, *asked)
    run(
        'ddae_app', bids, out, 'participant', '--target-site', 'PhantomA', '--skull-strip', 'none',
        '-w', folder / 'work', '--skip-bids-validation',
    )  # fmt: skip


def run(module: str, *arguments: object) -> None:
    """Run a command of the program in a process of its own."""
    code = f'import sys; from {module} import main; sys.exit(main())'
    command = [sys.executable, '-c', code] if '.' in module else [sys.executable, '-m', module]
    subprocess.run([*command, *map(str, arguments)], check=True, stderr=subprocess.DEVNULL)


def changes(folder: Path) -> Iterator[list[float]]:
    """Of each person the true change and those measured, in percent."""
    for table in sorted((folder / 'bids' / 'derivatives' / 'truth').rglob('*_sessions.tsv')):
        person = table.name.removesuffix('_sessions.tsv')
        truth = pd.read_csv(table, sep='\t').set_index('session_id')
        sessions = sorted(truth.index)
        column = next(name for name in truth.columns if name.startswith('gm'))
        first, second = (float(truth.loc[session, column]) for session in sessions)
        row = [100 * (second / first - 1)]
        for desc in LABELS.values():
            volumes = [gray(folder / 'out', person, session, desc) for session in sessions]
            row.append(100 * (volumes[1] / volumes[0] - 1))
        yield row


def gray(out: Path, person: str, session: str, desc: str) -> float:
    """Gray matter in mL of the scan."""
    anat = out / person / session / 'anat'
    (image,) = anat.glob(f'{person}_{session}_space-*_desc-{desc}_T1w.nii.gz')
    (preprocessed,) = anat.glob(f'{person}_{session}_space-*_desc-preproc_T1w.nii.gz')
    data = nib.load(image).get_fdata(dtype=np.float32)
    if desc == 'preproc':
        data /= np.percentile(data[data > 0], 99.5)
    brain_ml = sidecars.read(preprocessed)['brain_volume_ml']
    return tissue_shares(data)['gray'] * float(brain_ml)


if __name__ == '__main__':
    main()
