"""Site, age and sex of each scan, from participants.tsv and sessions.tsv."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddae_app.bids.names import Scan
from ddae_app.errors import InvalidBIDSError, UsageError

SITE_COLUMNS = (
    'site', 'site_id', 'scanner', 'scanner_id', 'center', 'centre', 'institution',
    'institution_name', 'acquisition_site',
)  # fmt: skip
"""Where the site is looked for, in this order, unless --site-column says."""

AGE_COLUMNS = ('age', 'age_at_scan', 'age_years', 'participant_age')
SEX_COLUMNS = ('sex', 'gender')
MISSING = {'', 'n/a', 'na', 'nan', 'none', 'unknown'}
SEXES = {'m': 'M', 'male': 'M', 'man': 'M', 'f': 'F', 'female': 'F', 'woman': 'F'}


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
    """

    site: str | None = None
    age: float = math.nan
    sex: str | None = None


@dataclass(frozen=True)
class Cohort:
    """The covariates of all scans, and where they were found.

    Attributes
    ----------
    covariates : dict of str to Covariates
        By the scan's stem.
    site_column : str or None
        The column that named the sites; None where there was none.
    columns : tuple of str
        All columns of participants.tsv.
    """

    covariates: dict[str, Covariates]
    site_column: str | None
    columns: tuple[str, ...]

    def __getitem__(self, scan: Scan) -> Covariates:
        return self.covariates[scan.stem]

    def summary(self, scans: Sequence[Scan]) -> str:
        """One line that says what was found."""
        found = [self[scan] for scan in scans]
        people = len({scan.participant for scan in scans})
        sites = sorted({c.site for c in found if c.site})
        ages = [c.age for c in found if not math.isnan(c.age)]
        return '; '.join(
            [
                f'{len(scans)} T1w of {people} participant{"s" * (people != 1)}',
                f"site from column '{self.site_column}': {len(sites)} "
                f'site{"s" * (len(sites) != 1)}{_missing(sum(c.site is None for c in found))}'
                if self.site_column
                else 'site unknown',
                (f'age {min(ages):.0f}-{max(ages):.0f}' if ages else 'age unknown')
                + (_missing(len(found) - len(ages)) if ages else ''),
                f'sex {sum(c.sex == "F" for c in found)} F, {sum(c.sex == "M" for c in found)} M'
                + _missing(sum(c.sex is None for c in found)),
            ]
        )


def read_cohort(
    bids_dir: Path,
    scans: Sequence[Scan],
    *,
    site_column: str | None = None,
    source_site: str | None = None,
) -> Cohort:
    """Look up the covariates of each scan; a session's own values win over the participant's.

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

    Raises
    ------
    UsageError
        The named column is not there.
    InvalidBIDSError
        A table is not readable.
    """
    people, columns = _read_table(bids_dir / 'participants.tsv', 'participant_id', 'sub-')
    dictionary = _read_dictionary(bids_dir / 'participants.json')
    reader = _Reader(columns, dictionary, site_column)
    if site_column and not source_site and reader.site is None:
        raise UsageError(
            f'--site-column {site_column!r}: participants.tsv has no such column; '
            f'it has {", ".join(columns) or "no columns"}'
        )
    covariates = {}
    for scan in scans:
        known = reader.covariates(people.get(scan.participant, {}))
        if scan.session:
            known = _with_session(bids_dir, scan, known, site_column, dictionary)
        covariates[scan.stem] = replace(known, site=source_site) if source_site else known
    found = '--source-site' if source_site else reader.site
    return Cohort(covariates, found, columns)


class _Reader:
    """Finds the columns of one table and makes covariates of its rows."""

    def __init__(self, columns: Sequence[str], dictionary: dict, site_column: str | None) -> None:
        by_name = {column.lower(): column for column in reversed(columns)}
        names = (site_column,) if site_column else SITE_COLUMNS
        self.site = next((by_name[n.lower()] for n in names if n.lower() in by_name), None)
        self.age = next((by_name[n] for n in AGE_COLUMNS if n in by_name), None)
        self.sex = next((by_name[n] for n in SEX_COLUMNS if n in by_name), None)
        age = dictionary.get(self.age, {}) if self.age else {}
        self.years = 1 / 12 if str(age.get('Units', '')).lower().startswith('month') else 1.0
        levels = dictionary.get(self.sex, {}).get('Levels', {}) if self.sex else {}
        # Codes such as 1 and 2 mean nothing without a dictionary that explains them.
        self.levels = {str(k).lower(): str(v).lower() for k, v in levels.items()}

    def covariates(self, row: dict[str, str]) -> Covariates:
        sex = (_value(row, self.sex) or '').lower()
        meaning = self.levels.get(sex, sex).split()[:1]
        return Covariates(
            site=_value(row, self.site),
            age=_age(_value(row, self.age)) * self.years,
            sex=SEXES.get(sex) or SEXES.get(meaning[0] if meaning else ''),
        )


def _with_session(
    bids_dir: Path, scan: Scan, known: Covariates, site_column: str | None, dictionary: dict
) -> Covariates:
    path = bids_dir / f'sub-{scan.participant}' / f'sub-{scan.participant}_sessions.tsv'
    rows, columns = _read_table(path, 'session_id', 'ses-')
    own = _Reader(columns, _read_dictionary(path.with_suffix('.json')) or dictionary, site_column)
    here = own.covariates(rows.get(scan.session or '', {}))
    return Covariates(
        site=here.site or known.site,
        age=known.age if math.isnan(here.age) else here.age,
        sex=here.sex or known.sex,
    )


def _read_table(
    path: Path, key: str, prefix: str
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    if not path.is_file():
        return {}, ()
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
            rows = list(reader)
            columns = tuple(c for c in reader.fieldnames or () if c)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InvalidBIDSError(f'{path}: not readable as a UTF-8 table ({e})') from e
    if key not in columns:
        raise InvalidBIDSError(
            f'{path}: no column {key!r} (found {", ".join(columns) or "nothing"}); '
            'are the columns separated by tabs?'
        )
    return {(row[key] or '').strip().removeprefix(prefix): row for row in rows}, columns


def _read_dictionary(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError) as e:
        raise InvalidBIDSError(f'{path}: not readable as JSON ({e})') from e
    return {k: v for k, v in content.items() if isinstance(v, dict)}


def _value(row: dict[str, str], column: str | None) -> str | None:
    text = (row.get(column) or '').strip() if column else ''
    return None if text.lower() in MISSING else text


def _age(text: str | None) -> float:
    try:
        # Ages above 89 are often written 89+, to keep people from being recognised.
        age = float((text or 'nan').rstrip('+').replace(',', '.'))
    except ValueError:
        return math.nan
    return age if 0 <= age <= 130 * 12 else math.nan


def _missing(count: int) -> str:
    return f', {count} missing' if count else ''
