"""Training every method for the train level: what is written, drawn and recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.methods.base import TrainingRequest, cohort_of
from ddae_app.methods.ddae.presets import Preset
from ddae_app.methods.find import load_harmonizer
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.methods.modelfile import ModelIdentity, read_model_info
from ddae_app.methods.parallel import start_fabric
from ddae_app.methods.registry import METHODS, imported, trainable
from ddae_app.methods.samples import one_of_each_site, transformed_samples
from ddae_app.settings import Protocol

from .toy import CONFIG, PROTOCOL, TRAIN, slices

IDENTITY = ModelIdentity('ours', 'a dataset', phantom=True, notes='a trial')


@pytest.fixture
def small(monkeypatch):
    """Presets as small as the toy scans."""

    def preset(name, images):
        return Preset(CONFIG, replace(TRAIN, images=images))

    monkeypatch.setattr('ddae_app.methods.ddae.trainer.preset_of', preset)


def request(method, folder, **changes) -> TrainingRequest:
    """To train on toy scans of a size that the method takes."""
    data, protocol = slices(), PROTOCOL
    if method in ('cvae', 'style-gan'):
        data = replace(data, images=np.kron(data.images, np.ones((2, 2), np.float32)))
        protocol = Protocol(slice_shape=(32, 32))
    asked = TrainingRequest(
        data=data,
        protocol=protocol,
        folder=folder,
        identity=IDENTITY,
        seed=3,
        device='cpu',
        images=32,
        fabric=start_fabric('cpu'),
    )
    return replace(asked, **changes)


@pytest.mark.parametrize('method', trainable())
def test_a_trained_model_has_the_name_and_origin_that_were_asked_for(method, tmp_path, small):
    asked = request(method, tmp_path)
    trained = imported(METHODS[method].trainer)(asked)
    assert trained.path == tmp_path / 'ours.safetensors'
    info = read_model_info(trained.path)
    assert (info.method, info.name, info.phantom) == (method, 'ours', True)
    assert info.notes == 'a trial'
    assert info.training.dataset == 'a dataset' and info.protocol == asked.protocol
    assert info.training.images_seen == (32 if METHODS[method].supports('device') else 20)
    assert info.sites == ('A', 'B')
    harmonizer, cohort = load_harmonizer(trained.path, device='cpu'), cohort_of(asked.data)
    out = harmonizer.transform(asked.data.images, cohort, 'B')
    assert out.shape == asked.data.images.shape and np.isfinite(out).all()


def test_a_ddae_draws_samples_and_holds_subjects_out(tmp_path, small):
    drawn, reports = [], []
    asked = request(
        'ddae',
        tmp_path,
        draw=lambda samples, path, title: drawn.append((samples, path, title)),
        progress=reports.append,
    )
    trained = imported(METHODS['ddae'].trainer)(asked)
    assert len(trained.held_out) == 4  # a fifth of each site
    assert trained.losses is not None and trained.losses.is_file()
    assert [report.images_seen for report in reports] == [8, 16, 24, 32]
    samples, path, title = drawn[-1]
    assert path == trained.samples and title == 'ours after 32 images'
    assert samples.sites == ('A', 'B') and samples.images.shape == (2, 4, 16, 16)
    # The scan of each site is one that was held out, as it is.
    held_out = asked.data.images[trained.held_out, 0]
    for site in range(2):
        assert any(np.array_equal(samples.images[site, 0], scan) for scan in held_out)


def test_a_ddae_stops_at_its_deadline_and_goes_on(tmp_path, small):
    train = imported(METHODS['ddae'].trainer)
    asked = request('ddae', tmp_path)
    attempts = 0
    while train(replace(asked, deadline=0.0)) is None:
        assert not (tmp_path / 'ours.safetensors').exists()
        attempts += 1
    assert attempts == 3  # the fourth step is the last
    assert read_model_info(tmp_path / 'ours.safetensors').training.images_seen == 32


def test_a_ddae_that_starts_from_another_says_so(tmp_path, small):
    train = imported(METHODS['ddae'].trainer)
    first = train(request('ddae', tmp_path / 'first'))
    asked = request('ddae', tmp_path / 'second', initial=first.path)
    renamed = tuple('C' if site == 'B' else site for site in asked.data.sites)
    asked = replace(asked, data=replace(asked.data, sites=renamed))
    second = train(asked)
    info = read_model_info(second.path)
    assert info.sites == ('A', 'C')
    assert info.notes.startswith('started from ours, SHA-256 ')
    assert info.age_mean == read_model_info(first.path).age_mean
    # The notes of the first may name a license, which holds for what is made of it, too.
    again = request('ddae', tmp_path / 'third', initial=second.path)
    third = read_model_info(train(replace(again, data=asked.data)).path)
    assert third.notes.endswith(f'. Of these networks: {info.notes}')


def test_samples_show_the_scan_of_each_site_with_most_brain():
    data = slices()
    brain = (data.images > 0).sum(axis=(1, 2, 3))
    rows = np.array([1, 3, 5])  # none of the second site
    chosen = one_of_each_site(data, rows)
    assert brain[chosen[0]] == brain[rows].max() and chosen[0] in rows
    assert brain[chosen[1]] == brain[10:].max() and chosen[1] >= 10


def test_samples_are_scans_at_home_and_at_each_site():
    data = slices()
    harmonizer = HistogramMatching().fit(data.images, cohort_of(data))
    samples = transformed_samples(harmonizer, data)
    assert samples.images.shape == (2, 4, 16, 16)
    for site in range(2):
        scan, home, *at = samples.images[site]
        assert any(np.array_equal(scan, image[0]) for image in data.images)
        assert np.array_equal(home, at[site])
    # The second site is the brighter one.
    means = samples.images[:, 2:].sum(axis=(2, 3))
    assert (means[:, 1] > means[:, 0]).all()
