"""Tissue shares and stripes of volumes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.anatomy import stripe_index, tissue_shares

SHAPE = (30, 32, 28)


@pytest.fixture
def brain():
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    return x**2 + y**2 + z**2 < 0.9


def test_shares_are_those_of_the_three_intensities(brain):
    rng = np.random.default_rng(0)
    tissue = rng.choice(3, SHAPE, p=(0.2, 0.5, 0.3))
    scan = np.where(brain, np.array([0.25, 0.6, 0.95])[tissue], 0)
    shares = tissue_shares(scan + np.where(brain, rng.normal(0, 0.03, SHAPE), 0))
    expected = np.bincount(tissue[brain]) / brain.sum()
    assert list(shares.values()) == pytest.approx(expected, abs=2e-3)


def test_a_bright_vessel_makes_no_class(brain):
    rng = np.random.default_rng(0)
    scan = np.where(brain, np.array([0.25, 0.6, 0.95])[rng.choice(3, SHAPE)], 0)
    with_vessel = scan.copy()
    with_vessel[15, 14:18, 13:15] = 9
    assert tissue_shares(with_vessel)['white'] == pytest.approx(
        tissue_shares(scan)['white'], abs=2e-3
    )


def test_no_classes_no_shares():
    assert set(tissue_shares(np.zeros(SHAPE)).values()) == {0.0}


def test_stripes_are_told_from_what_has_no_direction(brain):
    rng = np.random.default_rng(0)
    even = gaussian_filter(rng.normal(size=SHAPE), 1.5)
    assert stripe_index(even, brain, (1, 1, 1)) == pytest.approx(1, abs=0.15)
    stripes = rng.normal(size=SHAPE[0])[:, None, None] * 0.5 * even.std()
    assert stripe_index(even + stripes, brain, (1, 1, 1)) > 2
    # Thicker slices are as rough if they differ as much per millimetre.
    assert stripe_index(even, brain, (2, 1, 1)) == pytest.approx(
        stripe_index(even, brain, (1, 1, 1)) / 4
    )
    assert np.isnan(stripe_index(np.zeros(SHAPE), brain, (1, 1, 1)))
