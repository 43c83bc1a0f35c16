"""SHA-256 of large files, remembered in the work directory for as long as they stay the same."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ddae_app.files import digest_of, staged

JUST_NOW_S = 2.0
"""A file that changed so short a time ago may change again with the same time in its inode."""


@dataclass(frozen=True)
class Digests:
    """SHA-256 of files; one that was read before is not read again unless it changed.

    As git does for its index, a file is taken for unchanged if its size, its number in the file
    system and the times of its last changes, of content and of inode, are what they were. Every
    file has an entry of its own, so that no two jobs write the same one but for the same content.

    Attributes
    ----------
    folder : Path
        Where digests are remembered.
    remembers : bool
        Whether to write there.
    """

    folder: Path
    remembers: bool = True

    def of(self, path: Path) -> str | None:
        """SHA-256 of a file; None if it cannot be read."""
        place = sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:16]
        entry = self.folder / f'{path.name}-{place}.json'
        before, known = _identity(path), _read(entry)
        if before and known.get('file') == before and isinstance(known.get('sha256'), str):
            return known['sha256']
        digest = digest_of(path)
        latest = max(before.get('changed', 0), before.get('inode_changed', 0)) / 1e9
        settled = time.time() - latest > JUST_NOW_S and _identity(path) == before
        if digest and settled and self.remembers:
            with staged(entry) as temporary:
                temporary.write_text(json.dumps({'file': before, 'sha256': digest}))
        return digest


def _identity(path: Path) -> dict[str, int]:
    """What changes with a file; empty if it is not there."""
    try:
        state = path.stat()
    except OSError:
        return {}
    return {
        'size': state.st_size,
        'inode': state.st_ino,
        'changed': state.st_mtime_ns,
        'inode_changed': state.st_ctime_ns,
    }


def _read(entry: Path) -> dict:
    """What is remembered; nothing if a run was killed while it was written."""
    try:
        content = json.loads(entry.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
