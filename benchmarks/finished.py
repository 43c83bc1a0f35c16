"""Planning and finishing: time and memory of a run for which there is nothing left to do.

    python -m benchmarks.finished WORK [--scans 100 1000] [--voxel-mm 1] [--profile]

Five simulated people of one site are harmonized. The first person's scan and all that was made of
it are then copied under other names (the scan itself as a hard link), until there are as many
people as ``--scans`` says. The same command is run on them twice: it finds everything up to date
and writes tables and pages. Only the second of these runs can know the digests of the copies.
Printed are the seconds, the seconds of processor time and the peak memory of both. ``--profile``
writes ``WORK/finished-<scans>.prof`` for ``pstats``. Aims, of the second run: 1,000 scans in 20 s,
10,000 in 3 minutes, in nearly the same memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from benchmarks.preprocessing import measure

FLAGS = (
    '--target-site', 'IXI', '--slices', 'medial', '--skull-strip', 'template', '--sloppy',
    '--skip-bids-validation', '--nprocs', '1', '--omp-nthreads', '1',
)  # fmt: skip
SIMULATE = """
import sys
from ddae_app.cli.phantom import main
sys.exit(main())
"""
PROFILED = """
import cProfile, sys
from ddae_app.cli.main import main
cProfile.run('main(sys.argv[2:])', sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('--scans', nargs='+', type=int, default=[100, 1000])
    parser.add_argument('--voxel-mm', type=float, default=1.0)
    parser.add_argument('--profile', action='store_true')
    args = parser.parse_args()
    one = args.work / 'one'
    if not (one / 'bids').is_dir():
        # Elsewhere: what this process has held counts as the peak of those that it starts.
        measure([
            sys.executable, '-c', SIMULATE, str(one / 'bids'), '--sites', '1',
            '--subjects-per-site', '5', '--resolution', str(args.voxel_mm), '--seed', '11',
        ])  # fmt: skip
        measure([sys.executable, '-m', 'ddae_app', *arguments(one)])
    print('scans\trun\twall, s\tCPU, s\tpeak memory, GB')
    for scans in args.scans:
        folder = args.work / f'{scans}'
        if not folder.is_dir():
            copies(one, folder, scans)
        start = ['-m', 'ddae_app']
        if args.profile:
            start = ['-c', PROFILED, str(args.work / f'finished-{scans}.prof')]
        for run in ('first', 'second'):
            wall, cpu, peak = measure([sys.executable, *start, *arguments(folder)])
            print(f'{scans}\t{run}\t{wall:.1f}\t{cpu:.1f}\t{peak:.2f}', flush=True)


def arguments(folder: Path) -> list[str]:
    """The command line that harmonizes the dataset in a folder."""
    bids, out, work = (str(folder / name) for name in ('bids', 'out', 'work'))
    return [bids, out, 'participant', '-w', work, *FLAGS]


def copies(one: Path, folder: Path, scans: int) -> None:
    """A dataset of so many people, and its outputs, all of them copies of one person."""
    name = min((one / 'bids').glob('sub-*')).name
    header, row, *others = (one / 'bids' / 'participants.tsv').read_text().splitlines()
    assert row.startswith(f'{name}\t')
    added = [f'sub-{number:05}' for number in range(scans - 1 - len(others))]
    for part in ('bids', 'out'):
        for path in sorted((one / part).rglob('*')):
            relative = path.relative_to(one / part)
            if not path.is_file() or relative.parts[0] in ('logs', 'derivatives'):
                continue
            if name not in str(relative):
                copy(path, folder / part / relative, '', '')
                continue
            for new in (name, *added):
                copy(path, folder / part / str(relative).replace(name, new), name, new)
    rows = [row.replace(name, new) for new in (name, *added)]
    table = '\n'.join([header, *rows, *others]) + '\n'
    (folder / 'bids' / 'participants.tsv').write_text(table)


def copy(path: Path, to: Path, name: str, new: str) -> None:
    """Copy a file, and rename the person in texts; raw scans are hard links."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith('_T1w.nii.gz'):
        os.link(path, to)
    elif name and path.suffix in ('.json', '.tsv', '.html'):
        to.write_text(path.read_text().replace(name, new))
    else:
        shutil.copyfile(path, to)


if __name__ == '__main__':
    main()
