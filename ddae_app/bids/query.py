"""Which T1w images a dataset holds, and which of them the user asked for."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ddae_app.bids.scan import Scan, check_names, participants_in
from ddae_app.errors import InvalidBIDSError, NothingSelectedError, UsageError
from ddae_app.files import PREFIX, not_fetched, umask

log = logging.getLogger('ddae_app')

MOST_NAMED = 5
"""Images of a participant in a message; the others are counted."""

CONTRAST_ENHANCED_OUT = {'ceagent': None}
TAKE_CONTRAST_ENHANCED = (
    'to take them, give --bids-filter-file with {"t1w": {"ceagent": "*"}}, or with '
    '[null, "*"] for all images'
)

CONFIG = ['bids', 'derivatives']
"""Entities that pybids reads: also those of derivatives, such as ``desc``, to filter by."""

# Files in folders such as derivatives/ and sourcedata/ are no part of the raw dataset.
IGNORED = [re.compile(p) for p in (r'^/(?!sub-)[^/]+/', r'/\.')]


@dataclass(frozen=True)
class Selection:
    """What to take of a dataset.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels, with or without ``sub-`` and ``ses-``; empty takes all.
    filters : dict
        Entities and values that a T1w must have: the ``t1w`` part of a filter file as fMRIPrep
        reads it, where null means "without this entity", ``"*"`` "with any value of it", and a
        list "one of these".
    database : Path or None
        Folder of indexes of pybids; that of the dataset as it is now is made if it is not there.
    read_only : bool
        An index that is not there is not made; the dataset is then read without one.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: dict[str, Any] = field(default_factory=dict)
    database: Path | None = None
    read_only: bool = False


