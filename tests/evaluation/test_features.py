"""The networks that distributions are compared in."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
import torch

from ddae_app.errors import UsageError
from ddae_app.evaluation import features, inception


def discs(n, noise=0.0):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    inside = np.hypot(x, y) < rng.uniform(0.6, 0.9, n)[:, None, None]
    return ((0.7 + noise * rng.normal(size=inside.shape)) * inside).astype(np.float32)


def test_mri_features_depend_on_the_image_alone():
    mri_features = features.mri_features()
    images = discs(70)
    values = mri_features(images)
    assert values.shape == (70, features.MRI_FEATURES) and values.dtype == np.float64
    assert np.allclose(mri_features(images[5:7]), values[5:7], atol=1e-4)  # in any batch
    noisy = mri_features(discs(70, 0.1))
    assert np.abs(noisy - values).mean() > 3 * values.std(axis=0).mean() / 70


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file like the published one, of random weights."""
    path = tmp_path_factory.mktemp('inception') / inception.WEIGHTS_NAME
    torch.manual_seed(0)
    state = inception.Inception().state_dict()
    torch.save(state | {'fc.weight': torch.zeros(1008, 2048), 'fc.bias': torch.zeros(1008)}, path)
    return path


def test_the_network_has_the_published_sizes():
    """The published file's, its last layer left out."""
    network = inception.Inception()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    shapes = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    assert shapes['Conv2d_1a_3x3.conv.weight'] == (32, 3, 3, 3)
    assert shapes['Mixed_6c.branch7x7_2.conv.weight'] == (160, 160, 1, 7)
    assert shapes['Mixed_7c.branch3x3dbl_3b.bn.running_mean'] == (384,)


def test_inception_reads_the_file_and_gives_its_pooled_features(weights, monkeypatch):
    digest = sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, 'DIGEST', digest[:8])
    values = inception.inception_features(weights)(discs(3))
    assert values.shape == (3, 2048) and np.isfinite(values).all()
    assert not np.allclose(values[0], values[1])


def test_images_are_resized_from_the_first_pixel_on():
    ramp = torch.arange(128.0).repeat(128, 1)[None, None]
    resized = inception._resized(ramp)
    assert resized.shape == (1, 1, 299, 299)
    expected = (torch.arange(299) * 128 / 299).clamp(max=127)
    assert torch.allclose(resized[0, 0, 7], expected, atol=1e-4)


def test_other_weights_are_refused(weights, tmp_path):
    with pytest.raises(UsageError, match=r'SHA-256 \w{8}\.\.\., expected 6726825d'):
        inception.inception_features(weights)
    with pytest.raises(UsageError, match='no such file'):
        inception.inception_features(tmp_path / 'none.pth')
