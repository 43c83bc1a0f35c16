"""Frozen networks harmonize sites that they were not trained on, once these are measured."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from ddae_app.methods.condition import label_blind
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.calibration import calibrate
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
    """The networks of the trained model, with all else measured at the other sites."""
    return calibrate(fitted.bundle, data).model


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


def test_the_trained_model_stays_as_it_was(fitted, data):
    trained = fitted.bundle.model
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    x = torch.from_numpy(np.stack([anatomy(i) for i in range(4)])[:, None])
    conditions = label_blind([0, 1, 0, 1]), label_blind([1, 0, 0, 1])
    first = render(trained, x, *conditions)
    calibrate(fitted.bundle, data)
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert torch.equal(first, render(trained, x, *conditions))


def test_calibrating_measures_with_the_networks_uncorrected(fitted, data, model):
    trained = fitted.bundle.model
    config, rows = trained.config, np.arange(len(data))
    networks = trained.networks.for_sites(SITES, fitted.bundle.info.sites)
    appearance = fit_site_appearance(config, data, rows, reference=trained.appearance)
    uncorrected = DDAE(networks, appearance)
    residuals, found = fit_residual_correction(
        config, appearance, data, rows, partial(render, uncorrected, batch_size=16)
    )
    expected = DDAE(networks, appearance, residuals).state_dict()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('evidence.')}
    assert state.keys() == expected.keys()
    # What remains after all of this is measured last, in the outputs.
    assert not torch.equal(state['remaining.quantiles'], expected['remaining.quantiles'])
    state['remaining.quantiles'] = expected['remaining.quantiles']
    assert all(torch.equal(v, expected[k]) for k, v in state.items())
    before, rendered = (model.evidence.evidence()[name] for name in ('contrast', 'rendered'))
    assert found is not None and found[0].sites == before.sites == rendered.sites == SITES
    assert np.allclose(found[1].sums['change'].cross, rendered.sums['change'].cross, atol=1e-4)
