"""Small datasets, made file by file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Add = Callable[..., Path]


def _save_image(path: Path, shape: tuple[int, ...] = (6, 6, 6)) -> Path:
    """An image of noise; small, since nothing here looks at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_xyzt_units('mm')
    nib.save(image, path)
    return path


@pytest.fixture
def save_image() -> Callable[..., Path]:
    """Write an image: ``save_image(path, shape)``."""
    return _save_image


@pytest.fixture
def bids_dir(tmp_path) -> Path:
    """A dataset without images."""
    folder = tmp_path / 'bids'
    folder.mkdir()
    description = {'Name': 'test', 'BIDSVersion': '1.10.0', 'DatasetType': 'raw'}
    (folder / 'dataset_description.json').write_text(json.dumps(description))
    (folder / 'README.md').write_text('For a test.\n')
    return folder


@pytest.fixture
def add(bids_dir) -> Add:
    """Add a T1w, named by its stem: ``add('sub-01_ses-1_run-1')``."""

    def add_t1w(stem: str, *, suffix: str = 'T1w', extension: str = '.nii.gz') -> Path:
        entities = dict(part.split('-', 1) for part in stem.split('_'))
        session = [f'ses-{entities["ses"]}'] if 'ses' in entities else []
        folder = bids_dir.joinpath(f'sub-{entities["sub"]}', *session, 'anat')
        return _save_image(folder / f'{stem}_{suffix}{extension}')

    return add_t1w
