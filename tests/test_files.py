from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ddae_app.files import not_fetched, remove_temporary_files, staged, write_atomically


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


KEY = 'MD5E-s7--0123.nii.gz'
OBJECT = f'.git/annex/objects/aa/bb/{KEY}/{KEY}'


def _dropped_link(folder: Path) -> Path:
    path = folder / 'sub-01' / 'a b.nii.gz'
    path.parent.mkdir()
    path.symlink_to(f'../{OBJECT}')
    return path


def _dropped_in_a_linked_folder(folder: Path) -> Path:
    path = _dropped_link(folder)
    (folder / 'study').mkdir()
    (folder / 'study' / 'sub-01').symlink_to('../sub-01')
    return folder / 'study' / 'sub-01' / path.name


def _dropped_behind_another_link(folder: Path) -> Path:
    path = _dropped_link(folder)
    (folder / 'link.nii.gz').symlink_to(path)
    return folder / 'link.nii.gz'


def _pointer(folder: Path) -> Path:
    path = folder / 'sub-01' / 'a b.nii.gz'
    path.parent.mkdir()
    path.write_text(f'/annex/objects/{KEY}\n')
    return path


@pytest.mark.parametrize(
    'drop',
    [_dropped_link, _dropped_in_a_linked_folder, _dropped_behind_another_link, _pointer],
)
def test_what_annex_did_not_fetch_is_told_with_the_command(tmp_path, drop):
    path, file = drop(tmp_path), tmp_path / 'sub-01' / 'a b.nii.gz'
    assert not_fetched(path) == (
        f'{path}: the content is not on this machine; run "datalad get \'{file}\'" or '
        f'"git annex get \'{file}\'"'
    )


def test_what_git_lfs_did_not_fetch_is_told_with_the_command(tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n')
    assert f'run "git lfs pull --include {path}"' in (not_fetched(path) or '')


def test_files_that_are_there_or_missing_are_no_matter_of_fetching(tmp_path):
    (tmp_path / OBJECT).parent.mkdir(parents=True)
    (tmp_path / OBJECT).write_text('content')
    fetched = _dropped_link(tmp_path)
    (tmp_path / 'file').write_bytes(b'\x1f\x8b')
    for path in (fetched, *(tmp_path / n for n in ('file', 'missing', '.'))):
        assert not_fetched(path) is None


def test_a_broken_link_is_told_with_where_it_leads(tmp_path):
    (tmp_path / 'broken').symlink_to('/nowhere/x')
    (tmp_path / 'second').symlink_to('broken')
    (tmp_path / 'loop').symlink_to('loop')
    for name, target in (('broken', '/nowhere/x'), ('second', '/nowhere/x'), ('loop', '')):
        path = tmp_path / name
        assert (not_fetched(path) or '').startswith(f'{path}: a broken link to {target}')


def test_what_another_run_is_writing_is_not_tidied_up(tmp_path):
    path = tmp_path / 'sub-01_T1w.nii.gz'
    with staged(path) as temporary:
        temporary.write_text('half')
        left = temporary.with_name(temporary.name.replace('.tmp-', '.tmp-killed-'))
        left.write_text('of a killed run')
        remove_temporary_files(tmp_path, 'sub-01_')
        assert temporary.is_file() and not left.exists()
    assert path.read_text() == 'half'


def test_a_file_that_says_so_already_is_not_written_again(tmp_path):
    path = tmp_path / 'table.tsv'
    write_atomically(path, 'a\tb\n')
    before = path.stat()
    write_atomically(path, b'a\tb\n')
    assert path.stat() == before
    write_atomically(path, 'a\tc\n')
    assert path.read_text() == 'a\tc\n'
