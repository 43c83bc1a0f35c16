"""A dataset as the participant level would leave it, made from slices alone."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from ddae_app.bids.dataset import write_description
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import space_of
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import crop_start
from ddae_app.settings import Protocol


def write_derived(
    folder: Path,
    images: np.ndarray,
    cohort: pd.DataFrame,
    template: str,
    harmonized: np.ndarray | None = None,
    target: str = '',
) -> None:
    """Write ``bids`` and ``out`` under a folder; the scans have one slice that is not empty.

    Parameters
    ----------
    folder : Path
    images, harmonized : np.ndarray, shape (N, 128, 128), float32
    cohort : pandas.DataFrame
        ``subject`` (a label), ``site``, ``age``, ``sex``.
    template, target : str
    """
    bids, out = folder / 'bids', folder / 'out'
    space = space_of(Protocol(template=template))
    layout = Layout(out).in_space(space)
    grid = model_grid(template, space.protocol.grid)
    x, y = crop_start(grid.shape, space.protocol.slice_shape)
    middle = grid.shape[2] // 2
    bids.mkdir(parents=True)
    (bids / 'dataset_description.json').write_text('{"Name": "derived", "BIDSVersion": "1.10.0"}')
    write_description(out, bids)
    table = cohort.rename(columns={'subject': 'participant_id'})
    table['participant_id'] = 'sub-' + table['participant_id']
    table.to_csv(bids / 'participants.tsv', sep='\t', index=False, na_rep='n/a')
    tiny = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    for i, label in enumerate(cohort['subject']):
        raw = bids / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        raw.parent.mkdir(parents=True)
        nib.save(tiny, raw)
        scan = Scan(raw, label, None, f'sub-{label}')
        (out / scan.folder).mkdir(parents=True)
        volume = np.zeros(grid.shape, np.float32)
        volume[x : x + 128, y : y + 128, middle] = images[i] * 100
        nib.save(nib.Nifti1Image(volume, grid.affine), layout.image('preproc', scan))
        mask = nib.Nifti1Image((volume > 0).astype(np.uint8), grid.affine)
        nib.save(mask, layout.image('mask', scan))
        sidecar(layout.image('preproc', scan)).write_text('{"MadeFrom": {"RawSHA256": null}}')
        layout.transform(scan).write_text('#Insight Transform File V1.0\n')
        if harmonized is not None:
            for path, stack in (
                (layout.image('slices', scan), images[i]),
                (layout.image('harmonized', scan), harmonized[i]),
            ):
                nib.save(nib.Nifti1Image(stack[:, :, None], grid.affine), path)
            facts = {
                'TargetSite': target,
                'HarmonizationMethod': 'DDAE',
                'ModelName': 'toy',
                'ModelSHA256': 'f' * 64,
                'SourceSite': str(cohort['site'].iloc[i]),
                'MadeFrom': {'KeepNoise': False},
            }
            sidecar(layout.image('harmonized', scan)).write_text(json.dumps(facts))
        name = layout.image('preproc', scan).relative_to(out / f'sub-{label}')
        (out / f'sub-{label}' / f'sub-{label}_scans.tsv').write_text(
            f'filename\tsource_site\ttarget_site\tssim\n{name}\t{cohort["site"].iloc[i]}\t{target}\t0.9\n'
        )
