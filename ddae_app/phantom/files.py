"""The files of a phantom dataset: images, sidecars and descriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from ddae_app import __version__
from ddae_app.files import staged, write_atomically
from ddae_app.phantom.design import Design
from ddae_app.phantom.population import Subject
from ddae_app.phantom.readme import raw_readme, truth_readme
from ddae_app.phantom.scanner import Scanner

AUTHORS = ['ddae-phantom (software)', 'The ddae-app developers']

BIDS_VERSION = '1.10.0'

MAX_INT16 = 32000
"""Stored value of the brightest voxel, before the slope of the header is applied."""

SESSION_COLUMNS = {
    'site': {'Description': 'Simulated scanner of the session'},
    'age': {'Description': 'Age of the participant at the session', 'Units': 'year'},
}

VOLUME_COLUMNS = {
    'csf_ml': {'Description': 'Volume of cerebrospinal fluid in the brain', 'Units': 'mL'},
    'gm_ml': {'Description': 'Volume of gray matter', 'Units': 'mL'},
    'wm_ml': {'Description': 'Volume of white matter', 'Units': 'mL'},
}
"""Columns of the tables of sessions of the truth."""

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
    slope = float(image.max()) / MAX_INT16
    stored = np.rint(image / slope).astype(np.int16)
    nifti = _as_scanned(stored, points, scanner)
    nifti.header.set_slope_inter(slope, 0)
    _save(path, nifti)


def write_mask(path: Path, mask: np.ndarray, points: np.ndarray, scanner: Scanner) -> None:
    """Write a mask as 0 and 1, on the voxels of :func:`write_image`."""
    _save(path, _as_scanned(mask.astype(np.uint8), points, scanner))


def _as_scanned(stored: np.ndarray, points: np.ndarray, scanner: Scanner) -> nib.Nifti1Image:
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = points[0, 0, 0]
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(scanner.orientation)
    )
    nifti = nib.Nifti1Image(stored, affine).as_reoriented(turn)
    nifti.header.set_xyzt_units('mm', 'sec')
    nifti.set_qform(nifti.affine, code=1)
    nifti.set_sform(nifti.affine, code=1)
    return nifti


def _save(path: Path, nifti: nib.Nifti1Image) -> None:
    with staged(path) as temporary:
        nib.save(nifti, temporary)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, with the keys in their given order."""
    write_atomically(path, json.dumps(content, indent=2) + '\n')


def sidecar(path: Path) -> Path:
    """The JSON file beside an image."""
    return path.with_name(path.name.replace('.nii.gz', '.json'))


def truth_metadata(raw: Path, scanner: Scanner, *, stripped: bool) -> dict:
    """Sidecar of a truth image: `raw`, relative to the dataset, as `scanner` would show it."""
    return {
        'Description': f'The same head, same position, without noise, in the scanner of '
        f'{scanner.site}',
        'Sources': [f'bids:raw:{raw.as_posix()}'],
        'SkullStripped': stripped,
        'TargetSite': scanner.site,
    }


def mask_metadata(raw: Path) -> dict:
    """Sidecar of the mask of the brain in `raw`, relative to the dataset."""
    return {
        'Description': 'Voxels of which the brain fills more than half',
        'Type': 'Brain',
        'Sources': [f'bids:raw:{raw.as_posix()}'],
    }


def write_sessions(out: Path, subject: Subject, rows: Mapping[str, Mapping]) -> None:
    """Write what differs between the sessions of a subject.

    Parameters
    ----------
    out : Path
        Folder of the dataset.
    subject : Subject
    rows : mapping of mappings
        By session, e.g. ``'ses-01'``, the value of each column.
    """
    names = next(iter(rows.values()))
    lines = [['session_id', *names], *([session, *row.values()] for session, row in rows.items())]
    write_atomically(
        out / f'sub-{subject.label}' / f'sub-{subject.label}_sessions.tsv',
        ''.join('\t'.join(map(str, line)) + '\n' for line in lines),
    )


def write_raw_description(out: Path, subjects: list[Subject], design: Design) -> None:
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
    write_atomically(out / 'README', raw_readme(design))
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
    if design.longitudinal:
        write_json(out / 'sessions.json', SESSION_COLUMNS)


def write_truth_description(out: Path, design: Design) -> None:
    """Write the description and the README of the derivative that contains the truth."""
    content = 'every scan at every other site' if design.traveling else 'truth'
    write_json(
        out / 'dataset_description.json',
        {
            'Name': f'Multi-site brain phantoms: {content}',
            'BIDSVersion': BIDS_VERSION,
            'DatasetType': 'derivative',
            'License': 'See README',
            'Authors': AUTHORS,
            'GeneratedBy': [_generated_by('truth')],
            'SourceDatasets': [{'URL': '../..'}],
            'DatasetLinks': {'raw': '../..'},
        },
    )
    write_atomically(out / 'README', truth_readme(design))
    if design.atrophy is not None:
        write_json(out / 'sessions.json', VOLUME_COLUMNS)


def _generated_by(name: str) -> dict:
    # In derivatives/, the validator requires the name of the folder to contain the generator.
    return {'Name': name, 'Version': __version__, 'Description': 'ddae-phantom, of ddae-app'}
