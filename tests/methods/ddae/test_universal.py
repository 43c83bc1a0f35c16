"""Networks for any scanner: whole volumes and their middle slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddae_app.errors import ModelError
from ddae_app.methods.condition import label_blind
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.losses import training_loss
from ddae_app.methods.ddae.model import DDAE, Networks
from ddae_app.methods.find import packaged_model
from tests.methods import toy

MIDDLE = toy.DEPTH // 2
DEEP = replace(toy.DEEP, volume_depth=toy.DEPTH)


def middle_slice(volumes: DDAE) -> DDAE:
    """The same networks for the middle slice of a volume alone."""
    config = replace(volumes.config, depth=1, first_slice=MIDDLE)
    networks = Networks(config, volumes.networks.n_sites)
    encoder = volumes.networks.condition
    networks.condition.age_mean, networks.condition.age_sd = encoder.age_mean, encoder.age_sd
    networks.load_state_dict(volumes.networks.state_dict())
    return DDAE(networks).eval()


@pytest.fixture(scope='module')
def model():
    model, data = toy.random_model(DEEP), toy.scans()
    model.appearance = fit_site_appearance(DEEP, data, np.arange(len(data)))
    return model


def test_the_middle_slice_has_the_code_of_its_position_in_a_volume(model):
    alone = middle_slice(model)
    alone.appearance.curve.copy_(model.appearance.curve)
    alone.appearance.edge.copy_(model.appearance.edge)
    alone.appearance.noise.copy_(model.appearance.noise)
    alone.appearance.deviation.copy_(model.appearance.deviation)
    in_volume = label_blind([0, 1], np.full(2, MIDDLE))
    assert torch.equal(alone.embed(label_blind([0, 1])), model.embed(in_volume))


def test_the_middle_slice_takes_the_place_of_its_neighbors(model):
    alone = middle_slice(model)
    assert alone.config.context == model.config.context == 1
    x = torch.randn(2, 1, toy.SIZE, toy.SIZE).expand(2, 3, toy.SIZE, toy.SIZE)
    t, z_u = torch.tensor([20, 60]), torch.randn(2, DEEP.z_u_dim)
    z_k = torch.randn(2, DEEP.z_k_dim)
    assert torch.equal(alone(x, t, z_k, z_u), model(x, t, z_k, z_u))


@pytest.mark.parametrize(('depth', 'first'), [(1, toy.DEPTH), (toy.DEPTH, 1)])
def test_slices_beyond_the_volume_are_refused(depth, first):
    with pytest.raises(ModelError, match='first_slice'):
        replace(DEEP, depth=depth, first_slice=first)


def test_a_lone_image_stands_in_the_place_of_its_neighbors(model):
    x = torch.randn(4, 3, toy.SIZE, toy.SIZE)
    condition = label_blind([0, 1, 0, 1], np.full(4, MIDDLE))
    view = torch.rand(4, 1, toy.SIZE, toy.SIZE)

    def loss(images, fraction):
        generator = torch.Generator().manual_seed(0)
        return training_loss(model, images, view, condition, generator, lone_fraction=fraction)

    others = x.clone()
    others[:, [0, 2]] = torch.randn(4, 2, toy.SIZE, toy.SIZE)
    with torch.no_grad():
        assert torch.equal(loss(x, 1.0), loss(others, 1.0))
        assert not torch.equal(loss(x, 0.0), loss(others, 0.0))


def test_without_a_volume_the_position_is_that_in_the_scan():
    assert ModelConfig(depth=5).positions == 5
    assert ModelConfig(depth=1).z_k_dim == ModelConfig().z_k_dim
    assert replace(DEEP, depth=1, first_slice=2).z_k_dim == DEEP.z_k_dim


@pytest.mark.parametrize('slices', ['medial', 'all'])
def test_the_packaged_models_know_how_scanners_differ(slices):
    model = load_bundle(packaged_model(slices).path).model
    assert model.evidence is not None
    evidence = model.evidence.evidence()
    known = evidence['appearance'].priors | evidence['contrast'].priors
    assert known.keys() == {'quantiles', 'edge', 'average', 'before'}
    for prior in known.values():
        parts = prior.between, prior.within
        values = [np.linalg.eigvalsh(p) if p.ndim == 2 else p.ravel() for p in parts]
        assert all(v.min() > -1e-6 and v.max() > 0 for v in values)
    # Subjects move the darkest quantiles most, with their ventricles.
    within = np.diag(known['quantiles'].within)
    assert within[1:9].mean() > 3 * within[-9:-1].mean()
