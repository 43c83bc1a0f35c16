"""Brain masks and registrations of real scans, against label maps and against the other order.

    python -m benchmarks.brain BIDS OUT [--pictures FOLDER]
    python -m benchmarks.brain BIDS OUT --orders 12
    python -m benchmarks.brain BIDS OUT --broken sub-A sub-B

The first reads what ``ddae-app BIDS OUT participant --stage preproc`` wrote, and prints for every
site how many scans are done, the Dice overlap of their brain masks with the label maps of
``BIDS/derivatives/labels`` (holes filled), and how they were registered. ``--pictures`` draws
three planes of every brain. The second takes the steps in two orders on the same
scans: the brain first, which is then registered to that of the packaged template; and the head
first, which is registered to the whole head of MNI152NLin2009cAsym (in $TEMPLATEFLOW_HOME),
resampled and bias-corrected, before the brain is extracted by the same network. The third turns,
flips, inverts and crops scans, and prints the correlation with the template of each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from ddae_app.bids.layout import read_name, sidecar
from ddae_app.errors import ImageError
from ddae_app.imaging import bias, brain, conform, deepbet, grid, registration, templates

FIGURES = ('registration_correlation', 'mask_template_dice', 'brain_volume_ml')
PER_PAGE = 42


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('bids', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--pictures', type=Path)
    parser.add_argument('--orders', type=int, metavar='N', help='of how many scans')
    parser.add_argument('--broken', nargs='+', metavar='SUBJECT', default=[])
    args = parser.parse_args()
    for subject in args.broken:
        for path in sorted((args.bids / subject / 'anat').glob('*_T1w.nii.gz')):
            break_and_register(path)
    if args.broken:
        return
    if args.orders:
        compare_orders(args.bids, args.orders)
        return
    images = sorted(
        path
        for path in args.out.rglob('*_desc-preproc_T1w.nii.gz')
        if (name := read_name(path)) and name.kind == 'preproc'
    )
    report(args.bids, images)
    if args.pictures:
        draw(images, args.pictures)


def report(bids: Path, images: Sequence[Path]) -> None:
    """Print a line for each site."""
    table = pd.read_csv(bids / 'participants.tsv', sep='\t', dtype=str)
    sites = dict(zip(table['participant_id'], table['site'], strict=True))
    rows = defaultdict(list)
    for image in images:
        name = read_name(image)
        assert name is not None
        facts = json.loads(sidecar(image).read_text())
        overlap = dice_with_labels(bids, image)
        site = sites[f'sub-{name.participant}']
        rows[site].append([overlap, *(facts[key] for key in FIGURES)])
        if overlap < 0.96 or facts['registration_correlation'] < 0.4:
            print(f'{name.stem}: Dice {overlap:.3f}, {facts}')
    scans = len(list(bids.glob('sub-*/**/anat/*_T1w.nii*')))
    print(f'{len(images)} of {scans} scans are done')
    print('\t'.join(['site', 'scans', *('dice', *FIGURES)]) + '\t(least, median, most)')
    for site, values in sorted(rows.items()):
        columns = np.array(values, float).T
        shown = (
            f'{np.nanmin(c):.3f} {np.nanmedian(c):.3f} {np.nanmax(c):.3f}'
            if np.isfinite(c).any()
            else '-'
            for c in columns
        )
        print('\t'.join([site, str(len(values)), *shown]))


def dice_with_labels(bids: Path, image: Path) -> float:
    """Dice of a mask with the label map of its scan, on the grid; NaN where there is none."""
    name = read_name(image)
    assert name is not None
    found = list((bids / 'derivatives' / 'labels').rglob(f'{name.stem}_desc-regions_dseg.nii.gz'))
    if not found:
        return float('nan')
    mask = nib.load(image.with_name(image.name.replace('preproc_T1w', 'brain_mask')))
    (xfm,) = image.parent.glob(f'{name.stem}_from-T1w_to-{name.space}_mode-image_xfm.txt')
    there = registration.resample_to_grid(
        tissue(found[0]), registration.read_itk_affine(xfm), grid.Grid(mask.shape, mask.affine)
    )
    return brain.dice(np.asarray(mask.dataobj) > 0, np.asarray(there.dataobj) > 0.5)


def tissue(labels: Path) -> nib.Nifti1Image:
    """Where a label map has tissue, holes filled; RAS, 0 or 1."""
    image = nib.as_closest_canonical(nib.load(labels))
    filled = ndimage.binary_fill_holes(np.asarray(image.dataobj) > 0)
    return nib.Nifti1Image(filled.astype(np.float32), image.affine)


def draw(images: Sequence[Path], folder: Path) -> None:
    """Pages with three planes of every preprocessed brain."""
    mpl.use('Agg')
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for page, start in enumerate(range(0, len(images), PER_PAGE)):
        figure, axes = plt.subplots(7, 18, figsize=(27, 11), facecolor='black')
        for axis in axes.flat:
            axis.axis('off')
        for at, path in enumerate(images[start : start + PER_PAGE]):
            volume = nib.load(path).get_fdata(dtype=np.float32)
            top = np.percentile(volume[volume > 0], 99)
            row, column = divmod(at, 6)
            for plane in range(3):
                index = [slice(None)] * 3
                index[plane] = volume.shape[plane] // 2 + (8 if plane == 0 else 0)
                axis = axes[row, 3 * column + plane]
                axis.imshow(volume[tuple(index)].T, 'gray', vmin=0, vmax=top, origin='lower')
            axes[row, 3 * column].set_title(path.name.split('_')[0], color='white', fontsize=8)
        figure.subplots_adjust(0, 0, 1, 0.97, 0.01, 0.1)
        figure.savefig(folder / f'brains_{page + 1}.png', dpi=60)
        plt.close(figure)


def break_and_register(path: Path) -> None:
    """Print how a scan registers that is turned, flipped, inverted or cropped."""
    image = conform.conform(conform.load_t1w(path))
    template = templates.load_template('MNI152NLin2009aSym', None)
    data = np.asarray(image.dataobj)
    broken = {
        'as it is': data,
        'upside down': data[:, :, ::-1],
        'back to front': data[:, ::-1],
        'turned by 45 degrees': ndimage.rotate(data, 45, (1, 2), reshape=False, order=1),
        'turned by 90 degrees': np.rot90(data, 1, (1, 2)),
        'inverted': data.max() - data,
        'without its top': np.where(np.arange(data.shape[2]) < 0.6 * data.shape[2], data, 0),
    }
    for what, values in broken.items():
        tried = nib.Nifti1Image(np.ascontiguousarray(values, dtype=np.float32), image.affine)
        try:
            mask = brain.checked_mask(deepbet.deepbet_mask(tried, 'cpu'), tried)
            affine = registration.register_affine(
                brain.brain_only(tried, mask), template.brain, template.mask
            )
            print(f'{path.name}\t{what}\t{affine.correlation:.3f}', flush=True)
        except ImageError as e:
            print(f'{path.name}\t{what}\t{e}', flush=True)


def compare_orders(bids: Path, scans: int) -> None:
    """Take the steps in two orders on the same scans, and print both."""
    home = Path(os.environ['TEMPLATEFLOW_HOME'])
    packaged = templates.load_template('MNI152NLin2009aSym', None)
    whole = templates.load_template('MNI152NLin2009cAsym', home)
    paths = sorted(bids.glob('sub-*/anat/*_T1w.nii.gz'))
    chosen = paths[:: max(1, len(paths) // scans)][:scans]
    head = ('scan', 'order', 'correlation', 'mask and template', 'mask and labels', 'CPU, s')
    print('\t'.join(head))
    for path in chosen:
        image = conform.conform(conform.load_t1w(path))
        label = path.name.removesuffix('_T1w.nii.gz')
        for order, template in (('brain first', packaged), ('head first', whole)):
            target = grid.model_grid(template.name, (130, 130, 130))
            started = time.process_time()
            try:
                if order == 'brain first':
                    mask = brain.checked_mask(deepbet.deepbet_mask(image, 'cpu'), image)
                    affine = registration.register_affine(
                        brain.brain_only(image, mask), template.brain, template.mask
                    )
                    soft = nib.Nifti1Image(mask.astype(np.float32), image.affine)
                    moved = registration.resample_to_grid(soft, affine.matrix, target)
                    there = np.asarray(moved.dataobj) > 0.5
                else:
                    assert template.head is not None
                    affine = registration.register_affine(image, template.head, template.mask)
                    flat = bias.correct_bias(
                        registration.resample_to_grid(image, affine.matrix, target)
                    )
                    there = brain.checked_mask(deepbet.deepbet_mask(flat, 'cpu'), flat)
            except Exception as e:  # a scan that fails in one order is a row like others
                print('\t'.join([label, order, f'{type(e).__name__}: {e}']))
                continue
            spent = time.process_time() - started
            found = list((bids / 'derivatives' / 'labels').rglob(f'{label}_*dseg.nii.gz'))
            overlap = float('nan')
            if found:
                truth = registration.resample_to_grid(tissue(found[0]), affine.matrix, target)
                overlap = brain.dice(there, np.asarray(truth.dataobj) > 0.5)
            expected = registration.resample_to_grid(template.mask, np.eye(4), target)
            template_dice = brain.dice(there, np.asarray(expected.dataobj) > 0.5)
            numbers = (affine.correlation, template_dice, overlap)
            print('\t'.join([label, order, *(f'{n:.3f}' for n in numbers), f'{spent:.0f}']))


if __name__ == '__main__':
    main()
