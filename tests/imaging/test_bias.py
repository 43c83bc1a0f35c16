from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets

from ddae_app.imaging.bias import correct_bias
from tests.imaging.heads import packaged


@pytest.fixture(scope='module')
def brain() -> nib.Nifti1Image:
    return packaged().brain


@pytest.fixture(scope='module')
def white() -> np.ndarray:
    return datasets.load_mni152_wm_template(resolution=2).get_fdata() > 0.95


def planted(brain: nib.Nifti1Image) -> np.ndarray:
    """Bright at the right front, dark at the left back; from 0.7 to 1.4."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in brain.shape], indexing='ij')
    return np.exp(0.25 * x + 0.25 * y - 0.15 * z**2)


def variation(image: np.ndarray, where: np.ndarray) -> float:
    return float(image[where].std() / image[where].mean())


@pytest.mark.parametrize(('sloppy', 'left'), [(False, 0.35), (True, 0.65)])
def test_planted_field_is_removed(brain, white, sloppy, left):
    data = np.asarray(brain.dataobj)
    biased = nib.Nifti1Image((1000 * data * planted(brain)).astype(np.float32), brain.affine)
    corrected = np.asarray(correct_bias(biased, sloppy=sloppy).dataobj)
    # White matter varies without a field as well, so only what the field adds is counted.
    without, before, after = (
        variation(x, white) for x in (data, np.asarray(biased.dataobj), corrected)
    )
    assert before > 2 * without
    assert after - without < left * (before - without)


def test_zero_stays_zero_and_the_rest_does_not(brain):
    data = np.asarray(brain.dataobj).copy()
    data[40:44, 50:54, 40:44] = 0
    image = correct_bias(nib.Nifti1Image(data, brain.affine), sloppy=True)
    corrected = np.asarray(image.dataobj)
    np.testing.assert_array_equal(corrected == 0, data == 0)
    assert np.isfinite(corrected).all()
    assert corrected.dtype == np.float32
    np.testing.assert_array_equal(image.affine, brain.affine)


def test_same_bytes_twice(brain):
    one, two = (np.asarray(correct_bias(brain, sloppy=True).dataobj) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_five_hot_voxels_move_the_field_nowhere(brain, white):
    data = np.asarray(brain.dataobj)
    hot = data.copy()
    hot[40:45, 60, 40] = 60 * data.max()
    clean, moved = (
        np.asarray(correct_bias(nib.Nifti1Image(x, brain.affine), sloppy=True).dataobj)
        for x in (data, hot)
    )
    np.testing.assert_allclose(moved[white] / clean[white], 1, atol=2e-3)
    assert moved.max() > 0.9 * 60 * clean.max()
