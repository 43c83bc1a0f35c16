from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import resample_to_grid
from ddae_app.phantom import resampled
from ddae_app.phantom.dataset import acquire
from ddae_app.phantom.population import draw_subjects, site_names
from ddae_app.phantom.resampled import resampled_visit
from ddae_app.phantom.scanner import draw_scanner, render
from ddae_app.phantom.seeds import generator
from ddae_app.phantom.slices import draw_slices, draw_visit


@pytest.fixture(scope='module')
def person():
    return draw_subjects('PhantomA', 1, 0)[0]


def correlation_of_noise(visit) -> float:
    """Of pixels beside each other, deep in the brain."""
    inside = ndimage.binary_erosion(visit.mask, iterations=6)
    noise = visit.retest - visit.truth
    noise = noise - ndimage.gaussian_filter(noise, 3)
    both = inside[1:] & inside[:-1]
    return float(np.corrcoef(noise[1:][both], noise[:-1][both])[0, 1])


def test_a_slab_shows_what_the_whole_scan_does(person, axial_slice, monkeypatch):
    monkeypatch.setattr(resampled, '_registration_error', lambda rng, points: np.eye(4))
    scanner = replace(draw_scanner('PhantomC'), voxel_mm=(2.4, 2.6, 3.1), orientation='RAS')
    truth = resampled_visit(person, scanner, 0, axial_slice, target=scanner).truth
    anatomy, rng = person.anatomy(), generator(0, 'scan', f'sub-{person.label}')
    tissues, points, matrix = acquire(anatomy, scanner, rng)
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = points[0, 0, 0]
    whole = render(scanner, tissues, points, None, 0.3, uneven_noise=True)
    grid_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    grid_affine[:3, 3] = axial_slice[0, 0]
    grid = Grid((*axial_slice.shape[:2], 1), grid_affine)
    expected = resample_to_grid(nib.Nifti1Image(whole, affine), matrix, grid)
    expected = np.asarray(expected.dataobj)[..., 0]
    assert truth.max() > 0.5 * scanner.scale
    brain = truth > 0
    np.testing.assert_allclose(truth[brain], expected[brain], atol=0.01 * scanner.scale)
    # What the mask leaves out is the rim, which interpolation has smeared.
    assert expected[~brain].max() < 0.06 * truth.max()


def test_noise_comes_out_correlated_unlike_in_template_space(person, axial_slice):
    scanner = replace(draw_scanner('PhantomA'), voxel_mm=(2.5, 2.5, 2.5))
    there, here = (
        correlation_of_noise(draw(person, scanner, 0, axial_slice, scanner))
        for draw in (resampled_visit, draw_visit)
    )
    assert there > 0.15
    assert abs(here) < 0.1


def test_brain_keeps_its_place(person, axial_slice):
    """Registration misses by little, and whoever lies in the scanner is the same."""
    there = resampled_visit(person, draw_scanner('PhantomA'), 0, axial_slice).mask
    here = draw_visit(person, draw_scanner('PhantomA'), 0, axial_slice).mask
    assert 2 * (there & here).sum() / (there.sum() + here.sum()) > 0.95


def test_slices_can_be_drawn_so(axial_slice):
    sites = site_names(2)
    drawn, again = (
        draw_slices(1, sites, 0, axial_slice, target='PhantomB', draw=resampled_visit)
        for _ in range(2)
    )
    for name in ('images', 'mask', 'truth', 'retest'):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))
    assert ((drawn.images > 0) == drawn.mask).all()
    scale = draw_scanner('PhantomB').scale
    both = drawn.mask & (drawn.truth > 0)
    # At the target site itself, only noise and the scan's own bias part image and truth.
    assert np.abs(drawn.images[1] - drawn.truth[1])[both[1]].mean() < 0.05 * scale
    assert np.abs(drawn.images[0] - drawn.truth[0])[both[0]].mean() > 0.1 * scale
    assert not np.array_equal(drawn.retest[1], drawn.images[1])
