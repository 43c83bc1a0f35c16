"""How far the affine registration moves with its settings, and what time each takes.

    python -m benchmarks.registration BIDS_DIR [--scans 6]

Scans are spread evenly over the dataset. Each brain is extracted with deepbet and registered
to the packaged template as the program does it, and in other ways: with half and with one and a
half times as many sampled voxels, without the last ten iterations at full resolution, and with the
scan smoothed and resampled to the 2 mm of the template. Printed for each way: seconds of processor
time, the distance to where the program's own transform brings a point of the brain (mm, mean over
the brain; mean and largest over scans), and by how much the correlation with the template differs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('--scans', type=int, default=6)
    args = parser.parse_args()
    # ANTs reads both when it is loaded.
    os.environ |= {'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': '1', 'ANTS_RANDOM_SEED': '14193'}
    os.environ['OMP_NUM_THREADS'] = '1'

    import nibabel as nib
    import numpy as np

    from ddae_app.imaging import brain, conform, registration, templates
    from ddae_app.imaging.deepbet import deepbet_mask

    template = templates.load_template('MNI152NLin2009aSym', None)
    inside = np.argwhere(np.asarray(template.mask.dataobj) > 0)[::97]
    points = nib.affines.apply_affine(template.mask.affine, inside)
    full = (2100, 1200, 1200, 10)
    ways: dict[str, tuple[bool, Mapping[str, Any]]] = {
        'as the program': (False, {'aff_iterations': full}),
        'half the samples': (False, {'aff_iterations': full, 'aff_random_sampling_rate': 0.1}),
        'more samples': (False, {'aff_iterations': full, 'aff_random_sampling_rate': 0.3}),
        'not at full resolution': (False, {'aff_iterations': (*full[:3], 0)}),
        'scan at 2 mm': (True, {'aff_iterations': full}),
    }
    found = sorted(args.bids_dir.glob('sub-*/**/*_T1w.nii*'))
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for path in found[:: max(1, len(found) // args.scans)][: args.scans]:
        scan = conform.conform(conform.load_t1w(path))
        mask = brain.checked_mask(deepbet_mask(scan, 'cpu'), scan)
        only, own = brain.brain_only(scan, mask), None
        for name, (coarse, settings) in ways.items():
            began = time.process_time()
            matrix = affine(at_two_mm(only) if coarse else only, template.brain, settings)
            seconds = time.process_time() - began
            measured = registration.evaluate_affine(only, matrix, template.brain, template.mask)
            own = own or measured
            to_scan = partial(nib.affines.apply_affine, pts=points)
            moved = np.linalg.norm(to_scan(matrix) - to_scan(own.matrix), axis=1).mean()
            rows[name].append((seconds, moved, measured.correlation - own.correlation))
    print('way\tCPU, s\tmoved, mm\tmost\tcorrelation')
    for name, measures in rows.items():
        seconds, moved, gained = np.mean(measures, axis=0)
        most = max(m for _, m, _ in measures)
        print(f'{name}\t{seconds:.1f}\t{moved:.2f}\t{most:.2f}\t{gained:+.4f}')


def affine(moving, fixed, settings: Mapping[str, Any]):
    """The transform from template mm to scan mm, shape (4, 4), with some settings of ANTs."""
    import ants

    from ddae_app.imaging.registration import RANDOM_SEED, read_itk_affine, to_ants

    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            to_ants(fixed), to_ants(moving), 'Affine', outprefix=f'{folder}/',
            random_seed=RANDOM_SEED, **settings,
        )  # fmt: skip
        return read_itk_affine(Path(result['fwdtransforms'][0]))


def at_two_mm(image):
    """An image with voxels of at least 2 mm, smoothed before."""
    import nibabel as nib
    import numpy as np
    from nibabel.processing import resample_to_output, smooth_image

    size = nib.affines.voxel_sizes(image.affine)
    if size.min() >= 2:
        return image
    widths = np.sqrt(np.maximum(4 - np.square(size), 0))  # full width at half maximum
    return resample_to_output(smooth_image(image, widths), np.maximum(size, 2), order=1)


if __name__ == '__main__':
    main()
