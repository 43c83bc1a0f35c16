from __future__ import annotations

import gzip
import math
import re
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddae_app.errors import ImageError
from ddae_app.files import digest_of
from ddae_app.imaging.conform import conform, count_voxels, load_t1w
from ddae_app.interfaces.preproc import Conform
from ddae_app.workflows.memory import BYTES_PER_VOXEL

SHAPE = (24, 28, 26)
AFFINE = np.array([[4.0, 0, 0, -48], [0, 4.0, 0, -60], [0, 0, 4.0, -40], [0, 0, 0, 1]])


def head(shape=SHAPE) -> np.ndarray:
    """An object that no flip or permutation maps to itself."""
    x, y, z = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing='ij')
    ball = (x - 0.5) ** 2 + (y - 0.5) ** 2 + (z - 0.5) ** 2 < 0.2
    return np.where(ball, 100 + 50 * x + 20 * y**2 + 5 * z, 0).astype(np.float32)


def written(path, data=None, affine=AFFINE, codes=(1, 1), kind=nib.Nifti1Image):
    image = kind(head() if data is None else data, affine)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    nib.save(image, path)
    return path


def world_value(image, mm) -> float:
    index = np.rint(np.linalg.inv(image.affine) @ [*mm, 1])[:3].astype(int)
    return float(np.asarray(image.dataobj)[tuple(index)])


def assert_refused(path, *words):
    """One line that names the file and what is wrong."""
    with pytest.raises(ImageError) as caught:
        load_t1w(path)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    for word in words:
        assert re.search(word, message), message


@pytest.mark.parametrize('suffix', ['nii', 'nii.gz'])
@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
def test_good_image(tmp_path, suffix, kind):
    image = load_t1w(written(tmp_path / f'a.{suffix}', kind=kind))
    np.testing.assert_allclose(np.asarray(image.dataobj), head())
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.get_data_dtype() == np.float32


def test_scaled_integers(tmp_path):
    stored = nib.Nifti1Image(head().astype(np.uint8), AFFINE)
    stored.header.set_slope_inter(2.5, 1)
    stored.set_sform(AFFINE, 1)
    nib.save(stored, tmp_path / 'a.nii.gz')
    image = load_t1w(tmp_path / 'a.nii.gz')
    reference = nib.load(tmp_path / 'a.nii.gz').get_fdata()
    np.testing.assert_allclose(np.asarray(image.dataobj), reference, rtol=1e-6)


@pytest.mark.parametrize('extra', [(1,), (1, 1)])
def test_trailing_single_volumes_are_one_volume(tmp_path, extra):
    image = load_t1w(written(tmp_path / 'a.nii.gz', head().reshape(*SHAPE, *extra)))
    assert image.shape == SHAPE
    np.testing.assert_array_equal(np.asarray(image.dataobj), head())


def test_small_negative_values_of_resampling_become_zero(tmp_path):
    data = head()
    data[0, 0, :10] = -0.5
    image = load_t1w(written(tmp_path / 'a.nii.gz', data))
    assert np.asarray(image.dataobj).min() == 0
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.maximum(data, 0))


def test_missing_file_and_broken_link(tmp_path):
    assert_refused(tmp_path / 'none.nii.gz', 'no such file')
    link = tmp_path / 'link.nii.gz'
    link.symlink_to(tmp_path / '.git' / 'annex' / 'MD5E-s1--0')
    assert_refused(link, 'broken link')


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / 'a.nii.gz').touch()
    assert_refused(tmp_path / 'a.nii.gz', 'the file is empty')


def test_folder_instead_of_a_file(tmp_path):
    (tmp_path / 'a.nii.gz').mkdir()
    assert_refused(tmp_path / 'a.nii.gz', 'not a readable NIfTI')


@pytest.mark.parametrize('content', [b'PNG, really', bytes(1000)])
@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
def test_not_nifti(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, 'not a readable NIfTI')


@pytest.mark.parametrize('kept', [0.02, 0.5, 0.99])
@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
def test_truncated(tmp_path, name, kept):
    noise = np.random.default_rng(0).random(SHAPE, np.float32)
    content = written(tmp_path / name, noise).read_bytes()
    (tmp_path / name).write_bytes(content[: max(int(len(content) * kept), 400)])
    assert_refused(tmp_path / name, 'truncated|not a readable')


