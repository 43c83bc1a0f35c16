from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ddae_app.imaging.brain import checked_mask, dice, head_kind
from ddae_app.imaging.deepbet import deepbet_mask
from ddae_app.phantom.anatomy import Anatomy, draw_anatomy
from ddae_app.phantom.dataset import acquire_head
from ddae_app.phantom.head import Head, draw_head
from ddae_app.phantom.headatlas import load_head_atlas
from ddae_app.phantom.population import draw_subjects
from ddae_app.phantom.scanner import render
from tests.phantom.conftest import coarse

VOXEL_MM = 3.0


def subject(seed: int = 0, age: float = 40) -> tuple[Anatomy, Head]:
    rng = np.random.default_rng(seed)
    return draw_anatomy(age, 'MF'[seed % 2], rng), draw_head(age, rng)


def around_brain(anatomy: Anatomy, head: Head, points: np.ndarray):
    brain = np.sum(anatomy.tissues(points)[:3], axis=0)
    return brain, head.around(anatomy, points, brain)


@pytest.fixture(scope='module')
def scan():
    """A scan of a whole head, its brain, and what is around it."""
    anatomy, head = subject()
    scanner = coarse('PhantomA', VOXEL_MM)
    rng = np.random.default_rng(0)
    tissues, points, around = acquire_head(anatomy, head, scanner, rng)
    image = render(scanner, tissues, points, rng, around=around) / scanner.scale
    return image, np.sum(tissues[:3], axis=0), around


def test_fractions_fill_no_voxel_more_than_once(scan):
    _, brain, around = scan
    total = brain + np.sum(around, axis=0)
    assert min(fraction.min() for fraction in around) >= 0
    assert total.max() <= 1 + 1e-5
    assert np.abs(np.sum(around, axis=0)[brain >= 1]).max() == 0


def test_from_the_brain_to_the_air_there_are_fluid_bone_and_scalp(scan):
    """Along rays to the top, the sides and the back, as in every head."""
    _, brain, around = scan
    x, y, z = np.argwhere(brain > 0.5).mean(axis=0).astype(int)
    signal = brain + sum(around)
    for ray in (np.s_[x, y, z:], np.s_[x:, y, z], np.s_[x::-1, y, z], np.s_[x, y::-1, z]):
        edge = np.flatnonzero(brain[ray] > 0.5).max()
        fluid, fat = (part[ray][edge:].argmax() for part in (around.fluid, around.fat))
        assert fluid < fat
        assert signal[ray][edge + fluid : edge + fat].min() < 0.5 * around.fat[ray][edge + fat]
        assert signal[ray][-1] == 0


def test_the_scanner_shows_the_whole_head(scan):
    image, brain, around = scan
    white = np.median(image[brain > 0.99])
    fat = np.median(image[around.fat > 0.9])
    air = (brain + sum(around)) < 1e-3
    assert fat > white
    assert 0 < np.median(image[air]) < 0.1 * white
    assert np.count_nonzero(image > 0.3 * white) > 1.5 * np.count_nonzero(brain > 0.5)


def test_a_child_has_the_same_head_in_small():
    anatomy, _ = subject()
    small = anatomy.scaled(0.8)
    assert np.linalg.det(small.head) == pytest.approx(0.8**3 * np.linalg.det(anatomy.head))
    assert small.shape is anatomy.shape


def test_heads_differ(whole_brain):
    layers = np.array([(h.fluid_mm, h.skull_mm, h.scalp_mm) for _, h in map(subject, range(12))])
    assert (layers.std(axis=0) > 0.1).all()
    assert layers.min() > 0.5
    anatomy, head = subject(1)
    again = subject(1)
    first, second = (around_brain(*who, whole_brain)[1] for who in ((anatomy, head), again))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('seed', range(3))
def test_the_head_closes_around_every_brain(seed):
    """No brain touches the scalp: fluid or bone lies around it."""
    anatomy, head = subject(seed, age=(20, 55, 89)[seed])
    axes = [np.arange(low, high, 3.0) for low, high in ((-96, 97), (-134, 103), (-84, 114))]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
    brain, around = around_brain(anatomy, head, points)
    rim = ndimage.binary_dilation(brain > 0.5) & (brain < 0.1)
    assert around.fat[rim].mean() < 0.02


@pytest.mark.parametrize(('site', 'scale'), [('PhantomA', 1), ('PhantomB', 1), ('PhantomC', 0.8)])
def test_a_network_that_learned_from_people_finds_the_brain(site, scale):
    person = draw_subjects(site, 1, seed=0)[0]
    scanner = coarse(site, 2.5)
    rng = np.random.default_rng(1)
    anatomy = person.anatomy().scaled(scale)
    tissues, points, around = acquire_head(anatomy, person.head(), scanner, rng)
    image = render(scanner, tissues, points, rng, around=around)
    scan = nib.Nifti1Image(image, np.diag([2.5, 2.5, 2.5, 1]))
    found = checked_mask(deepbet_mask(scan, 'cpu'), scan)
    assert dice(found, np.sum(tissues[:3], axis=0) > 0.5) > 0.95
    assert head_kind(scan, found) == 'head'


def test_shared_maps_cannot_be_changed():
    with pytest.raises(ValueError, match='read-only'):
        load_head_atlas().case[0, 0, 0] = 1
