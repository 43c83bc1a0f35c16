"""The folders of people that FreeSurfer or FastSurfer wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddae_app.errors import UsageError

_NAME = re.compile(r'sub-(?P<participant>[A-Za-z0-9+]+)(_ses-(?P<session>[A-Za-z0-9+]+))?')

_TEMPLATES = re.compile(r'fsaverage\w*|[lr]h\.EC_average|cvs_avg35\w*')
"""Folders that the programs put beside those of people."""

_BASES = 'base-tps', 'base-tps.fastsurfer'
"""The files by which FreeSurfer and FastSurfer mark the template of the sessions of a person."""


@dataclass(frozen=True)
class Recon:
    """The folder of a person, or of a session.

    Attributes
    ----------
    folder : Path
        Named ``sub-01`` or ``sub-01_ses-1``.
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    """

    folder: Path
    participant: str
    session: str | None

    @property
    def stats(self) -> Path:
        """The folder of the stats files."""
        return self.folder / 'stats'


@dataclass(frozen=True)
class Recons:
    """What the folders of people hold.

    Attributes
    ----------
    found : tuple of Recon
        By name.
    misnamed : tuple of str
        Folders with stats whose names are none of BIDS.
    longitudinal : tuple of str
        Folders of the longitudinal stream of FreeSurfer, ``sub-01_ses-1.long.sub-01``.
    templates : tuple of str
        Folders of people that stand beside those of their sessions.
    """

    found: tuple[Recon, ...]
    misnamed: tuple[str, ...]
    longitudinal: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def left_out(self) -> list[tuple[tuple[str, ...], str]]:
        """The folders that are not taken, and why."""
        return [
            (self.misnamed, 'the name is not sub-<label> or sub-<label>_ses-<label>'),
            (
                self.longitudinal,
                'of the longitudinal stream (to take it, give a folder of links to them, named '
                'sub-<label>_ses-<label>)',
            ),
            (self.templates, 'template or average of the sessions of a person'),
        ]


def find_recons(roots: Sequence[Path]) -> Recons:
    """List the folders of people that have stats.

    Raises
    ------
    UsageError
        Two of them are of the same person and session, or a root cannot be read.
    """
    folders: list[Path] = []
    for root in roots:
        try:
            folders += sorted(path for path in root.iterdir() if (path / 'stats').is_dir())
        except OSError as e:
            raise UsageError(f'{root}: not readable ({e.strerror})') from e
    return recons_of(folders)


def recons_of(folders: Iterable[Path]) -> Recons:
    """Tell the folders of people from those that the programs put beside them.

    Raises
    ------
    UsageError
        Two of them are of the same person and session.
    """
    found: dict[str, Recon] = {}
    misnamed: list[str] = []
    longitudinal: list[str] = []
    for folder in folders:
        name = folder.name
        match = _NAME.fullmatch(name)
        if match is None:
            if '.long.' in name:
                longitudinal.append(name)
            elif not _TEMPLATES.fullmatch(name):
                misnamed.append(name)
            continue
        if name in found:
            raise UsageError(
                f'{found[name].folder} and {folder} are of the same person; remove one, or '
                'leave out its folder after -d'
            )
        found[name] = Recon(folder, match['participant'], match['session'])
    several = {recon.participant for recon in found.values() if recon.session}
    templates = {
        name
        for name, recon in found.items()
        if (recon.session is None and recon.participant in several)
        or any((recon.folder / base).is_file() for base in _BASES)
    }
    return Recons(
        tuple(recon for name, recon in sorted(found.items()) if name not in templates),
        tuple(misnamed),
        tuple(longitudinal),
        tuple(sorted(templates)),
    )
