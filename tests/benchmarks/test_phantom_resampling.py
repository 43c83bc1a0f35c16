from __future__ import annotations

from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmarks import phantom_resampling
from benchmarks.phantom_correction import Correction
from benchmarks.phantom_resampling import resampled_visit
from benchmarks.phantom_slices import draw_slices, draw_visit
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.registration import resample_to_grid
from ddae_app.phantom.dataset import acquire
from ddae_app.phantom.population import draw_subjects, site_names
from ddae_app.phantom.scanner import draw_scanner, render
from ddae_app.phantom.seeds import generator

PERCENTILE = 99.5


@pytest.fixture(scope='module')
def subject():
    return draw_subjects('PhantomA', 1, 0)[0]


@pytest.fixture(scope='module')
def through(axial_slice):
    """Bias correction leaves part of the field and nothing else."""
    field = np.ones(axial_slice.shape[:2], np.float32)
    corrections = {site: Correction(field, 1.0) for site in site_names(3)}
    return partial(resampled_visit, corrections=corrections, percentile=PERCENTILE)


def correlation_of_noise(visit) -> float:
    """Of pixels beside each other, deep in the brain."""
    inside = ndimage.binary_erosion(visit.mask, iterations=6)
    noise = visit.retest - visit.truth
    noise = noise - ndimage.gaussian_filter(noise, 3)
    both = inside[1:] & inside[:-1]
    return float(np.corrcoef(noise[1:][both], noise[:-1][both])[0, 1])


def test_a_slab_shows_what_the_whole_scan_does(subject, axial_slice, through, monkeypatch):
    monkeypatch.setattr(phantom_resampling, '_registration_error', lambda rng, points: np.eye(4))
    scanner = replace(draw_scanner('PhantomC'), voxel_mm=(2.4, 2.6, 3.1), noise=0.0)
    truth = through(subject, scanner, 0, axial_slice, target=scanner).truth
    anatomy, rng = subject.anatomy(), generator(0, 'scan', f'sub-{subject.label}')
    tissues, points, matrix = acquire(anatomy, scanner, rng)
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = points[0, 0, 0]
    whole = render(scanner, tissues, points, None, 0.3, uneven_noise=True)
    grid_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    grid_affine[:3, 3] = axial_slice[0, 0]
    grid = Grid((*axial_slice.shape[:2], 1), grid_affine)
    expected = resample_to_grid(nib.Nifti1Image(whole, affine), matrix, grid)
    expected = np.asarray(expected.dataobj)[..., 0]
    brain = truth > 0
    ratio = truth[brain] / expected[brain]
    # All by the percentile of the retest, which has a field of its own.
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)
    assert np.percentile(truth[brain], PERCENTILE) == pytest.approx(1, abs=0.05)
    # What the mask leaves out is the rim, which interpolation has smeared.
    assert expected[~brain].max() < 0.06 * expected.max()


def test_noise_comes_out_correlated_unlike_in_template_space(subject, axial_slice, through):
    scanner = replace(draw_scanner('PhantomA'), voxel_mm=(2.5, 2.5, 2.5))
    there = correlation_of_noise(through(subject, scanner, 0, axial_slice, scanner))
    visit = draw_visit(subject, scanner, 0, axial_slice, scanner)
    assert there > 0.15
    assert abs(correlation_of_noise(visit)) < 0.1


def test_brain_keeps_its_place(subject, axial_slice, through):
    """Registration misses by little, and whoever lies in the scanner is the same."""
    there = through(subject, draw_scanner('PhantomA'), 0, axial_slice).mask
    here = draw_visit(subject, draw_scanner('PhantomA'), 0, axial_slice).mask
    assert 2 * (there & here).sum() / (there.sum() + here.sum()) > 0.95


def test_what_correction_leaves_shows_and_the_whole_brain_makes_the_scale(subject, axial_slice):
    scanner = draw_scanner('PhantomA')
    field = np.ones(axial_slice.shape[:2], np.float32)
    uneven = np.where(axial_slice[..., 0] > 0, 1.1, 1.0).astype(np.float32)
    even, other, bright = (
        resampled_visit(
            subject,
            scanner,
            0,
            axial_slice,
            corrections={'PhantomA': Correction(made, gain)},
            percentile=PERCENTILE,
        ).image
        for made, gain in ((field, 1.0), (uneven, 1.0), (field, 1.02))
    )
    brain = ndimage.binary_erosion(even > 0, iterations=2)
    ratio = other[brain] / even[brain]
    right = uneven[brain] > 1
    assert ratio[right].mean() / ratio[~right].mean() == pytest.approx(1.1, rel=1e-3)
    np.testing.assert_allclose(bright * 1.02, even, rtol=1e-5)


def test_slices_can_be_drawn_so(axial_slice, through):
    sites = site_names(2)
    drawn, again = (
        draw_slices(1, sites, 0, axial_slice, target='PhantomB', draw=through) for _ in range(2)
    )
    for name in ('images', 'mask', 'truth', 'retest'):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))
    assert drawn.images.dtype == np.float32
    assert ((drawn.images > 0) == drawn.mask).all()
    both = drawn.mask & (drawn.truth > 0)
    # At the target site, image and truth differ by noise and by the bias field of one scan.
    at_target, elsewhere = (
        np.abs(drawn.images[i] - drawn.truth[i])[both[i]].mean() for i in (1, 0)
    )
    assert at_target < 0.03 < elsewhere
    assert not np.array_equal(drawn.retest[1], drawn.images[1])
