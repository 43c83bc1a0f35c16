from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets, image

from ddae_app.errors import TemplateError
from ddae_app.imaging import templates
from ddae_app.imaging.brain import dice
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.templates import RESOLUTION_MM, load_template, write_template

NAME = 'MNI152NLin2009cAsym'
PACKAGED = 'MNI152NLin2009aSym'
AFFINE = np.array([[2.0, 0, 0, -96], [0, 2.0, 0, -132], [0, 0, 2.0, -78], [0, 0, 0, 1]])


def head(shape) -> np.ndarray:
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing='ij')
    return (100 * (x**2 + y**2 + z**2 < 0.8) * (2 + x + 0.5 * y)).astype(np.float32)


def write_home(home: Path, resolution: str = '02', affine=AFFINE, shape=(40, 44, 42)) -> Path:
    """A TEMPLATEFLOW_HOME that holds an invented head."""
    folder = home / f'tpl-{NAME}'
    folder.mkdir(parents=True)
    data = head(shape)
    mask = (data > 0) & (head(shape) > 150)
    for what, values in (('T1w', data), ('desc-brain_mask', mask.astype(np.uint8))):
        path = folder / f'tpl-{NAME}_res-{resolution}_{what}.nii.gz'
        nib.save(nib.Nifti1Image(values, affine), path)
    return home


def test_packaged_template_is_a_brain():
    template = load_template(PACKAGED, None)
    assert template.name == PACKAGED
    assert template.head is None
    brain, mask = (np.asarray(x.dataobj) for x in (template.brain, template.mask))
    assert set(np.unique(mask)) == {0, 1}
    assert brain[mask == 1].mean() > 0.3
    assert not brain[mask == 0].any()
    np.testing.assert_allclose(nib.affines.voxel_sizes(template.brain.affine), RESOLUTION_MM)
    np.testing.assert_array_equal(template.brain.affine, template.mask.affine)


@pytest.mark.filterwarnings('ignore:Resampling binary')
def test_template_is_written_for_scans_on_the_grid_of_the_model(tmp_path):
    template, grid = load_template(PACKAGED, None), model_grid(PACKAGED, (40, 50, 60))
    files = write_template(template, tmp_path, grid)
    assert files.head is None
    for own, on_grid, original in (
        (files.brain, files.grid_brain, template.brain),
        (files.mask, files.grid_mask, template.mask),
    ):
        np.testing.assert_array_equal(nib.load(own).get_fdata(), original.get_fdata())
        found = nib.load(on_grid)
        assert found.shape == grid.shape
        np.testing.assert_allclose(found.affine, grid.affine, atol=1e-4)
        # The same place in mm shows the same; interpolation makes edges between 0 and 1.
        values = found.get_fdata()
        as_float = nib.Nifti1Image(original.get_fdata(dtype=np.float32), original.affine)
        expected = image.resample_img(
            as_float, grid.affine, grid.shape, interpolation='linear', copy_header=True,
            force_resample=True,
        )  # fmt: skip
        np.testing.assert_allclose(values, expected.get_fdata(), atol=1e-4)
    assert 0.02 < ((values > 0) & (values < 1)).mean() < 0.5


@pytest.mark.parametrize('resolution', ['02', '2'])
def test_home_at_working_resolution_is_read_as_it_is(tmp_path, resolution):
    template = load_template(NAME, write_home(tmp_path, resolution))
    data = head((40, 44, 42))
    np.testing.assert_array_equal(np.asarray(template.head.dataobj), data)
    np.testing.assert_array_equal(
        np.asarray(template.brain.dataobj), np.where(data > 150, data, 0)
    )
    np.testing.assert_array_equal(np.asarray(template.mask.dataobj), data > 150)
    np.testing.assert_array_equal(template.head.affine, AFFINE)


@pytest.mark.parametrize('resolution', ['01', '1'])
def test_finer_template_is_brought_to_working_resolution(tmp_path, resolution):
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    home = write_home(tmp_path, resolution, fine, (80, 88, 84))
    template = load_template(NAME, home)
    stored = nib.load(next((home / f'tpl-{NAME}').glob('*T1w.nii.gz')))
    np.testing.assert_allclose(nib.affines.voxel_sizes(template.head.affine), RESOLUTION_MM)
    assert set(np.unique(np.asarray(template.mask.dataobj))) == {0, 1}
    back = image.resample_to_img(template.head, stored, copy_header=True, force_resample=True)
    assert np.corrcoef(back.get_fdata().ravel(), stored.get_fdata().ravel())[0, 1] > 0.97


def test_coarse_is_taken_before_fine(tmp_path):
    write_home(tmp_path, '02')
    fine = write_home(tmp_path / 'other', '01', AFFINE @ np.diag([0.5, 0.5, 0.5, 1]))
    for path in (fine / f'tpl-{NAME}').iterdir():
        shutil.copy(path, tmp_path / f'tpl-{NAME}')
    assert load_template(NAME, tmp_path).head.shape == (40, 44, 42)


