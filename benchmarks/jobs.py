"""Twenty jobs at once in one output folder, some of which are killed, against one undisturbed run.

    python -m benchmarks.jobs WORK [--jobs 20] [--kills 4] [--seed 0]

Five simulated people of a site are preprocessed once. One process then calibrates the site and
harmonizes the scans to a packaged site; afterwards many jobs do the same at once, each for the
whole dataset, with an output folder in common and a work directory each. While a job calibrates
and holds the lock, it is killed with SIGKILL, so that the next one takes over, as often as
``--kills`` says; as many jobs are killed while they harmonize. Printed are the exit codes of the
others (0 is right), how many jobs calibrated to the end (1), the exit codes of the killed jobs
when they run again (0), how many files of the output differ from those of the undisturbed run (0),
and the seconds that the jobs took. Temporary files of killed jobs are counted apart.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddae_app.files import PREFIX
from ddae_app.phantom.dataset import Design, write_dataset

FLAGS = (
    '--target-site', 'IXI', '--slices', 'medial', '--skull-strip', 'none', '--sloppy',
    '--skip-bids-validation', '--nprocs', '1', '--omp-nthreads', '1',
)  # fmt: skip
CALIBRATING = 'training slices: ', 'to measure residual site effects'
"""What a job says when it has the lock: that it begins to measure, and, later, to render."""

CALIBRATED = 'was made by another run'
HARMONIZING = 'harmonize: ', ': harmonize ('
"""What a job says when it plans to harmonize, and of its first harmonized scan."""

MOST_SECONDS = 3.0
"""After these words, within which a job is killed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('--jobs', type=int, default=20)
    parser.add_argument('--kills', type=int, default=4)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    bids = args.work / 'bids'
    if not bids.is_dir():
        write_dataset(bids, Design(n_sites=1, subjects_per_site=5, seed=11, voxel_mm=3.0))
    start(args.work, 'preprocessed', 'preprocessed', '--stage', 'preproc').wait()
    print('one process: exit code', start(args.work, 'one', 'one').wait(), flush=True)
    began = time.monotonic()
    names = [f'job-{number:02}' for number in range(args.jobs)]
    jobs = {name: start(args.work, name, 'many') for name in names}
    killed = list(kill(args, jobs, CALIBRATING)) + list(kill(args, jobs, HARMONIZING))
    codes = {name: job.wait() for name, job in jobs.items() if name not in killed}
    print(f'{len(codes)} jobs ended after {time.monotonic() - began:.0f} s:', codes)
    calibrated = sum('INFO model: ' in said(args.work, name) for name in names)
    print(f'{calibrated} of {len(names)} calibrated to the end')
    again = {name: start(args.work, name, 'many').wait() for name in killed}
    print('the killed jobs once more:', again)
    expected, found = (contents(args.work / name) for name in ('one', 'many'))
    torn = {name for name in found if PREFIX in name}
    differing = [
        name
        for name in sorted({*expected, *found} - torn)
        if expected.get(name) != found.get(name)
    ]
    print(f'{len(differing)} of {len(expected)} files differ: {differing}')
    print(f'{len(torn)} temporary files of killed jobs are left: {sorted(torn)}')


def start(work: Path, name: str, out: str, *flags: str) -> subprocess.Popen:
    """Start a job; what it says goes to a file of its name."""
    command = [
        sys.executable, '-m', 'ddae_app', work / 'bids', work / out, 'participant', *FLAGS,
        '-w', work / f'{name}-work', *flags,
    ]  # fmt: skip
    if out != 'preprocessed':
        command += ['-d', f'ddae-app={work / "preprocessed"}']
    with (work / f'{name}.log').open('w') as log:
        return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)


def said(work: Path, name: str) -> str:
    """What a job has said so far."""
    return (work / f'{name}.log').read_text()


def kill(
    args: argparse.Namespace, jobs: dict[str, subprocess.Popen], phrases: Sequence[str]
) -> Iterator[str]:
    """Kill jobs soon after they said one of some phrases, by turns; yield their names."""
    moments = random.Random(f'{args.seed} {phrases}')
    for number in range(args.kills):
        phrase, name = phrases[number % len(phrases)], None
        while name is None:
            running = [name for name, job in jobs.items() if job.poll() is None]
            logs = {name: said(args.work, name) for name in running}
            late = phrases == CALIBRATING and any(CALIBRATED in log for log in logs.values())
            if late or not running:
                print(f'only {number} jobs could be killed after {phrases}')
                return
            name = next((name for name, log in logs.items() if phrase in log), None)
            time.sleep(0.1)
        time.sleep(moments.uniform(0, MOST_SECONDS))
        jobs[name].send_signal(signal.SIGKILL)
        print(f'{name} killed after {phrase!r}: {jobs[name].wait()}', flush=True)
        yield name


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run wrote, but for the pages and logs, which name it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and 'logs' not in path.parts and path.suffix != '.html'
    }


if __name__ == '__main__':
    main()