@pytest.mark.parametrize('where', ['middle', 'checksum'])
def test_damaged(tmp_path, where):
    noise = np.random.default_rng(0).random(SHAPE, np.float32)
    path = written(tmp_path / 'a.nii.gz', noise)
    content = bytearray(path.read_bytes())
    content[-8 if where == 'checksum' else len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_refused(path, 'truncated or damaged')


@pytest.mark.parametrize('shape', [(*SHAPE, 2), (24, 28), (24, 28, 1), (24, 1, 26, 3)])
def test_not_one_volume(tmp_path, shape):
    assert_refused(
        written(tmp_path / 'a.nii.gz', np.ones(shape, np.float32)), re.escape(str(shape))
    )


@pytest.mark.parametrize('value', [0, 7])
def test_constant(tmp_path, value):
    assert_refused(written(tmp_path / 'a.nii.gz', np.full(SHAPE, value, np.int16)), f'is {value};')


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad):
    data = head()
    data[3, 4, 5:8] = bad
    path = written(tmp_path / 'a.nii.gz', data)
    assert_refused(path, '3 voxels', 'Write 0 where the scan has no data')


def test_z_scores(tmp_path):
    data = head()
    assert_refused(written(tmp_path / 'a.nii.gz', (data - data.mean()) / data.std()), 'z-scores')


def test_complex_and_colour(tmp_path):
    assert_refused(written(tmp_path / 'a.nii.gz', head().astype(np.complex64)), 'complex64')
    colour = np.zeros(SHAPE, np.dtype([('R', 'u1'), ('G', 'u1'), ('B', 'u1')]))
    assert_refused(written(tmp_path / 'b.nii.gz', colour), 'data type')


def test_no_orientation(tmp_path):
    assert_refused(written(tmp_path / 'a.nii.gz', codes=(0, 0)), 'qform_code and sform_code are 0')


@pytest.mark.parametrize('codes', [(1, 0), (0, 1), (0, 2), (4, 0)])
def test_one_orientation_is_enough(tmp_path, codes):
    image = load_t1w(written(tmp_path / 'a.nii.gz', codes=codes))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)


def test_where_two_orientations_differ_the_sform_holds(tmp_path):
    image = nib.Nifti1Image(head(), AFFINE)
    image.set_sform(AFFINE, 2)
    image.set_qform(np.diag([-1, 1, 1, 1]) @ AFFINE, 1)
    nib.save(image, tmp_path / 'a.nii')
    np.testing.assert_allclose(load_t1w(tmp_path / 'a.nii').affine, AFFINE, atol=1e-5)


def test_shear_is_kept_in_the_geometry_of_the_scan(tmp_path):
    for shear in (0.0, 0.15):
        turn = np.eye(4)
        turn[1, 2] = shear
        path = written(tmp_path / 'a.nii.gz', affine=turn @ AFFINE, codes=(0, 1))
        there = conform(load_t1w(path))
        center = np.array(there.shape) / 2
        corner = nib.affines.apply_affine(there.affine, center)
        raw = nib.as_closest_canonical(nib.load(path))
        np.testing.assert_allclose(corner, nib.affines.apply_affine(raw.affine, center), atol=1e-3)


@pytest.mark.parametrize('size', [0.004, 0.05, 25.0])
def test_voxel_size(tmp_path, size):
    path = written(tmp_path / 'a.nii.gz', affine=np.diag([size, size, size, 1]))
    assert_refused(path, 'voxel size', 'unit mm')


def test_small_field_of_view(tmp_path):
    assert_refused(written(tmp_path / 'a.nii.gz', head((24, 28, 15))), '60 mm', 'whole brain')


def test_singular_orientation(tmp_path):
    path = written(tmp_path / 'a.nii')
    content = bytearray(path.read_bytes())
    content[280:296] = content[296:312] = struct.pack('<4f', 4, 4, 4, -48)  # srow_x, srow_y
    path.write_bytes(content)
    assert_refused(path, 'not invertible')


@pytest.mark.parametrize('claim', [(20000, 20000, 20000), (1500, 1500, 1500)])
def test_header_that_claims_too_much_costs_nothing(tmp_path, claim):
    header = nib.Nifti1Image(head(), AFFINE).header
    header.set_sform(AFFINE, 1)
    header.set_data_shape(claim)
    header['vox_offset'], header['magic'] = 352, b'n+1'
    path = tmp_path / 'a.nii.gz'
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    tracemalloc.start()
    assert_refused(path, str(claim[0]), '1024')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(('name', 'kind', 'slope'), [
    ('a.nii.gz', np.int16, None), ('a.nii.gz', np.int16, 0.37), ('a.nii', np.float32, None),
])  # fmt: skip
def test_to_conform_a_scan_takes_the_memory_that_is_planned(tmp_path, name, kind, slope):
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.integers(0, 900, (100, 100, 100)).astype(kind), np.eye(4))
    if slope:
        image.header.set_slope_inter(slope, 0)
    image.set_sform(np.eye(4), 1)
    nib.save(image, tmp_path / name)
    tracemalloc.start()
    conform(load_t1w(tmp_path / name)).to_filename(tmp_path / 'conformed.nii')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 1e6 < BYTES_PER_VOXEL['conform']


