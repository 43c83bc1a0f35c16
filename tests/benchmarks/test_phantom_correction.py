from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.phantom_correction import measure_correction
from ddae_app.imaging.grid import model_grid
from ddae_app.phantom.anatomy import BRAIN_CENTER_MM
from ddae_app.phantom.scanner import draw_scanner
from ddae_app.settings import Protocol

PROTOCOL = Protocol(template='MNI152NLin2009aSym', grid=(48, 48, 48), slice_shape=(48, 48))
GRID = model_grid(PROTOCOL.template, PROTOCOL.grid)
POINTS = GRID.points((slice(None), slice(None), 24))


@pytest.fixture(scope='module')
def scanner():
    """Whose field is steep from left to right."""
    return replace(
        draw_scanner('PhantomA'), voxel_mm=(3.0, 3.0, 3.0), bias=(0.5, *[0.0] * 8), noise=0.01
    )


def measured(scanner, strength):
    return measure_correction(scanner, 2, GRID, PROTOCOL, POINTS, bias_strength=strength)


def test_little_of_the_field_is_left(scanner):
    correction = measured(scanner, 0.0)
    assert correction.field.shape == POINTS.shape[:2]
    assert np.isfinite(correction.field).all()
    brain = np.linalg.norm((POINTS - np.array(BRAIN_CENTER_MM))[..., :2], axis=-1) < 45
    left, true = np.log(correction.field[brain]), np.log(scanner.bias_field(POINTS)[brain])
    assert 0 < left.std() < 0.6 * true.std()
    assert 0.95 < correction.gain < 1.1


def test_what_slices_are_left_with_is_not_counted_twice(scanner):
    """Left is, in all, what it is, however much of the field every slice has already."""
    none, all_of_it = measured(scanner, 0.0), measured(scanner, 1.0)
    brain = np.linalg.norm((POINTS - np.array(BRAIN_CENTER_MM))[..., :2], axis=-1) < 30
    true = np.log(scanner.bias_field(POINTS))[brain]
    apart = np.log(none.field / all_of_it.field)[brain]
    # Heads are smaller than the template, and what is left is smoothed.
    assert np.polyfit(true, apart, 1)[0] == pytest.approx(0.85, abs=0.15)
    assert none.gain == all_of_it.gain
