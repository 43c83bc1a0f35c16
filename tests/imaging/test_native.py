"""The difference on the grid, brought back into the scan."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from ddae_app.errors import ImageError
from ddae_app.imaging.conform import conform, read_nifti
from ddae_app.imaging.native import (
    in_file_order,
    in_scan_units,
    native_difference,
    write_changed,
)

GRID = (40, 44, 36)
AFFINE = nib.affines.from_matvec(np.diag([1.5, 1.7, 1.5]), [-29, -37, -26])
NATIVE = (60, 58, 50)
NATIVE_AFFINE = nib.affines.from_matvec(np.diag([1.2, 1.4, 1.3]), [-35, -40, -33])


@pytest.fixture
def matrix():
    turn = Rotation.from_euler('xyz', [4, -3, 6], degrees=True).as_matrix()
    return nib.affines.from_matvec(turn @ np.diag([0.9, 0.95, 0.92]), [1.5, -2, 1])


@pytest.fixture
def brain():
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in GRID], indexing='ij')
    return x**2 + y**2 + z**2 < 0.6


def onto_the_grid(native, matrix):
    to_native = np.linalg.inv(NATIVE_AFFINE) @ matrix @ AFFINE
    return affine_transform(native, to_native, output_shape=GRID, order=1)


def back(difference, brain, matrix):
    scan = nib.Nifti1Image(np.ones(NATIVE, np.float32), NATIVE_AFFINE)
    return native_difference(difference, brain, AFFINE, matrix, scan)


def test_resampled_as_the_scan_was_it_is_the_difference_again(brain, matrix):
    rng = np.random.default_rng(0)
    difference = np.where(brain, gaussian_filter(rng.normal(size=GRID), 1.2), 0)
    native = back(difference, brain, matrix)
    assert native.shape == NATIVE and native.dtype == np.float32
    deep = gaussian_filter(brain.astype(float), 2) > 0.999
    error = (onto_the_grid(native, matrix) - difference)[deep]
    assert np.sqrt(np.mean(error**2)) < 0.05 * difference[deep].std()


def test_a_constant_is_that_constant_in_the_brain_and_zero_outside(brain, matrix):
    native = back(np.where(brain, 3.0, 0), brain, matrix)
    there = native != 0
    np.testing.assert_allclose(native[there], 3, rtol=0.1)
    volume = there.sum() * np.prod(np.diag(NATIVE_AFFINE)[:3]) / np.linalg.det(matrix[:3, :3])
    assert volume == pytest.approx(brain.sum() * np.prod(np.diag(AFFINE)[:3]), rel=0.03)


def test_no_difference_is_exactly_none(brain, matrix):
    assert not back(np.zeros(GRID), brain, matrix).any()
    outside = np.where(brain, 0, 5.0)
    assert not back(outside, brain, matrix).any()


@pytest.fixture
def change():
    """A tenth of the voxels get something between -20 and 20."""
    rng = np.random.default_rng(1)
    return np.where(rng.random((9, 8, 7)) < 0.1, rng.uniform(-20, 20, (9, 8, 7)), 0)


@pytest.mark.parametrize('kind', [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize('slope', [1, 0.25])
def test_a_changed_scan_is_stored_as_the_scan_is(tmp_path, change, kind, slope):
    rng = np.random.default_rng(0)
    if kind == np.float32:
        slope = 1
    stored = rng.integers(90, 160, change.shape).astype(kind)
    stored[np.unravel_index(np.argmin(change != 0), change.shape)] = 1  # background
    image = nib.Nifti1Image(stored, NATIVE_AFFINE)
    image.header.set_slope_inter(slope, 3)
    image.header['descrip'] = b'what the scanner wrote'
    path, out = tmp_path / 'scan.nii.gz', tmp_path / 'out.nii.gz'
    nib.save(image, path)
    write_changed(nib.load(path), change, out)
    raw, written = nib.load(path), nib.load(out)
    assert raw.header.binaryblock == written.header.binaryblock
    stored = [x.dataobj.get_unscaled() for x in (raw, written)]
    assert np.array_equal(stored[0][change == 0], stored[1][change == 0])
    exact = 0.5001 * slope if kind != np.float32 else 1e-4
    assert np.abs(written.get_fdata() - raw.get_fdata() - change).max() <= exact


HEADERS = {
    'no scaling': (112, '2f', (0, 0)),
    'side not told': (76, 'f', (0,)),
    'negative voxel size': (80, 'f', (-1.2,)),
    'code of another program': (254, 'h', (9,)),
    'field that nobody uses': (36, 'h', (77,)),
}


@pytest.mark.parametrize('header', HEADERS)
@pytest.mark.parametrize('kind', ['<i2', '>i2', '>f4'])
def test_the_header_of_a_changed_scan_is_its_own_to_the_bit(tmp_path, change, header, kind):
    """Also where nibabel mends what it reads, and with comments before the voxels."""
    image = nib.Nifti1Image(
        np.full(change.shape, 90, kind), NATIVE_AFFINE, nib.Nifti1Header(endianness=kind[0])
    )
    image.set_data_dtype(kind[1:])
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b'of the scanner'))
    change = np.abs(change)
    raw = bytearray(image.to_bytes())
    place, form, values = HEADERS[header]
    struct.pack_into(kind[0] + form, raw, place, *values)
    path, out = tmp_path / 'scan.nii', tmp_path / 'out.nii.gz'
    path.write_bytes(raw)
    write_changed(read_nifti(path), change, out)
    written = gzip.decompress(out.read_bytes())
    start = len(raw) - image.dataobj.nbytes
    assert start > 352 and (len(written), written[:start]) == (len(raw), raw[:start])
    added = nib.load(out).get_fdata() - 90
    np.testing.assert_allclose(added, change if 'f' in kind else np.rint(change), atol=1e-4)


def test_what_does_not_fit_into_the_scans_numbers_is_cut(tmp_path):
    path, out = tmp_path / 'scan.nii', tmp_path / 'out.nii.gz'
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), 250, np.uint8), NATIVE_AFFINE), path)
    made = write_changed(nib.load(path), np.full((3, 3, 3), 20.0), out)
    assert (nib.load(out).get_fdata() == 255).all()
    assert (made == 5).all()


KINDS = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]
SCALINGS = [(0.5, -20), (3, 2)]


@pytest.mark.parametrize(
    ('kind', 'slope', 'inter'),
    [(kind, 1, 0) for kind in KINDS] + [(kind, *s) for kind in KINDS[:4] for s in SCALINGS],
)
def test_no_brain_becomes_background_and_nothing_falls_below_the_scans_floor(
    tmp_path, kind, slope, inter
):
    """A background of 0 or less, dark brain of 3 and brain up to 100."""
    values = np.tile([0, 3, 30, 100], (4, 4, 1)).astype(float)
    stored = np.rint((values - inter) / slope).clip(0)
    image = nib.Nifti1Image(stored.astype(kind), NATIVE_AFFINE)
    image.header.set_slope_inter(slope, inter)
    path, out = tmp_path / 'scan.nii.gz', tmp_path / 'out.nii.gz'
    nib.save(image, path)
    before = nib.load(path).get_fdata()
    change = np.where(before > 0, -250.0, 0)
    change[..., -1] = -20
    made = write_changed(nib.load(path), change, out)
    after = nib.load(out).get_fdata()
    np.testing.assert_array_equal(after > 0, before > 0)
    assert after[before > 0].min() == before[before > 0].min()
    np.testing.assert_array_equal(after[before <= 0], before[before <= 0])
    # The change that is told is the one that was made.
    assert np.abs(after - before - made).max() <= 0.5001 * slope


def test_the_darkest_brain_is_kept_where_floats_would_round_it_away(tmp_path):
    path, out = tmp_path / 'scan.nii', tmp_path / 'out.nii.gz'
    data = np.full((4, 4, 4), 5e4, np.float32)
    data[0], data[1, 0, 0] = 0, 1e-7
    nib.save(nib.Nifti1Image(data, NATIVE_AFFINE), path)
    write_changed(nib.load(path), np.where(data > 1, -6e4, 0), out)
    after = nib.load(out).get_fdata()
    np.testing.assert_array_equal(after > 0, data > 0)


@pytest.mark.parametrize('kind', [np.uint64, np.int64])
def test_large_integers_do_not_wrap_around(tmp_path, kind):
    path, out = tmp_path / 'scan.nii', tmp_path / 'out.nii.gz'
    data = np.full((3, 3, 3), np.iinfo(kind).max - 10, kind)
    nib.save(nib.Nifti1Image(data, NATIVE_AFFINE, dtype=kind), path)
    write_changed(nib.load(path), np.full((3, 3, 3), 1e6), out)
    assert (np.asarray(nib.load(out).dataobj) > np.iinfo(kind).max * 0.999).all()


def test_a_change_that_is_not_finite_is_refused(tmp_path):
    path, out = tmp_path / 'scan.nii', tmp_path / 'out.nii.gz'
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.int16), NATIVE_AFFINE), path)
    with pytest.raises(ImageError, match='change 27 voxels by NaN or infinity'):
        write_changed(nib.load(path), np.full((3, 3, 3), np.nan), out)
    assert not out.exists()


def test_the_order_of_the_file_and_a_fourth_axis_of_one(tmp_path, change):
    change = np.abs(change)
    turned = nib.Nifti1Image(np.ones((7, 9, 8, 1), np.float32), np.diag([-1.0, 1, 1, 1]))
    turned.affine[:3, :3] = [[0, -1, 0], [0, 0, 1], [1, 0, 0]]
    image = nib.Nifti1Image(np.ones((7, 9, 8, 1), np.float32), turned.affine)
    path, out = tmp_path / 'scan.nii.gz', tmp_path / 'out.nii.gz'
    nib.save(image, path)
    write_changed(nib.load(path), in_file_order(change, image), out)
    written = nib.load(out)
    assert written.shape == image.shape
    back = nib.as_closest_canonical(nib.Nifti1Image(written.get_fdata()[..., 0], written.affine))
    np.testing.assert_allclose(back.get_fdata(), 1 + change, atol=1e-5)


def test_axes_halfway_between_two_directions_keep_their_order():
    """The affine of the conformed scan is rounded, and may then be read as another order."""
    for turn in ([0, 45, 45], [45, 0, -45], [-45, 45, 90], [10, 45, 45]):
        matrix = Rotation.from_euler('xyz', turn, degrees=True).as_matrix()
        data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
        scan = nib.Nifti1Image(data, nib.affines.from_matvec(matrix, [-9, -8, -7]))
        back = in_file_order(np.asarray(conform(scan).dataobj), scan)
        np.testing.assert_array_equal(back, data)


def test_a_difference_in_the_units_of_the_scan_keeps_its_field(brain, matrix):
    scan = nib.Nifti1Image(
        np.random.default_rng(0).uniform(300, 900, NATIVE).astype(np.float32), NATIVE_AFFINE
    )
    raw = onto_the_grid(scan.get_fdata(), matrix)
    field = 1 + 0.3 * np.linspace(-1, 1, GRID[0])[:, None, None]
    before = np.where(brain, raw / field / 800, 0)
    scaled = in_scan_units(before, np.where(brain, 0.1, 0), scan, matrix, AFFINE)
    expected = np.where(brain, 0.1 * 800 * field, 0)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4)