def read_filters(path: Path) -> dict[str, Any]:
    """The ``t1w`` query of a BIDS filter file; queries of other names are for other programs.

    Raises
    ------
    UsageError
        Not JSON, or not of the form ``{"t1w": {"entity": value}}``.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError) as e:
        raise UsageError(f'--bids-filter-file {path}: not readable as JSON ({e})') from e
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UsageError(
            f'--bids-filter-file {path}: expected {{"t1w": {{"session": "01"}}}}, an object of '
            'queries'
        )
    misspelled = [name for name in content if name != 't1w' and name.lower() in ('t1', 't1w')]
    if misspelled:
        raise UsageError(f'--bids-filter-file {path}: query {misspelled[0]!r}; expected "t1w"')
    filters = content.get('t1w', {})
    for entity, value in filters.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(v is None or isinstance(v, str | int) for v in values):
            raise UsageError(
                f'--bids-filter-file {path}: {entity} is {json.dumps(value)}; expected a text, a '
                'number, null (without it), "*" (any), or a list of these'
            )
    return filters


def find_scans(bids_dir: Path, selection: Selection, *, quiet: bool = False) -> list[Scan]:
    """The selected T1w images, by name.

    Parameters
    ----------
    bids_dir : Path
        Root of a raw BIDS dataset.
    selection : Selection
        What to take of it.
    quiet : bool
        Do not log what is left out, for who asks again in a run that says so.

    Raises
    ------
    NothingSelectedError
        No image, or a participant or session that was named has none.
    InvalidBIDSError
        The folder is no BIDS dataset, a file name is no BIDS name, or two are the same but for
        the ending.
    UsageError
        A filter of an entity that BIDS does not have, a number that is too large for one, or an
        unusable database folder.
    """
    from bids.layout import Query

    check_description(bids_dir)
    participants = _labels(selection.participants, 'sub', lambda: participants_in(bids_dir))
    sessions = _labels(selection.sessions, 'ses', lambda: _sessions_in(bids_dir))
    layout = _index(bids_dir, selection, participants)
    _check_entities(selection.filters, layout)
    query: dict[str, Any] = {
        'datatype': 'anat',
        'suffix': 'T1w',
        'extension': ['.nii', '.nii.gz'],
        # The phase of a complex image shows no anatomy.
        'part': [None, 'mag'],
        # Bright vessels and membranes are no effect of the scanner.
        **CONTRAST_ENHANCED_OUT,
    }
    query |= {'subject': participants} if participants else {}
    query |= {'session': sessions} if sessions else {}
    query |= selection.filters
    special = {None: Query.NONE, '*': Query.ANY}
    chosen = {
        key: [special.get(v, v) for v in dict.fromkeys(value)]  # pybids takes null once only
        if isinstance(value, list)
        else special.get(value, value)
        for key, value in query.items()
    }
    scans, elsewhere = _scans(layout, chosen)
    left_out: list[Scan] = []
    if 'ceagent' not in selection.filters:
        left_out, _ = _scans(layout, chosen | {'ceagent': Query.ANY})
    without = sorted(set(participants) - {scan.participant for scan in scans})
    if without or not scans:
        named = without[:1]
        enhanced = any(not named or scan.participant in named for scan in left_out)
        conditions = (CONTRAST_ENHANCED_OUT if enhanced else {}) | selection.filters
        raise NothingSelectedError(
            _nothing(bids_dir, replace(selection, filters=conditions), named)
        )
    if left_out and not quiet:
        log.info(
            '%d contrast-enhanced T1w left out (ce-, for example %s); %s',
            len(left_out), left_out[0].path.name, TAKE_CONTRAST_ENHANCED,
        )  # fmt: skip
    if elsewhere and not quiet:
        log.info(
            '%d T1w left out, for example %s: expected in sub-<label>/[ses-<label>/]anat, with '
            'labels of letters and digits and the same in the name',
            len(elsewhere), elsewhere[0].path.relative_to(layout.root),
        )  # fmt: skip
    check_names(scans)
    return scans


def _scans(layout: Any, query: dict[str, Any]) -> tuple[list[Scan], list[Scan]]:
    """Images by name: those in the folder that their name tells, and others, such as copies."""
    try:
        files = layout.get(return_type='object', invalid_filters='allow', **query)
    except OverflowError as e:
        raise UsageError(
            '--bids-filter-file: the t1w query has a number that is too large for an entity; '
            'expected one of less than 19 digits'
        ) from e
    scans = sorted((_scan(file) for file in files), key=lambda scan: scan.stem)
    there: list[Scan] = []
    elsewhere: list[Scan] = []
    for scan in scans:
        is_there = scan.path.parent == Path(layout.root) / scan.folder
        (there if is_there else elsewhere).append(scan)
    return there, elsewhere


def check_description(bids_dir: Path) -> None:
    """Refuse a folder that is no dataset.

    Raises
    ------
    InvalidBIDSError
        It has no dataset_description.json.
    UsageError
        The content of that file was not fetched.
    """
    description = bids_dir / 'dataset_description.json'
    if message := not_fetched(description):
        raise UsageError(message)
    if not description.is_file():
        raise InvalidBIDSError(
            f'{bids_dir}: no dataset_description.json; expected the root of a BIDS dataset'
        )
    # pybids would call it a typo.
    if description.read_bytes().startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE)):
        raise InvalidBIDSError(
            f'{description}: begins with a byte-order mark, which JSON has not; save it as UTF-8 '
            'without that mark (BOM)'
        )


def _index(bids_dir: Path, selection: Selection, participants: Sequence[str] = ()) -> Any:
    """An index of a dataset, or, unless it is kept in a database, of some participants only.

    In an array of jobs each of which takes some participants, nobody indexes all of them.
    """
    import bids
    from sqlalchemy.exc import SQLAlchemyError

    database = selection.database
    config = _below(bids_dir.absolute())

    def index(folder: Path | None = None) -> Any:
        ignored: list[Any] = [*IGNORED]
        if participants and folder is None:
            ignored.append(_OthersThan(frozenset(participants)))
        indexer = bids.BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignored)
        return bids.BIDSLayout(
            bids_dir, indexer=indexer, database_path=folder, is_derivative=False, config=config
        )

    try:
        if database is None:
            return index()
        folder = database / f'index-{_fingerprint(bids_dir, bids.__version__, config)}'
        if folder.is_dir():
            return index(folder)
        if selection.read_only:
            return index()
        _make_index(index, folder)
        return index(folder)
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise InvalidBIDSError(
            f'{bids_dir}: not readable as a BIDS dataset ({_first_line(e)})'
        ) from e
    except (OSError, SQLAlchemyError) as e:
        if database is None:
            raise
        raise UsageError(
            f'--bids-database-dir {database}: not usable ({_first_line(e)}); remove the folder, '
            'so that it is made anew, or name another'
        ) from e


def _below(root: Path) -> list[dict[str, Any]]:
    """The entities that pybids reads, from what follows the root of a dataset in paths.

    By itself, it takes them from the whole path: below a folder ``sub-01``, ``ses-1`` or ``func``,
    all images would be of that participant or session, or of another kind.
    """
    from bids.config import get_option

    files = get_option('config_paths')
    configs = [json.loads(Path(files[name]).read_text(encoding='utf-8')) for name in CONFIG]
    start = f'^{re.escape(str(root))}(?s:.*?)'
    for entity in (entity for config in configs for entity in config['entities']):
        entity['pattern'] = f'{start}(?:{entity["pattern"]})'
    return configs


@dataclass(frozen=True)
class _OthersThan:
    """Matches the paths of all but some participants; pybids takes it for a regular expression.

    An expression of thousands of labels would try them all on each folder.
    """

    participants: frozenset[str]

    def search(self, path: str) -> bool:
        """Whether a path in the dataset belongs to another participant."""
        name = path.split('/', 2)[1]
        return name.startswith('sub-') and name[4:] not in self.participants


def _make_index(index: Callable[[Path], Any], folder: Path) -> None:
    """Make an index under another name, so that a job that stops does no harm to others."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder.parent))
    try:
        index(temporary)
        temporary.chmod(0o777 & ~umask())
        try:
            temporary.rename(folder)
        except OSError:
            # Another job made the same index meanwhile.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fingerprint(bids_dir: Path, version: str, config: Sequence[dict[str, Any]]) -> str:
    """What an index depends on: where a dataset is, the names of its files, and the indexer."""
    digest = sha256(f'{bids_dir}\0{version}\0{[p.pattern for p in IGNORED]}\0{config}'.encode())
    digest.update((bids_dir / 'dataset_description.json').read_bytes())
    for start in [bids_dir, *sorted(p for p in bids_dir.glob('sub-*') if p.is_dir())]:
        for folder, folders, files in os.walk(start, followlinks=True):
            folders.sort()
            digest.update(f'\0{folder}\0{sorted(files)}'.encode(errors='surrogateescape'))
            if start == bids_dir:
                break
    return digest.hexdigest()[:16]


