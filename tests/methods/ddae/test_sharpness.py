"""Softening, sharpening, and measuring how rough an image is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from ddae_app.methods.ddae.sharpness import roughness, soften


@pytest.fixture
def texture():
    rng = np.random.default_rng(0)
    smooth = gaussian_filter1d(gaussian_filter1d(rng.normal(size=(64, 64)), 2, 0), 2, 1)
    return torch.from_numpy(1 + smooth).float()[None, None]


def test_a_little_of_it_is_a_gaussian_blur_along_that_axis(texture):
    inner = np.s_[:, :, 8:-8, 8:-8]
    for axis, amount in ((2, [0.0, 0.125, 0.0]), (3, [0.0, 0.0, 0.125])):
        blurred = gaussian_filter1d(texture.numpy(), 0.5, axis, mode='nearest')
        softened = soften(texture, torch.tensor([amount])).numpy()
        change = np.abs(blurred - texture.numpy())[inner].max()
        assert np.abs(softened - blurred)[inner].max() < 0.2 * change


def test_sharpening_undoes_a_little_softening(texture):
    amount = torch.tensor([[0.0, 0.05, 0.08]])
    back = soften(soften(texture, amount), -amount)
    change = (soften(texture, amount) - texture).abs().max()
    assert (back - texture).abs().max() < 0.3 * change


def test_softening_lessens_roughness_along_its_axis_most(texture):
    everywhere = torch.ones_like(texture, dtype=torch.bool)
    before = roughness(texture, everywhere)
    down = roughness(soften(texture, torch.tensor([[0.0, 0.1, 0.0]])), everywhere) - before
    assert down[0, 1] < 2 * down[0, 2] < 0


def test_nothing_leaks_across_the_edge_of_the_brain():
    x = torch.zeros(1, 1, 8, 8)
    x[:, :, 2:6, 2:6] = 0.7
    assert torch.equal(soften(x, torch.tensor([[0.1, 0.1, -0.1]])), x)
    assert roughness(x, x > 0).tolist() == [[pytest.approx(np.log(1e-12))] * 3]


def test_no_pixels_make_no_nan(texture):
    assert roughness(texture, torch.zeros_like(texture, dtype=torch.bool)).isfinite().all()


def test_not_negative_and_the_brain_stays_where_it_is():
    x = torch.full((1, 1, 5, 5), 0.9)
    x[0, 0, 2, 2] = 0.001
    assert (soften(x, torch.tensor([[-0.15, -0.15, -0.15]])) >= 0).all()


def test_through_the_slices_as_within_them(texture):
    deep = texture.repeat(1, 5, 1, 1)
    amount = torch.tensor([[0.0, 0.1, -0.05]])
    across = deep.transpose(1, 2)
    expected = soften(across, amount[:, [1, 0, 2]]).transpose(1, 2)
    torch.testing.assert_close(soften(deep, amount), expected)
    everywhere = torch.ones_like(deep, dtype=torch.bool)
    within = roughness(deep, everywhere)
    assert within[0, 0] < -20 < within[0, 1]
    turned = roughness(across, everywhere.transpose(1, 2))
    torch.testing.assert_close(turned, within[:, [1, 0, 2]])
