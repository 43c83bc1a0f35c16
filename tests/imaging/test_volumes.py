from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from ddae_app.errors import ImageError
from ddae_app.imaging import volumes

AFFINE = np.array([[1.5, 0, 0, -96], [0, 1.8, 0, -132], [0, 0, 1.4, -78], [0, 0, 0, 1]])
DATA = np.random.default_rng(0).random((20, 22, 24))


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_what_was_written_is_read(tmp_path, suffix):
    path = tmp_path / f'new/folder/a{suffix}'
    volumes.write(path, DATA, AFFINE)
    image = volumes.read(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), DATA.astype(np.float32))
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_header_says_mni_and_mm(tmp_path):
    volumes.write(tmp_path / 'a.nii.gz', DATA, AFFINE)
    header = nib.load(tmp_path / 'a.nii.gz').header
    assert (int(header['qform_code']), int(header['sform_code'])) == (4, 4)
    assert header.get_xyzt_units()[0] == 'mm'
    assert header.get_data_dtype() == np.float32
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


def test_masks_are_bytes(tmp_path):
    volumes.write(tmp_path / 'a.nii.gz', DATA > 0.5, AFFINE)
    image = nib.load(tmp_path / 'a.nii.gz')
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), DATA > 0.5)


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_same_bytes_under_another_name_and_time(tmp_path, monkeypatch, suffix):
    volumes.write(tmp_path / f'a{suffix}', DATA, AFFINE)
    monkeypatch.setattr('time.time', lambda: 2e9)
    volumes.write(tmp_path / f'b{suffix}', np.asfortranarray(DATA), AFFINE)
    one, two = ((tmp_path / f'{name}{suffix}').read_bytes() for name in 'ab')
    assert one == two


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.nii'
    volumes.write(path, DATA, AFFINE)
    old = path.read_bytes()

    def fail(image, name):
        name.write_bytes(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(nib, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        volumes.write(path, 2 * DATA, AFFINE)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ['a.nii']


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b''


def scribbled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(50) + content[middle + 50 :]


def other_header(content: bytes) -> bytes:
    """A data type that does not exist."""
    compressed = content[:2] == b'\x1f\x8b'
    plain = bytearray(gzip.decompress(content) if compressed else content)
    plain[70:72] = b'\x0b\x0b'
    return gzip.compress(bytes(plain)) if compressed else bytes(plain)


@pytest.mark.parametrize(
    ('suffix', 'damage'),
    [
        ('.nii', cut),
        ('.nii.gz', cut),
        ('.nii', emptied),
        ('.nii.gz', emptied),
        ('.nii.gz', scribbled),
        ('.nii', other_header),
        ('.nii.gz', other_header),
    ],
)
def test_damaged_file(tmp_path, suffix, damage):
    path = tmp_path / f'a{suffix}'
    volumes.write(path, DATA, AFFINE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match='run the preprocessing again') as caught:
        volumes.read(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match='not readable'):
        volumes.read(tmp_path / 'a.nii')
