"""Brain extraction: HD-BET's network, the template's mask, or a scan that is stripped already."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import ants
import nibabel as nib
import numpy as np
from scipy import ndimage

from ddae_app.errors import ImageError, WeightsError
from ddae_app.imaging.registration import RANDOM_SEED, to_ants
from ddae_app.imaging.templates import HeadKind
from ddae_app.imaging.weights import weights_sha256

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

BRAIN_VOLUME_ML = (700.0, 2600.0)
"""Plausible brain volume in template space, where every brain is scaled to about 1.9 L."""


def hd_bet_mask(image: nib.Nifti1Image, weights: Path, sha256: str, device: str) -> np.ndarray:
    """Brain mask by HD-BET's network (Isensee et al., 2019), run through nnU-Net's predictor.

    The predictor runs in this process: HD-BET's own command starts sixteen worker processes,
    which starve in containers with little shared memory.

    Parameters
    ----------
    image : nib.Nifti1Image
        Bias-corrected head, RAS.
    weights : Path
        Folder with ``plans.json``, ``dataset.json`` and ``fold_all/checkpoint_final.pth``.
    sha256 : str
        Of the weights, as :func:`~ddae_app.imaging.weights.check_weights` found them.
    device : str
        A torch device; test-time mirroring is used on a GPU only, as HD-BET advises.

    Returns
    -------
    np.ndarray, bool
        On the image's grid.

    Raises
    ------
    WeightsError
        A file is missing, was changed since it was checked, or is no nnU-Net model.
    ImageError
        No plausible brain was found.
    """
    predictor = _predictor(weights, sha256, device)
    data = np.asarray(image.dataobj, dtype=np.float32).T[None]
    spacing = nib.affines.voxel_sizes(image.affine)[::-1].tolist()
    labels = predictor.predict_single_npy_array(data, {'spacing': spacing}, None, None, False)
    return _largest_object(np.asarray(labels).T > 0, image)


@lru_cache(maxsize=1)
def _predictor(weights: Path, sha256: str, device: str) -> nnUNetPredictor:
    if weights_sha256(weights) != sha256:
        raise WeightsError(
            f'{weights}: the weights were changed while the program ran; start again'
        )
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    chosen = torch.device(device)
    predictor = nnUNetPredictor(
        use_mirroring=chosen.type == 'cuda',
        perform_everything_on_device=chosen.type == 'cuda',
        device=chosen,
        allow_tqdm=False,
    )
    try:
        predictor.initialize_from_trained_model_folder(str(weights), 'all')
    except Exception as e:  # nnU-Net and torch raise whatever the broken file leads to
        what = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise WeightsError(
            f'{weights}: not usable as HD-BET weights ({what}); fetch them again '
            'with "ddae-app-fetch hd-bet"'
        ) from e
    return predictor


def template_mask(
    image: nib.Nifti1Image,
    template: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    *,
    sloppy: bool = False,
) -> np.ndarray:
    """Brain mask of the template, warped to the scan by SyN (Avants et al., 2008).

    Parameters
    ----------
    image : nib.Nifti1Image
        Bias-corrected scan in template space.
    template, mask : nib.Nifti1Image
        Template image of the same kind (head or brain) and its brain mask.
    sloppy : bool
        Fewer iterations, for trying things out.

    Returns
    -------
    np.ndarray, bool
        On the image's grid; zero voxels of the image are not brain.

    Raises
    ------
    ImageError
        No plausible brain was found.
    """
    moving = to_ants(image)
    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            to_ants(template),
            moving,
            'SyNOnly',
            initial_transform='Identity',
            outprefix=f'{folder}/',
            reg_iterations=(10, 0, 0) if sloppy else (40, 8, 0),
            # Mutual information stops short of the cortex at the vertex. Cross-correlation does
            # not, and within a radius of 1 voxel it is both better and faster than within 2.
            syn_metric='CC',
            syn_sampling=1,
            random_seed=RANDOM_SEED,
        )
        warped = ants.apply_transforms(
            moving, to_ants(mask), result['invtransforms'], interpolator='linear'
        )
    return _largest_object((warped.numpy() > 0.5) & (np.asarray(image.dataobj) > 0), image)


def stripped_mask(image: nib.Nifti1Image, kind: HeadKind) -> np.ndarray:
    """Brain mask of a scan that is skull-stripped already: what is not background.

    Raises
    ------
    ImageError
        The scan shows a whole head, or its foreground is no plausible brain.
    """
    if kind == 'head':
        raise ImageError(
            'the scan shows a whole head, but --skull-strip none expects skull-stripped scans; '
            'use --skull-strip hd-bet or template'
        )
    return _largest_object(foreground(np.asarray(image.dataobj)), image)


def foreground(data: np.ndarray) -> np.ndarray:
    """What is not background in a skull-stripped image, of any shape."""
    bright = np.percentile(data[data > 0], 98) if (data > 0).any() else 0.0
    # Interpolation smears the edge over one voxel: ask for a little more than zero.
    return data > 0.05 * bright


def volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    """Volume of a mask."""
    return float(np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000)


def overlap_with_template(
    mask: np.ndarray, affine: np.ndarray, template_mask: nib.Nifti1Image
) -> float:
    """Dice overlap of a brain mask in template space with the template's own."""
    to_template = np.linalg.inv(template_mask.affine) @ affine
    expected = ndimage.affine_transform(
        np.asarray(template_mask.dataobj, dtype=np.float32),
        to_template,
        output_shape=mask.shape,
        order=1,
    )
    return dice(mask, expected > 0.5)


def _largest_object(mask: np.ndarray, image: nib.Nifti1Image) -> np.ndarray:
    labels, count = ndimage.label(mask)
    volume = 0.0
    if count:
        largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
        mask = ndimage.binary_fill_holes(largest)
        volume = volume_ml(mask, image.affine)
    low, high = BRAIN_VOLUME_ML
    if not low <= volume <= high:
        raise ImageError(
            f'brain extraction found {volume:.0f} mL of brain in template space; expected '
            f'{low:.0f} to {high:.0f} mL. Look at the scan, or try another --skull-strip'
        )
    return mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks on one grid, 0 to 1 (Dice, 1945)."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0
