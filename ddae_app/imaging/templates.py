"""Template images at 2 mm: whole head, brain and brain mask; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import TemplateError
from ddae_app.files import not_fetched
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import Grid

TEMPLATES = {
    'MNI152NLin2009cAsym': 'https://www.templateflow.org/browse/#MNI152NLin2009cAsym',
    'MNI152NLin2009aSym': 'https://nilearn.github.io/stable/modules/generated/'
    'nilearn.datasets.load_mni152_template.html',
}
"""A web page about each template. The second is packaged with nilearn, skull-stripped."""

RESOLUTION_MM = 2
"""A finer resolution does not improve the affine: the brain overlap is the same at 1 mm, but
registration takes 64 s instead of 6 s."""


@dataclass(frozen=True)
class Template:
    """A template at 2 mm.

    Attributes
    ----------
    name : str
        TemplateFlow identifier.
    head : nib.Nifti1Image or None
        Whole head; None if only a skull-stripped image is available.
    brain : nib.Nifti1Image
        The brain, 0 elsewhere.
    mask : nib.Nifti1Image
        Brain mask, 0 or 1.
    """

    name: str
    head: nib.Nifti1Image | None
    brain: nib.Nifti1Image
    mask: nib.Nifti1Image


def load_template(name: str, templateflow_home: Path | None) -> Template:
    """Load a template by its TemplateFlow identifier.

    Parameters
    ----------
    name : {'MNI152NLin2009cAsym', 'MNI152NLin2009aSym'}
        The first is read from the folder of TemplateFlow, the second from the nilearn package.
    templateflow_home : Path or None
        The folder of TemplateFlow; not needed for the packaged template.

    Raises
    ------
    TemplateError
        The name is unknown, or a file is missing; nothing is downloaded.
    """
    if name == 'MNI152NLin2009aSym':
        return _packaged()
    if name not in TEMPLATES:
        raise TemplateError(f'template {name!r} is unknown; expected {" or ".join(TEMPLATES)}')
    if templateflow_home is None:
        raise TemplateError(f'no TemplateFlow folder for {name}; set TEMPLATEFLOW_HOME')
    head_path, mask_path = _find(templateflow_home, name)
    head = _at_working_resolution(head_path, 'continuous')
    mask = _at_working_resolution(mask_path, 'nearest')
    return _template(name, head, mask)


@cache
def _packaged() -> Template:
    """The packaged template, which takes nearly a second; shared, so its arrays are read-only."""
    from nilearn import datasets  # takes half a second, which only this needs

    brain = datasets.load_mni152_template(resolution=RESOLUTION_MM)
    mask = datasets.load_mni152_brain_mask(resolution=RESOLUTION_MM)
    packaged = _template('MNI152NLin2009aSym', brain, mask)
    for image in (packaged.brain, packaged.mask):
        np.asanyarray(image.dataobj).setflags(write=False)
    return replace(packaged, head=None)


def _template(name: str, head: nib.Nifti1Image, mask: nib.Nifti1Image) -> Template:
    inside = mask.get_fdata() > 0.5
    intensities = np.asarray(head.dataobj, dtype=np.float32)
    return Template(
        name=name,
        head=nib.Nifti1Image(intensities, head.affine),
        brain=nib.Nifti1Image(np.where(inside, intensities, np.float32(0)), head.affine),
        mask=nib.Nifti1Image(inside.astype(np.uint8), head.affine),
    )


def first_fetched(paths: Sequence[Path]) -> Path | None:
    """The first file of TemplateFlow that is there.

    It leaves empty files in place of those that it has not fetched, and its function `get` would
    use the network.

    Raises
    ------
    TemplateError
        One stands for a file that git-annex, DataLad or Git LFS has not fetched.
    """
    for path in paths:
        if message := not_fetched(path):
            raise TemplateError(message)
        if path.is_file() and path.stat().st_size > 0:
            return path
    return None


def _find(home: Path, name: str) -> tuple[Path, Path]:
    """Head and brain mask of a template, of one resolution: those of two are on other voxels."""
    missing = []
    for labels in (('02', '2'), ('01', '1')):  # which are written with and without the 0
        wanted = [
            [home / f'tpl-{name}' / f'tpl-{name}_res-{label}_{what}.nii.gz' for label in labels]
            for what in ('T1w', 'desc-brain_mask')
        ]
        head, mask = (first_fetched(paths) for paths in wanted)
        if head and mask:
            return head, mask
        missing.append(wanted[1 if head else 0][0])
    raise TemplateError(
        f'{missing[0]}: no such file (nor both images of res-01); run "ddae-app-fetch templates" '
        'on a machine with network access, set TEMPLATEFLOW_HOME to a folder that contains it, '
        'or use --template MNI152NLin2009aSym, which is packaged'
    )


def _at_working_resolution(path: Path, interpolation: str) -> nib.Nifti1Image:
    try:
        loaded: Any = nib.load(path)
        data = np.asarray(loaded.dataobj, dtype=np.float32)
    except volumes.DAMAGED as e:
        raise TemplateError(
            f'{path}: not a readable image ({volumes.reason(e)}); download it again with '
            '"ddae-app-fetch templates"'
        ) from e
    source = nib.Nifti1Image(data, loaded.affine)
    if min(nib.affines.voxel_sizes(loaded.affine)) >= RESOLUTION_MM:
        return source
    from nilearn import image  # as above

    return image.resample_img(
        source,
        target_affine=np.diag([float(RESOLUTION_MM)] * 3),
        interpolation=interpolation,
        copy_header=True,
        force_resample=True,
    )


@dataclass(frozen=True)
class TemplateFiles:
    """The files of a template, for steps that run in other processes.

    Attributes
    ----------
    name : str
    head : Path or None
    brain, mask : Path
    grid_brain, grid_mask : Path
        On the model's grid, for measures and figures of scans that are on it. The mask is
        interpolated: its values are from 0 to 1.
    """

    name: str
    head: Path | None
    brain: Path
    mask: Path
    grid_brain: Path
    grid_mask: Path


def write_template(template: Template, folder: Path, grid: Grid) -> TemplateFiles:
    """Write the images of a template into a folder for the steps of the workflow."""

    def save(part: str, data: np.ndarray, affine: np.ndarray) -> Path:
        path = folder / f'{template.name}_{part}.nii'
        volumes.write(path, data, affine)
        return path

    def save_on_grid(part: str, volume: nib.Nifti1Image) -> Path:
        # Runs that share a work directory may have different grids.
        name = f'res-{"x".join(map(str, grid.shape))}_{part}'
        data = volumes.resample(volume, np.eye(4), grid.shape, grid.affine)
        return save(name, data, grid.affine)

    head, brain, mask = template.head, template.brain, template.mask
    return TemplateFiles(
        name=template.name,
        head=None if head is None else save('head', np.asarray(head.dataobj), head.affine),
        brain=save('brain', np.asarray(brain.dataobj), brain.affine),
        mask=save('mask', np.asarray(mask.dataobj) > 0, mask.affine),
        grid_brain=save_on_grid('brain', brain),
        grid_mask=save_on_grid('mask', mask),
    )
