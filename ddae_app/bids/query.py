"""Which T1w images a dataset holds, and which of them the user asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddae_app.bids.names import Scan
from ddae_app.errors import InvalidBIDSError, NothingSelectedError, UsageError

IGNORED = [re.compile(p) for p in (r'^/(code|derivatives|models|sourcedata|stimuli)', r'/\.')]


@dataclass(frozen=True)
class Selection:
    """What to take of a dataset.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels, with or without ``sub-`` and ``ses-``; empty takes all.
    filters : dict
        Entities and values that a T1w must have: the ``t1w`` part of a filter file as fMRIPrep
        reads it, where null means "without this entity" and ``"*"`` "with any value of it".
    database : Path or None
        Folder of a pybids index, made if it is not there.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: dict[str, Any] = field(default_factory=dict)
    database: Path | None = None


def read_filters(path: Path) -> dict[str, Any]:
    """The ``t1w`` query of a BIDS filter file.

    Raises
    ------
    UsageError
        Not JSON, or not of the form ``{"t1w": {"entity": value}}``.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError) as e:
        raise UsageError(f'--bids-filter-file {path}: not readable as JSON ({e})') from e
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UsageError(
            f'--bids-filter-file {path}: expected {{"t1w": {{"session": "01"}}}}, an object of '
            'queries'
        )
    return content.get('t1w', {})


def find_scans(bids_dir: Path, selection: Selection) -> list[Scan]:
    """The selected T1w images, by name.

    Parameters
    ----------
    bids_dir : Path
        Root of a raw BIDS dataset.
    selection : Selection
        What to take of it.

    Raises
    ------
    NothingSelectedError
        No image, or a label that the dataset does not have.
    InvalidBIDSError
        The folder is no BIDS dataset, or two files have the same name but for the ending.
    """
    import bids
    from bids.layout import Query

    indexer = bids.BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=IGNORED)
    if not (bids_dir / 'dataset_description.json').is_file():
        raise InvalidBIDSError(
            f'{bids_dir}: no dataset_description.json; expected the root of a BIDS dataset'
        )
    try:
        layout = bids.BIDSLayout(
            bids_dir,
            indexer=indexer,
            database_path=selection.database,
            is_derivative=False,
        )
    except (ValueError, TypeError, KeyError) as e:
        raise InvalidBIDSError(f'{bids_dir}: not readable as a BIDS dataset ({e})') from e
    query: dict[str, Any] = {
        'datatype': 'anat',
        'suffix': 'T1w',
        'extension': ['.nii', '.nii.gz'],
    }
    participants = _labels(selection.participants, 'sub', layout.get_subjects())
    sessions = _labels(selection.sessions, 'ses', layout.get_sessions())
    query |= {'subject': participants} if participants else {}
    query |= {'session': sessions} if sessions else {}
    special = {None: Query.NONE, '*': Query.ANY}
    for entity, value in selection.filters.items():
        query[entity] = special.get(value, value) if not isinstance(value, list) else value
    files = layout.get(return_type='object', invalid_filters='allow', **query)
    if not files:
        raise NothingSelectedError(
            f'{bids_dir}: no T1w image matches {_words(query)}; '
            f'the dataset has {len(layout.get_subjects())} participants, '
            f'{len(layout.get(suffix="T1w", extension=[".nii", ".nii.gz"]))} T1w images'
        )
    scans = sorted((_scan(file) for file in files), key=lambda scan: scan.stem)
    _check_unique(scans)
    return scans


def _labels(wanted: Sequence[str], prefix: str, present: Sequence[str]) -> list[str]:
    labels = [label.removeprefix(f'{prefix}-') for label in wanted]
    missing = [label for label in labels if label not in present]
    if missing:
        found = ', '.join(sorted(present)[:10]) + (', ...' if len(present) > 10 else '')
        raise NothingSelectedError(
            f'no {prefix}-{missing[0]} in the dataset; it has {prefix}: {found or "none"}'
        )
    return labels


def _scan(file: Any) -> Scan:
    entities = file.get_entities()
    stem = file.filename.removesuffix('.gz').removesuffix('.nii').removesuffix('_T1w')
    return Scan(Path(file.path), entities['subject'], entities.get('session'), stem)


def _check_unique(scans: Sequence[Scan]) -> None:
    for first, second in zip(scans, scans[1:], strict=False):
        if first.stem == second.stem:
            raise InvalidBIDSError(
                f'{first.path} and {second.path} have the same BIDS name; remove one of them'
            )


def _words(query: dict[str, Any]) -> str:
    return ', '.join(f'{key}={getattr(value, "name", value)}' for key, value in query.items())
