"""Whether the quality measures detect failures, which are simulated in preprocessed scans.

    python -m benchmarks.failures BIDS_DIR OUT_DIR [--model FILE] [--target-site NAME]

It uses the scans of ``ddae-app BIDS_DIR OUT_DIR participant``, unchanged and with one failure
each: a wrong registration; a brain mask that is too small, too large or incomplete; and, if a
target site is named, a wrong source site. For each failure, the table gives the least, median and
largest value of the measures, and the share of scans that the thresholds of the program refuse or
flag.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ddae_app.bids.layout import Layout
from ddae_app.bids.measures import MEASURES
from ddae_app.errors import RegistrationError
from ddae_app.imaging import brain, conform, quality, registration, templates, volumes
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.find import find_model

Row = dict[str, float]

MOVES: dict[str, Callable[[], np.ndarray]] = {
    'turned by 10 degrees': lambda: _turn('x', 10),
    'turned by 25 degrees': lambda: _turn('x', 25),
    'upside down': lambda: _turn('y', 180),
    'moved by 10 mm': lambda: _shift(10),
    'moved by 25 mm': lambda: _shift(25),
    'stretched by a quarter': lambda: np.diag([1.25, 1, 1, 1.0]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('out_dir', type=Path)
    parser.add_argument('--model', type=Path)
    parser.add_argument('--target-site')
    args = parser.parse_args()
    rows: dict[str, list[Row]] = defaultdict(list)
    for image in sorted(args.out_dir.glob('sub-*/**/anat/*_desc-preproc_T1w.nii.gz')):
        for name, row in registrations(args.bids_dir, image):
            rows[name].append(row)
        for name, row in masks(image):
            rows[name].append(row)
    if args.target_site:
        for name, row in wrong_sites(args.bids_dir, args.out_dir, args.model, args.target_site):
            rows[name].append(row)
    print_table(rows)


def registrations(bids_dir: Path, image: Path) -> Iterator[tuple[str, Row]]:
    """Quality of the affine of the registration, and of wrong ones."""
    facts = json.loads(_beside(image, '.json').read_text())
    raw = bids_dir / facts['Sources'][0].removeprefix('bids:raw:')
    scan = conform.conform(conform.load_t1w(raw))
    name = image.name.split('_space-')[1].split('_')[0]
    home = Path(os.environ.get('TEMPLATEFLOW_HOME', str(Path.home() / '.cache/templateflow')))
    template = templates.load_template(name, home)
    stem = image.name.split('_space-')[0]
    matrix = registration.read_itk_affine(
        image.with_name(f'{stem}_from-T1w_to-{name}_mode-image_xfm.txt')
    )
    stored = nib.load(
        _beside(image, '').with_name(image.name.replace('preproc_T1w', 'brain_mask'))
    )
    soft = nib.Nifti1Image(stored.get_fdata(dtype=np.float32), stored.affine)
    there = volumes.resample(soft, np.linalg.inv(matrix), scan.shape, scan.affine)
    only = brain.brain_only(scan, there > 0.5)
    for move, change in {'registered': lambda: np.eye(4), **MOVES}.items():
        moved = registration.evaluate_affine(
            only, matrix @ change(), template.brain, template.mask
        )
        try:
            moved.check()
            refused = 0.0
        except RegistrationError:
            refused = 1.0
        yield move, {'registration_correlation': moved.correlation, 'refused': refused}


def masks(image: Path) -> Iterator[tuple[str, Row]]:
    """Quality of the brain mask of the preprocessing, and of wrong ones."""
    name = image.name.split('_space-')[1].split('_')[0]
    home = Path(os.environ.get('TEMPLATEFLOW_HOME', str(Path.home() / '.cache/templateflow')))
    template = templates.load_template(name, home).mask
    stored = nib.load(
        _beside(image, '').with_name(image.name.replace('preproc_T1w', 'brain_mask'))
    )
    expected = volumes.resample(template, np.eye(4), stored.shape, stored.affine) > 0.5
    mask = np.asarray(stored.dataobj) > 0
    half = mask.copy()
    half[:, : mask.shape[1] // 3] = False
    mm = float(nib.affines.voxel_sizes(stored.affine).mean())
    broken = {
        'mask unchanged': mask,
        'mask 4 mm too small': ndimage.binary_erosion(mask, iterations=round(4 / mm)),
        'mask 8 mm too small': ndimage.binary_erosion(mask, iterations=round(8 / mm)),
        'mask 4 mm too large': ndimage.binary_dilation(mask, iterations=round(4 / mm)),
        'mask 8 mm too large': ndimage.binary_dilation(mask, iterations=round(8 / mm)),
        'mask without its back': half,
    }
    for what, tried in broken.items():
        volume = brain.volume_ml(tried, stored.affine)
        low, high = brain.TEMPLATE_VOLUME_ML
        yield (
            what,
            {
                'mask_template_dice': brain.dice(tried, expected),
                'brain_volume_template_ml': volume,
                'refused': float(not low <= volume <= high),
            },
        )


def wrong_sites(
    bids_dir: Path, out_dir: Path, model: Path | None, target: str
) -> Iterator[tuple[str, Row]]:
    """Quality of slices that are harmonized with their own site as source, and with the others."""
    model_file = find_model(model, None, Layout(out_dir).models())
    harmonizer = DDAEHarmonizer.load(model_file.path, device='cpu', batch_size=16)
    participants = pd.read_csv(bids_dir / 'participants.tsv', sep='\t').set_index('participant_id')
    levels, reference = harmonizer.info.typical_intensities(target)
    for file in sorted(out_dir.glob('sub-*/**/anat/*_desc-slices_T1w.nii.gz')):
        before = np.moveaxis(np.asarray(nib.load(file).dataobj), 2, 0)
        true_site = participants.loc[file.name.split('_')[0], 'site']
        for site in harmonizer.sites:
            after = harmonizer.transform(before[None], pd.DataFrame({'site': [site]}), target)[0]
            yield (
                'true source site' if site == true_site else 'wrong source site',
                {
                    'target_distance_before': quality.quantile_distance(before, levels, reference),
                    'target_distance_after': quality.quantile_distance(after, levels, reference),
                },
            )


def print_table(rows: dict[str, list[Row]]) -> None:
    print('| scans | n | measure | least | median | most | flagged | refused |')
    print('|---|---|---|---|---|---|---|---|')
    for failure, measured in rows.items():
        table = pd.DataFrame(measured)
        refused = f'{table["refused"].mean():.2f}' if 'refused' in table else ''
        for name in table.columns.drop('refused', errors='ignore'):
            flagged = np.mean([MEASURES[name].is_unusual(row[name], row) for row in measured])
            low, middle, high = table[name].min(), table[name].median(), table[name].max()
            print(
                f'| {failure} | {len(table)} | `{name}` | {low:.4g} | {middle:.4g} | {high:.4g} '
                f'| {flagged:.2f} | {refused} |'
            )


def _turn(axis: str, degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return matrix


def _shift(mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[1, 3] = mm
    return matrix


def _beside(image: Path, extension: str) -> Path:
    return image.with_name(image.name.removesuffix('.nii.gz') + extension)


if __name__ == '__main__':
    main()
