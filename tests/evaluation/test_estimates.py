"""Intervals of measures."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.evaluation import estimates


def test_a_second_scan_that_says_the_same_does_not_narrow_the_interval():
    """Be it of the same site or of another one: people are drawn, and not scans."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    people = np.array([f'p{i:02}' for i in range(40)])

    def width(sites):
        once = len(sites) // len(people)
        score = estimates.mean(np.tile(values, once))
        rows = np.arange(len(sites))
        found = estimates.bootstrap_estimate(score, rows, np.tile(people, once), sites)
        assert found.low < values.mean() < found.high and found.n == len(sites)
        return found.high - found.low

    alone = width(np.full(40, 'A'))
    assert width(np.full(80, 'A')) == pytest.approx(alone, rel=0.1)
    assert width(np.repeat(['A', 'B'], 40)) == pytest.approx(alone, rel=0.1)


def test_people_are_drawn_within_their_sites():
    """The sites keep their numbers of people, so that what differs between them does not count."""
    sites = np.repeat(['A', 'B'], (5, 20))
    people = np.array([f'p{i}' for i in range(25)])
    score = estimates.mean((sites == 'A').astype(float))
    found = estimates.bootstrap_estimate(score, np.arange(25), people, sites)
    assert found.low == found.value == found.high == pytest.approx(0.2)
