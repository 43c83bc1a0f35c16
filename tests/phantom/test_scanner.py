from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.phantom.anatomy import BRAIN_CENTER_MM, draw_anatomy
from ddae_app.phantom.dataset import acquire
from ddae_app.phantom.population import site_names
from ddae_app.phantom.scanner import Scanner, draw_scanner, render, with_tissue_contrast

SITES = site_names(26)


@pytest.fixture(scope='module')
def slice_tissues(axial_slice):
    return draw_anatomy(55, 'F', np.random.default_rng(0)).tissues(axial_slice)


def plain(scanner: Scanner) -> Scanner:
    """Pointwise effects only."""
    return replace(scanner, blur_mm=(0.0, 0.0, 0.0))


def test_scanner_belongs_to_its_site():
    assert draw_scanner('PhantomC') == draw_scanner('PhantomC')
    assert draw_scanner('PhantomC') != draw_scanner('PhantomD')
    assert draw_scanner('PhantomC') != draw_scanner('PhantomC', seed=1)


@pytest.mark.parametrize('site', SITES)
def test_contrast_rises_from_csf_to_white_matter(site):
    scanner = draw_scanner(site)
    curve = scanner.contrast(np.linspace(0, 1.2, 200))
    assert (np.diff(curve) > 0).all()
    assert curve[0] == 0
    csf, gm, wm = scanner.contrast(np.array(scanner.levels))
    assert 0.02 < csf < gm - 0.15
    assert gm < wm - 0.1
    assert wm == pytest.approx(1)


@pytest.mark.parametrize('site', SITES)
def test_scanner_is_plausible(site):
    scanner = draw_scanner(site)
    assert all(1.2 <= mm <= 2.2 for mm in scanner.voxel_mm)
    assert 200 <= scanner.scale <= 4000
    head = np.stack(np.meshgrid(*[np.linspace(-70, 70, 8)] * 3, indexing='ij'), axis=-1)
    field = scanner.bias_field(head[np.linalg.norm(head, axis=-1) < 80])
    assert 0.4 < field.min() < field.max() < 2.5


def test_sites_look_different(slice_tissues, axial_slice):
    """The ratio of white to gray matter in the same brain differs between sites."""
    _, gm, wm, _ = slice_tissues
    ratio = []
    for site in SITES:
        image = render(plain(draw_scanner(site)), slice_tissues, axial_slice, bias_strength=0)
        ratio.append(image[wm > 0.95].mean() / image[gm > 0.95].mean())
    assert min(ratio) > 1.05
    assert max(ratio) / min(ratio) > 1.2


def test_contrast_by_tissue_changes_deep_gray_matter_and_detail_alone(slice_tissues, axial_slice):
    _, gm, wm, detail = slice_tissues
    in_scanner = axial_slice - np.array(BRAIN_CENTER_MM)
    scanner = plain(draw_scanner('PhantomA'))
    image, deep, sharp = (
        render(other, slice_tissues, in_scanner, bias_strength=0) / scanner.scale
        for other in (scanner, replace(scanner, deep_gray=0.4), replace(scanner, detail=2.0))
    )
    x, y, _ = np.moveaxis(in_scanner, -1, 0)
    nuclei = (gm > 0.95) & (np.abs(x) < 30) & (np.abs(y) < 30)
    cortex = (gm > 0.7) & (y < -30)
    assert nuclei.sum() > 20 and cortex.sum() > 20
    assert (deep - image)[nuclei].mean() > 0.02
    assert np.abs(deep - image)[cortex].max() < 0.01
    assert np.abs(deep - image)[wm > 0.999].max() < 1e-3
    tissue = gm + wm > 0.95
    assert np.corrcoef((sharp - image)[tissue], detail[tissue])[0, 1] > 0.9


def test_contrast_by_tissue_belongs_to_the_site():
    scanners = [draw_scanner(site) for site in SITES]
    drawn = [with_tissue_contrast(scanner) for scanner in scanners]
    assert drawn == [with_tissue_contrast(scanner) for scanner in scanners]
    assert len({scanner.deep_gray for scanner in drawn}) == len(SITES)
    assert [replace(s, detail=1.0, deep_gray=0.0) for s in drawn] == scanners


