"""How bright the brightest voxels of real scans are: the limits of `imaging/intensities.py`.

    python -m benchmarks.intensities BIDS OUT

``OUT`` is what ``ddae-app BIDS OUT participant --stage preproc`` wrote. For every raw scan, the
brightest voxel is put in relation to the brightest tissue (``foreground_range``), which
``MOST_TIMES_BRIGHT`` limits; for every brain, the 99.5th percentile to the 95th, which
``MOST_TIMES_BRAIN`` limits. The extremes and the median over all scans are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from ddae_app.bids.layout import read_name
from ddae_app.imaging import intensities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('bids', type=Path)
    parser.add_argument('out', type=Path)
    args = parser.parse_args()
    raw = sorted(args.bids.glob('sub-*/**/anat/*_T1w.nii.gz'))
    brains = [
        path
        for path in sorted(args.out.rglob('*_desc-preproc_T1w.nii.gz'))
        if (name := read_name(path)) and name.kind == 'preproc'
    ]
    print('what\tscans\tleast\tmedian\tmost\tlimit')
    show('brightest voxel / tissue', map(voxel_ratio, raw), intensities.MOST_TIMES_BRIGHT)
    show('brain, 99.5 % / 95 %', map(brain_ratio, brains), intensities.MOST_TIMES_BRAIN)


def voxel_ratio(path: Path) -> float:
    """The brightest voxel above the darkest, in units of the brightest tissue above it."""
    data = np.asanyarray(nib.load(path).dataobj)
    low, high = intensities.foreground_range(data)
    return (float(data.max()) - low) / (high - low)


def brain_ratio(path: Path) -> float:
    """The 99.5th percentile of a brain, in units of its 95th."""
    data = np.asanyarray(nib.load(path).dataobj)
    low, high = np.percentile(data[data > 0], (intensities.BRAIN_PERCENTILE, 99.5))
    return float(high / low)


def show(what: str, ratios: Iterable[float], limit: float) -> None:
    """Print a row of the table."""
    values = np.fromiter(ratios, dtype=float)
    row = (f'{f(values):.2f}' for f in (np.min, np.median, np.max))
    print(f'{what}\t{len(values)}', *row, limit, sep='\t', flush=True)


if __name__ == '__main__':
    main()
