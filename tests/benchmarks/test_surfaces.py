"""What the benchmark of maps says of memory."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from benchmarks.surfaces import measuring

MEGABYTES = 400
"""That are held while a command is measured."""


def test_the_peak_is_that_of_the_command():
    held_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with measuring() as measured:
        held = np.ones((MEGABYTES, 10**6 // 8))
        _, _, small = measured([sys.executable, '-c', 'pass'])
        _, _, large = measured([sys.executable, '-c', f'b"1" * {MEGABYTES * 10**6}'])
        assert held.all()
        with pytest.raises(SystemExit, match='ZeroDivisionError'):
            measured([sys.executable, '-c', '1 / 0'])
    assert small < held_before + MEGABYTES / 2e3
    assert large > 0.9 * MEGABYTES / 1e3
