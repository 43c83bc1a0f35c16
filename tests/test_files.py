from __future__ import annotations

import os
import stat

import pytest

from ddae_app.files import staged, write_atomically


def test_text_is_utf8_and_bytes_are_bytes(tmp_path):
    write_atomically(tmp_path / 'deep' / 'a.txt', 'Köln\n')
    write_atomically(tmp_path / 'b.bin', b'\xff\r\n')
    assert (tmp_path / 'deep' / 'a.txt').read_bytes() == b'K\xc3\xb6ln\n'
    assert (tmp_path / 'b.bin').read_bytes() == b'\xff\r\n'


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'x.nii.gz'
    write_atomically(path, 'old')
    with pytest.raises(RuntimeError), staged(path) as temporary:
        temporary.write_text('half of the n')
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ['x.nii.gz']
    assert path.read_text() == 'old'


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / 'x.nii.gz'
    write_atomically(path, 'old')
    with staged(path) as temporary:
        temporary.write_text('new')
        assert path.read_text() == 'old'
        assert temporary.parent == tmp_path
        assert temporary.name.startswith('.') and temporary.name.endswith('x.nii.gz')
    assert path.read_text() == 'new'


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002])
def test_files_are_readable_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / 'x', '')
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'x').stat().st_mode) == 0o666 & ~umask
