"""Brain extraction by HD-BET, by the mask of the template, or of scans already skull-stripped."""

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
"""Plausible brain volumes in template space, to which every brain is scaled (about 1.9 L)."""


def hd_bet_mask(image: nib.Nifti1Image, weights: Path, sha256: str, device: str) -> np.ndarray:
    """Brain mask by HD-BET (Isensee et al. 2019, doi:10.1002/hbm.24750).

    The predictor of nnU-Net runs in this process. The command of HD-BET would start sixteen worker
    processes, which fail in containers with little shared memory.

    Parameters
    ----------
    image : nib.Nifti1Image
        Bias-corrected scan of a whole head, RAS.
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
    return _largest_object(np.asarray(labels).T > 0, image)


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
    image: nib.Nifti1Image,
    template: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    *,
    sloppy: bool = False,
) -> np.ndarray:
    """Brain mask of the template, warped to the scan by SyN.

    Avants et al. 2008, doi:10.1016/j.media.2007.06.004.

    Parameters
    ----------
    image : nib.Nifti1Image
        Bias-corrected scan in template space.
    template, mask : nib.Nifti1Image
        Template image of the same kind (head or brain) and its brain mask.
    sloppy : bool
        Fewer iterations, for testing only.

    Returns
    -------
    np.ndarray, bool
        On the image's grid. Voxels of the image that are 0 are not brain.

    Raises
    ------
    ImageError
        The mask has no plausible brain volume.
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
            # Mutual information misses the cortex at the vertex. Cross-correlation does not, and a
            # radius of 1 voxel is both more accurate and faster than one of 2.
            syn_metric='CC',
            syn_sampling=1,
            random_seed=RANDOM_SEED,
        )
        warped = ants.apply_transforms(
            moving, to_ants(mask), result['invtransforms'], interpolator='linear'
        )
    return _largest_object((warped.numpy() > 0.5) & (np.asarray(image.dataobj) > 0), image)


def stripped_mask(image: nib.Nifti1Image, kind: HeadKind) -> np.ndarray:
    """Brain mask of a scan that is already skull-stripped: all that is not background.

    Raises
    ------
    ImageError
        The scan shows a whole head, or its foreground has no plausible brain volume.
    """
    if kind == 'head':
        raise ImageError(
            'the scan shows a whole head, but --skull-strip none expects skull-stripped scans; '
            'use --skull-strip hd-bet or template'
        )
    return _largest_object(foreground(np.asarray(image.dataobj)), image)


def foreground(data: np.ndarray) -> np.ndarray:
    """Mask of what is not background in a skull-stripped image, of any shape."""
    bright = np.percentile(data[data > 0], 98) if (data > 0).any() else 0.0
    # Interpolation blurs the edge over one voxel, so the threshold is a little above 0.
    return data > 0.05 * bright


def volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    """Volume of a mask in mL."""
    return float(np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000)


def overlap_with_template(
    mask: np.ndarray, affine: np.ndarray, template_mask: nib.Nifti1Image
) -> float:
    """Dice overlap of a brain mask in template space with the mask of the template."""
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
            f'{low:.0f} to {high:.0f} mL. Inspect the scan, or use another --skull-strip'
        )
    return mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks on one grid, 0 to 1 (Dice 1945, doi:10.2307/1932409)."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0
