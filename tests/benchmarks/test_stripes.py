"""The stripe index of differences whose direction is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.stripes import stripe_index

SHAPE = (30, 32, 28)


@pytest.fixture
def brain():
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    return x**2 + y**2 + z**2 < 0.9


def test_stripes_raise_the_index(brain):
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
