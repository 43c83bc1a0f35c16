"""The baselines that are networks: they learn the appearance of a site, and are stored safely."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddae_app.errors import ModelError, UsageError
from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.cvae import CVAEHarmonizer
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.find import load_harmonizer
from ddae_app.methods.modelfile import metadata_of
from ddae_app.methods.style_gan import StyleGANHarmonizer
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


def trained(kind, n, images, cohort):
    reports = []
    harmonizer = kind(protocol=PROTOCOL, images=n, device='cpu', progress=reports.append)
    fitted = harmonizer.fit(images, cohort)
    assert reports[-1].images_seen >= n and reports[-1].seconds_left == 0
    assert {report.images for report in reports} == {n}
    return fitted, [report.loss for report in reports]


@pytest.fixture(scope='module')
def fitted(images, cohort):
    fitted, losses = trained(CVAEHarmonizer, 6400, images, cohort)
    assert losses[-1] < losses[0]
    return fitted


@pytest.fixture(scope='module')
def gan(images, cohort):
    return trained(StyleGANHarmonizer, 4000, images, cohort)[0]


def test_a_scan_is_reconstructed_and_another_site_changes_it(fitted, images, cohort):
    itself = fitted.transform(images[N:], cohort[N:], 'B')
    assert itself.dtype == np.float32 and itself.shape == images[N:].shape
    assert (itself[images[N:] == 0] == 0).all() and (itself >= 0).all()
    assert np.abs(itself - images[N:])[images[N:] > 0].mean() < 0.12  # of noise alone .08
    elsewhere = fitted.transform(images[N:], cohort[N:], 'A')
    assert np.abs(elsewhere - itself).max() > 0.01


def test_a_gan_gives_the_appearance_of_the_target_and_keeps_the_subject(gan, images, cohort):
    inside = images > 0
    dark, bright = images[N:], images[:N]
    out = gan.transform(dark, cohort[N:], 'A')
    assert (out[~inside[N:]] == 0).all() and (out >= 0).all()
    levels = [
        x[m].mean() for x, m in ((dark, inside[N:]), (out, inside[N:]), (bright, inside[:N]))
    ]
    assert abs(levels[1] - levels[2]) < 0.4 * abs(levels[0] - levels[2])
    alike = [np.corrcoef(a[m], b[m])[0, 1] for a, b, m in zip(out, dark, inside[N:], strict=True)]
    assert np.median(alike) > 0.8
    itself = gan.transform(bright, cohort[:N], 'A')
    assert np.abs(itself - bright)[inside[:N]].mean() < 0.1
    with_labels = gan.transform(dark, cohort[N:].assign(age=99.0, sex='F'), 'A')
    assert (with_labels == out).all() and gan.facts() == {'LabelBlind': True}


@pytest.mark.parametrize('kind', [CVAEHarmonizer, StyleGANHarmonizer])
@pytest.mark.parametrize('n', [1, 96, 320])
def test_however_short_the_training(kind, n, images, cohort):
    """PyTorch's schedule divides by 0 at ten steps."""
    short, _ = trained(kind, n, images, cohort)
    assert np.isfinite(short.transform(images, cohort, 'A')).all()


@pytest.mark.parametrize('kind', [CVAEHarmonizer, StyleGANHarmonizer])
def test_the_same_seed_gives_the_same_network(kind, images, cohort):
    short = kind(protocol=PROTOCOL, images=96, device='cpu', seed=3)
    one, two = (short.fit(images, cohort).transform(images, cohort, 'A') for _ in range(2))
    assert (one == two).all()


@pytest.mark.parametrize('name', ['fitted', 'gan'])
def test_a_spike_stays_and_moves_no_more_than_the_brightest_tissue_would(
    name, images, cohort, request
):
    harmonizer = request.getfixturevalue(name)
    bright, spiked = images[N:].copy(), images[N:].copy()
    bright[:, 15, 15], spiked[:, 15, 15] = CEILING, 20
    of_bright, of_spiked = (harmonizer.transform(x, cohort[N:], 'A') for x in (bright, spiked))
    excess = of_spiked - of_bright
    np.testing.assert_allclose(excess[:, 15, 15], 20 - CEILING, rtol=1e-4)
    excess[:, 15, 15] = 0
    assert not excess.any()
    np.testing.assert_array_equal(of_bright > 0, bright > 0)


