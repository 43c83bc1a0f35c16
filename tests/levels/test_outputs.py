"""What the pages of a run ask people to look at."""

from __future__ import annotations

import pytest

from ddae_app.levels.outputs import is_unusual


@pytest.mark.parametrize(
    ('name', 'value', 'unusual'),
    [
        ('registration_correlation', 0.5, False),
        ('registration_correlation', 0.35, True),
        ('target_distance_after', 0.065, False),
        ('target_distance_after', 0.08, True),
        ('ssim', 0.1, False),
    ],
)
def test_measures_outside_of_what_is_usual_are_flagged(name, value, unusual):
    assert is_unusual(name, {'target_distance_before': 0.06, name: value}) is unusual
