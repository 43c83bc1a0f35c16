"""Further biological variables that should be preserved."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.errors import UsageError
from ddae_app.evaluation import estimates
from ddae_app.evaluation.biology import BiologicalVariable, check_names
from ddae_app.evaluation.probes import Components


def test_texts_become_numbers_or_categories():
    numbers = BiologicalVariable.from_texts('score', [str(i) for i in range(70)] + [None, '2.5'])
    assert numbers.numeric and numbers.known.sum() == 71 and numbers.values[71] == 2.5
    codes = BiologicalVariable.from_texts('group', ['0', '1'] * 40 + [None])
    assert not codes.numeric and codes.levels == ['0', '1'] and codes.known.sum() == 80
    assert set(codes.measures()) == {
        'biology_group', 'biology_group_d_csf', 'biology_group_d_gray', 'biology_group_d_white',
    }  # fmt: skip
    assert set(numbers.measures()) == {'biology_score'}


@pytest.mark.parametrize(
    ('name', 'texts', 'message'),
    [
        ('group', ['a', 'b'] * 5, 'known for 10 scans, and 70 are needed'),
        ('group', ['a'] * 90, '1 different values'),
        ('group', [f'w{i}' for i in range(90)], '90 different values'),
    ],
)
def test_a_variable_needs_known_values_of_few_levels(name, texts, message):
    with pytest.raises(UsageError, match=message):
        BiologicalVariable.from_texts(name, texts)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['Age'], 'always evaluated'),
        (['a', 'b', 'a'], 'named twice'),
        (['subject'], 'copy the column under another name'),
    ],
)
def test_columns_that_are_evaluated_anyway_or_named_twice_are_refused(names, message):
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


def test_a_group_that_images_show_is_predicted_and_its_effect_is_measured():
    """Patients have wide ventricles; the group of half of the subjects is unknown."""
    rng = np.random.default_rng(0)
    n = 160
    group = np.array(['control', 'patient', None, None] * (n // 4), dtype=object)
    images = rng.normal(0.5, 0.05, (n, 12, 12))
    images[:, 4:8, 4:8] -= 0.3 * (group == 'patient')[:, None, None]
    group_of = BiologicalVariable.from_texts('group', group.tolist())
    train, test = np.arange(0, n // 2), np.arange(n // 2, n)
    components = Components.fit(images[train])
    predicted = np.full(n, None, dtype=object)
    predicted[test] = group_of.predict(components, train, images[test])
    rows = test[group_of.known[test]]
    fractions = {'csf': images[:, 4:8, 4:8].mean(axis=(1, 2)), 'gray': rng.normal(size=n),
              'white': rng.normal(size=n)}  # fmt: skip
    scores = group_of.scores(predicted, fractions, np.array(['A', 'B'] * (n // 2)))
    weights = np.zeros((1, n))
    weights[0, rows] = 1
    assert scores['biology_group'](weights)[0] > 0.9
    # Both sites hold one group only, so nothing is left of the effect within sites...
    assert abs(scores['biology_group_d_csf'](weights)[0]) < 1
    # ... which is there where both groups are at every site.
    mixed = group_of.scores(predicted, fractions, np.array(['A', 'A', 'B', 'B'] * (n // 4)))
    assert mixed['biology_group_d_csf'](weights)[0] < -3


def test_nothing_is_predicted_from_too_few_training_scans():
    texts = ['a', 'b'] * 35 + [None] * 30
    variable = BiologicalVariable.from_texts('group', texts)
    images = np.random.default_rng(0).normal(size=(100, 8, 8))
    train = np.arange(50, 100)
    components = Components.fit(images[train])
    assert variable.predict(components, train, images[:20]) is None
