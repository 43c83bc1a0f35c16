"""People at three simulated sites, one of whom lacks a value."""

from __future__ import annotations

import numpy as np
import pytest

from tests.features.simulated import labels_of, truth_of, with_sites


@pytest.fixture(scope='module')
def labels():
    return labels_of(24)


@pytest.fixture(scope='module')
def values(labels):
    values = with_sites(truth_of(labels), labels)
    values[3, 2] = np.nan
    return values