def test_noise_has_the_scanners_level_and_leaves_background_alone(slice_tissues, axial_slice):
    scanner = replace(draw_scanner('PhantomA'), noise=0.03)
    quiet = render(scanner, slice_tissues, axial_slice, bias_strength=0)
    noisy = render(scanner, slice_tissues, axial_slice, np.random.default_rng(0), bias_strength=0)
    white = slice_tissues[2] > 0.95
    assert (noisy - quiet)[white].std() / scanner.scale == pytest.approx(0.03, rel=0.1)
    assert (noisy[sum(slice_tissues[:3]) <= 0.5] == 0).all()
    assert noisy.min() >= 0


def test_each_scan_has_its_own_bias_field(slice_tissues, axial_slice):
    scanner = replace(draw_scanner('PhantomA'), noise=0.0)
    truth = render(scanner, slice_tissues, axial_slice)
    first, second = (
        render(scanner, slice_tissues, axial_slice, np.random.default_rng(seed)) for seed in (0, 1)
    )
    brain = truth > 0
    assert 0.001 < np.abs(np.log(first[brain] / second[brain])).mean() < 0.2
    assert 0.001 < np.abs(np.log(first[brain] / truth[brain])).mean() < 0.2


def test_correction_makes_noise_uneven(slice_tissues, axial_slice):
    scanner = replace(plain(draw_scanner('PhantomA')), bias=(0.6, *[0.0] * 8))
    clean = render(scanner, slice_tissues, axial_slice, bias_strength=0)
    field = scanner.bias_field(axial_slice)
    weak, strong = (clean > 0.5 * clean.max()) & (np.abs(np.log(field)) > 0.2), field > 1
    spread = []
    for uneven in (False, True):
        rng = np.random.default_rng(0)
        image = render(
            scanner, slice_tissues, axial_slice, rng, bias_strength=0, uneven_noise=uneven
        )
        if uneven:  # the scan's own part of the field is gone
            np.testing.assert_allclose(image[clean > 0].mean(), clean[clean > 0].mean(), rtol=0.02)
        noise = image - clean
        spread.append(noise[weak & ~strong].std() / noise[weak & strong].std())
    assert spread[0] == pytest.approx(1, abs=0.1)
    assert spread[1] > 1.3


def test_blur_follows_the_direction_of_the_grid(axial_slice):
    """A scanner that blurs along y blurs the second axis of an axial slice, not the first."""
    spot = np.zeros(axial_slice.shape[:2], np.float32)
    spot[40:50, 50:60] = 1
    brain = np.ones_like(spot)
    tissues = (brain - spot, np.zeros_like(spot), spot, np.zeros_like(spot))
    scanner = replace(draw_scanner('PhantomA'), blur_mm=(0.0, 4.0, 0.0))
    image = render(scanner, tissues, axial_slice, bias_strength=0)
    sharp = render(plain(scanner), tissues, axial_slice, bias_strength=0)
    change = np.abs(image - sharp) / scanner.scale
    assert change[45, 49:51].min() > 0.1
    assert change[39:41, 55].max() < 0.02


def test_slice_agrees_with_volume():
    """2D and 3D are one code path: at the same points, the same intensities."""
    anatomy = draw_anatomy(70, 'M', np.random.default_rng(3))
    axes = [np.arange(-90, 91, 5.0), np.arange(-126, 91, 5.0), np.arange(-2, 38, 5.0)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
    scanner, center = plain(draw_scanner('PhantomB')), np.array(BRAIN_CENTER_MM)
    volume = render(scanner, anatomy.tissues(points), points - center)
    plane = points[:, :, 4]
    image = render(scanner, anatomy.tissues(plane), plane - center)
    assert image.max() > 0.5 * scanner.scale
    np.testing.assert_allclose(image, volume[:, :, 4], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('seed', range(4))
def test_head_lies_inside_the_field_of_view(seed):
    anatomy = draw_anatomy(89, 'M', np.random.default_rng(seed))
    scanner = replace(draw_scanner('PhantomA'), voxel_mm=(4.0, 4.0, 4.0))
    tissues, points, _ = acquire(anatomy, scanner, np.random.default_rng(seed))
    brain = sum(tissues[:3]) > 0.01
    for axis in range(3):
        assert not np.take(brain, [0, -1], axis=axis).any()
    center = points[brain].mean(axis=0)
    assert 0.1 < np.linalg.norm(center) < 25
