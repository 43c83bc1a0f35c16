"""The files of a phantom dataset: images, sidecars and descriptions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from ddae_app import __version__
from ddae_app.files import staged, write_atomically
from ddae_app.phantom.population import Subject
from ddae_app.phantom.scanner import Scanner

AUTHORS = ['ddae-phantom (software)', 'The ddae-app developers']

BIDS_VERSION = '1.10.0'

MAX_INT16 = 32000
"""Stored value of the brightest voxel, before the slope of the header is applied."""

TEMPLATE_DOI = 'doi:10.1016/j.neuroimage.2010.07.033'
"""Fonov et al. 2011: the template of all phantom brains."""


def write_image(path: Path, image: np.ndarray, points: np.ndarray, scanner: Scanner) -> None:
    """Write an image as a scanner would: 16-bit integers with a slope, in its axis order.

    Parameters
    ----------
    path : Path
        Ends in ``.nii.gz``; its folders are created.
    image : np.ndarray, shape (X, Y, Z)
        Not negative; 0 stays exactly 0.
    points : np.ndarray, shape (X, Y, Z, 3)
        Voxel centers in mm, axes RAS, as :func:`~ddae_app.phantom.dataset.acquire` returns them.
    scanner : Scanner
        Gives the voxel size and the orientation.
    """
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = points[0, 0, 0]
    slope = float(image.max()) / MAX_INT16
    stored = np.rint(image / slope).astype(np.int16)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(scanner.orientation)
    )
    nifti = nib.Nifti1Image(stored, affine).as_reoriented(turn)
    nifti.header.set_slope_inter(slope, 0)
    nifti.header.set_xyzt_units('mm', 'sec')
    nifti.set_qform(nifti.affine, code=1)
    nifti.set_sform(nifti.affine, code=1)
    with staged(path) as temporary:
        nib.save(nifti, temporary)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, with the keys in their given order."""
    write_atomically(path, json.dumps(content, indent=2) + '\n')


def sidecar(path: Path) -> Path:
    """The JSON file beside an image."""
    return path.with_name(path.name.replace('.nii.gz', '.json'))


def truth_metadata(raw: Path, scanner: Scanner) -> dict:
    """Sidecar of a truth image: `raw`, relative to the dataset, as `scanner` would show it."""
    return {
        'Description': f'The same head, same position, without noise, in the scanner of '
        f'{scanner.site}',
        'Sources': [f'bids:raw:{raw.as_posix()}'],
        'SkullStripped': True,
        'TargetSite': scanner.site,
    }


def write_raw_description(out: Path, subjects: list[Subject], design: str) -> None:
    """Write the description, the README and the participants table of the raw dataset."""
    write_json(
        out / 'dataset_description.json',
        {
            'Name': 'Multi-site brain phantoms',
            'BIDSVersion': BIDS_VERSION,
            'DatasetType': 'raw',
            'License': 'See README',
            'Authors': AUTHORS,
            'GeneratedBy': [_generated_by('ddae-phantom')],
            'SourceDatasets': [{'DOI': TEMPLATE_DOI}],
        },
    )
    write_atomically(out / 'README', README.format(version=__version__, design=design))
    rows = [f'sub-{s.label}\t{s.site}\t{s.age}\t{s.sex}\n' for s in subjects]
    write_atomically(out / 'participants.tsv', 'participant_id\tsite\tage\tsex\n' + ''.join(rows))
    write_json(
        out / 'participants.json',
        {
            'site': {'Description': 'Simulated scanner on which the participant was scanned'},
            'age': {'Description': 'Age of the participant', 'Units': 'year'},
            'sex': {
                'Description': 'Sex of the participant',
                'Levels': {'F': 'female', 'M': 'male'},
            },
        },
    )


def write_truth_description(out: Path) -> None:
    """Write the description and the README of the derivative that contains the truth."""
    write_json(
        out / 'dataset_description.json',
        {
            'Name': 'Multi-site brain phantoms: every scan at every other site',
            'BIDSVersion': BIDS_VERSION,
            'DatasetType': 'derivative',
            'License': 'See README',
            'Authors': AUTHORS,
            'GeneratedBy': [_generated_by('truth')],
            'SourceDatasets': [{'URL': '../..'}],
            'DatasetLinks': {'raw': '../..'},
        },
    )
    write_atomically(out / 'README', TRUTH_README)


def _generated_by(name: str) -> dict:
    # In derivatives/, the validator requires the name of the folder to contain the generator.
    return {'Name': name, 'Version': __version__, 'Description': 'ddae-phantom, of ddae-app'}


README = """\
Multi-site brain phantoms
=========================

Simulated T1-weighted scans without skull, written by ddae-phantom (ddae-app {version}).
No person was scanned. The anatomy is a random deformation of the MNI152NLin2009aSym template
(Fonov et al. 2011) that depends on age and sex; each site has a scanner with its own contrast,
bias field, resolution, orientation, noise and intensity scale, and its own distribution of age
and sex.

License: the images are yours to use for any purpose, with the notice of the template:
Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Center, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and
its documentation for any purpose and without fee is hereby granted, provided that the above
copyright notice appear in all copies. The authors and McGill University make no representations
about the suitability of this software for any purpose. It is provided "as is" without express or
implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.

{design}
"""

TRUTH_README = """\
Every scan of the dataset above at every other site
===================================================

desc-siteX is the same head at the same position, on the voxels of the source scan, rendered
with the scanner of site X: its contrast, mean bias field, blur and intensity scale, no noise.
License and notice: as in the README of that dataset.
"""
