"""The conditional variational autoencoder: it learns the look of a site, and is stored safely."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddae_app.errors import ModelError, UsageError
from ddae_app.harmonize.methods import load_harmonizer
from ddae_app.harmonize.networks import CVAEHarmonizer
from ddae_app.model.info import metadata_of
from ddae_app.settings import Protocol

N = 40
PROTOCOL = Protocol(slice_shape=(32, 32))


@pytest.fixture(scope='module')
def cohort():
    return pd.DataFrame(
        {
            'subject': [f'p{i}' for i in range(2 * N)],
            'site': ['A'] * N + ['B'] * N,
            'age': np.linspace(20, 80, 2 * N),
            'sex': ['F', 'M'] * N,
        }
    )


@pytest.fixture(scope='module')
def images():
    """Noisy discs of several sizes; site B is darker."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    size = rng.uniform(0.3, 0.6, 2 * N)[:, None, None]
    brain = np.where(np.hypot(x, y) < size, 0.9, 0.5) * (np.hypot(x, y) < 0.9)
    brain[N:] *= 0.6
    inside = brain > 0
    return (
        (brain + inside * rng.normal(0, 0.1, brain.shape)).clip(0.01 * inside).astype(np.float32)
    )


@pytest.fixture(scope='module')
def fitted(images, cohort):
    told = []
    harmonizer = CVAEHarmonizer(
        protocol=PROTOCOL, images=6400, device='cpu', progress=lambda *now: told.append(now)
    )
    fitted = harmonizer.fit(images, cohort)
    assert told[-1][0] == 6400 and told[-1][2] == 0
    assert told[-1][1] < told[0][1]
    return fitted


def test_a_scan_is_remembered_and_another_site_changes_it(fitted, images, cohort):
    itself = fitted.transform(images[N:], cohort[N:], 'B')
    assert itself.dtype == np.float32 and itself.shape == images[N:].shape
    assert (itself[images[N:] == 0] == 0).all() and (itself >= 0).all()
    assert np.abs(itself - images[N:])[images[N:] > 0].mean() < 0.12  # of noise alone .08
    told = fitted.transform(images[N:], cohort[N:], 'A')
    assert np.abs(told - itself).max() > 0.01


def test_the_same_seed_gives_the_same_network(fitted, images, cohort):
    short = CVAEHarmonizer(protocol=PROTOCOL, images=96, device='cpu', seed=3)
    one, two = (short.fit(images, cohort).transform(images, cohort, 'A') for _ in range(2))
    assert (one == two).all()


def test_what_is_saved_comes_back(fitted, images, cohort, tmp_path):
    path = tmp_path / 'cvae.safetensors'
    fitted.save(path)
    loaded = load_harmonizer(path, 'cpu')
    assert isinstance(loaded, CVAEHarmonizer) and loaded.info == fitted.info
    assert loaded.info.network['z_dim'] == 128
    assert loaded.info.training.images_seen == 6400
    ready = loaded.prepared(unseen_site='refuse', keep_noise=False, batch_size=7)
    out = [x.transform(images, cohort, 'B') for x in (fitted, ready)]
    assert np.abs(out[0] - out[1]).max() < 1e-5


def test_unknown_age_and_sex_are_allowed(fitted, images, cohort):
    out = fitted.transform(images, cohort[['subject', 'site']], 'A')
    assert np.isfinite(out).all()


def test_refusals(fitted, images, cohort):
    with pytest.raises(UsageError, match='call fit or load first'):
        CVAEHarmonizer().transform(images, cohort, 'A')
    with pytest.raises(UsageError, match='source site Z is not among'):
        fitted.transform(images, cohort.assign(site='Z'), 'A')
    with pytest.raises(UsageError, match=r'images are \(1, 16, 16\)'):
        fitted.transform(images[:, ::2, ::2].copy(), cohort, 'A')
    with pytest.raises(UsageError, match='scans of 2 slices'):
        CVAEHarmonizer().fit(np.stack([images, images], axis=1), cohort)


def test_files_that_are_no_cvae(fitted, tmp_path):
    path = tmp_path / 'x.safetensors'
    fitted.save(path)
    weights, metadata = load_file(path), metadata_of(fitted.info)
    name = next(iter(weights))
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, path, metadata)
    with pytest.raises(ModelError, match='not finite'):
        CVAEHarmonizer.load(path, 'cpu')
    save_file(weights | {name: weights[name][:1]}, path, metadata)
    with pytest.raises(ModelError, match='do not fit the sizes'):
        CVAEHarmonizer.load(path, 'cpu')
