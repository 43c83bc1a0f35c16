"""Brain masks in the space of a scan: by HD-BET, from the template, given, or of what there is."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import ants
import nibabel as nib
import numpy as np
from scipy import ndimage

from ddae_app.errors import ImageError, WeightsError
from ddae_app.imaging import volumes
from ddae_app.imaging.bias import correct_bias
from ddae_app.imaging.given_masks import read_given_mask
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import (
    RANDOM_SEED,
    register_affine,
    resample_to_grid,
    to_ants,
)
from ddae_app.imaging.templates import Template
from ddae_app.imaging.weights import weights_sha256

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

BRAIN_VOLUME_ML = (250.0, 2600.0)
"""Plausible brain volumes of a scan, from newborns to adults."""

TEMPLATE_VOLUME_ML = (700.0, 2600.0)
"""Plausible brain volumes in template space, to which every brain is scaled (about 1.9 L)."""

HEAD_SHARE = 0.15
"""A scan shows a whole head if what is bright outside its brain has more than this share of the
volume of the brain."""

AROUND_MM = 5
"""What is nearer to the brain may be brain that its mask left out."""

BRIGHT_SHARE = 0.85
"""Least share of a brain mask that is neither air nor background of the scan."""

HeadKind = Literal['head', 'brain']


def head_kind(image: nib.Nifti1Image, mask: np.ndarray) -> HeadKind:
    """Whether a scan shows a whole head or a stripped brain, by what there is around the brain.

    Parameters
    ----------
    image : nib.Nifti1Image
        The conformed scan.
    mask : np.ndarray, bool
        Its brain, on the grid of the scan; not empty.
    """
    data = np.asarray(image.dataobj)
    spacing = nib.affines.voxel_sizes(image.affine)
    # Distances take 44 bytes a voxel, so they are measured only where they may be small.
    reach = np.ceil(AROUND_MM / spacing).astype(int)
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    near = tuple(slice(max(0, p.start - r), p.stop + r) for p, r in zip(found, reach, strict=True))
    margin = np.ones(mask.shape, bool)
    margin[near] = ndimage.distance_transform_edt(~mask[near], sampling=spacing) > AROUND_MM
    outside = margin & (data > 0.1 * np.median(data[mask]))
    return 'head' if outside.sum() > HEAD_SHARE * mask.sum() else 'brain'


def hd_bet_mask(image: nib.Nifti1Image, weights: Path, sha256: str, device: str) -> np.ndarray:
    """Brain mask by HD-BET (Isensee et al. 2019, doi:10.1002/hbm.24750).

    The predictor of nnU-Net runs in this process. The command of HD-BET would start sixteen worker
    processes, which fail in containers with little shared memory.

    Parameters
    ----------
    image : nib.Nifti1Image
        Conformed scan of a whole head, RAS.
    weights : Path
        Folder with ``plans.json``, ``dataset.json`` and ``fold_all/checkpoint_final.pth``.
    sha256 : str
        SHA-256 of the weights, from :func:`~ddae_app.imaging.weights.check_weights`.
    device : str
        A torch device. Test-time mirroring is used on a GPU only, as HD-BET advises.

    Returns
    -------
    np.ndarray, bool
        On the image's grid.

    Raises
    ------
    WeightsError
        A file is missing, has changed since it was checked, or is not an nnU-Net model.
    ImageError
        The mask has no plausible brain volume.
    """
    predictor = _predictor(weights, sha256, device)
    data = np.asarray(image.dataobj, dtype=np.float32).T[None]
    spacing = nib.affines.voxel_sizes(image.affine)[::-1].tolist()
    labels = predictor.predict_single_npy_array(data, {'spacing': spacing}, None, None, False)
    return checked_mask(np.asarray(labels).T > 0, image)


@lru_cache(maxsize=1)
def _predictor(weights: Path, sha256: str, device: str) -> nnUNetPredictor:
    if weights_sha256(weights) != sha256:
        raise WeightsError(
            f'{weights}: the weights changed during the run; run the same command again'
        )
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch_device = torch.device(device)
    predictor = nnUNetPredictor(
        use_mirroring=torch_device.type == 'cuda',
        perform_everything_on_device=torch_device.type == 'cuda',
        device=torch_device,
        allow_tqdm=False,
    )
    try:
        predictor.initialize_from_trained_model_folder(str(weights), 'all')
    except Exception as e:  # nnU-Net and torch raise many kinds of errors on a broken file
        reason = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise WeightsError(
            f'{weights}: not usable as HD-BET weights ({reason}); fetch them again '
            'with "ddae-app-fetch hd-bet"'
        ) from e
    return predictor


def template_mask(
    image: nib.Nifti1Image, template: Template, grid: Grid, *, sloppy: bool = False
) -> np.ndarray:
    """Brain mask of the template, brought to a scan by an affine and then by SyN.

    Avants et al. 2008, doi:10.1016/j.media.2007.06.004. The scan is registered to the whole head
    of the template, or to its brain if the template has no more, which then has to be all that the
    scan shows.

    Parameters
    ----------
    image : nib.Nifti1Image
        The conformed scan.
    template : Template
    grid : Grid
        The grid in template space on which the two are compared.
    sloppy : bool
        Fewer iterations, for testing only.

    Returns
    -------
    np.ndarray, bool
        On the scan's grid. Voxels of the scan that are 0 are not brain.

    Raises
    ------
    RegistrationError
        The scan does not match the template.
    ImageError
        The mask has no plausible brain volume.
    """
    fixed = template.brain if template.head is None else template.head
    affine = register_affine(image, fixed, template.mask, sloppy=sloppy)
    affine.check(
        ''
        if template.head
        else f'{template.name} has no skull: extract the brain of whole heads with --skull-strip '
        'deepbet, or use --template MNI152NLin2009cAsym; otherwise '
    )
    there = correct_bias(resample_to_grid(image, affine.matrix, grid), sloppy=sloppy)
    mask = _warped_mask(there, fixed, template.mask, sloppy=sloppy)
    soft = nib.Nifti1Image(mask.astype(np.float32), grid.affine)
    back = volumes.resample(soft, np.linalg.inv(affine.matrix), image.shape, image.affine)
    return checked_mask(back > 0.5, image)


def _warped_mask(
    image: nib.Nifti1Image, fixed: nib.Nifti1Image, mask: nib.Nifti1Image, *, sloppy: bool
) -> np.ndarray:
    """A mask of the template on an image in template space that SyN brings the template to."""
    moving = to_ants(image)
    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            to_ants(fixed),
            moving,
            'SyNOnly',
            initial_transform='Identity',
            outprefix=f'{folder}/',
            reg_iterations=(10, 0, 0) if sloppy else (40, 8, 0),
            # Mutual information misses the cortex at the vertex. Cross-correlation does not, and a
            # radius of 1 voxel is both more accurate and faster than one of 2.
            syn_metric='CC',
            syn_sampling=1,
            random_seed=RANDOM_SEED,
        )
        warped = ants.apply_transforms(
            moving, to_ants(mask), result['invtransforms'], interpolator='linear'
        )
    return warped.numpy() > 0.5


def stripped_mask(image: nib.Nifti1Image) -> np.ndarray:
    """Brain mask of a scan that is already skull-stripped: all that is not background.

    Raises
    ------
    ImageError
        The foreground has no plausible brain volume, as that of a whole head.
    """
    return checked_mask(foreground(np.asarray(image.dataobj)), image)


def given_mask(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """A brain mask that the user has, on the grid of the scan.

    Masks of FreeSurfer and FastSurfer lie on other voxels than the scan, but in the same
    millimeters; they are resampled to the scan by the nearest voxel.

    Parameters
    ----------
    image : nib.Nifti1Image
        The conformed scan.
    path : Path
        An image in the space of the scan of one value above 0, or FreeSurfer's ``brainmask.mgz``.

    Raises
    ------
    ImageError
        The file is not readable, not 3D, no mask, has no orientation, does not lie where the scan
        lies, has no plausible brain volume, or covers what is background in the scan.
    """
    inside, affine = read_given_mask(path)
    there = nib.as_closest_canonical(nib.Nifti1Image(inside.astype(np.uint8), affine))
    voxels = np.linalg.inv(there.affine) @ image.affine
    # In this mode, voxels reach as far as their edges, and not only to the centers of the last.
    on_scan = ndimage.affine_transform(
        np.asarray(there.dataobj),
        voxels,
        output_shape=image.shape,
        order=0,
        mode='grid-constant',
    )
    before, after = volume_ml(inside, affine), volume_ml(on_scan > 0, image.affine)
    if after < 0.98 * before:
        raise ImageError(
            f'{path}: only {after:.0f} of {before:.0f} mL of the brain mask lie in the field of '
            'view of the scan; expected a mask in the space of the T1w image itself'
        )
    shown = np.asarray(image.dataobj) > 0.05 * np.percentile(image.dataobj, 98)
    bright = np.count_nonzero(shown & (on_scan > 0)) / max(int(np.count_nonzero(on_scan)), 1)
    if bright < BRIGHT_SHARE:
        raise ImageError(
            f'{path}: {1 - bright:.0%} of the brain mask is background of the scan; expected a '
            'mask in the space of the T1w image itself'
        )
    whole = _whole_mask(on_scan > 0, image)
    low, high = BRAIN_VOLUME_ML
    if not low <= (volume := volume_ml(whole, image.affine)) <= high:
        raise ImageError(
            f'{path}: the brain mask has {volume:.0f} mL; expected {low:.0f} to {high:.0f} mL of '
            'brain. Choose another with --brain-mask-filter, or leave out the dataset after -d'
        )
    return whole


def foreground(data: np.ndarray) -> np.ndarray:
    """Mask of what is not background in a skull-stripped image, of any shape."""
    bright = np.percentile(data[data > 0], 98) if (data > 0).any() else 0.0
    # Interpolation blurs the edge over one voxel, so the threshold is a little above 0.
    return data > 0.05 * bright


def volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    """Volume of a mask in mL."""
    return float(np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000)


def brain_only(image: nib.Nifti1Image, mask: np.ndarray) -> nib.Nifti1Image:
    """The brain of a scan in a box of its size, for registration.

    Intensities are cut at the 99.5th percentile of the brain, so that a few bright voxels cannot
    move the registration.

    Parameters
    ----------
    image : nib.Nifti1Image
    mask : np.ndarray, bool
        Not empty, on the grid of the image.
    """
    margin = 5
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(slice(max(0, part.start - margin), part.stop + margin) for part in found)
    data, inside = np.asarray(image.dataobj, dtype=np.float32)[box], mask[box]
    cut = np.where(inside, np.minimum(data, np.percentile(data[inside], 99.5)), 0)
    return nib.Nifti1Image(cut.astype(np.float32), image.slicer[box].affine)


def checked_mask(mask: np.ndarray, image: nib.Nifti1Image) -> np.ndarray:
    """The largest object of a mask, its holes filled, without voxels that are 0 in the scan.

    Raises
    ------
    ImageError
        It has no plausible brain volume.
    """
    whole = _whole_mask(mask, image)
    check_volume(volume_ml(whole, image.affine), BRAIN_VOLUME_ML, 'in the scan')
    return whole


def _whole_mask(mask: np.ndarray, image: nib.Nifti1Image) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return ndimage.binary_fill_holes(largest) & (np.asarray(image.dataobj) > 0)


def check_volume(volume: float, plausible: tuple[float, float], where: str) -> None:
    """Refuse a brain volume in mL that no brain has.

    Raises
    ------
    ImageError
    """
    low, high = plausible
    if not low <= volume <= high:
        raise ImageError(
            f'brain extraction found {volume:.0f} mL of brain {where}; expected {low:.0f} to '
            f'{high:.0f} mL. Inspect the scan, or use another --skull-strip'
        )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks on one grid, 0 to 1 (Dice 1945, doi:10.2307/1932409)."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0
