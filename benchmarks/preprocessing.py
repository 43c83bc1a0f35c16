"""Overhead of the preprocessing workflow over the bare library calls, on the same scans.

    python -m benchmarks.preprocessing BIDS_DIR [--skull-strip deepbet] [--scans 4]

A script that makes the same antspyx and SimpleITK calls, one scan after the other, and writes the
image and the mask, is compared with ``ddae-app ... --stage preproc`` on one process. Both run in
new processes, and their imports count. Aim: a ratio of at most 1.15.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import sys
from pathlib import Path
import nibabel as nib
import numpy as np
from ddae_app.imaging import bias, brain, conform, grid, registration, templates
name, method, home, out, *scans = sys.argv[1:]
template = templates.load_template(name, Path(home))
target = grid.model_grid(name, (130, 130, 130))
for scan in scans:
    image = conform.conform(conform.load_t1w(Path(scan)))
    if method == 'deepbet':
        from ddae_app.imaging.deepbet import deepbet_mask
        inside = brain.checked_mask(deepbet_mask(image, 'cpu'), image)
    else:
        inside = brain.stripped_mask(image)
    only = brain.brain_only(image, inside)
    affine = registration.register_affine(only, template.brain, template.mask)
    resampled = registration.resample_to_grid(image, affine.matrix, target)
    soft = nib.Nifti1Image(inside.astype(np.float32), image.affine)
    mask = np.asarray(registration.resample_to_grid(soft, affine.matrix, target).dataobj) > 0.5
    stripped = np.where(mask, resampled.dataobj, 0)
    corrected = bias.correct_bias(nib.Nifti1Image(stripped, target.affine)).dataobj
    stem = Path(out) / Path(scan).name.split('.')[0]
    for data, end in ((np.asarray(corrected), ''), (mask.astype(np.uint8), '_mask')):
        nib.save(nib.Nifti1Image(data, target.affine), f'{stem}{end}.nii.gz')
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('--template', default='MNI152NLin2009aSym')
    parser.add_argument('--skull-strip', default='deepbet', choices=('deepbet', 'none'))
    parser.add_argument('--scans', type=int, default=4, help='of how many participants')
    args = parser.parse_args()
    found = sorted(args.bids_dir.glob('sub-*/**/*_T1w.nii*'))
    labels = list(dict.fromkeys(scan.name.split('_')[0] for scan in found))[: args.scans]
    scans = [scan for scan in found if scan.name.split('_')[0] in labels]
    home = os.environ.get('TEMPLATEFLOW_HOME', str(Path.home() / '.cache' / 'templateflow'))
    os.environ |= {
        'OMP_NUM_THREADS': '1',
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': '1',
        'ANTS_RANDOM_SEED': '14193',
    }
    with tempfile.TemporaryDirectory() as folder:
        bare = [args.template, args.skull_strip, home, folder, *map(str, scans)]
        workflow = [
            str(args.bids_dir), f'{folder}/out', 'participant', '--stage', 'preproc', '-w',
            f'{folder}/work', '--template', args.template, '--skull-strip', args.skull_strip,
            '--nprocs', '1', '--skip-bids-validation', '--participant-label', *labels,
        ]  # fmt: skip
        commands = {
            'bare calls': [sys.executable, '-c', BARE, *bare],
            'workflow': [sys.executable, '-m', 'ddae_app', *workflow],
        }
        print('\twall, s\twall per scan, s\tCPU per scan, s\tpeak memory, GB')
        rows = {name: measure(command) for name, command in commands.items()}
    for name, (wall, cpu, peak) in rows.items():
        print(f'{name}\t{wall:.1f}\t{wall / len(scans):.1f}\t{cpu / len(scans):.1f}\t{peak:.2f}')
    ratios = [b / a for a, b in zip(rows['bare calls'], rows['workflow'], strict=True)]
    print('ratio\t{0:.2f}\t{0:.2f}\t{1:.2f}\t{2:.2f}'.format(*ratios))


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall and CPU seconds, and peak memory in GB, of a command.

    Raises
    ------
    SystemExit
        The command failed; with what it wrote to standard error.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status != 0:
        raise SystemExit(errors.decode())
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


if __name__ == '__main__':
    main()