def _check_entities(filters: dict[str, Any], layout: Any) -> None:
    known = sorted(layout.get_entities())
    unknown = sorted(set(filters) - {*known, 'regex_search'})
    if unknown:
        raise UsageError(
            f'--bids-filter-file: {unknown[0]!r} is no BIDS entity; expected one of '
            f'{", ".join(known)}'
        )


def _sessions_in(bids_dir: Path) -> list[str]:
    """Labels of all sessions, which are found much sooner than an index of them is made."""
    return sorted({path.name[4:] for path in bids_dir.glob('sub-*/ses-*') if path.is_dir()})


def _labels(wanted: Sequence[str], prefix: str, find: Callable[[], list[str]]) -> list[str]:
    """Labels without prefix; `find` is asked which there are only if some are wanted."""
    if not wanted:
        return []
    labels = list(dict.fromkeys(label.removeprefix(f'{prefix}-') for label in wanted))
    present = dict.fromkeys(find())
    missing = [label for label in labels if label not in present]
    if missing:
        labels_there = ', '.join(sorted(present)[:10]) + (', ...' if len(present) > 10 else '')
        raise NothingSelectedError(
            f'no {prefix}-{missing[0]} in the dataset; it has {prefix}: {labels_there or "none"}'
        )
    return labels


def _scan(file: Any) -> Scan:
    entities = file.get_entities()
    stem = file.filename.removesuffix('.gz').removesuffix('.nii').rpartition('_')[0]
    return Scan(Path(file.path), entities['subject'], entities.get('session'), stem)


def _nothing(bids_dir: Path, selection: Selection, named: list[str]) -> str:
    asked: dict[str, Any] = {'session': list(selection.sessions)} if selection.sessions else {}
    special = {None: 'none', '*': 'any'}
    conditions = [
        f'{key}='
        + ' or '.join(
            str(special.get(v, v)) for v in (value if isinstance(value, list) else [value])
        )
        for key, value in (asked | selection.filters).items()
    ]
    participants = len(participants_in(bids_dir))
    layout = _index(bids_dir, selection)
    images = len(layout.get(suffix='T1w', extension=['.nii', '.nii.gz']))
    found = _images_of(layout, named)
    more = len(found) - MOST_NAMED
    return (
        f'{bids_dir}: {"".join(f"sub-{label} has " for label in named)}no T1w image'
        f'{" with " if conditions else ""}{", ".join(conditions)}; the dataset has '
        f'{participants} participant{"s" * (participants != 1)}, {images} T1w '
        f'image{"s" * (images != 1)}'
        + (', none of them in a folder sub-<label>/anat' if images and not participants else '')
        + (f'; of sub-{named[0]} it has ' if found else '')
        + ', '.join(found[:MOST_NAMED])
        + (f' and {more} more' if more > 0 else '')
        + (f'; {TAKE_CONTRAST_ENHANCED}' if selection.filters == CONTRAST_ENHANCED_OUT else '')
    )


def _images_of(layout: Any, participants: Sequence[str]) -> list[str]:
    """Names of the anatomical images of some participants, those that are like a T1w first."""
    if not participants:
        return []
    files = layout.get(subject=participants, datatype='anat', extension=['.nii', '.nii.gz'])
    names = sorted({file.filename for file in files})
    return sorted(names, key=lambda name: not re.search(r'_(T1w|UNIT1)\.', name))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
