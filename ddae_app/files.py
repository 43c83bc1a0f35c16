"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path

PREFIX = '.tmp-'

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
    os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        temporary.chmod(0o666 & ~umask())  # mkstemp makes files that only the owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def discard_unfinished() -> None:
    """Delete what this process is writing, for the moment before it ends in the middle."""
    for temporary in tuple(_unfinished):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path, name_part: str) -> None:
    """Delete the temporary files of killed runs whose names contain `name_part`.

    Not while another process writes such files.
    """
    for path in folder.glob(f'{PREFIX}*{name_part}*'):
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content`, UTF-8 where it is text, whole or not at all."""
    with staged(path) as temporary, temporary.open('wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        # A name that points to blocks which never reached the disk is no file.
        os.fsync(file.fileno())


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        with path.open('rb') as file:
            return file_digest(file, 'sha256').hexdigest()
    except OSError:
        return None


def umask() -> int:
    """The permissions that new files of this process do not get."""
    # The only portable way to read it is to set it; this program writes files from one thread.
    mask = os.umask(0)
    os.umask(mask)
    return mask
