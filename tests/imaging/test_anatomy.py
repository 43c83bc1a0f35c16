"""Tissue shares and the anatomy guard, on volumes whose answer is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.imaging.anatomy import (
    MOST_UNEXPLAINED,
    evaluate_anatomy,
    tissue_shares,
    unexplained,
)
from ddae_app.imaging.quality import unchecked

SHAPE = (30, 32, 28)


@pytest.fixture
def brain():
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    return x**2 + y**2 + z**2 < 0.9


def test_shares_are_those_of_the_three_intensities(brain):
    rng = np.random.default_rng(0)
    tissue = rng.choice(3, SHAPE, p=(0.2, 0.5, 0.3))
    scan = np.where(brain, np.array([0.25, 0.6, 0.95])[tissue], 0)
    shares = tissue_shares(scan + np.where(brain, rng.normal(0, 0.03, SHAPE), 0))
    expected = np.bincount(tissue[brain]) / brain.sum()
    assert list(shares.values()) == pytest.approx(expected, abs=2e-3)


def test_a_bright_vessel_makes_no_class(brain):
    rng = np.random.default_rng(0)
    scan = np.where(brain, np.array([0.25, 0.6, 0.95])[rng.choice(3, SHAPE)], 0)
    with_vessel = scan.copy()
    with_vessel[15, 14:18, 13:15] = 9
    assert tissue_shares(with_vessel)['white'] == pytest.approx(
        tissue_shares(scan)['white'], abs=2e-3
    )


def test_no_classes_no_shares():
    assert set(tissue_shares(np.zeros(SHAPE)).values()) == {0.0}
    as_good_as_two = np.resize([0.5, 0.500001, 1.0], SHAPE)
    assert set(tissue_shares(as_good_as_two).values()) == {0.0}


@pytest.fixture
def scan(brain):
    """Smooth tissue with a noisy picture of it."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=SHAPE), 2)
    tissue = 0.65 + 0.2 * texture / texture.std()
    return np.where(brain, np.clip(tissue, 0.1, 1), 0)


def noisy(scan, seed=1):
    rng = np.random.default_rng(seed)
    return np.where(scan > 0, np.maximum(scan + rng.normal(0, 0.03, SHAPE), 0.01), 0)


def shaded(scan):
    """Another contrast and shading of the same anatomy."""
    z = np.linspace(-1, 1, SHAPE[0])[:, None, None]
    return scan**1.4 * (1 + 0.1 * z)


def with_blob(scan, value, center=(15, 16, 14), radius=3):
    place = np.indices(SHAPE) - np.array(center)[:, None, None, None]
    near = np.square(place).sum(axis=0) <= radius**2
    return np.where(near & (scan > 0), value, scan)


def test_contrast_and_shading_are_explained_and_a_blob_is_not(scan):
    before, after = noisy(scan), shaded(scan)
    usual = unexplained(before, after)
    assert usual.shape == SHAPE and not usual[scan == 0].any()
    assert usual.max() < 0.05
    for value in (0.1, 1.0):
        added = unexplained(before, with_blob(after, value))
        assert added.max() > 2 * usual.max()
        worst = np.unravel_index(added.argmax(), SHAPE)
        assert np.abs(np.subtract(worst, (15, 16, 14))).max() <= 2


def test_what_was_taken_away_is_detected_too(scan):
    before = with_blob(noisy(scan), 0.15)
    usual = unexplained(before, shaded(with_blob(scan, 0.15)))
    lost = unexplained(before, shaded(scan))
    assert lost.max() > 2 * usual.max()


def test_a_flag_says_what_and_where(scan):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -30
    before, after = noisy(scan), shaded(scan)
    fine = evaluate_anatomy(before, after, affine)
    assert fine['anatomy_flag'] == 'none' and fine['anatomy_unexplained'] < MOST_UNEXPLAINED
    quality = evaluate_anatomy(before, with_blob(after, 0.05, radius=4), affine)
    assert quality['anatomy_unexplained'] > MOST_UNEXPLAINED
    x, y, z = (float(n) for n in re.findall(r'-?\d+', quality['anatomy_flag'])[:3])
    # (slice, row, column) (15, 16, 14) is (row, column, slice) (16, 14, 15) of the affine.
    assert np.abs(np.subtract((x, y, z), (2, -2, 0))).max() <= 5


@pytest.mark.parametrize(
    ('low', 'high', 'intensity', 'column', 'flag'),
    [
        (0.55, 2, 0.95, 'white_share_change', r'white matter \+\d\d % of the brain volume'),
        (0, 0.7, 0.15, 'csf_share_change', r'(^|; )CSF \+\d\d % of the brain volume'),
        (0.45, 0.9, 0.6, 'gray_share_change', r'gray matter \+\d\d % of the brain volume'),
    ],
)
def test_a_shift_of_tissue_is_flagged_by_its_name(scan, low, high, intensity, column, flag):
    after = np.where((scan > low) & (scan < high), intensity, scan)
    quality = evaluate_anatomy(scan, after, np.eye(4))
    assert quality[column] > 0.15
    assert re.search(flag, quality['anatomy_flag'])
    assert 'csf' not in quality['anatomy_flag']


def test_a_single_slice_is_evaluated_as_well(scan):
    before, after = noisy(scan)[15:16], shaded(scan)[15:16]
    assert 0 < unexplained(before, after).max() < 0.08
    assert unexplained(before, with_blob(shaded(scan), 0.05)[15:16]).max() > 0.1


@pytest.mark.parametrize('factor', [1, 1.8, 20])
def test_an_unchanged_scan_is_never_flagged(scan, factor):
    before = noisy(scan)
    before[14:16, 15:17, 13:15] *= factor
    quality = evaluate_anatomy(before, before.copy(), np.eye(4))
    assert quality['anatomy_flag'] == 'none'
    assert quality['anatomy_unexplained'] == 0
    assert all(quality[f'{tissue}_share_change'] == 0 for tissue in ('csf', 'gray', 'white'))


def test_a_spike_hides_no_change_and_makes_none(scan):
    before, after = noisy(scan), shaded(scan)
    usual = unexplained(before, after).max()
    for image in (before, after):
        image[20, 20, 20] = 30
    assert unexplained(before, after).max() < 1.5 * usual
    assert unexplained(before, with_blob(after, 0.05, radius=4)).max() > MOST_UNEXPLAINED


def test_nothing_is_more_unexplained_than_changed(scan):
    after = noisy(scan) + np.where(scan > 0, 0.01, 0)
    assert unexplained(noisy(scan), after).max() <= 0.0101


@pytest.mark.parametrize('brain', ['none', 'thin', 'black and white'])
def test_what_cannot_be_measured_is_no_pass(scan, brain):
    before = np.zeros(SHAPE)
    if brain == 'thin':
        before[:, 10:14, 4:24] = scan[:, 10:14, 4:24]
    elif brain == 'black and white':
        before[:] = np.where(scan > 0.65, 0.9, 0.3) * (scan > 0)
    quality = evaluate_anatomy(before, 0.9 * before, np.eye(4))
    assert quality['anatomy_flag'] == 'not checked'
    assert 'because' in unchecked(quality)