@pytest.mark.parametrize('what', ['T1w', 'desc-brain_mask'])
def test_file_that_templateflow_has_not_fetched(tmp_path, what):
    home = write_home(tmp_path)
    path = home / f'tpl-{NAME}' / f'tpl-{NAME}_res-02_{what}.nii.gz'
    path.write_bytes(b'')
    with pytest.raises(TemplateError, match='ddae-app-fetch templates') as caught:
        load_template(NAME, home)
    assert str(path) in str(caught.value)


def test_empty_file_does_not_hide_another_resolution(tmp_path):
    home = write_home(tmp_path, '01')
    for what in ('T1w', 'desc-brain_mask'):
        (home / f'tpl-{NAME}' / f'tpl-{NAME}_res-02_{what}.nii.gz').touch()
    assert load_template(NAME, home).head.shape == (40, 44, 42)


@pytest.mark.parametrize('missing', ['T1w', 'desc-brain_mask'])
def test_head_and_mask_are_of_one_resolution(tmp_path, missing):
    """Those of two resolutions are on other voxels, moved by a half of one, or of other shapes."""
    home = write_home(tmp_path, '02')
    fine = write_home(tmp_path / 'other', '01', AFFINE @ np.diag([0.5, 0.5, 0.5, 1]), (70, 80, 60))
    for path in (fine / f'tpl-{NAME}').iterdir():
        shutil.copy(path, home / f'tpl-{NAME}')
    (home / f'tpl-{NAME}' / f'tpl-{NAME}_res-02_{missing}.nii.gz').unlink()
    template, whole = load_template(NAME, home), load_template(NAME, fine)
    for found, expected in ((template.head, whole.head), (template.mask, whole.mask)):
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    (home / f'tpl-{NAME}' / f'tpl-{NAME}_res-01_{missing}.nii.gz').unlink()
    with pytest.raises(TemplateError, match=f'res-02_{missing}.nii.gz: no such file'):
        load_template(NAME, home)


@pytest.mark.parametrize('home', [None, 'nowhere'])
def test_no_home(tmp_path, home):
    with pytest.raises(TemplateError, match='TEMPLATEFLOW_HOME'):
        load_template(NAME, home and tmp_path / home)


@pytest.mark.parametrize('damage', ['cut', 'overwritten', 'text'])
def test_damaged_file(tmp_path, damage):
    home = write_home(tmp_path)
    path = home / f'tpl-{NAME}' / f'tpl-{NAME}_res-02_T1w.nii.gz'
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            'cut': content[:middle],
            'overwritten': content[:600] + bytes([255] * 200) + content[800:],
            'text': b'<html>404</html>',
        }[damage]
    )
    with pytest.raises(TemplateError, match='download it again') as caught:
        load_template(NAME, home)
    assert str(path) in str(caught.value)


def test_unknown_template(tmp_path):
    with pytest.raises(TemplateError, match=f"'MNI305' is unknown; expected {NAME} or {PACKAGED}"):
        load_template('MNI305', tmp_path)


def test_nothing_is_fetched(tmp_path, monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError('the network was used')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    templates._packaged.cache_clear()  # other tests may have loaded it
    load_template(PACKAGED, None)
    with pytest.raises(TemplateError):
        load_template(NAME, tmp_path)


def test_templateflow(templateflow_home):
    template = load_template(NAME, templateflow_home)
    head_, brain, mask = (
        np.asarray(x.dataobj) for x in (template.head, template.brain, template.mask)
    )
    assert (head_[mask == 0] > 0).mean() > 0.2  # scalp and skull
    np.testing.assert_array_equal(brain, np.where(mask == 1, head_, 0))
    assert 1.7e6 < mask.sum() * RESOLUTION_MM**3 < 2.1e6


def test_templateflow_at_1_mm_only_gives_the_same(templateflow_home, tmp_path):
    folder = tmp_path / f'tpl-{NAME}'
    folder.mkdir()
    coarse = load_template(NAME, templateflow_home)
    for what, source, how in (
        ('T1w', coarse.head, 'linear'),
        ('desc-brain_mask', coarse.mask, 'nearest'),
    ):
        fine = image.resample_img(
            source,
            target_affine=np.diag([1.0, 1, 1]),
            interpolation=how,
            copy_header=True,
            force_resample=True,
        )
        nib.save(fine, folder / f'tpl-{NAME}_res-01_{what}.nii.gz')
    template = load_template(NAME, tmp_path)
    np.testing.assert_allclose(nib.affines.voxel_sizes(template.head.affine), RESOLUTION_MM)
    again = image.resample_to_img(
        template.head, coarse.head, copy_header=True, force_resample=True
    ).get_fdata()
    reference = coarse.head.get_fdata()
    assert np.corrcoef(again.ravel(), reference.ravel())[0, 1] > 0.99
    mask = image.resample_to_img(
        template.mask, coarse.mask, 'nearest', copy_header=True, force_resample=True
    ).get_fdata()
    assert dice(mask > 0, np.asarray(coarse.mask.dataobj) > 0) > 0.97


def test_packaged_mask_is_nilearns():
    mask = datasets.load_mni152_brain_mask(resolution=2).get_fdata() > 0
    np.testing.assert_array_equal(np.asarray(load_template(PACKAGED, None).mask.dataobj), mask)
