"""Frozen networks harmonize sites that they were not trained on, once these are measured."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.condition import label_blind
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.calibration import calibrate, load_calibration, save_calibration
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.residuals import fit_residual_correction

from ..toy_sites import anatomy, rmse

N = 32
SITES = ('X', 'Y')


def scan(brain: np.ndarray, site: str) -> np.ndarray:
    """What two scanners that the networks have not seen make of a brain."""
    bent = 0.9 * brain**1.3 if site == 'X' else 0.7 * brain**0.7 + 0.1 * (brain > 0)
    return bent.astype(np.float32)


@pytest.fixture(scope='module')
def data() -> SliceData:
    """Scans of different subjects at each of the two sites."""
    rng = np.random.default_rng(0)
    sites = tuple(SITES[i % 2] for i in range(2 * N))
    images = np.stack([scan(anatomy(3000 + i), site) for i, site in enumerate(sites)])
    subjects = tuple(f'p{i}' for i in range(2 * N))
    return SliceData(images[:, None], sites, rng.uniform(20, 80, 2 * N), (None,) * 2 * N, subjects)


@pytest.fixture(scope='module')
def model(fitted, data) -> DDAE:
    """The networks of the trained model, with everything else measured at the other sites."""
    trained = fitted.bundle.model
    config, networks, rows = trained.config, trained.networks, np.arange(len(data))
    appearance = fit_site_appearance(config, data, rows, reference=trained.appearance)
    uncorrected = DDAE(networks, appearance, codes=[-1, -1])
    residuals = fit_residual_correction(
        config, appearance, data, rows, partial(render, uncorrected, batch_size=16)
    )
    return DDAE(networks, appearance, residuals, codes=[-1, -1]).eval()


@pytest.mark.parametrize(('source', 'target'), ['XY', 'YX'])
def test_scans_move_towards_the_truth_at_the_target(model, source, target):
    brains = [anatomy(1000 + i) for i in range(10)]
    before, truth = (np.stack([scan(b, s) for b in brains])[:, None] for s in (source, target))
    conditions = [label_blind([SITES.index(site)] * 10) for site in (source, target)]
    after = render(model, torch.from_numpy(before), *conditions).numpy()
    assert rmse(after, truth) < 0.5 * rmse(before, truth)
    brain = before > 0
    assert ((after > 0) <= brain).all()
    levels = [x[brain].mean() for x in (before, after, truth)]
    assert abs(levels[1] - levels[2]) < 0.2 * abs(levels[0] - levels[2])


def test_the_residual_correction_is_of_these_sites(model):
    source, target = torch.tensor([0]), torch.tensor([1])
    assert not model.residuals.changes_nothing(source, target).any()


def test_the_trained_model_stays_as_it_was(fitted, model):
    trained = fitted.bundle.model
    again = DDAE(trained.networks, trained.appearance, trained.residuals)
    assert again.codes.tolist() == trained.codes.tolist() == [0, 1, -1]
    x = torch.from_numpy(np.stack([anatomy(i) for i in range(4)])[:, None])
    conditions = label_blind([0, 1, 0, 1]), label_blind([1, 0, 0, 1])
    first, second = (render(m, x, *conditions) for m in (trained, again))
    assert torch.equal(first, second)
    # Other sites than those of the training are rendered by the same networks.
    assert model.networks is trained.networks


@pytest.fixture(scope='module')
def calibrated(fitted, data):
    return calibrate(fitted.bundle, data)


def weights_of(model):
    """Everything that a model holds, also what it does not store."""
    return {**model.state_dict(), 'codes': model.codes}


def test_calibrating_gives_the_same_model(calibrated, model, fitted):
    expected = weights_of(model)
    assert all(torch.equal(v, expected[k]) for k, v in weights_of(calibrated.model).items())
    info = calibrated.info
    assert info.sites == SITES and info.training.scans_per_site == (N, N)
    assert len(info.quantiles.median) == 2
    assert fitted.bundle.info.sites == ('A', 'B')
    assert (info.config, info.name) == (fitted.info.config, fitted.info.name)


def test_a_calibration_that_is_stored_comes_back(calibrated, fitted, tmp_path):
    path = tmp_path / 'sites.safetensors'
    save_calibration(path, calibrated)
    loaded = load_calibration(path, fitted.bundle)
    assert loaded.info == calibrated.info
    expected = weights_of(calibrated.model)
    assert all(torch.equal(v, expected[k]) for k, v in weights_of(loaded.model).items())
    assert not any(key.startswith('networks.') for key in load_file(path))
    first = path.read_bytes()
    save_calibration(path, loaded)
    assert path.read_bytes() == first


def test_a_site_of_the_training_keeps_its_code(fitted, data):
    renamed = tuple('B' if site == 'Y' else site for site in data.sites)
    few = np.arange(20)
    part = replace(
        data, images=data.images[few], sites=renamed[:20], ages=data.ages[few],
        sexes=data.sexes[:20], subjects=data.subjects[:20],
    )  # fmt: skip
    once = calibrate(fitted.bundle, part)
    assert once.info.sites == ('B', 'X') and once.model.codes.tolist() == [1, -1, -1]
    # The code is kept through a second calibration too.
    assert calibrate(once, part).model.codes.tolist() == [1, -1, -1]


def test_files_that_are_no_calibration_of_the_model(calibrated, fitted, tmp_path):
    path = tmp_path / 'sites.safetensors'
    save_calibration(path, calibrated)
    other = replace(fitted.bundle, sha256='0' * 64)
    with pytest.raises(ModelError, match='a calibration of the model with SHA-256 .* calibrate'):
        load_calibration(path, other)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ModelError, match='truncated'):
        load_calibration(path, fitted.bundle)
    save_file({'x': torch.zeros(2)}, path, {'ddae-calibration': '{"sites": 3}'})
    with pytest.raises(ModelError, match='metadata that cannot be read'):
        load_calibration(path, fitted.bundle)
    fitted.save(path)
    with pytest.raises(ModelError, match='not a calibration'):
        load_calibration(path, fitted.bundle)


def test_scans_of_another_size_cannot_calibrate(fitted, data):
    smaller = replace(data, images=data.images[..., ::2, ::2].copy())
    with pytest.raises(UsageError, match=r'\(1, 16, 16\), the networks take \(1, 32, 32\)'):
        calibrate(fitted.bundle, smaller)
