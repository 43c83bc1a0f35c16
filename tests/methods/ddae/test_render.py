"""From a slice to the whole rendering, and what is evened at its end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddae_app.methods.ddae.appearance import RENDERED_KNOTS
from ddae_app.methods.ddae.render import render

from .toy import CONFIG, condition, random_model


@pytest.fixture
def model():
    model = random_model()
    # The second site's renderings come out a tenth too bright.
    even = torch.linspace(0, 1, RENDERED_KNOTS)
    model.rendered.copy_(torch.stack([even, 1.1 * even, even]))
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


def test_what_rendering_leaves_of_the_contrast_is_evened(model, x):
    uneven = random_model()
    there = at([0, 0, 0])
    plain = render(uneven, x, at([1, 0, 1]), there)
    evened = render(model, x, at([1, 0, 1]), there)
    inside = (x > 0) & (plain < 1)
    inside[1] = False
    assert inside.sum() > 50
    torch.testing.assert_close(evened[inside], plain[inside] / 1.1)
    torch.testing.assert_close(evened[1], plain[1], rtol=0, atol=0)


def test_how_far_people_differ_becomes_what_it_is_at_the_target(x):
    model = random_model()
    model.spread[1, 0, :3] = 1.25  # five knots, to the eighth row
    plain = render(random_model(), x, at([1, 0, 1]), at([0] * 3))
    evened = render(model, x, at([1, 0, 1]), at([0] * 3))
    average = model.average
    torch.testing.assert_close(
        evened[::2, :, 3:7, 3:13], (average + (plain - average) / 1.25)[::2, :, 3:7, 3:13]
    )
    torch.testing.assert_close(evened[:, :, 12:], plain[:, :, 12:])
    assert torch.equal(evened[1], plain[1]) and ((evened > 0) == (plain > 0)).all()


def test_nothing_but_noise_is_taken_from_the_site_that_is_the_target(model, x):
    kept = render(model, x, at([1, 1, 1]), at([1, 1, 1]), keep_noise=True)
    assert torch.equal(kept, x)


def test_an_unknown_site_is_known_to_come_out_like_the_rest(model, x):
    known = render(model, x, at([-1] * 3), at([0] * 3))
    assert (known[x == 0] == 0).all() and (known >= 0).all()
    assert torch.equal(known, render(random_model(), x, at([-1] * 3), at([0] * 3)))


def test_a_scan_is_rid_of_its_own_shading_at_the_target_too(model, x):
    model.white.fill_(0.5)
    model.white_level.fill_(0.1)
    model.rendered.copy_(model.rendered[:1].clone())
    shading = 1 + torch.linspace(-0.1, 0.1, 16)
    plain = render(random_model(), x, at([0] * 3), at([0] * 3))
    evened = render(model, x, at([0] * 3), at([0] * 3))
    assert not torch.equal(evened, plain)
    assert ((evened > 0) == (plain > 0)).all()
    kept = render(model, x * shading, at([0] * 3), at([0] * 3), keep_noise=True)
    assert torch.equal(kept, x * shading)


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
    # One of them, told where it lies; its noise is that of the scan.
    there = replace(at([1, 0]), position=torch.tensor([3, 3]))
    target = replace(at([0, 0]), position=torch.tensor([3, 3]))
    alone = render(model, scans[:, 3:4], there, target, keep_noise=True)
    torch.testing.assert_close(alone, whole[:, 3:4], rtol=0, atol=0.02)
    assert torch.equal(whole[1], scans[1])


def test_where_a_slice_lies_matters(scans):
    model = random_model(DEEP)
    slices = scans[:1, 3:4]
    found = [
        render(
            model,
            slices,
            *(replace(at([site]), position=torch.tensor([position])) for site in (1, 0)),
        )
        for position in (0, 3)
    ]
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_what_is_left_is_evened_over_the_whole_scan(scans):
    plain = render(random_model(DEEP), scans, at([1, 0]), at([0, 0]))
    softer = random_model(DEEP)
    softer.softness[1, 0] = 0.1  # the second site is softer through its slices
    found = render(softer, scans, at([1, 0]), at([0, 0]))
    assert torch.equal(found[1], plain[1])
    rough = [(y[0, 1:].diff(dim=0) ** 2)[:, 4:12, 4:12].mean() for y in (plain, found)]
    assert rough[1] > 1.1 * rough[0]
