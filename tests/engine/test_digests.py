from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ddae_app.engine import digests
from ddae_app.engine.digests import Digests
from ddae_app.files import digest_of


@pytest.fixture
def path(tmp_path) -> Path:
    """A scan that is as old as scans are."""
    path = tmp_path / 'scan.nii.gz'
    path.write_bytes(b'as the scanner wrote it')
    return path


@pytest.fixture
def old(monkeypatch):
    """The times of the inode cannot be set; what is now can."""
    now = time.time()
    monkeypatch.setattr(digests.time, 'time', lambda: now + 3600)


@pytest.fixture
def read(monkeypatch) -> list[Path]:
    """The files that are read."""
    files: list[Path] = []

    def reading(path):
        files.append(path)
        return digest_of(path)

    monkeypatch.setattr(digests, 'digest_of', reading)
    return files


def test_a_file_is_read_once_by_all_runs(path, tmp_path, old, read):
    found = [Digests(tmp_path / 'work').of(path) for _ in range(3)]
    assert found == [digest_of(path)] * 3
    assert read == [path]


@pytest.mark.parametrize('restored', [False, True])
def test_a_file_that_changed_is_read_again(path, tmp_path, old, read, restored):
    """The same size, and even the same time: who sets that time changes the inode's."""
    first = Digests(tmp_path / 'work').of(path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[::-1])
    if restored:
        os.utime(path, ns=times)
    second = Digests(tmp_path / 'work').of(path)
    assert second == digest_of(path) != first
    assert len(read) == 2


def test_a_file_that_takes_the_place_of_another_is_read(path, tmp_path, old):
    Digests(tmp_path / 'work').of(path)
    other = tmp_path / 'other'
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert Digests(tmp_path / 'work').of(path) == digest_of(path)


def test_a_file_that_was_just_written_is_not_remembered(path, tmp_path, read):
    """It may change again within the grain of the file system's clock."""
    for _ in range(2):
        Digests(tmp_path / 'work').of(path)
    assert len(read) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(path, tmp_path, old, monkeypatch):
    def reading(path):
        digest = digest_of(path)
        path.write_bytes(b'another content, written meanwhile')
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(digests, 'digest_of', reading)
        Digests(tmp_path / 'work').of(path)
    assert Digests(tmp_path / 'work').of(path) == digest_of(path)


@pytest.mark.parametrize('content', ['', '{"file": ', '[]', '{"file": {}, "sha256": 3}'])
def test_a_damaged_entry_is_replaced(path, tmp_path, old, content):
    Digests(tmp_path / 'work').of(path)
    (entry,) = (tmp_path / 'work').iterdir()
    whole = entry.read_text()
    entry.write_text(content)
    assert Digests(tmp_path / 'work').of(path) == digest_of(path)
    assert entry.read_text() == whole


def test_files_of_one_name_are_told_apart(path, tmp_path, old):
    other = tmp_path / 'other' / path.name
    other.parent.mkdir()
    other.write_bytes(b'another person')
    for _ in range(2):
        assert Digests(tmp_path / 'work').of(path) == digest_of(path)
        assert Digests(tmp_path / 'work').of(other) == digest_of(other)


def test_nothing_is_written_where_nothing_may_be(path, tmp_path, old):
    assert Digests(tmp_path / 'work', remembers=False).of(path) == digest_of(path)
    assert not (tmp_path / 'work').exists()


def test_a_file_that_is_not_there_has_no_digest(tmp_path):
    assert Digests(tmp_path / 'work').of(tmp_path / 'none') is None
