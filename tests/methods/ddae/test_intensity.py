"""Contrast curves, depth below the edge of the brain, and quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddae_app.methods.ddae.intensity import (
    edge_depth,
    edge_means,
    map_intensities,
    rising,
    tissue_quantiles,
)


def test_intensities_follow_the_curve_and_go_on_above_it():
    given, wanted = torch.tensor([[0.0, 0.5, 1.0]] * 2), torch.tensor([[0.0, 0.2, 0.8]] * 2)
    x = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.2]).reshape(1, 1, 2, 3).repeat(2, 1, 1, 1)
    y = map_intensities(x, given, wanted)
    assert y[1].flatten().tolist() == pytest.approx([0, 0.1, 0.2, 0.5, 0.8, 1.0])
    torch.testing.assert_close(map_intensities(y, wanted, given), x)


def test_quantiles_of_an_image_without_brain_are_zero():
    assert not tissue_quantiles(np.zeros((1, 1, 16, 16), np.float32), 33).any()


def test_quantiles_do_not_depend_on_how_much_background_there_is():
    rng = np.random.default_rng(0)
    brain = rng.uniform(0.1, 1, (2, 5, 9, 8)).astype(np.float32)
    brain[:, 2, 3:5, 4] = 0  # a hole
    near = np.pad(brain, ((0, 0), (3, 3), (3, 3), (3, 3)))
    far = np.pad(brain, ((0, 0), (8, 4), (20, 3), (5, 17)))
    assert np.array_equal(tissue_quantiles(near, 33), tissue_quantiles(far, 33))
    assert not np.array_equal(tissue_quantiles(brain, 33), tissue_quantiles(far, 33))


def test_knots_of_a_curve_rise_strictly_from_zero():
    knots = rising(np.array([-0.1, 0.2, 0.2, 0.1, 0.5]))
    assert knots[0] == 0 and (np.diff(knots) > 0).all()
    assert knots[3] == pytest.approx(0.2, abs=1e-3)


def test_depth_below_the_edge():
    x = torch.zeros(2, 1, 12, 12)
    x[0, 0, :11, 1:] = 0.5  # the border of the image is outside
    depth = edge_depth(x)
    assert not depth[1].any()
    assert depth[0, 0, 5].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 4, 3, 2, 1]
    assert depth[0, 0, :, 6].tolist() == [1, 2, 3, 4, 5, 5, 5, 4, 3, 2, 1, 0]


def test_a_brain_too_small_for_a_depth_has_the_mean_of_the_next_one_up():
    images = np.zeros((2, 1, 8, 8), np.float32)
    images[0, 0, 2:5, 2:5] = 0.5
    images[0, 0, 3, 3] = 0.9
    means = edge_means(images)
    np.testing.assert_allclose(means, [[0.5, 0.9, 0.9, 0.9], [0, 0, 0, 0]], rtol=1e-6)
