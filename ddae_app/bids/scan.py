"""A scan of a dataset, and the space in which its outputs lie."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddae_app.errors import InvalidBIDSError
from ddae_app.settings import Protocol

_NAME = re.compile(r'sub-[A-Za-z0-9+]+(_[A-Za-z0-9]+-[A-Za-z0-9+]+)*')


@dataclass(frozen=True)
class Scan:
    """One T1w image of a dataset.

    Attributes
    ----------
    path : Path
        The image.
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    stem : str
        File name up to its suffix, for example ``sub-01_ses-1_run-2``.
    """

    path: Path
    participant: str
    session: str | None
    stem: str

    @property
    def folder(self) -> Path:
        """Where its files lie in a dataset, ``sub-01/ses-1/anat``."""
        session = [f'ses-{self.session}'] if self.session else []
        return Path(f'sub-{self.participant}', *session, 'anat')

    @property
    def workflow(self) -> str:
        """A name for its workflow: letters, digits and underscores."""
        return ''.join(c if c.isalnum() else '_' for c in self.stem) + '_wf'


def participants_in(bids_dir: Path) -> list[str]:
    """Labels of the participants that have a folder in a dataset, in order.

    The folder of the dataset is read and none of those in it: each job of an array does this.
    """
    try:
        with os.scandir(bids_dir) as entries:
            found = [entry for entry in entries if entry.name.startswith('sub-')]
    except OSError:
        return []
    return sorted(entry.name[4:] for entry in found if _is_folder(entry))


def _is_folder(entry: os.DirEntry) -> bool:
    # Of a link that leads in a circle, an entry cannot say what it is.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def check_names(scans: Sequence[Scan]) -> None:
    """Refuse images whose names are none of BIDS, do not fit their folder, or occur twice.

    Parameters
    ----------
    scans : sequence of Scan
        By name.

    Raises
    ------
    InvalidBIDSError
    """
    for scan in scans:
        # They become names of outputs, and addresses in pages.
        if not _NAME.fullmatch(scan.stem):
            raise InvalidBIDSError(
                f'{str(scan.path)!r}: not a BIDS name; expected sub-<label>, other entities as '
                '<key>-<label>, and T1w, the labels of letters and digits, joined by _'
            )
        labels = dict(part.split('-', 1) for part in scan.stem.split('_'))
        # Tables and outputs would know it as that of one participant, pages as that of another.
        if (labels['sub'], labels.get('ses', scan.session)) != (scan.participant, scan.session):
            raise InvalidBIDSError(
                f'{scan.path}: the name is of another participant or session than the folder; '
                'expected the same labels; rename or move it'
            )
    for first, second in zip(scans, scans[1:], strict=False):
        if first.stem == second.stem:
            raise InvalidBIDSError(
                f'{first.path} and {second.path} have the same BIDS name; remove one of them'
            )


@dataclass(frozen=True)
class Space:
    """The space in which the outputs of a run lie.

    Attributes
    ----------
    protocol : Protocol
    reference : str
        URI of the template.
    """

    protocol: Protocol
    reference: str

    @property
    def entities(self) -> dict[str, str]:
        """``space`` and ``res`` of the outputs."""
        return {
            'space': self.protocol.template,
            'res': 'x'.join(map(str, dict.fromkeys(self.protocol.grid))),
        }

    def metadata(self) -> dict[str, Any]:
        """The sidecar entries that all images in this space share."""
        grid = ' x '.join(map(str, self.protocol.grid))
        return {
            'SpatialReference': self.reference,
            'Resolution': f'{grid} voxels over the field of view of {self.protocol.template}',
        }
