"""Sites that the networks were not trained on, measured in their scans and stored in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle, save_bundle
from ddae_app.methods.ddae.calibration import calibrate, load_calibration, save_calibration
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from tests.methods import toy


@pytest.fixture(scope='module')
def bundle():
    """A model of the sites A and B, with random networks."""
    model = toy.random_model(toy.DEEP)
    data = toy.scans()
    model.appearance = fit_site_appearance(toy.DEEP, data, np.arange(len(data)))
    info = toy.info(toy.DEEP, protocol=toy.DEEP_PROTOCOL)
    return Bundle(model, info, Path('model'), 'a' * 64)


@pytest.fixture(scope='module')
def elsewhere():
    """Scans of two other sites, C and D, in other contrasts."""
    data = toy.scans()
    rename = {'A': 'C', 'B': 'D'}
    gamma = np.array([0.6 if site == 'A' else 1.5 for site in data.sites])
    images = (data.images ** gamma[:, None, None, None]).astype(np.float32)
    return replace(data, images=images, sites=tuple(rename[site] for site in data.sites))


@pytest.fixture(scope='module')
def calibrated(bundle, elsewhere):
    return calibrate(bundle, elsewhere)


def test_the_networks_do_not_change(bundle, elsewhere):
    before = {k: v.clone() for k, v in bundle.model.state_dict().items()}
    result = calibrate(bundle, elsewhere)
    assert result.model.networks is bundle.model.networks
    assert all(torch.equal(v, before[k]) for k, v in bundle.model.state_dict().items())
    assert result.info.sites == ('C', 'D')
    assert result.info.training.scans_per_site == (10, 10)
    assert result.model.codes.tolist() == [-1, -1, -1]


def test_the_common_scale_is_that_of_the_networks(bundle, calibrated):
    new, old = calibrated.model.appearance, bundle.model.appearance
    assert torch.equal(new.curve[-1], old.curve[-1]) and torch.equal(new.average, old.average)
    assert not torch.equal(new.curve[0], old.curve[0])


def test_scans_are_harmonized_between_the_new_sites(calibrated, elsewhere):
    harmonizer = DDAEHarmonizer(bundle=calibrated, keep_noise=True)
    sites = np.array(elsewhere.sites)
    source, target = (elsewhere.images[sites == site] for site in 'CD')
    cohort = pd.DataFrame({'site': ['C'] * len(source)})
    after = harmonizer.transform(source, cohort, 'D')

    def median(images):
        return np.median(images[images > 0])

    assert abs(median(after) - median(target)) < abs(median(source) - median(target)) / 3
    assert (after[source == 0] == 0).all()


def test_a_calibration_is_read_back(bundle, calibrated, elsewhere, tmp_path):
    path = tmp_path / 'sites.safetensors'
    save_calibration(path, calibrated)
    loaded = load_calibration(path, bundle)
    assert loaded.info == calibrated.info
    x, cohort = elsewhere.images[:2], pd.DataFrame({'site': ['C', 'C']})
    first, second = (
        DDAEHarmonizer(bundle=one).transform(x, cohort, 'D') for one in (calibrated, loaded)
    )
    assert np.array_equal(first, second)
    assert path.stat().st_size < 200_000


def test_a_site_that_the_networks_know_keeps_its_code(bundle):
    data = toy.scans()
    assert calibrate(bundle, data).model.codes.tolist() == [0, 1, -1]
    # Beside a site that is new, and through a second calibration.
    mixed = replace(data, sites=tuple('C' if site == 'A' else site for site in data.sites))
    once = calibrate(bundle, mixed)
    assert once.info.sites == ('B', 'C') and once.model.codes.tolist() == [1, -1, -1]
    assert calibrate(once, mixed).model.codes.tolist() == [1, -1, -1]


def test_files_that_are_no_calibration_of_this_model(bundle, calibrated, tmp_path):
    path = tmp_path / 'sites.safetensors'
    save_calibration(path, calibrated)
    with pytest.raises(ModelError, match='calibrate again'):
        load_calibration(path, replace(bundle, sha256='b' * 64))
    save_file({'x': torch.zeros(2)}, path, {'ddae-calibration': '{"sites": 3}'})
    with pytest.raises(ModelError, match='metadata that cannot be read'):
        load_calibration(path, bundle)
    save_bundle(path, bundle.model, bundle.info)
    with pytest.raises(ModelError, match='not a calibration'):
        load_calibration(path, bundle)
    path.write_bytes(b'{}')
    with pytest.raises(ModelError, match='truncated'):
        load_calibration(path, bundle)
    with pytest.raises(ModelError, match='no such'):
        load_calibration(tmp_path / 'nowhere', bundle)


def test_scans_of_another_size_are_refused(bundle):
    with pytest.raises(UsageError, match='preprocess with the protocol'):
        calibrate(bundle, toy.slices())