def test_any_damaged_header_is_an_image_error_or_an_image(tmp_path):
    good = written(tmp_path / 'good.nii').read_bytes()
    rng = np.random.default_rng(3)
    path, refused = tmp_path / 'bad.nii', 0
    for _ in range(300):
        content = bytearray(good)
        for position in rng.integers(0, 348, 3):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            image = load_t1w(path)
            assert np.isfinite(np.asarray(image.dataobj)).all()
        except ImageError:
            refused += 1
    assert 30 < refused < 300


@pytest.mark.parametrize('axes', ['RAS', 'LAS', 'PSR', 'AIL', 'SPL', 'RSA'])
def test_conform_keeps_the_world(axes, tmp_path):
    reference = nib.Nifti1Image(head(), AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes)
    )
    turned = reference.as_reoriented(turn)
    assert ''.join(nib.aff2axcodes(turned.affine)) == axes
    path = written(tmp_path / 'a.nii.gz', np.asarray(turned.dataobj), turned.affine)
    image = conform(load_t1w(path))
    assert nib.aff2axcodes(image.affine) == ('R', 'A', 'S')
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), head())


def test_conform_of_an_oblique_scan(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    oblique = AFFINE @ np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, -1, 9], [0, 0, 0, 1]])
    image = conform(load_t1w(written(tmp_path / 'a.nii.gz', affine=oblique)))
    assert nib.aff2axcodes(image.affine) == ('R', 'A', 'S')
    for index in ([12, 14, 13], [8, 10, 15]):
        mm = (oblique @ [*index, 1])[:3]
        assert world_value(image, mm) == pytest.approx(head()[tuple(index)])
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    assert int(image.header['qform_code']) == int(image.header['sform_code']) == 1


def test_conform_of_real_odd_scans(test_data):
    for path in sorted((test_data / 'data' / 'odd').glob('*.nii*')):
        image = conform(load_t1w(path))
        assert nib.aff2axcodes(image.affine) == ('R', 'A', 'S')
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_right_stays_right(test_data):
    """An R is burnt in at the right of the averaged head."""
    odd = test_data / 'data' / 'odd'
    one, two = (
        conform(load_t1w(odd / name))
        for name in ('head_plain_nii_qform0.nii', 'head_nifti2.nii.gz')
    )
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-4)


def test_a_file_that_changed_since_the_run_was_planned_is_refused(tmp_path):
    path = tmp_path / 'scan.nii'
    nib.save(
        nib.Nifti1Image(np.arange(27000.0).reshape(30, 30, 30), np.diag([4, 4, 4, 1.0])), path
    )
    planned = digest_of(path)
    assert load_t1w(path, planned).shape == (30, 30, 30)
    with path.open('r+b') as file:
        file.seek(-4, 2)
        file.write(b'\1\2\3\4')
    with pytest.raises(ImageError, match='changed while the run went on'):
        load_t1w(path, planned)


def test_a_file_is_read_once(tmp_path, monkeypatch):
    """What is decoded is what the digest is of, even if the file changes in between."""

    def read_and_remove(file):
        content = read_bytes(file)
        file.unlink()
        return content

    path, read_bytes = written(tmp_path / 'a.nii.gz'), Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', read_and_remove)
    np.testing.assert_allclose(load_t1w(path, digest_of(path)).dataobj, head())


def test_nipype_does_not_read_the_scan(tmp_path):
    """The digest stands for it."""
    step = Conform(in_file=str(tmp_path / 'not-there.nii'), sha256='a')
    before = step.inputs.get_hashval(hash_method='content')
    step.inputs.sha256 = 'b'
    assert step.inputs.get_hashval(hash_method='content') != before


@pytest.mark.parametrize('offset', [1e38, float('nan'), float('inf')])
def test_data_that_lie_nowhere_are_refused(tmp_path, offset):
    path = tmp_path / 'scan.nii'
    image = nib.Nifti1Image(head(), AFFINE)
    content = bytearray(image.to_bytes())
    content[108:112] = struct.pack('<f', offset)  # vox_offset
    path.write_bytes(content)
    with pytest.raises(ImageError, match='cannot be read|not a readable'):
        load_t1w(path)


def test_voxels_are_counted_by_the_header(tmp_path):
    path = written(tmp_path / 'a.nii.gz')
    assert count_voxels(path) == math.prod(SHAPE)
    path.write_bytes(path.read_bytes()[:-1000])
    assert count_voxels(path) == math.prod(SHAPE)  # the step that reads it says what is wrong
    for content in (b'', b'no image', gzip.compress(b'no image'), path.read_bytes()[:100]):
        path.write_bytes(content)
        assert count_voxels(path) == 0
    assert count_voxels(tmp_path / 'none.nii.gz') == 0
