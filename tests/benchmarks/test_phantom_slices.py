"""Simulated slices show the subjects of the dataset, in the scanners of their sites."""

from __future__ import annotations

import numpy as np

from benchmarks.phantom_slices import draw_slices
from ddae_app.phantom.anatomy import BRAIN_CENTER_MM
from ddae_app.phantom.population import draw_subjects, site_names
from ddae_app.phantom.scanner import draw_scanner, render


def test_slices_show_the_subjects_of_the_dataset(axial_slice):
    drawn = draw_slices(2, site_names(2), 0, axial_slice, target='PhantomB')
    subjects = [p for site in site_names(2) for p in draw_subjects(site, 2, 0)]
    assert drawn.subject.tolist() == [p.label for p in subjects]
    assert drawn.age.tolist() == [p.age for p in subjects]
    assert drawn.images.shape == drawn.mask.shape == (4, *axial_slice.shape[:2])
    assert drawn.images.dtype == np.float32
    assert ((drawn.images > 0) <= drawn.mask).all()
    again = draw_slices(2, site_names(2), 0, axial_slice)
    np.testing.assert_array_equal(again.images, drawn.images)
    assert again.truth is None and again.retest is None
    tissues = subjects[0].anatomy().tissues(axial_slice)
    in_scanner = axial_slice - np.array(BRAIN_CENTER_MM)
    expected = render(draw_scanner('PhantomB'), tissues, in_scanner, bias_strength=0.3)
    np.testing.assert_array_equal(drawn.truth[0], expected)
    # At the target site, image and truth differ by noise and by the bias field of one scan.
    at_target, elsewhere = drawn.mask[2:], drawn.mask[:2]
    scale = draw_scanner('PhantomB').scale
    assert np.abs(drawn.images[2:] - drawn.truth[2:])[at_target].mean() < 0.06 * scale
    assert np.abs(drawn.images[:2] - drawn.truth[:2])[elsewhere].mean() > 0.1 * scale
    # A retest differs from the truth by noise, which is not the noise of the first scan.
    assert 0 < np.abs(drawn.retest - drawn.truth)[drawn.mask].mean() < 0.06 * scale
    assert not np.array_equal(drawn.retest[2:], drawn.images[2:])


def test_slices_with_contrast_by_tissue_differ_in_source_and_truth(axial_slice):
    plain, other = (
        draw_slices(1, site_names(1), 0, axial_slice, target='PhantomB', tissue_contrast=on)
        for on in (False, True)
    )
    np.testing.assert_array_equal(plain.mask, other.mask)
    for name in ('images', 'truth', 'retest'):
        assert np.abs(getattr(plain, name) - getattr(other, name))[plain.mask].mean() > 0
