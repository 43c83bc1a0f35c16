"""Terminate a run at many moments, and compare what it finally leaves with an undisturbed run.

    python -m benchmarks.kills BIDS WORK --participants LABEL ... [--kills 10] [--nprocs 1]

Both runs preprocess the same scans. One is sent SIGTERM, by turns with SIGINT, at moments that
are spread over its length, each time from the start; the last one is then resumed. Printed are
the exit codes (143 and 130 are right), the seconds from the signal to the end, the processes that
stayed behind (0 is right), the scans that any of these runs reported as failed (0), and the
images that differ from those of the undisturbed run (0).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('bids', type=Path)
    parser.add_argument('work', type=Path)
    parser.add_argument('--participants', nargs='+', required=True)
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--nprocs', type=int, default=1)
    args = parser.parse_args()
    started = time.monotonic()
    run(args, 'undisturbed').wait()
    length = time.monotonic() - started
    print(f'undisturbed: {length:.0f} s')
    failed = 0
    for number in range(args.kills):
        asked = SIGNALS[number % 2]
        shutil.rmtree(args.work / 'killed', ignore_errors=True)
        process = run(args, 'killed')
        time.sleep(length * (number + 0.5) / args.kills)
        family = psutil.Process(process.pid).children(recursive=True)
        sent = time.monotonic()
        process.send_signal(asked)
        code = process.wait()
        took = time.monotonic() - sent
        left = sum(child.is_running() for child in family)
        failed += log_of(args, 'killed').read_text().count(' failed')
        print(f'{asked.name}: exit code {code} after {took:.1f} s, {left} processes left')
    print(f'last run: exit code {run(args, "killed").wait()}')
    expected, found = (sums(args.work / name / 'out') for name in ('undisturbed', 'killed'))
    differing = sum(expected.get(n) != found.get(n) for n in {*expected, *found})
    print(f'{failed} failures reported; {differing} of {len(expected)} images differ')


def log_of(args: argparse.Namespace, name: str) -> Path:
    """Where a run writes what it says."""
    return args.work / f'{name}.log'


def run(args: argparse.Namespace, name: str) -> subprocess.Popen:
    """Start the program."""
    folder = args.work / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, '-m', 'ddae_app', args.bids, folder / 'out', 'participant', '--stage',
        'preproc', '-w', folder / 'work', '--nprocs', args.nprocs, '--participant-label',
        *args.participants, '--skip-bids-validation',
    ]  # fmt: skip
    with log_of(args, name).open('w') as log:
        return subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log,
            # A shell lets what it starts in the background ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def sums(out: Path) -> dict[str, str]:
    """Digests of all images and transforms, by name."""
    files = [path for path in out.rglob('*') if path.name.endswith(('.nii.gz', '_xfm.txt'))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == '__main__':
    main()
