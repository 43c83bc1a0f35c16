"""Files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import IO

PREFIX = '.tmp-'

_ANNEX = '/annex/objects/'
_LFS = b'version https://git-lfs.github.com/'

_unfinished: set[Path] = set()
# What this process is writing. A handler of signals has no other way to know it.


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Write to a temporary name beside `path`, then rename; on an error nothing is left behind.

    The temporary name ends like `path`, since writers choose their format by the ending, and
    starts with a dot, since it must not count as part of a dataset.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=path.name, dir=path.parent)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        # By the lock others know that somebody is writing; the kernel lets go of it when a process
        # dies. Work directories may lie where files cannot be locked.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        temporary.chmod(0o666 & ~umask())  # mkstemp makes files that only the owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)
        os.close(handle)


def discard_unfinished() -> None:
    """Delete what this process is writing, for the moment before it ends in the middle."""
    for temporary in tuple(_unfinished):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path, name_part: str) -> None:
    """Delete the temporary files of killed runs whose names contain `name_part`.

    What another process is writing stays.
    """
    for path in folder.glob(f'{PREFIX}*{name_part}*'):
        with suppress(OSError), path.open('r+b') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content`, UTF-8 where it is text, whole or not at all.

    A file that says so already stays as it is: on shared file systems, writing takes longest.
    """
    content = content.encode() if isinstance(content, str) else content
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    with staged(path) as temporary, temporary.open('wb') as file:
        file.write(content)
        sync(file)


def sync(file: IO[bytes]) -> None:
    """Bring what was written to the disk; a name of blocks that never reached it is no file."""
    file.flush()
    os.fsync(file.fileno())


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        with path.open('rb') as file:
            return file_digest(file, 'sha256').hexdigest()
    except OSError:
        return None


def not_fetched(path: Path) -> str | None:
    """What to do about a file whose content git-annex, DataLad or Git LFS has not fetched.

    Such a file is a link into the store of the annex, where its content is missing, or a small
    text that stands for it. A link to elsewhere that is broken is told as well. None of a file
    that is there, and of one that is missing altogether.
    """
    pointer = _read_start(path)
    target = os.path.realpath(path) if path.is_symlink() and not path.exists() else ''
    if pointer.startswith(_LFS):
        tool = 'git lfs pull --include {}'
    elif pointer.startswith(_ANNEX.encode()) or _ANNEX in target:
        tool = 'datalad get {0}" or "git annex get {0}'
    elif target:
        return (
            f'{path}: a broken link to {target}; mend it, or, in a container, mount the folder '
            'that it leads to as well'
        )
    else:
        return None
    return f'{path}: the content is not on this machine; run "{tool.format(_in_annex(path))}"'


def _read_start(path: Path) -> bytes:
    try:
        with path.open('rb') as file:
            return file.read(64)
    except OSError:
        return b''


def _in_annex(path: Path) -> str:
    """The path of a file in its own repository, to which other links may lead."""
    while path.is_symlink() and _ANNEX not in (target := os.readlink(path)):  # noqa: PTH115
        path = path.parent / target
    return shlex.quote(os.path.join(os.path.realpath(path.parent), path.name))  # noqa: PTH118


def umask() -> int:
    """The permissions that new files of this process do not get."""
    # The only portable way to read it is to set it; this program writes files from one thread.
    mask = os.umask(0)
    os.umask(mask)
    return mask
