"""SHA-256 of all images that a checkout computes from simulated scans, to compare checkouts.

    python -m benchmarks.same_results WORK_DIR > checksums.txt

It runs the commands of ``make demo``, and then ``train``, ``participant`` and ``group`` on other
simulated scanners: with the DDAE on the medial slice, and with ComBat on whole scans. Run it in
both checkouts, each in its own environment or with PYTHONPATH set to the checkout, and compare the
outputs with ``diff``. It takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

TRAINING = ('--allow-few-scans', '--allow-confounding')


def main() -> None:
    """Compute the images and print their checksums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    folder = parser.parse_args().work_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    demo = folder / 'demo'
    phantoms(demo / 'bids', '--sites', '4', '--subjects-per-site', '2', '--travelling')
    app(demo, 'participant', '--target-site', 'IXI')

    cohort = folder / 'cohort'
    phantoms(cohort / 'bids', '--sites', '2', '--subjects-per-site', '10', '--scanner-seed', '7')
    template = ('--template', 'MNI152NLin2009aSym')  # the packaged one
    slices = ('--slices', 'medial', *template)
    app(
        cohort, 'train', *TRAINING, *slices, '--preset', 'tiny', '--train-images', '640',
        '--device', 'cpu',
    )  # fmt: skip
    app(cohort, 'participant', *slices, '--target-site', 'PhantomA')
    app(cohort, 'group', *slices, '--target-site', 'PhantomA')

    other = ('-d', f'ddae-app={cohort / "out"}', *template)
    app(cohort, 'train', *TRAINING, '--method', 'combat', *other, out='combat')
    app(cohort, 'participant', '--target-site', 'PhantomA', *other, out='combat')

    for path in sorted(folder.rglob('*.nii.gz')):
        if 'out' in path.parts or 'combat' in path.parts:
            content = gzip.decompress(path.read_bytes())
            print(sha256(content).hexdigest(), path.relative_to(folder))
    for path in sorted(folder.glob('*/*/group_metrics.json')):
        methods = json.loads(path.read_text())['Methods']
        measures = {name: method['Estimates'] for name, method in methods.items()}
        digest = sha256(json.dumps(measures, sort_keys=True).encode()).hexdigest()
        print(digest, f'{path.relative_to(folder)} (estimates)')


def phantoms(out: Path, *arguments: str) -> None:
    """Write simulated scans, unless they exist."""
    if not out.is_dir():
        run('ddae-phantom', str(out), *arguments)


def app(folder: Path, level: str, *arguments: str, out: str = 'out') -> None:
    """Run one level of ddae-app on the scans of a folder."""
    places = (str(folder / 'bids'), str(folder / out), level, '-w', str(folder / f'work-{out}'))
    run('ddae-app', *places, '--skull-strip', 'none', '--nprocs', '2', *arguments)


def run(program: str, *arguments: str) -> None:
    """Run a console script of this environment; its output goes to standard error."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == '__main__':
    main()
