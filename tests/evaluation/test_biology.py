"""Further columns that the user wants kept."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.errors import UsageError
from ddae_app.evaluation import estimates, probes
from ddae_app.evaluation.biology import Column, check_names


def test_texts_become_numbers_or_words():
    numbers = Column.of('score', [str(i) for i in range(70)] + [None, '2.5'])
    assert numbers.numeric and numbers.known.sum() == 71 and numbers.values[71] == 2.5
    codes = Column.of('group', ['0', '1'] * 40 + [None])
    assert not codes.numeric and codes.levels == ['0', '1'] and codes.known.sum() == 80
    assert set(codes.measures()) == {
        'biology_group', 'biology_group_d_csf', 'biology_group_d_grey', 'biology_group_d_white',
    }  # fmt: skip
    assert set(numbers.measures()) == {'biology_score'}


@pytest.mark.parametrize(
    ('name', 'texts', 'message'),
    [
        ('group', ['a', 'b'] * 5, 'known of 10 scans, 70 are needed'),
        ('group', ['a'] * 90, '1 different values'),
        ('group', [f'w{i}' for i in range(90)], '90 different values'),
    ],
)
def test_refusals(name, texts, message):
    with pytest.raises(UsageError, match=message):
        Column.of(name, texts)


@pytest.mark.parametrize(
    ('names', 'message'), [(['Age'], 'judged anyway'), (['a', 'b', 'a'], 'named twice')]
)
def test_names_that_need_no_asking_for(names, message):
    check_names(['group', 'score'])
    with pytest.raises(UsageError, match=message):
        check_names(names)


def test_effect_sizes_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    values, group = rng.normal(size=60), np.arange(60) % 3 == 0
    values[group] += 1
    one, rest = values[group], values[~group]
    pooled = np.sqrt((one.var() * len(one) + rest.var() * len(rest)) / 60)
    (found,) = estimates.cohens_d(values, group)(np.ones((1, 60)))
    assert found == pytest.approx((one.mean() - rest.mean()) / pooled)


def test_what_images_show_is_read_and_its_effect_is_measured():
    """Patients have wide ventricles; half of the people are of unknown group."""
    rng = np.random.default_rng(0)
    n = 160
    group = np.array(['control', 'patient', None, None] * (n // 4), dtype=object)
    images = rng.normal(0.5, 0.05, (n, 12, 12))
    images[:, 4:8, 4:8] -= 0.3 * (group == 'patient')[:, None, None]
    column = Column.of('group', group.tolist())
    learn, judge = np.arange(0, n // 2), np.arange(n // 2, n)
    own = probes.Components.of(images[learn])
    guess = np.full(n, None, dtype=object)
    guess[judge] = column.read(own, learn, images[judge])
    rows = judge[column.known[judge]]
    shares = {'csf': images[:, 4:8, 4:8].mean(axis=(1, 2)), 'grey': rng.normal(size=n),
              'white': rng.normal(size=n)}  # fmt: skip
    scores = column.scores(guess, shares, np.array(['A', 'B'] * (n // 2)))
    weights = np.zeros((1, n))
    weights[0, rows] = 1
    assert scores['biology_group'](weights)[0] > 0.9
    # Both sites hold one group only, so nothing is left of the effect within sites...
    assert abs(scores['biology_group_d_csf'](weights)[0]) < 1
    # ... which is there where both groups are at every site.
    mixed = column.scores(guess, shares, np.array(['A', 'A', 'B', 'B'] * (n // 4)))
    assert mixed['biology_group_d_csf'](weights)[0] < -3


def test_too_few_to_learn_from_are_not_read():
    texts = ['a', 'b'] * 35 + [None] * 30
    column = Column.of('group', texts)
    images = np.random.default_rng(0).normal(size=(100, 8, 8))
    learn = np.arange(50, 100)
    own = probes.Components.of(images[learn])
    assert column.read(own, learn, images[:20]) is None
