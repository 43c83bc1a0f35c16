from __future__ import annotations

import numpy as np
import pytest

from ddae_app.phantom.anatomy import Anatomy, draw_anatomy
from ddae_app.phantom.atrophy import MAX_LOSS_PERCENT, atrophied, tissue_volumes


def subject(age: float, seed: int = 0) -> Anatomy:
    return draw_anatomy(age, 'F', np.random.default_rng(seed))


@pytest.mark.parametrize('age', [20, 85])
def test_gray_matter_loses_what_was_asked_for_to_csf(age):
    before = subject(age)
    after = atrophied(before, 4)
    first, second = tissue_volumes(before), tissue_volumes(after)
    assert second['gm'] == pytest.approx(0.96 * first['gm'], rel=1e-4)
    assert 0.96 * first['wm'] < second['wm'] < first['wm']
    assert second['csf'] > first['csf']
    assert sum(second.values()) == pytest.approx(sum(first.values()), rel=0.01)


def test_ventricles_widen_and_the_cortex_becomes_thinner(whole_brain):
    before, after = subject(50), atrophied(subject(50), 5)
    first, second = before.tissues(whole_brain), after.tissues(whole_brain)
    x, y, z = np.moveaxis(whole_brain, -1, 0)
    middle = (np.abs(x) < 28) & (y > -45) & (y < 25) & (z > 10) & (z < 28)
    assert second[0][middle].sum() > 1.05 * first[0][middle].sum()
    vertex = z > 50
    assert second[1][vertex].sum() < 0.97 * first[1][vertex].sum()


def test_only_what_shrinks_differs():
    before = subject(50)
    after = atrophied(before, 2)
    assert after.shape is before.shape
    assert (after.head == before.head).all()
    assert (after.age, after.sex, after.gm_weight) == (before.age, before.sex, before.gm_weight)
    assert atrophied(before, 0) is before


@pytest.mark.parametrize(('age', 'seed'), [(18, 0), (89, 3)])
def test_the_largest_loss_does_not_fold(whole_brain, age, seed):
    anatomy = atrophied(subject(age, seed), MAX_LOSS_PERCENT)
    points = whole_brain.reshape(-1, 3).T.astype(np.float32)
    source = anatomy._source(points).reshape(3, *whole_brain.shape[:-1])
    jacobian = np.stack([np.stack(np.gradient(channel, 3.0)) for channel in source])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    assert determinant[anatomy._near(whole_brain)].min() > 0


def test_volumes_are_those_of_the_head_at_any_step(whole_brain):
    anatomy = subject(30)
    summed = [part.sum() * 0.027 for part in anatomy.tissues(whole_brain)[:3]]
    expected = np.array(summed) * np.linalg.det(anatomy.head)
    np.testing.assert_allclose(list(tissue_volumes(anatomy).values()), expected, rtol=0.01)
