from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ddae_app.phantom.anatomy import Anatomy, draw_anatomy
from ddae_app.phantom.atlas import load_atlas

AGES = (20, 50, 85)


def subject(age: float, sex: str, seed: int) -> Anatomy:
    return draw_anatomy(age, sex, np.random.default_rng(seed))


@pytest.fixture(scope='module')
def lifespan(whole_brain: np.ndarray) -> dict[str, np.ndarray]:
    """Per age and subject: ventricle volume (mL, in the head) and share of gray matter."""
    x, y, z = np.moveaxis(whole_brain, -1, 0)
    # The bodies of the lateral ventricles and the white matter around them; no sulcus.
    middle = (np.abs(x) < 28) & (y > -45) & (y < 25) & (z > 10) & (z < 28)
    ventricles, gray = np.zeros((len(AGES), 6)), np.zeros((len(AGES), 6))
    for i, age in enumerate(AGES):
        for seed in range(6):
            anatomy = subject(age, 'MF'[seed % 2], seed)
            csf, gm, wm, _ = anatomy.tissues(whole_brain)
            ventricles[i, seed] = csf[middle].sum() * 0.027 * np.linalg.det(anatomy.head)
            gray[i, seed] = gm.sum() / (csf + gm + wm).sum()
    return {'ventricles': ventricles, 'gray': gray}


def test_same_person_from_same_state_and_another_from_another(axial_slice):
    first, again, other = (subject(50, 'F', seed).tissues(axial_slice) for seed in (1, 1, 2))
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
    assert np.abs(first[1] - other[1]).mean() > 0.02


@pytest.mark.parametrize('age', AGES)
def test_fractions_make_up_the_brain(whole_brain, age):
    csf, gm, wm, detail = subject(age, 'M', 3).tissues(whole_brain)
    for fraction in (csf, gm, wm):
        assert fraction.dtype == np.float32
        assert fraction.min() >= 0
        assert fraction.max() <= 1
    share = csf + gm + wm
    assert share.max() <= 1 + 1e-5
    brain = share > 0.5
    depth = ndimage.distance_transform_edt(brain) * 3
    np.testing.assert_allclose(share[depth > 6], 1, atol=1e-3)
    outside = ndimage.distance_transform_edt(~brain) * 3
    assert share[outside > 6].max() < 1e-3
    assert np.abs(detail[~brain]).max() < 0.1


@pytest.mark.parametrize('seed', range(3))
def test_brain_is_one_piece_without_holes(whole_brain, seed):
    csf, gm, wm, _ = subject(85, 'M', seed).tissues(whole_brain)
    brain = csf + gm + wm > 0.5
    labels, _ = ndimage.label(brain)
    assert np.bincount(labels.ravel())[1:].max() > 0.999 * brain.sum()
    assert (ndimage.binary_fill_holes(brain) == brain).all()
    # Nothing cut off at the ends of the atlas.
    assert not brain[[0, -1]].any()
    assert not brain[:, [0, -1]].any()
    assert not brain[:, :, -1].any()


@pytest.mark.parametrize(('age', 'seed'), [(18, 0), (89, 1), (89, 3)])
def test_displacement_does_not_fold(whole_brain, age, seed):
    anatomy = subject(age, 'M', seed)
    points = whole_brain.reshape(-1, 3).T.astype(np.float32)
    source = anatomy._source(points).reshape(3, *whole_brain.shape[:-1])
    jacobian = np.stack([np.stack(np.gradient(channel, 3.0)) for channel in source])
    inner = anatomy._near(whole_brain)
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))[inner]
    assert determinant.min() > 0
    assert determinant.max() < 3


def test_ventricles_grow_with_age(lifespan):
    young, middle, old = lifespan['ventricles'].mean(axis=1)
    assert 5 < young < 25
    assert young * 1.1 < middle < old / 1.4


def test_gray_matter_falls_with_age(lifespan):
    young, middle, old = lifespan['gray'].mean(axis=1)
    assert 0.5 < young < 0.62
    assert young - 0.02 > middle > old + 0.04


def test_subjects_of_one_age_differ(lifespan):
    assert (lifespan['ventricles'].std(axis=1) > 1).all()
    assert (lifespan['gray'].std(axis=1) > 0.003).all()


def test_men_have_larger_heads_and_groups_overlap():
    volume = {
        sex: np.array([np.linalg.det(subject(40, sex, seed).head) for seed in range(40)])
        for sex in 'MF'
    }
    assert 1.06 < volume['M'].mean() / volume['F'].mean() < 1.17
    assert volume['F'].max() > volume['M'].min()


def test_brain_volume_is_a_persons(whole_brain):
    litres = []
    for seed in range(4):
        anatomy = subject(40, 'MF'[seed % 2], seed)
        csf, gm, wm, _ = anatomy.tissues(whole_brain)
        litres.append((csf + gm + wm).sum() * 27e-6 * np.linalg.det(anatomy.head))
    assert 1.2 < np.mean(litres) < 1.7


def test_any_shape_of_points_gives_the_same_values(whole_brain):
    anatomy = subject(60, 'F', 5)
    volume = np.stack(anatomy.tissues(whole_brain))
    plane = np.stack(anatomy.tissues(whole_brain[:, :, 30]))
    single = np.stack(anatomy.tissues(whole_brain[30, 35, 30]))
    np.testing.assert_allclose(plane, volume[:, :, :, 30], atol=1e-6)
    np.testing.assert_allclose(single, volume[:, 30, 35, 30], atol=1e-6)


def test_shared_atlas_cannot_be_changed():
    with pytest.raises(ValueError, match='read-only'):
        load_atlas().tissues[0, 0, 0, 0] = 1
