"""A measure that is known of few scans is helped by one that is known of all."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.methods.double_sampling import effects_by_value

from .test_site_effects import measured, population


def test_a_value_that_differs_much_between_people_does_not_hide_the_others():
    data, rows = population(30, older=20.0), np.arange(60)
    values = measured(data, effect=0.2, noise=0.05)
    values[:, 0] += np.random.default_rng(2).normal(0, 20, len(data))
    effects = effects_by_value(data, rows, values, rows, values)
    difference = effects[1] - effects[0]
    assert difference[1:] == pytest.approx([0.2] * 4, abs=0.06)
    by_chance = measured(data, effect=0.0, noise=0.5)
    shrunk = effects_by_value(data, rows, by_chance, rows, by_chance)
    raw = by_chance[30:].mean(axis=0) - by_chance[:30].mean(axis=0)
    assert np.abs(shrunk[1] - shrunk[0]).mean() < np.abs(raw).mean()


def few_of_many(effect, seed):
    """Six of 60 scans a site are measured; the related measure differs as much between people."""
    data, rng = population(60), np.random.default_rng(seed)
    every_row = np.arange(120)
    rows = every_row[::10]
    person = rng.normal(0, 0.3, (120, 5))
    at_b = (np.array(data.sites) == 'B')[:, None]
    related = 3 + person + 0.1 * at_b + rng.normal(0, 0.02, person.shape)
    values = 1 + 0.5 * person + effect * at_b + rng.normal(0, 0.01, person.shape)
    return data, rows, values[rows], every_row, related


def test_few_scans_say_as_much_as_all_of_a_measure_that_follows_from_a_known_one():
    errors, alone = [], []
    for seed in range(20):
        data, rows, values, *related = few_of_many(0.2, seed)
        helped = effects_by_value(data, rows, values, *related)
        by_itself = effects_by_value(data, rows, values, rows, values)
        errors.append(helped[1] - helped[0] - 0.2)
        alone.append(by_itself[1] - by_itself[0] - 0.2)
    assert np.sqrt(np.mean(np.square(errors))) < np.sqrt(np.mean(np.square(alone))) / 2.2


def test_what_chance_makes_is_still_left_out():
    sizes = []
    for seed in range(20):
        effects = effects_by_value(*few_of_many(0.0, seed))
        sizes.append(np.abs(effects[1] - effects[0]).mean())
    # Half of the spread of people, over the root of 60 people at each of two sites: what chance
    # makes of all scans. Not shrunk, the effects would be 0.8 of it.
    assert np.mean(sizes) < 0.5 * 0.3 * np.sqrt(2 / 60) / 2


def test_a_measure_of_all_scans_needs_no_help():
    data, _, _, every_row, related = few_of_many(0.2, 0)
    values = np.random.default_rng(3).normal(0, 1, related.shape)
    helped = effects_by_value(data, every_row, values, every_row, related)
    alone = effects_by_value(data, every_row, values, every_row, values)
    assert helped == pytest.approx(alone, abs=1e-9)


def test_a_related_measure_without_differences_says_nothing():
    data, rows, values, every_row, related = few_of_many(0.2, 0)
    same = effects_by_value(data, rows, values, every_row, np.ones_like(related))
    assert same == pytest.approx(effects_by_value(data, rows, values, rows, values), abs=1e-9)
