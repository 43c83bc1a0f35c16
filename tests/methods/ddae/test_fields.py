"""Smooth fields, known at knots."""

from __future__ import annotations

import torch

from ddae_app.methods.ddae.fields import from_knots, knot_shape, to_knots

SHAPE = (21, 17, 33)


def field():
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing='ij')
    return torch.stack([z + 2 * y - x, 1 + 0 * x])


def test_linear_fields_come_back_exactly():
    knots = to_knots(field())
    assert knots.shape == (2, *knot_shape(SHAPE)) == (2, 6, 5, 9)
    back = from_knots(knots, torch.zeros(2, dtype=torch.int64), 21, SHAPE)
    torch.testing.assert_close(back, field())


def test_some_slices_are_those_of_the_whole():
    knots = to_knots(field().sin())
    whole = from_knots(knots, torch.zeros(2, dtype=torch.int64), 21, SHAPE)
    some = from_knots(knots, torch.tensor([4, 18]), 3, SHAPE)
    torch.testing.assert_close(some[0], whole[0, 4:7])
    torch.testing.assert_close(some[1], whole[1, 18:])


def test_a_single_slice_has_one_layer_of_knots():
    shape = (1, 17, 17)
    knots = to_knots(torch.rand(3, *shape))
    assert knots.shape == (3, 1, 5, 5)
    back = from_knots(knots, torch.zeros(3, dtype=torch.int64), 1, shape)
    torch.testing.assert_close(to_knots(back), knots)
