"""From a slice to the whole rendering, and the residual correction at its end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.residuals import KNOTS

from ..toy import CONFIG, condition, random_model


@pytest.fixture
def model():
    model = random_model()
    # Scans of the second site come out of rendering a tenth too bright.
    even = torch.linspace(0, 1, KNOTS)
    model.residuals.rendered.copy_(torch.stack([even, 1.1 * even, even]))
    return model


def at(sites):
    n = len(sites)
    return condition((float('nan'),) * n, (-1,) * n, tuple(sites))


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(3, 1, 16, 16)
    x[:, :, 3:13, 3:13] = 0.3 + 0.5 * torch.rand((3, 1, 10, 10), generator=generator)
    return x


def test_residual_contrast_is_corrected(model, x):
    uncorrected = random_model()
    there = at([0, 0, 0])
    plain = render(uncorrected, x, at([1, 0, 1]), there)
    corrected = render(model, x, at([1, 0, 1]), there)
    inside = (x > 0) & (plain < 1)
    inside[1] = False
    assert inside.sum() > 50
    torch.testing.assert_close(corrected[inside], plain[inside] / 1.1)
    torch.testing.assert_close(corrected[1], plain[1], rtol=0, atol=0)


def test_contrast_is_corrected_around_the_average_of_all_sites(model, x):
    uncorrected = random_model()
    for each in (model, uncorrected):  # the scans of the target are .1 brighter everywhere
        each.appearance.effect[0] = 0.1
    plain = render(uncorrected, x, at([1] * 3), at([0] * 3))
    corrected = render(model, x, at([1] * 3), at([0] * 3))
    inside = (plain > 0.2) & (plain < 1)
    assert inside.sum() > 50
    torch.testing.assert_close(corrected[inside], 0.1 + (plain[inside] - 0.1) / 1.1)


def test_the_spread_of_subjects_becomes_that_of_the_target(x):
    model = random_model()
    model.residuals.spread[1, 0, :3] = 1.25  # five knots, to the eighth row
    plain = render(random_model(), x, at([1, 0, 1]), at([0] * 3))
    corrected = render(model, x, at([1, 0, 1]), at([0] * 3))
    average = model.appearance.average
    torch.testing.assert_close(
        corrected[::2, :, 3:7, 3:13], (average + (plain - average) / 1.25)[::2, :, 3:7, 3:13]
    )
    torch.testing.assert_close(corrected[:, :, 12:], plain[:, :, 12:])
    assert torch.equal(corrected[1], plain[1]) and ((corrected > 0) == (plain > 0)).all()


def test_nothing_but_noise_is_removed_at_the_target_site(model, x):
    kept = render(model, x, at([1, 1, 1]), at([1, 1, 1]), keep_noise=True)
    assert torch.equal(kept, x)


def test_an_unknown_site_has_no_residual_effects(model, x):
    out = render(model, x, at([-1] * 3), at([0] * 3))
    assert (out[x == 0] == 0).all() and (out >= 0).all()
    assert torch.equal(out, render(random_model(), x, at([-1] * 3), at([0] * 3)))


def test_the_shading_of_a_scan_is_removed_at_the_target_site_too(model, x):
    model.residuals.white.fill_(0.5)
    model.residuals.white_level.fill_(0.1)
    model.residuals.rendered.copy_(model.residuals.rendered[:1].clone())
    shading = 1 + torch.linspace(-0.1, 0.1, 16)
    plain = render(random_model(), x, at([0] * 3), at([0] * 3))
    corrected = render(model, x, at([0] * 3), at([0] * 3))
    assert not torch.equal(corrected, plain)
    assert ((corrected > 0) == (plain > 0)).all()
    kept = render(model, x * shading, at([0] * 3), at([0] * 3), keep_noise=True)
    assert torch.equal(kept, x * shading)


def test_a_spike_stays_and_moves_no_more_than_the_brightest_tissue_would(model, x):
    model.residuals.white.fill_(0.5)
    model.residuals.white_level.fill_(0.1)
    model.residuals.softness[1] = 0.1
    bright, spiked = x.clone(), x.clone()
    bright[:, :, 4, 4], spiked[:, :, 4, 4] = CEILING, 20
    of_bright, of_spiked = (render(model, v, at([1, 0, 1]), at([0] * 3)) for v in (bright, spiked))
    excess = of_spiked - of_bright
    torch.testing.assert_close(
        excess[:, 0, 4, 4], torch.full((3,), 20 - CEILING), atol=0.3, rtol=0
    )
    excess[:, :, 4, 4] = 0
    assert excess.abs().max() < 0.05


DEEP = replace(CONFIG, depth=6)


@pytest.fixture
def scans():
    """Six slices each, of which the first shows no brain."""
    generator = torch.Generator().manual_seed(0)
    scans = torch.zeros(2, 6, 16, 16)
    scans[:, 1:, 3:13, 3:13] = 0.3 + 0.5 * torch.rand((2, 5, 10, 10), generator=generator)
    return scans


def test_slices_are_rendered_as_if_each_came_alone(scans):
    model = random_model(DEEP)
    whole = render(model, scans, at([1, 0]), at([0, 0]), keep_noise=True, batch_size=4)
    assert not whole[:, 0].any() and ((whole > 0) == (scans > 0)).all()
    # One of them, given its position; its noise is that of the scan.
    there = replace(at([1, 0]), position=torch.tensor([3, 3]))
    target = replace(at([0, 0]), position=torch.tensor([3, 3]))
    alone = render(model, scans[:, 3:4], there, target, keep_noise=True)
    torch.testing.assert_close(alone, whole[:, 3:4], rtol=0, atol=0.02)
    assert torch.equal(whole[1], scans[1])


def test_the_position_of_a_slice_matters(scans):
    model = random_model(DEEP)
    slices = scans[:1, 3:4]
    rendered = [
        render(
            model,
            slices,
            *(replace(at([site]), position=torch.tensor([position])) for site in (1, 0)),
        )
        for position in (0, 3)
    ]
    assert (rendered[0] - rendered[1]).abs().max() > 1e-3


def test_residual_softness_is_corrected_through_the_slices_too(scans):
    plain = render(random_model(DEEP), scans, at([1, 0]), at([0, 0]))
    softer = random_model(DEEP)
    softer.residuals.softness[1, 0] = 0.1  # the second site is softer through its slices
    sharper = render(softer, scans, at([1, 0]), at([0, 0]))
    assert torch.equal(sharper[1], plain[1])
    rough = [(y[0, 1:].diff(dim=0) ** 2)[:, 4:12, 4:12].mean() for y in (plain, sharper)]
    assert rough[1] > 1.1 * rough[0]
