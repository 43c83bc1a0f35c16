"""What is known about a scan, and how the rows of tables tell it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ddae_app.bids.tables import Dictionary, Table
from ddae_app.bids.values import (
    YEARS,
    is_missing,
    meaning_of,
    meanings,
    read_age,
    read_sex,
    read_unit,
    said,
    shown,
)

SITE_COLUMNS = (
    'site', 'site_id', 'scanner', 'scanner_id', 'center', 'centre', 'institution',
    'institution_name', 'acquisition_site',
)  # fmt: skip
"""Where the site is looked for, in this order, unless --site-column says."""

AGE_COLUMNS = {
    'age': '', 'age_at_scan': '', 'age_years': 'year', 'participant_age': '',
    'age_months': 'month', 'age_weeks': 'week', 'age_days': 'day',
}  # fmt: skip
"""Where the age is looked for, in this order, and the unit that the name tells."""

SEX_COLUMNS = ('sex', 'gender')


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
    unread : mapping of str to str
        Of ``age`` and ``sex``, what is there and has no single meaning: what was found, where, and
        what to do.
    fault : str or None
        Why the tables say nothing reliable of this scan, so that it must not be processed.
    texts : mapping of str to str
        Of ``age`` and ``sex``, how the table writes what was understood.
    site_from : str
        What named the site, in words.
    no_site : str
        What is missing where the site is not known, and what to do.
    inherited : tuple of str
        What was taken from participants.tsv because the row of the session has no value.
    """

    site: str | None = None
    age: float = math.nan
    sex: str | None = None
    further: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict, compare=False)
    site_from: str = field(default='', compare=False)
    no_site: str = field(default='', compare=False)
    inherited: tuple[str, ...] = field(default=(), compare=False)


class RowReader:
    """Finds the columns of one table and makes covariates of its rows."""

    def __init__(
        self,
        table: Table,
        dictionary: Dictionary,
        site_column: str | None,
        further: Sequence[str] = (),
    ) -> None:
        self.table = table
        self._wanted = f'column {site_column!r}' if site_column else 'site column'
        named = (site_column,) if site_column else SITE_COLUMNS
        self.site = table.column(named)
        others = [] if site_column == self.site else table.alike(named)
        self.other_sites = tuple(column for column in others if column != self.site)
        self._age, self._sex = table.column([*AGE_COLUMNS]), table.column(SEX_COLUMNS)
        self.further = {name: column for name in further if (column := table.column([name]))}
        of_age, of_sex = (dictionary.get((c or '').lower(), {}) for c in (self._age, self._sex))
        self._ages, self._sexes = (meanings(said(of, 'Levels')) for of in (of_age, of_sex))
        self._sex_values = {row.get(self._sex or '', '').lower() for row in table.rows.values()}
        self._unit, self._no_unit = 'year', ''
        units = said(of_age, 'Units', 'Unit')
        units = str(units or AGE_COLUMNS.get((self._age or '').lower()) or '')
        self.doubt = _doubt(self._age, of_age) if is_missing(units) else ''
        try:
            self._unit = read_unit(units)
        except ValueError as e:
            self._no_unit = f'the data dictionary gives its unit as {shown(units)}; {e}'
        self.age_column = f'{self._told(self._age)}, in {self._unit}s' if self._age else ''
        self.sex_column = self._told(self._sex) if self._sex else ''

    def _told(self, column: str) -> str:
        """A column that is read, and those that differ from its name in case only."""
        others = (c for c in self.table.alike([column]) if c != column)
        return ', not '.join([f'column {column!r}', *map(repr, others)])

    @property
    def tells(self) -> set[str]:
        """What the table has a column of."""
        columns = {'site': self.site, 'age': self._age, 'sex': self._sex, **self.further}
        return {name for name, column in columns.items() if column}

    def covariates(self, label: str) -> Covariates:
        """What the row of a label says; what has no single meaning is told, not left out."""
        table, unread, texts = self.table, dict[str, str](), dict[str, str]()
        age, sex = math.nan, None
        for name, column, read in (
            ('age', self._age, self._read_age),
            ('sex', self._sex, self._read_sex),
        ):
            text = table.value(label, column)
            if text is None:
                continue
            try:
                value = read(text)
            except ValueError as e:
                row = f'{table.prefix}{label}'
                unread[name] = (
                    f'{table.path.name}: {column} of {row} is {shown(text)}: {e}; mend it, or '
                    'write n/a if it is not known'
                )
                continue
            if value is not None:
                texts[name] = text
            if isinstance(value, float):
                age = value
            elif value in ('M', 'F'):
                sex = value
        site = table.value(label, self.site)
        return Covariates(
            site=site,
            age=age,
            sex=sex,
            further={
                name: value
                for name, column in self.further.items()
                if (value := table.value(label, column)) is not None
            },
            unread=unread,
            fault=table.faults.get(label),
            texts=texts,
            site_from=f'column {self.site!r} of {table.path.name}' if site else '',
            no_site='' if site else self._no_site(label),
        )

    def _read_age(self, text: str) -> float | None:
        meaning = meaning_of(text, self._ages)
        if meaning is not None and is_missing(meaning):
            return None
        if self._no_unit:
            raise ValueError(self._no_unit)
        # A code such as 1 is no age, but a dictionary may also explain 89+, which is one.
        is_code = meaning is not None and text.strip().replace('.', '').isdigit()
        return read_age(meaning if meaning is not None and is_code else text, self._unit)

    def _read_sex(self, text: str) -> str | None:
        return read_sex(text, self._sexes, self._sex_values)

    def _no_site(self, label: str) -> str:
        """What the table lacks of the site of a row."""
        table, who = self.table, f'{self.table.prefix}{label}'
        name = table.path.name
        if not table.columns:
            return f'{name} is not there'
        if self.site is None:
            return f'{name} has no {self._wanted} (found {", ".join(table.columns)})'
        if label not in table.rows:
            return f'{name} has no row of {who}'
        return f'{self.site} of {who} is {shown(table.rows[label].get(self.site, ""))} in {name}'


