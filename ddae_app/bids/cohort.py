"""Site, age and sex of each scan, from the tables of the dataset and the JSON of the scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ddae_app.bids.covariates import Covariates, RowReader, of_session
from ddae_app.bids.metadata import SCANNER_FIELDS, ScanMetadata
from ddae_app.bids.scan import Scan, participants_in
from ddae_app.bids.tables import Dictionary, Table, read_dictionary, read_table
from ddae_app.bids.values import shown
from ddae_app.errors import InvalidBIDSError, UsageError
from ddae_app.settings import MAX_NAME, is_name

SOURCE_SITE = '--source-site'
"""The flag that gives a site to scans of which nothing else names it."""


@dataclass(frozen=True)
class Cohort:
    """The covariates of all scans, and where they were found.

    Attributes
    ----------
    covariates : dict of str to Covariates
        By the scan's stem.
    site_column : str or None
        The column, or field of the scans' JSON, that named the sites, or `source_site_from` where
        nothing else did; None where nothing names them.
    columns : tuple of str
        All columns of participants.tsv.
    age_column, sex_column : str
        Which columns were read, and how, in words; empty where there is none.
    without_row : tuple of str
        Participants of these scans that participants.tsv does not know, if there is one.
    without_folder : tuple of str
        Participants that it knows and the dataset does not have.
    other_columns : tuple of str
        Columns of participants.tsv that could name the site and were not read.
    other_of_sessions : mapping of str to tuple of str
        For ``age`` and ``sex``, the columns of the tables of sessions that do not tell them.
    doubts : tuple of str
        What is doubtful of the columns themselves, in words.
    site_fields : tuple of str
        Fields of the scans' JSON that could name the site, where nothing names it.
    source_site : str or None
        The site of the scans of which nothing else names it.
    source_site_from : str
        What says that, in words.
    """

    covariates: dict[str, Covariates]
    site_column: str | None
    columns: tuple[str, ...]
    age_column: str = ''
    sex_column: str = ''
    without_row: tuple[str, ...] = ()
    without_folder: tuple[str, ...] = ()
    other_columns: tuple[str, ...] = ()
    other_of_sessions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    site_fields: tuple[str, ...] = ()
    source_site: str | None = None
    source_site_from: str = SOURCE_SITE

    def __getitem__(self, scan: Scan) -> Covariates:
        return self.covariates[scan.stem]


def read_cohort(
    bids_dir: Path,
    scans: Sequence[Scan],
    *,
    site_column: str | None = None,
    source_site: str | None = None,
    source_site_from: str = SOURCE_SITE,
    further: Sequence[str] = (),
    metadata: ScanMetadata | None = None,
) -> Cohort:
    """Look up the covariates of each scan; values of a session take precedence.

    What is wrong with one scan is told in its :class:`Covariates`, and hurts no other.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.
    scans : sequence of Scan
        For whom.
    site_column : str, optional
        Column that names the site, or field of the scans' JSON where no table has such a column;
        else the first of `SITE_COLUMNS` that is there.
    source_site : str, optional
        The site of the scans of which nothing else names it.
    source_site_from : str
        What says that, in words.
    further : sequence of str
        Names of other columns to look up.
    metadata : ScanMetadata, optional
        Of this dataset.

    Raises
    ------
    UsageError
        A named column is not there, or `source_site` is no name.
    InvalidBIDSError
        A table is not readable.
    """
    if source_site is not None and not is_name(source_site):
        raise UsageError(f'{source_site_from} {_no_name(source_site)}')
    metadata = metadata or ScanMetadata(bids_dir)
    reader = _DatasetReader(bids_dir, site_column, further)
    folders = set(participants_in(bids_dir))
    covariates = {}
    for scan in scans:
        known = reader.covariates(scan, folders)
        if known.site is None and site_column:
            known = _from_json(known, scan, site_column, metadata)
        if known.site is None and source_site:
            known = replace(known, site=source_site, site_from=source_site_from)
        if known.site and not is_name(known.site):
            known = replace(known, fault=known.fault or f'its site is {_no_name(known.site)}')
        # What is not reliable is not used, whoever looks at it.
        covariates[scan.stem] = Covariates(fault=known.fault) if known.fault else known
    column = reader.first('site')
    from_json = any(known.site_from.startswith('JSON') for known in covariates.values())
    if column is None and from_json:
        column = site_column
    table = reader.participants
    if site_column and column is None:
        faults = (known.fault for known in covariates.values() if known.fault)
        reason = next(faults, 'no such field in the JSON of these scans')
        raise UsageError(f'{_no_column("--site-column", site_column, table)}, and {reason}')
    for name in further:
        if not any(name in each.further for each in reader.readers):
            raise UsageError(_no_column('--biology', name, table))
    people = {scan.participant for scan in scans}
    return Cohort(
        covariates,
        column or (source_site_from if source_site else None),
        table.columns,
        age_column=reader.first('age_column') or '',
        sex_column=reader.first('sex_column') or '',
        without_row=tuple(sorted(people - set(table.rows))) if table.columns else (),
        without_folder=tuple(sorted(set(table.rows) - folders)),
        other_columns=reader.first('other_sites') or (),
        doubts=tuple(dict.fromkeys(r.doubt for r in reader.readers if r.doubt)),
        other_of_sessions={name: reader.columns_of_sessions(name) for name in ('age', 'sex')},
        site_fields=() if column else _site_fields(scans, metadata),
        source_site=source_site,
        source_site_from=source_site_from,
    )


class _DatasetReader:
    """Reads participants.tsv, and the sessions tables of the participants that it is asked for."""

    def __init__(self, bids_dir: Path, site_column: str | None, further: Sequence[str]) -> None:
        self._bids_dir = bids_dir
        dictionary = read_dictionary(bids_dir / 'participants.json')
        self._of_sessions = dictionary | read_dictionary(bids_dir / 'sessions.json')
        self._make: Callable[[Table, Dictionary], RowReader] = lambda table, columns: RowReader(
            table, columns, site_column, further
        )
        self.participants = read_table(bids_dir / 'participants.tsv', 'participant_id', 'sub-')
        self._reader = self._make(self.participants, dictionary)
        self._sessions: dict[str, RowReader] = {}

    @property
    def readers(self) -> list[RowReader]:
        """Of the tables that were read."""
        return [self._reader, *self._sessions.values()]

    def first(self, attribute: str) -> Any:
        """What the first table that has it says."""
        return next((v for reader in self.readers if (v := getattr(reader, attribute))), None)

    def columns_of_sessions(self, name: str) -> tuple[str, ...]:
        """The columns of the tables of sessions that do not tell an age, for example."""
        silent = (r.table.columns for r in self._sessions.values() if name not in r.tells)
        return tuple(dict.fromkeys(chain.from_iterable(silent)))

    def covariates(self, scan: Scan, folders: set[str]) -> Covariates:
        """What the tables say of a scan of a dataset that has these participants' folders."""
        person = self._reader.covariates(scan.participant)
        if scan.participant not in self.participants.rows:
            other = [x for x in self.participants.similar(scan.participant) if x not in folders]
            if other:
                fault = (
                    f'participants.tsv has no row of sub-{scan.participant}, but one of '
                    f'sub-{other[0]}, which may be the same person; write both alike'
                )
                person = replace(person, fault=fault)
        if not scan.session:
            return person
        try:
            session = self._session_reader(scan.participant)
        except InvalidBIDSError as e:
            return replace(person, fault=str(e))
        here = session.covariates(scan.session)
        if session.table.columns and scan.session not in session.table.rows and session.tells:
            there = ', '.join(f'ses-{label}' for label in session.table.rows) or 'none'
            fault = (
                f'{session.table.path.name} has no row of ses-{scan.session}; it has {there}; '
                'write the labels alike, or add the row'
            )
            here = replace(here, fault=fault)
        return of_session(here, person, session.tells) if session.table.columns else person

    def _session_reader(self, participant: str) -> RowReader:
        if participant not in self._sessions:
            name = f'sub-{participant}'
            path = self._bids_dir / name / f'{name}_sessions.tsv'
            dictionary = self._of_sessions | read_dictionary(path.with_suffix('.json'))
            table = read_table(path, 'session_id', 'ses-')
            self._sessions[participant] = self._make(table, dictionary)
        return self._sessions[participant]


def _from_json(
    known: Covariates, scan: Scan, site_field: str, metadata: ScanMetadata
) -> Covariates:
    """The same, with the site that the scan's JSON names where no table does."""
    try:
        site = metadata.text(scan, site_field)
    except InvalidBIDSError as e:
        return replace(known, fault=str(e))
    if site is None:
        return replace(known, no_site=f'{known.no_site}, and its JSON has no {site_field}')
    return replace(known, site=site, site_from=f'JSON field {site_field!r}', no_site='')


def _site_fields(scans: Sequence[Scan], metadata: ScanMetadata) -> tuple[str, ...]:
    """Fields that the JSON of every scan has, of those that name a scanner or its place."""
    fields = list(SCANNER_FIELDS)
    for scan in scans:
        try:
            fields = [name for name in fields if metadata.text(scan, name)]
        except InvalidBIDSError:
            return ()
    return tuple(fields) if scans else ()


def _no_name(text: str) -> str:
    return (
        f'{shown(text)}; expected at most {MAX_NAME} characters, none of them a control character'
    )


def _no_column(flag: str, name: str, table: Table) -> str:
    there = f'has {", ".join(table.columns)}' if table.columns else 'is not there'
    return f'{flag} {name!r}: no such column in participants.tsv, which {there}'
