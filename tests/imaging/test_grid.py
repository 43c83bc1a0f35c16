from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets

from ddae_app.errors import TemplateError
from ddae_app.imaging.grid import FIELD_OF_VIEW_MM, model_grid

TEMPLATE = 'MNI152NLin2009cAsym'


def test_the_papers_grid():
    grid = model_grid(TEMPLATE, (130, 130, 130))
    assert grid.shape == (130, 130, 130)
    np.testing.assert_allclose(grid.spacing, (193 / 130, 229 / 130, 193 / 130))


@pytest.mark.parametrize('template', FIELD_OF_VIEW_MM)
@pytest.mark.parametrize('shape', [(130, 130, 130), (40, 65, 90)])
def test_outer_edges_are_those_of_the_field_of_view(template, shape):
    grid = model_grid(template, shape)
    corners = grid.affine @ np.array([[-0.5, -0.5, -0.5, 1], [*(np.array(shape) - 0.5), 1]]).T
    np.testing.assert_allclose(corners[:3], FIELD_OF_VIEW_MM[template])
    assert nib.aff2axcodes(grid.affine) == ('R', 'A', 'S')


def test_field_of_view_of_the_packaged_template():
    brain = datasets.load_mni152_template(resolution=1)
    edges = brain.affine @ np.array([[-0.5, -0.5, -0.5, 1], [*(np.array(brain.shape) - 0.5), 1]]).T
    expected = FIELD_OF_VIEW_MM['MNI152NLin2009aSym']
    np.testing.assert_allclose(np.sort(edges[:3], axis=1), expected)


def test_field_of_view_of_the_other_template(templateflow_home):
    """At 2 mm the last voxels may end a millimetre early or late."""
    (path,) = (templateflow_home / f'tpl-{TEMPLATE}').glob('*_res-02_T1w.nii.gz')
    image = nib.as_closest_canonical(nib.load(path))
    first = image.affine[:3, 3]
    last = (image.affine @ [*(np.array(image.shape) - 1), 1])[:3]
    low, high = np.array(FIELD_OF_VIEW_MM[TEMPLATE]).T
    assert np.abs(first - low).max() <= 2
    assert np.abs(last - high).max() <= 2


def test_points_are_the_voxel_centers():
    grid = model_grid(TEMPLATE, (12, 13, 14))
    everything = grid.points((slice(None), slice(None), slice(None)))
    assert everything.shape == (12, 13, 14, 3)
    np.testing.assert_allclose(everything[3, 5, 7], (grid.affine @ [3, 5, 7, 1])[:3])
    one_slice = grid.points((slice(2, 6), slice(None), 7))
    np.testing.assert_array_equal(one_slice, everything[2:6, :, 7])


def test_unknown_template():
    with pytest.raises(TemplateError, match=r"'MNI305' is unknown.*MNI152NLin2009cAsym"):
        model_grid('MNI305', (130, 130, 130))
