"""Editing and denoising, against data distributions whose denoiser is known, and its promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.condition import Condition
from ddae_app.methods.ddae.editing import (
    BrainSlices,
    change_of_codes,
    denoise_at_site,
    edit_to_site,
)
from ddae_app.methods.ddae.schedule import noise_level

from ..toy import CONFIG, condition, random_model
from .exact import ExactModel

NAN = float('nan')


@pytest.mark.parametrize('spread', [(0.5, 0.5), (0.5, 0.7)])
def test_editing_moves_one_gaussian_onto_another(spread):
    """With exact denoisers of two Gaussians; the mean moves wholly, the spread in part."""
    model = ExactModel((0.0, 0.4), spread)
    x = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(1, dtype=torch.int64)
    at = [Condition(zero.float(), zero, zero + site, zero) for site in (0, 1)]
    out = edit_to_site(model, x, *at, 64)
    expected = 0.4 + x * spread[1] / spread[0]
    mean_alone = x + 0.4
    left = (mean_alone - expected).abs().mean()
    assert (out - expected).abs().mean() < 0.01 + 0.5 * left
    assert torch.equal(edit_to_site(model, x, at[0], at[0], 8), x)


def test_denoising_is_the_posterior_mean_at_the_noise_of_each_image():
    model, sd = ExactModel((0.0, 0.4), (0.5, 0.5)), torch.tensor([0.0, 0.2, 0.5])
    x = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    at_b = Condition(torch.zeros(3), *torch.tensor([[0] * 3, [1] * 3, [0] * 3]))
    out = denoise_at_site(model, x, at_b, sd)
    kept = (0.25 / (0.25 + sd**2))[:, None, None, None]
    torch.testing.assert_close(out, 0.4 + kept * (x - 0.4), atol=2e-3, rtol=0)
    assert torch.equal(out[0], x[0])
    brighter = x + 1
    excess = denoise_at_site(model, brighter, at_b, sd) - denoise_at_site(
        model, brighter.clamp(max=CEILING), at_b, sd
    )
    torch.testing.assert_close(excess, brighter - brighter.clamp(max=CEILING), atol=1e-5, rtol=0)


def test_nothing_changes_when_source_is_target():
    x = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(0)) * 1.2
    model = random_model()
    assert torch.equal(edit_to_site(model, x, condition(), condition(), 3), x)
    # One image of two: the other one still changes.
    out = edit_to_site(model, x, condition(), condition(site=(0, 0)), 3)
    assert torch.equal(out[0], x[0])
    assert (out[1] - x[1]).abs().max() > 1e-3


def test_nothing_changes_even_if_the_rows_of_a_batch_round_differently(monkeypatch):
    model = random_model()
    exact = model.networks.unet.forward

    def uneven(x_t, *codes):
        return exact(x_t, *codes) + 1e-3 * torch.arange(len(x_t))[:, None, None, None]

    monkeypatch.setattr(model.networks.unet, 'forward', uneven)
    x = torch.full((2, 1, 16, 16), 0.5)
    out = edit_to_site(model, x, condition(), condition(site=(0, 0)), 3)
    assert torch.equal(out[0], x[0])
    assert not torch.equal(out[1], x[1])


def test_networks_are_not_asked_where_the_codes_of_two_sites_are_the_same(monkeypatch):
    """Their answers would cancel, to the bit; the appearance of the sites still differs."""
    model = random_model()
    model.networks.condition.site.data[:] = model.networks.condition.site[:1].clone()
    model.appearance.curve[1] **= 1.5
    x = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(0)) * 1.2
    at = [condition((NAN, NAN), (-1, -1), (site, site)) for site in (0, 1)]
    sites, appearance = model.appearance, [model.appearance_of(one) for one in at]
    common = sites.to_common(x.clamp(0, CEILING), appearance[0])
    x_0, slices = sites.normalize(common, appearance[0]), BrainSlices.of(model, common, at[0], 2)
    assert (change_of_codes(model, x_0, slices, *at, 3, None) == 0).all()
    monkeypatch.setattr(model.networks.unet, 'forward', lambda *_: pytest.fail('was asked'))
    assert (edit_to_site(model, x, *at, 3) - x).abs().max() > 1e-3


def test_what_exceeds_the_ceiling_is_kept():
    x = torch.rand((1, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    x[..., 5] = CEILING
    brighter = x.clone()
    brighter[..., 5] = 1.7
    one = [condition((NAN,), (-1,), (s,)) for s in (0, 1)]
    model = random_model()
    change = [edit_to_site(model, v, *one, 3) - v for v in (x, brighter)]
    torch.testing.assert_close(change[0], change[1], atol=1e-6, rtol=0)


def network_inputs(model, monkeypatch, noise_sd):
    """What the network is given while an image of site 0 is rendered at site 1."""
    inputs, exact = [], model.networks.unet.forward

    def spy(x_t, t, *codes):
        inputs.append((x_t, t))
        return exact(x_t, t, *codes)

    monkeypatch.setattr(model.networks.unet, 'forward', spy)
    x = torch.full((1, 1, 16, 16), 0.5)
    one = [condition((NAN,), (-1,), (s,)) for s in (0, 1)]
    edit_to_site(model, x, *one, 4, noise_sd=torch.tensor([noise_sd]))
    return inputs


def test_editing_stays_where_the_networks_were_trained(monkeypatch):
    model = random_model(replace(CONFIG, noise_corrected=True))
    model.appearance.noise[:2] = torch.tensor([0.05, 0.1])
    levels = [
        noise_level(model.alpha_bar[t]).min().item()
        for _, t in network_inputs(model, monkeypatch, 0.05)
    ]
    assert min(levels) == pytest.approx(1.25 * 0.1 / model.appearance.deviation.item(), rel=0.05)


def test_the_noise_of_an_image_is_a_part_of_that_of_its_level(monkeypatch):
    model = random_model(replace(CONFIG, noise_corrected=True))
    model.appearance.noise[:2] = 0.1
    for own in (0.0, 0.1):
        x_t, t = network_inputs(model, monkeypatch, own)[-1]
        alpha_bar = model.alpha_bar[t[0]]
        added = (x_t[0] / alpha_bar.sqrt()).std().item()  # the image itself is flat
        level = noise_level(alpha_bar).item()
        expected = (level**2 - (own / model.appearance.deviation.item()) ** 2) ** 0.5
        assert added == pytest.approx(expected, rel=0.1)


def test_denoising_takes_the_site_for_unknown_where_the_networks_learned_to():
    x, sd = torch.rand((2, 1, 16, 16)), torch.tensor([0.1, 0.1])
    for dropout, alike in ((0.15, True), (0.0, False)):
        model = random_model(replace(CONFIG, condition_dropout=dropout))
        a, b = (denoise_at_site(model, x, condition(site=(s, s)), sd) for s in (0, 1))
        assert torch.equal(a, b) == alike
