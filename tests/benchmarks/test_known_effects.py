"""Known atrophy, agreement of scanners and the test of a group, on which benchmarks rest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

from benchmarks import known_atrophy, power, reliability
from benchmarks.atrophy import ORDERS, PERCENT, change, changes, line
from benchmarks.phantoms import SEEN


@pytest.fixture(scope='module')
def brain() -> np.ndarray:
    """Layers of CSF, gray and white matter, with ventricles in the middle; (D, H, W)."""
    points = np.moveaxis(known_atrophy._points(), 2, 0)
    x, y, z = (points[..., i] for i in range(3))
    out = np.sqrt((x / 68) ** 2 + ((y + 18) / 84) ** 2 + ((z - 12) / 62) ** 2)
    middle = np.hypot((np.abs(x) - 14) / 8, (y + 8) / 30) ** 2 + ((z - 15) / 9) ** 2 < 1
    image = np.select([out > 0.96, out > 0.86], [0.25, 0.7], 1.0)
    image = gaussian_filter(np.where(middle, 0.25, image).astype(np.float32), 0.5)
    return np.where(out < 1, image, 0).astype(np.float32)


@pytest.fixture(scope='module')
def structures(brain) -> dict[str, known_atrophy.Structure]:
    return {name: known_atrophy.find(brain, name) for name in known_atrophy.STRUCTURES}


@pytest.mark.parametrize('percent', [-10.0, -1.0, 5.0])
@pytest.mark.parametrize('name', known_atrophy.STRUCTURES)
def test_a_structure_has_the_volume_that_was_asked_for(brain, structures, name, percent):
    structure = structures[name]
    inside = structure.inside.astype(np.float32)
    reach = known_atrophy._reach(structure, percent, brain > 0)
    moved = known_atrophy._pulled(inside, reach * structure.outward, 1)[brain > 0].sum()
    assert 100 * (moved / inside.sum() - 1) == pytest.approx(percent, abs=0.05)
    assert np.abs(reach * structure.outward).max() < 1  # a smooth change, of less than a voxel


def test_the_image_changes_at_the_structure_alone_and_in_the_right_direction(brain, structures):
    larger = known_atrophy.resized(brain, {'ventricles': 10})
    near = np.abs(structures['ventricles'].outward).max(axis=0) > 1e-3
    np.testing.assert_array_equal(larger > 0, brain > 0)
    np.testing.assert_allclose(larger[~near], brain[~near], atol=2e-3)
    inside = structures['ventricles'].inside
    gained = (brain - larger)[near].sum() / (0.75 * inside.sum())  # 0.75 darker than white matter
    assert 0.07 < gained < 0.13
    thinner = known_atrophy.resized(brain, {'cortex': -10}, structures)
    gray = [np.sum((image > 0.47) & (image < 0.85)) for image in (brain, thinner)]
    assert 0.84 < gray[1] / gray[0] < 0.96
    assert known_atrophy.resized(brain, {}) == pytest.approx(brain, abs=1e-4)


def test_each_structure_takes_each_change_once():
    for name in ORDERS:
        taken = [changes(visit)[name] for visit in range(1, len(PERCENT) + 1)]
        assert sorted(taken) == sorted(PERCENT)
    assert changes(0) == {}


def test_agreement_is_that_of_the_published_example():
    # Shrout and Fleiss (1979), doi:10.1037/0033-2909.86.2.420: ICC(2,1) = .29.
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9],
                        [6, 2, 4, 7]], float)  # fmt: skip
    icc, cv = reliability.agreement(ratings)
    assert icc == pytest.approx(0.29, abs=0.005)
    assert cv == pytest.approx(np.sqrt(ratings.var(axis=1, ddof=1).mean()) / ratings.mean())
    assert reliability.agreement(np.repeat(ratings[:, :1], 3, axis=1)) == pytest.approx((1, 0))


def test_the_effect_of_the_group_is_that_of_a_t_test_where_nothing_else_is_known():
    rng = np.random.default_rng(0)
    group = np.repeat([1.0, 0.0], 15)
    values = rng.normal(size=30) + group
    effect, p = power.group_effect(np.column_stack([group, np.ones(30)]), values)
    expected = stats.ttest_ind(values[:15], values[15:])
    assert (effect, p) == pytest.approx(
        (values[:15].mean() - values[15:].mean(), expected.pvalue), rel=1e-6
    )


def test_a_study_has_as_many_people_at_each_site_and_more_patients_at_some():
    people = np.array([f'p{i}' for i in range(63)])
    study = power.study(people, power.PATIENTS, 60, np.random.default_rng(0))
    assert (study.groupby('site').size() == 60).all() and set(study.person) <= set(people)
    shares = study.groupby('site').patient.mean().reindex(SEEN)
    assert shares.is_monotonic_increasing and shares.iloc[0] < 0.2 and shares.iloc[-1] > 0.8


def features(site_effect: float) -> pd.DataFrame:
    """Gray matter of 63 people at each site, with and without a loss of 3 %."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(63):
        gray, age = rng.normal(0.4, 0.01), rng.uniform(20, 80)
        for number, site in enumerate(SEEN):
            for ill in (0, 1):
                value = gray * (1 - 0.03 * ill) + site_effect * number + rng.normal(0, 0.002)
                rows.append((f'p{i}', age, 'MF'[i % 2], site, ill, value))
    return pd.DataFrame(rows, columns=['person', 'age', 'sex', 'site', 'ill', 'gray'])


def test_scanners_make_false_alarms_that_the_covariate_prevents():
    rng = np.random.default_rng(2)
    table = features(site_effect=0.004).set_index(['person', 'site', 'ill']).sort_index()
    people = np.array([f'p{i}' for i in range(63)])
    studies = [power.study(people, power.PATIENTS, 9, rng) for _ in range(60)]

    def share(world, analysis):
        found = [power.result(table, each, world, analysis)[1] < 0.05 for each in studies]
        return np.mean(found)

    assert share('without', 'plain') > 0.5
    assert share('without', 'site') < 0.15
    assert share('with effect', 'site') > 0.5


def test_the_change_of_a_person_is_compared_with_the_same_change_in_the_truth():
    sites = ['S0', 'S1', 'S0', 'S0']
    truth = pd.DataFrame(
        {'person': 'a', 'site': sites, 'visit': [0, 0, 1, 2], 'CSF': [100.0, 100.0, 110.0, 90.0]}
    )
    seen = truth.assign(CSF=[50.0, 80.0, 60.0, 40.0])
    np.testing.assert_allclose(change(seen, truth, 'CSF', 'a', False), [[10, -10], [20, -20]])
    np.testing.assert_allclose(change(seen, truth, 'CSF', 'a', True), [[10, -10], [-25, -50]])
    assert line([np.array([[10.0, -10.0], [20.0, -20.0]])]) == pytest.approx((2, 0))
