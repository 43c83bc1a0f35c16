"""Site, age and sex of each scan, from participants.tsv and sessions.tsv."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddae_app.bids.scan import Scan
from ddae_app.errors import InvalidBIDSError, UsageError
from ddae_app.settings import MAX_NAME, is_name

SITE_COLUMNS = (
    'site', 'site_id', 'scanner', 'scanner_id', 'center', 'centre', 'institution',
    'institution_name', 'acquisition_site',
)  # fmt: skip
"""Where the site is looked for, in this order, unless --site-column says."""

AGE_COLUMNS = ('age', 'age_at_scan', 'age_years', 'participant_age')
SEX_COLUMNS = ('sex', 'gender')
MISSING = {'', 'n/a', 'na', 'n.a.', 'nan', 'none', 'null', 'unknown'}
SEXES = {'m': 'M', 'male': 'M', 'man': 'M', 'f': 'F', 'female': 'F', 'woman': 'F'}
YEARS = {'month': 1 / 12, 'week': 7 / 365.25, 'day': 1 / 365.25}
"""Years in the units that a data dictionary may name; others are taken for years."""

MAX_AGE = 130


@dataclass(frozen=True)
class Covariates:
    """What is known about one scan.

    Attributes
    ----------
    site : str or None
        Where it was acquired.
    age : float
        Years; NaN where it is not known.
    sex : {'M', 'F', None}
    further : mapping of str to str
        Other columns that were asked for, where they are known.
    """

    site: str | None = None
    age: float = math.nan
    sex: str | None = None
    further: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """The covariates of all scans, and where they were found.

    Attributes
    ----------
    covariates : dict of str to Covariates
        By the scan's stem.
    site_column : str or None
        The column that named the sites, or ``--source-site``; None where there was neither.
    columns : tuple of str
        All columns of participants.tsv.
    """

    covariates: dict[str, Covariates]
    site_column: str | None
    columns: tuple[str, ...]

    def __getitem__(self, scan: Scan) -> Covariates:
        return self.covariates[scan.stem]

    def summary(self, scans: Sequence[Scan]) -> str:
        """One line that describes them."""
        known = [self[scan] for scan in scans]
        participants = {scan.participant for scan in scans}
        sites = {c.site for c in known if c.site}
        ages = [c.age for c in known if not math.isnan(c.age)]
        unknown_sites = sum(c.site is None for c in known)
        unknown_sexes = sum(c.sex is None for c in known)
        column = self.site_column or ''
        where = column if column.startswith('--') else f'column {column!r}'
        site = f'site from {where}: {_plural(len(sites), "site")}{_missing(unknown_sites)}'
        ends = [f'{end(ages):.0f}' for end in (min, max)] if ages else ['unknown']
        age = f'age {"-".join(dict.fromkeys(ends))}'
        sex = f'sex {unknown_sexes} missing' if unknown_sexes else 'sex known'
        return '; '.join(
            [
                f'{len(scans)} T1w of {_plural(len(participants), "participant")}',
                site if column else 'site unknown',
                age + (_missing(len(known) - len(ages)) if ages else ''),
                'sex unknown' if unknown_sexes == len(known) else sex,
            ]
        )


def read_cohort(
    bids_dir: Path,
    scans: Sequence[Scan],
    *,
    site_column: str | None = None,
    source_site: str | None = None,
    further: Sequence[str] = (),
) -> Cohort:
    """Look up the covariates of each scan; values of a session take precedence.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.
    scans : sequence of Scan
        For whom.
    site_column : str, optional
        Column that names the site; else the first of `SITE_COLUMNS` that is there.
    source_site : str, optional
        The site of every scan, whatever the tables say.
    further : sequence of str
        Names of other columns to look up.

    Raises
    ------
    UsageError
        A named column is not there.
    InvalidBIDSError
        A table is not readable.
    """
    participants = _read_table(bids_dir / 'participants.tsv', 'participant_id', 'sub-')
    dictionary = _read_dictionary(bids_dir / 'participants.json')
    reader = _Reader(participants.columns, dictionary, site_column, further)
    dictionary |= _read_dictionary(bids_dir / 'sessions.json')
    sessions: dict[str, tuple[_Table, _Reader]] = {}
    covariates = {}
    for scan in scans:
        known = reader.covariates(participants.row(scan.participant))
        if scan.session:
            if scan.participant not in sessions:
                sessions[scan.participant] = _read_sessions(
                    bids_dir, scan, dictionary, site_column, further
                )
            table, session_reader = sessions[scan.participant]
            row = table.row(scan.session)
            known = _of_session(session_reader.covariates(row), known)
        covariates[scan.stem] = replace(known, site=source_site) if source_site else known
    for stem, known in covariates.items():
        if known.site and not is_name(known.site):
            raise InvalidBIDSError(
                f'{stem}: its site is {known.site[:60]!r}; expected at most {MAX_NAME} '
                'characters, none of them a control character'
            )
    readers = [reader, *(session_reader for _, session_reader in sessions.values())]
    column = next((r.site for r in readers if r.site), None)
    if site_column and not source_site and column is None:
        raise UsageError(_no_column('--site-column', site_column, participants.columns))
    for name in further:
        if not any(name in r.further for r in readers):
            raise UsageError(_no_column('--biology', name, participants.columns))
    return Cohort(covariates, '--source-site' if source_site else column, participants.columns)


@dataclass(frozen=True)
class _Table:
    """Rows of a table by label; `twice` are the labels whose rows contradict each other."""

    path: Path
    rows: dict[str, dict[str, str]]
    columns: tuple[str, ...]
    twice: frozenset[str]

    def row(self, label: str) -> dict[str, str]:
        if label in self.twice:
            raise InvalidBIDSError(
                f'{self.path}: {label} has several rows, which differ; expected one '
                '(what changes between sessions belongs into sub-*_sessions.tsv)'
            )
        return self.rows.get(label, {})


class _Reader:
    """Finds the columns of one table and makes covariates of its rows."""

    def __init__(
        self,
        columns: Sequence[str],
        dictionary: dict,
        site_column: str | None,
        further: Sequence[str] = (),
    ) -> None:
        by_name = {column.strip().lower(): column for column in reversed(columns)}
        names = (site_column,) if site_column else SITE_COLUMNS
        self.site = next((by_name[n.lower()] for n in names if n.lower() in by_name), None)
        self.further = {name: by_name[name.lower()] for name in further if name.lower() in by_name}
        self.age = next((by_name[n] for n in AGE_COLUMNS if n in by_name), None)
        self.sex = next((by_name[n] for n in SEX_COLUMNS if n in by_name), None)
        units = str(dictionary.get(self.age or '', {}).get('Units', '')).strip().lower()
        self.years = next((y for unit, y in YEARS.items() if units.startswith(unit)), 1.0)
        levels = dictionary.get(self.sex or '', {}).get('Levels')
        # Codes such as 1 and 2 mean nothing without a dictionary that explains them.
        self.levels = _meanings(levels) if isinstance(levels, dict) else {}

    def covariates(self, row: dict[str, str]) -> Covariates:
        sex = (_value(row, self.sex) or '').lower()
        return Covariates(
            site=_value(row, self.site),
            age=_age(_value(row, self.age), self.years),
            sex=SEXES.get(sex) or self.levels.get(sex),
            further={
                name: value
                for name, column in self.further.items()
                if (value := _value(row, column)) is not None
            },
        )


def _meanings(levels: dict[str, Any]) -> dict[str, str]:
    """Sex by code, from the ``Levels`` of a data dictionary: texts, or objects that hold one."""
    meanings = {}
    for code, level in levels.items():
        text = level.get('Description', '') if isinstance(level, dict) else level
        word = re.search(r'[a-z]+', str(text).lower())
        if word and word[0] in SEXES:
            meanings[code.lower()] = SEXES[word[0]]
    return meanings


def _read_sessions(
    bids_dir: Path,
    scan: Scan,
    dictionary: dict,
    site_column: str | None,
    further: Sequence[str],
) -> tuple[_Table, _Reader]:
    path = bids_dir / f'sub-{scan.participant}' / f'sub-{scan.participant}_sessions.tsv'
    table = _read_table(path, 'session_id', 'ses-')
    dictionary = dictionary | _read_dictionary(path.with_suffix('.json'))
    return table, _Reader(table.columns, dictionary, site_column, further)


def _of_session(session: Covariates, participant: Covariates) -> Covariates:
    return Covariates(
        site=session.site or participant.site,
        age=participant.age if math.isnan(session.age) else session.age,
        sex=session.sex or participant.sex,
        further={**participant.further, **session.further},
    )


def _read_table(path: Path, key: str, prefix: str) -> _Table:
    if not path.is_file():
        return _Table(path, {}, (), frozenset())
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
            lines = list(reader)
            columns = tuple(c for c in reader.fieldnames or () if c)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InvalidBIDSError(f'{path}: not readable as a UTF-8 table ({e})') from e
    if key not in columns:
        raise InvalidBIDSError(
            f'{path}: no column {key!r} (found {", ".join(columns) or "nothing"}); '
            'are the columns separated by tabs?'
        )
    rows: dict[str, dict[str, str]] = {}
    twice = set()
    for line in lines:
        label = (line[key] or '').strip().removeprefix(prefix)
        if rows.setdefault(label, line) != line:
            twice.add(label)
    return _Table(path, rows, columns, frozenset(twice))


def _read_dictionary(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError) as e:
        raise InvalidBIDSError(f'{path}: not readable as JSON ({e})') from e
    if not isinstance(content, dict):
        raise InvalidBIDSError(f'{path}: expected a JSON object that describes columns')
    return {k: v for k, v in content.items() if isinstance(v, dict)}


def _value(row: dict[str, str], column: str | None) -> str | None:
    text = (row.get(column) or '').strip() if column else ''
    return None if text.lower() in MISSING else text


def _age(text: str | None, years: float) -> float:
    try:
        # Ages above 89 are often written 89+, to keep subjects from being identified.
        age = float((text or 'nan').rstrip('+').replace(',', '.')) * years
    except ValueError:
        return math.nan
    return age if 0 <= age <= MAX_AGE else math.nan


def _no_column(flag: str, name: str, columns: Sequence[str]) -> str:
    there = f'has {", ".join(columns)}' if columns else 'is not there'
    return f'{flag} {name!r}: no such column in participants.tsv, which {there}'


def _plural(count: int, thing: str) -> str:
    return f'{count} {thing}{"s" * (count != 1)}'


def _missing(count: int) -> str:
    return f', {count} missing' if count else ''