def _doubt(column: str | None, entry: Mapping[str, Any]) -> str:
    """What makes it doubtful that a column of ages without a unit is in years."""
    texts = (said(entry, name) for name in ('LongName', 'Description'))
    for text in (text for text in texts if isinstance(text, str)):
        words = {word.removesuffix('s') for word in re.findall('[a-z]+', text.lower())}
        if words & (YEARS.keys() - {'year'}) and not words & {'year', 'yr'}:
            return (
                f'the data dictionary gives {column} no Units, so it is read in years, but tells '
                f'of it {shown(text)}; write the unit into Units'
            )
    return ''


def of_session(
    session: Covariates, participant: Covariates, columns: Collection[str]
) -> Covariates:
    """What the row of a session says, and of what it does not say, the row of the participant.

    Parameters
    ----------
    session, participant : Covariates
        As the two rows tell them.
    columns : collection of str
        Of ``site``, ``age`` and ``sex``, what the table of sessions has a column of.
    """
    known, taken = session, []
    if session.site is None and participant.site is not None:
        known = replace(known, site=participant.site, site_from=participant.site_from, no_site='')
        taken.append('site')
    for name in ('age', 'sex'):
        if name in session.texts or name in session.unread:
            continue
        told = {k: v for k, v in participant.texts.items() if k == name}
        unread = {k: v for k, v in participant.unread.items() if k == name}
        known = replace(
            known,
            texts={**known.texts, **told},
            unread={**known.unread, **unread},
            **{name: getattr(participant, name)},
        )
        taken += [name] if told or unread else []
    return replace(
        known,
        further={**participant.further, **session.further},
        fault=session.fault or participant.fault,
        no_site='' if known.site else f'{session.no_site}, and {participant.no_site}',
        inherited=tuple(name for name in taken if name in columns),
    )
