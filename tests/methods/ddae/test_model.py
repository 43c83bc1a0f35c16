"""The networks: shapes, what depends on what, and the presets' sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddae_app.errors import ModelError
from ddae_app.methods.ddae.bundle import save_bundle
from ddae_app.methods.ddae.config import ModelConfig, TrainConfig
from ddae_app.methods.ddae.editing import edit_to_site
from ddae_app.methods.ddae.losses import training_loss
from ddae_app.methods.ddae.model import DDAE, Networks
from ddae_app.methods.ddae.presets import PRESETS, preset_of
from ddae_app.methods.ddae.unet import AdaptiveNorm, Codes, Stem

from ..toy import CONFIG, condition, info, random_model

NAN = float('nan')
FIRST = torch.zeros(2, dtype=torch.int64)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((2, 1, 16, 16), generator=generator) * 2 - 1
    return x, torch.tensor([10, 90])


@pytest.mark.parametrize('unshuffle', [1, 2, 4])
def test_shapes(unshuffle):
    config = replace(CONFIG, unshuffle=unshuffle, attention=())
    model = random_model(config)
    x = torch.zeros(2, 1, 16, 16)
    z_k, z_u = model.embed(condition()), model.encode(x, FIRST)
    assert z_k.shape == (2, config.z_k_dim)
    assert z_u.shape == (2, config.z_u_dim)
    assert model(x, torch.tensor([1, 100]), z_k, z_u).shape == x.shape


def test_an_untrained_network_answers_zero(inputs):
    x, t = inputs
    model = DDAE(Networks(CONFIG, 2))
    assert not model(x, t, model.embed(condition()), model.encode(x, FIRST)).any()


@pytest.mark.parametrize('which', ['t', 'z_k', 'z_u', 'x_t'])
def test_output_depends_on_each_input(inputs, which):
    x, t = inputs
    model = random_model()
    arguments = {
        'x_t': x,
        't': t,
        'z_k': model.embed(condition()),
        'z_u': model.encode(x, FIRST),
    }
    before = model(**arguments)
    arguments[which] = arguments[which].flip(0)
    assert (model(**arguments) - before).abs().max() > 1e-3


def test_gradients_reach_both_encoders(inputs):
    x, _ = inputs
    model = random_model()
    generator = torch.Generator().manual_seed(0)
    training_loss(model, x, x, condition(), generator).backward()
    networks = model.networks
    for part in (networks.semantic, networks.condition, networks.unet):
        grads = [p.grad for p in part.parameters()]
        assert all(g is not None and g.isfinite().all() for g in grads)
        assert any(g.any() for g in grads)


def test_each_missing_fact_gives_its_null_token():
    model = random_model()
    known = model.embed(condition())
    missing = model.embed(condition((NAN, NAN), (-1, -1), (-1, -1)))
    assert torch.equal(missing[0], missing[1])
    encoder = model.networks.condition
    null = torch.cat([encoder.null_age, encoder.sex[2], encoder.site[2]])
    assert torch.equal(missing[0], null)
    a, s = CONFIG.age_dim, CONFIG.sex_dim
    groups = [slice(0, a), slice(a, a + s), slice(a + s, None)]
    changes = [{'age': (NAN, NAN)}, {'sex': (-1, -1)}, {'site': (-1, -1)}]
    for i, change in enumerate(changes):
        z_k = model.embed(condition(**change))
        for j, group in enumerate(groups):
            assert torch.equal(z_k[:, group], (missing if i == j else known)[:, group])


def test_a_missing_age_gives_finite_gradients():
    model = random_model()
    model.embed(condition(age=(NAN, 40.0))).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.networks.condition.parameters())


def test_condition_dropout_drops_groups_independently():
    n = 4000
    known = condition((40.0,) * n, (1,) * n, (0,) * n)
    dropped = known.dropped(0.15, torch.Generator().manual_seed(0))
    missing = torch.stack([dropped.age.isnan(), dropped.sex < 0, dropped.site < 0]).float()
    assert missing.mean(dim=1).tolist() == pytest.approx([0.15] * 3, abs=0.02)
    assert (missing[0] * missing[1]).mean().item() == pytest.approx(0.15**2, abs=0.01)


def test_tiny_is_tiny(tmp_path):
    config = PRESETS['tiny'].model
    model = DDAE(Networks(config, n_sites=20))
    assert sum(p.numel() for p in model.parameters()) <= 2.5e6
    sites = tuple(f'site{i}' for i in range(20))
    rows = (tuple([0.12345] * 101),) * 20
    training = replace(info().training, subjects_per_site=(1,) * 20)
    quantiles = replace(info().quantiles, levels=rows[0], low=rows, median=rows, high=rows)
    details = info(config, sites=sites, training=training, quantiles=quantiles)
    save_bundle(tmp_path / 'tiny', model, details)
    assert (tmp_path / 'tiny').stat().st_size < 16e6


def test_paper_preset_is_the_reconstruction():
    paper = PRESETS['paper'].model
    assert (paper.channels, paper.multipliers, paper.attention) == (32, (1, 2, 3, 4), (16,))
    assert (paper.z_u_dim, paper.z_u_noise, paper.timesteps) == (512, 0, 1000)
    assert (paper.schedule, paper.prediction) == ('linear', 'epsilon')
    assert not paper.encoder_augment
    assert paper.condition_dropout == 0
    model = DDAE(Networks(paper, 7))
    x = torch.zeros(1, 1, 128, 128)
    out = model(
        x,
        torch.ones(1),
        model.embed(condition((40.0,), (0,), (0,))),
        model.encode(x, FIRST[:1]),
    )
    assert out.shape == x.shape


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'unshuffle': 3}, 'unshuffle is 3; choose among 1, 2, 4'),
        ({'image_size': 130}, 'image_size 130 is not divisible by 8'),
        ({'attention': (5,)}, 'attention is'),
        ({'channels': 6}, 'multiple of 4'),
        ({'multipliers': ()}, 'multipliers is'),
        ({'schedule': 'sigmoid'}, 'choose among linear, cosine'),
        ({'schedule': 'cosine'}, 'cosine needs prediction v'),
        ({'prediction': 'x'}, 'choose among epsilon, v'),
        ({'condition_dropout': 1.5}, 'condition_dropout is 1.5'),
        ({'timesteps': 1}, 'timesteps is 1'),
    ],
)
def test_wrong_model_settings_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        ModelConfig(**change)


def test_wrong_training_settings_are_refused():
    with pytest.raises(ModelError, match='batch_size is 0; give a number from 1'):
        TrainConfig(batch_size=0)


@pytest.mark.parametrize('site_average', [False, True])
def test_the_average_of_a_site_is_subtracted_and_that_of_the_target_added(site_average):
    # Untrained, so that all codes are alike.
    model = DDAE(Networks(replace(CONFIG, site_average=site_average), 2))
    model.appearance.average.fill_(0.4)
    model.appearance.effect[0], model.appearance.effect[1] = -0.2, 0.2
    x = torch.full((2, 1, 16, 16), 0.3)
    deviations = model.appearance.normalize(x, model.appearance_of(condition(site=(1, -1))))
    assert deviations[0].unique().tolist() == pytest.approx([-0.6])
    assert deviations[1].unique().tolist() == pytest.approx([-0.2])
    out = edit_to_site(model, x, condition(site=(0, -1)), condition(site=(1, 1)), 3)
    assert (out - x).mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.4, 0.2], abs=1e-5)


@pytest.mark.parametrize('coordinates', [False, True])
def test_only_coordinates_distinguish_places(coordinates):
    stem = Stem(replace(CONFIG, coordinates=coordinates), 8)
    inner = stem(torch.zeros(1, 1, 16, 16))[0, :, 1:-1, 1:-1].flatten(1)
    assert (inner.std(dim=1) > 1e-3).all() == coordinates


def test_codes_modulate_in_the_published_order():
    generator = torch.Generator().manual_seed(0)
    layer = AdaptiveNorm(8, 3, 4, 5)
    x = torch.randn((2, 8, 6, 6), generator=generator)
    codes = Codes(*(torch.randn((2, n), generator=generator) for n in (3, 4, 5)))
    t, k = layer.time(codes.time)[..., None, None], layer.z_k(codes.z_k)[..., None, None]
    h = layer.norm(x) * (1 + t[:, :8]) + t[:, 8:]
    h = h * (1 + k[:, :8]) + k[:, 8:]
    h = h * (1 + layer.z_u(codes.z_u)[..., None, None])
    torch.testing.assert_close(layer(x, codes), h)


def test_a_shorter_run_of_a_preset_keeps_its_proportions():
    whole, short = PRESETS['tiny'], preset_of('tiny', 6_400)
    assert preset_of('tiny') is whole and short.model == whole.model
    assert (short.train.images, short.train.warmup_images) == (6_400, 320)
    assert short.train.ema_halflife_images == 320 == short.train.validation_interval_images
    # A longer one averages and warms up no longer.
    longer = preset_of('tiny', 640_000)
    assert longer.train == replace(whole.train, images=640_000)


def test_networks_for_other_sites_keep_the_codes_of_those_that_they_know():
    trained = random_model()
    known = ('A', 'B')
    model = DDAE(trained.networks.for_sites(('X', 'B', 'Y'), known))
    z_k = model.embed(condition((40.0,) * 4, (0,) * 4, (0, 1, 2, -1)))
    expected = trained.embed(condition((40.0,) * 4, (0,) * 4, (-1, 1, -1, -1)))
    assert torch.equal(z_k, expected)
    assert not torch.equal(z_k[0], z_k[1])
    weights, others = trained.networks.state_dict(), model.networks.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[k], others[k]) for k in weights if k != 'condition.site')
