"""The packaged networks of deepbet, against what their authors' program computes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from ddae_app.errors import ImageError
from ddae_app.imaging.brain import checked_mask, dice
from ddae_app.imaging.conform import conform, load_t1w
from ddae_app.imaging.deepbet import (
    LICENSE_FILE,
    NETWORKS,
    WEIGHTS_FILE,
    _box,
    _networks,
    deepbet_mask,
)
from tests.imaging.heads import packaged

WEIGHTS_SHA256 = '0318f9fef9d3c7c11ae53e4354f32c7b484bf90ca3ba1ffe16ba6d34ea59ed9c'


def test_the_weights_are_those_that_were_converted_and_their_notice_is_there():
    assert hashlib.sha256(Path(WEIGHTS_FILE).read_bytes()).hexdigest() == WEIGHTS_SHA256
    assert 'MIT License' in Path(LICENSE_FILE).read_text(encoding='utf-8')


def test_the_networks_compute_what_those_of_the_package_do():
    """Brain probabilities by the TorchScript networks of deepbet 1.0.2, of the same image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 32, 64, 32, generator=generator)
    expected = {'locate': [6e-07, 0.0, 0.1144584], 'segment': [1.0, 5.5e-06, 0.2822309]}
    for name in NETWORKS:
        with torch.inference_mode():
            brain = _networks('cpu')[name](image)[0, 1]
        values = [float(brain[5, 9, 3]), float(brain[20, 40, 11]), float(brain.mean())]
        assert values == pytest.approx(expected[name], abs=2e-5)


def test_the_box_is_in_the_voxels_of_the_scan():
    found = np.zeros((128, 128, 128), bool)
    found[32:96, 40:80, 10:120] = True
    assert _box(found, (256, 64, 128)) == (slice(51, 205), slice(18, 42), slice(0, 128))


def test_a_stripped_brain_is_found():
    template = packaged()
    mask = checked_mask(deepbet_mask(template.brain, 'cpu'), template.brain)
    assert dice(mask, np.asarray(template.mask.dataobj) > 0) > 0.95


def test_an_image_without_a_head_is_refused():
    spike, affine = np.zeros((60, 60, 60), np.float32), np.diag([3.0, 3, 3, 1])
    spike[30, 30, 30] = 1
    with pytest.raises(ImageError, match='99 % of the scan has one intensity'):
        deepbet_mask(nib.Nifti1Image(spike, affine), 'cpu')


def test_real_heads_agree_with_their_label_maps(test_data):
    folder = test_data / 'data' / 'multisite'
    for label in ('ixi013', 'ixi048'):
        scan = conform(load_t1w(folder / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'))
        labels = nib.as_closest_canonical(
            nib.load(
                folder / 'derivatives' / 'labels' / f'sub-{label}' / 'anat'
                / f'sub-{label}_desc-regions_dseg.nii.gz'
            )
        ).get_fdata()  # fmt: skip
        mask = checked_mask(deepbet_mask(scan, 'cpu'), scan)
        assert dice(mask, ndimage.binary_fill_holes(labels > 0)) > 0.97