@pytest.mark.parametrize(
    ('name', 'size', 'seen'), [('fitted', ('z_dim', 128), 6400), ('gan', ('style_dim', 16), 4000)]
)
def test_what_is_saved_comes_back(name, size, seen, images, cohort, tmp_path, request):
    fitted = request.getfixturevalue(name)
    path = tmp_path / 'model.safetensors'
    fitted.save(path)
    # Options that the method does not take are left out.
    options = {'unseen_site': 'refuse', 'keep_noise': False, 'steps': 4}
    loaded = load_harmonizer(path, device='cpu', batch_size=7, **options)
    assert type(loaded) is type(fitted) and loaded.info == fitted.info
    assert loaded.info.network[size[0]] == size[1]
    assert loaded.info.training.images_seen == seen
    assert loaded.batch_size == 7
    out = [x.transform(images, cohort, 'B') for x in (fitted, loaded)]
    assert np.abs(out[0] - out[1]).max() < 1e-5


def test_unknown_age_and_sex_are_allowed(fitted, images, cohort):
    out = fitted.transform(images, cohort[['subject', 'site']], 'A')
    assert np.isfinite(out).all()


def test_refusals(fitted, images, cohort):
    with pytest.raises(UsageError, match='call fit or load first'):
        CVAEHarmonizer().transform(images, cohort, 'A')
    with pytest.raises(UsageError, match='source site Z is unknown to the model'):
        fitted.transform(images, cohort.assign(site='Z'), 'A')
    with pytest.raises(UsageError, match=r'images are \(1, 16, 16\)'):
        fitted.transform(images[:, ::2, ::2].copy(), cohort, 'A')
    with pytest.raises(UsageError, match='scans of 2 slices'):
        CVAEHarmonizer().fit(np.stack([images, images], axis=1), cohort)


@pytest.mark.parametrize('name', ['fitted', 'gan'])
@pytest.mark.filterwarnings('error')
def test_no_images_and_images_that_cannot_be_changed(name, images, cohort, request):
    harmonizer = request.getfixturevalue(name)
    assert harmonizer.transform(images[:0], cohort[:0], 'A').shape == (0, 32, 32)
    fixed = images[:2].copy()
    fixed.setflags(write=False)
    assert harmonizer.transform(fixed[:, ::-1], cohort[:2], 'A').any()


@pytest.mark.parametrize('kind', [CVAEHarmonizer, StyleGANHarmonizer, DDAEHarmonizer])
def test_another_protocol_than_that_of_the_images_is_told_before_training(kind, images, cohort):
    """No file could hold such a model."""
    with pytest.raises(UsageError, match=r'\(1, 32, 32\), .* \(1, 128, 128\); give the protocol'):
        kind(device='cpu').fit(images, cohort)


def test_a_file_of_another_method(gan, tmp_path):
    path = tmp_path / 'gan.safetensors'
    gan.save(path)
    with pytest.raises(ModelError, match='a model of style-gan, where one of cvae is expected'):
        CVAEHarmonizer.load(path, device='cpu')


def test_files_that_are_no_cvae(fitted, tmp_path):
    path = tmp_path / 'x.safetensors'
    fitted.save(path)
    weights, metadata = load_file(path), metadata_of(fitted.info)
    name = next(iter(weights))
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, path, metadata)
    with pytest.raises(ModelError, match='not finite'):
        CVAEHarmonizer.load(path, device='cpu')
    save_file(weights | {name: weights[name][:1]}, path, metadata)
    with pytest.raises(ModelError, match='has shape .* but the configuration in the file needs'):
        CVAEHarmonizer.load(path, device='cpu')


@pytest.mark.parametrize(('name', 'value'), [('multipliers', []), ('channels', 2)])
def test_a_configuration_of_no_network(fitted, tmp_path, name, value):
    path = tmp_path / 'x.safetensors'
    fitted.save(path)
    metadata = metadata_of(fitted.info)
    header = json.loads(metadata['ddae'])
    header['info']['config'][name] = value
    save_file(load_file(path), path, {'ddae': json.dumps(header)})
    with pytest.raises(ModelError, match='the configuration in the file is of no network'):
        CVAEHarmonizer.load(path, device='cpu')
