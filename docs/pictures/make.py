"""All pictures of the documentation, from the code and from a run on simulated scanners.

    make pictures

or ``python docs/pictures/make.py WORK_DIR``. In WORK_DIR, forty simulated participants of four
sites go through the participant level, with the packaged model, and the group level; this takes
17 minutes of processor time, and is not repeated where WORK_DIR holds the results.
Then every picture is drawn into the folder of this script. The screenshots need Chromium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from canvas import style
from drawings import draw_files, draw_method, draw_pipeline
from graph import draw_workflow
from results import draw_results, find_example, read_metrics
from screenshots import find_browser, take

HERE = Path(__file__).resolve().parent
TARGET = 'PhantomA'


def main() -> None:
    """Run what has not been run, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, nargs='?')
    parser.add_argument('--no-screenshots', action='store_true', help='do without Chromium')
    parser.add_argument(
        '--only-workflow', action='store_true', help='draw the workflow alone, which needs no run'
    )
    asked = parser.parse_args()
    if asked.only_workflow:
        with style():
            draw_workflow(HERE / 'workflow.svg')
        return
    if asked.work_dir is None:
        parser.error('name the folder of the run, WORK_DIR')
    if not asked.no_screenshots:
        find_browser()  # or leave at once, not after the run
    bids, out = asked.work_dir / 'bids', asked.work_dir / 'out'
    run_example(bids, out, asked.work_dir / 'work')
    example = find_example(bids, out)
    images = example.images
    with style():
        draw_results(example, read_metrics(out), HERE / 'results.png')
        draw_pipeline(images, HERE / 'pipeline.svg')
        draw_method(images['slices'], images['harmonized'], HERE / 'method.svg')
        draw_files(HERE / 'files.svg')
        draw_workflow(HERE / 'workflow.svg')
    if not asked.no_screenshots:
        page = out / f'{example.participant}.html'
        part = f'Harmonization-{example.participant}'
        take(page, (1180, 1370), 700, HERE / 'participant.png', part)
        take(out / 'group_T1w.html', (1180, 1370), 700, HERE / 'group.png')
    pictures = [path for path in sorted(HERE.iterdir()) if path.suffix in ('.png', '.svg')]
    for path in pictures:
        print(f'{path.stat().st_size / 1000:7.1f} kB  {path}')
    print(f'{sum(path.stat().st_size for path in pictures) / 1000:7.1f} kB in all')


def run_example(bids: Path, out: Path, work: Path) -> None:
    """Simulate participants and harmonize and evaluate their scans, unless that was done."""
    phantom = Path(sys.executable).with_name('ddae-phantom')
    app = (sys.executable, '-m', 'ddae_app', bids, out)
    if not bids.is_dir():
        _run(phantom, bids, '--sites', 4, '--subjects-per-site', 10)
    # The participant level itself knows which of its outputs are up to date.
    _run(*app, 'participant', '-w', work, '--skull-strip', 'none', '--slices', 'medial',
         '--target-site', TARGET)  # fmt: skip
    metrics = out / 'group_metrics.json'
    images = out.glob('sub-*/anat/*_desc-harmonized_T1w.nii.gz')
    newest = max(path.stat().st_mtime for path in images)
    if not metrics.is_file() or metrics.stat().st_mtime < newest:
        _run(*app, 'group', '-w', work)


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True)


if __name__ == '__main__':
    main()
