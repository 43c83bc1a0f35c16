"""People at three simulated sites, one of whom lacks a value, and trainings that are short."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from ddae_app.features import ddae
from tests.features.simulated import labels_of, truth_of, with_sites

SEEN = 96
"""Rows that a training of a DDAE shows, instead of thousands."""


@pytest.fixture(scope='module')
def short_training():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddae, 'train_feature_ddae', partial(ddae.train_feature_ddae, seen=SEEN))
        yield


@pytest.fixture(scope='module')
def labels():
    return labels_of(24)


@pytest.fixture(scope='module')
def values(labels):
    values = with_sites(truth_of(labels), labels)
    values[3, 2] = np.nan
    return values
