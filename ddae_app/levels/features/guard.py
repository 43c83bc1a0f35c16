"""What the anatomy guard says of the rows of a run: one line, a table, and a part of the pages."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ddae_app.bids import sidecars
from ddae_app.bids.dataset import generator, read_tsv, to_tsv, write_json
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.features.guard import (
    FEWEST,
    LIMITS,
    MEASURES,
    AnatomyCheck,
    check_anatomy,
)
from ddae_app.features.matrix import listed
from ddae_app.features.table import PERSON, SESSION
from ddae_app.files import write_atomically
from ddae_app.levels.features.cortex import Drawn
from ddae_app.levels.features.dataset import datasets
from ddae_app.levels.features.inputs import FeatureInputs
from ddae_app.levels.features.page import sentence
from ddae_app.levels.features.used import UsedModel
from ddae_app.reports.cortex import CortexMap
from ddae_app.reports.features import Cortex, Guard, MarkedRow
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

MOST_LISTED, MOST_DRAWN, MOST_PLACES = 50, 3, 3
"""Marked rows on the page, of these on the cortex, and features of each."""

KINDS = {
    'left': ('anatomy_unexplained', 'anatomy_share'),
    'away': ('source_farthest', 'source_deviation'),
}
"""The attributes of a check, and the measures by which a row is marked for them."""

TITLES = {
    'left': 'change that the site does not explain',
    'away': 'distance from what is expected, before harmonization',
}


@dataclass(frozen=True)
class GuardedRows:
    """The rows of a run as the guard sees them.

    Attributes
    ----------
    inputs : FeatureInputs, N rows
    check : AnatomyCheck
    rows : list of dict, length N
        The measures of each row.
    drawn : Drawn or None
        Of maps that can be drawn.
    """

    inputs: FeatureInputs
    check: AnatomyCheck
    rows: list[dict[str, float | str]]
    drawn: Drawn | None

    @classmethod
    def of(cls, inputs: FeatureInputs, used: UsedModel, values: np.ndarray) -> GuardedRows:
        """Look at harmonized values, shape (N, F)."""
        check = check_anatomy(used.model, inputs.table, inputs.labels, values)
        drawn = Drawn.of(inputs.table, used.model.given_places)
        return cls(inputs, check, [check.row(i) for i in range(len(values))], drawn)

    @cached_property
    def marked(self) -> list[int]:
        """The rows to look at, first those that are farthest above a limit."""
        return _marked(self.rows)

    @cached_property
    def unchecked(self) -> list[int]:
        """The rows of sites with too few others, at which nothing is unusual."""
        return [
            i
            for i, row in enumerate(self.rows)
            if row['anatomy_flag'] == 'not checked' and i not in self.empty
        ]

    @cached_property
    def empty(self) -> list[int]:
        """The rows without a value that the model harmonizes."""
        return np.flatnonzero(np.isnan(self.check.away).all(axis=1)).tolist()

    @property
    def line(self) -> str:
        """What was found, for the log and the page."""
        names = self.inputs.table.names
        line = _line([names[i] for i in self.marked], len(self.rows))
        if self.unchecked:
            sites = sorted({str(self.inputs.labels.sites[i]) for i in self.unchecked})
            line += (
                f', and {_are(len(self.unchecked))} not checked, of sites with fewer than '
                f'{FEWEST} rows: {listed(sites)}'
            )
        if self.empty:
            line += f', and {_are(len(self.empty))} without a value: ' + listed(
                [names[i] for i in self.empty]
            )
        return f'{line}; {self.inputs.files.anatomy.name} says why' if self.worth_telling else line

    @property
    def worth_telling(self) -> bool:
        """Whether the line is a warning."""
        return bool(self.marked or self.unchecked or self.empty)

    def of_page(self) -> Guard:
        """The part of the page."""
        listed_rows = self.marked[:MOST_LISTED]
        return Guard(
            line=sentence(self.line),
            rows=[self._told(i) for i in listed_rows],
            more=len(self.marked) - len(listed_rows),
            file=_from_page(self.inputs),
            cortex=self._drawn(),
        )

    def _told(self, i: int) -> MarkedRow:
        row = self.rows[i]
        places = [f'{name}\N{NO-BREAK SPACE}{value:+.1f}' for name, value in self._places(i)]
        return MarkedRow(
            name=self.inputs.table.names[i],
            site=str(self.inputs.labels.sites[i]),
            why=str(row['anatomy_flag']),
            places=', '.join(places),
            measures={k: f'{row[k]:.2f}'.replace('nan', 'n/a') for k in LIMITS},
        )

    def _kind(self, i: int) -> str:
        """Which values a row is marked for: what changed, or what it was before."""
        return 'left' if _excess(self.rows[i], KINDS['left']) > 1 else 'away'

    def _places(self, i: int) -> list[tuple[str, float]]:
        """The features for which a row is marked most, with their values."""
        values = getattr(self.check, self._kind(i))[i]
        order = np.argsort(-np.nan_to_num(np.abs(values)), kind='stable')[:MOST_PLACES]
        return [(self.check.features[k], float(values[k])) for k in order]

    def _drawn(self) -> Cortex | None:
        """The first marked rows of maps; None where there are none, or no picture."""
        if self.drawn is None or not self.marked:
            return None
        table, maps = self.inputs.table, []
        place = [table.place[name] for name in self.check.features]
        for i in self.marked[:MOST_DRAWN]:
            kind = self._kind(i)
            values = np.full(len(table.features), np.nan)
            values[place] = np.abs(getattr(self.check, kind)[i])
            title = f'{table.names[i]}: {TITLES[kind]}, SD'
            ends = 0.0, 2 * LIMITS[KINDS[kind][0]]
            maps.append(CortexMap(title, self.drawn.values(values), kind, 'inferno', ends))
        return Cortex(maps, '')


def _excess(row: Mapping[str, float | str], names: Iterable[str]) -> float:
    """By how much a row is above the limits of measures, at most; 1 is at the limit."""
    return max(np.nan_to_num(float(row[name]) / LIMITS[name]) for name in names)


def _marked(rows: Sequence[Mapping[str, float | str]]) -> list[int]:
    found = [i for i, row in enumerate(rows) if _excess(row, LIMITS) > 1]
    return sorted(found, key=lambda i: -_excess(rows[i], LIMITS))


def _line(marked: Sequence[str], rows: int) -> str:
    """How many rows are marked, and which."""
    verb = 'is' if len(marked) == 1 else 'are'
    named = f' ({listed(marked)})' if marked else ''
    return f'anatomy guard: {len(marked)} of {rows} rows {verb} marked{named}'


def _are(count: int) -> str:
    return f'{count} {"is" if count == 1 else "are"}'


def read_guard(inputs: FeatureInputs, said: Mapping[str, object]) -> Guard:
    """What the participant level found, for the page of the group, and log it.

    Nothing is looked at anew. A table that is not there is of a run that made none; one that is
    stale or damaged is warned of.

    Parameters
    ----------
    inputs : FeatureInputs
    said : mapping
        The sidecar of what was harmonized.
    """
    path = inputs.files.anatomy
    made, now = sidecars.read(path), _made_of(inputs, said['TargetSite'], said.get('ModelSHA256'))
    if not path.is_file():
        return _not_known(f'{path.name} is not there', logging.INFO)
    found = _rows_of(path)
    others = [name for name, value in now.items() if made.get(name) != value]
    if others == ['RowsSHA256'] and inputs.table.maps and {*found} < {*inputs.table.names}:
        return _without_rows(
            f'{path.name} has {len(found)} of these {len(inputs.table.names)} rows, those of the '
            'last run of the participant level; what was found in each map stands in its JSON',
            logging.INFO,
        )
    if others:
        return _not_known(
            f'{path.name} is not of these rows and this harmonization, but of earlier ones',
            logging.WARNING,
        )
    if sorted(found) != sorted(inputs.table.names):
        return _not_known(f'{path.name} is damaged', logging.WARNING)
    names, rows = list(found), list(found.values())
    marked = _marked(rows)
    told = [
        MarkedRow(names[i], str(rows[i]['source_site']), str(rows[i]['anatomy_flag']), '', {})
        for i in marked[:MOST_LISTED]
    ]
    line = sentence(_line([names[i] for i in marked], len(rows)))
    log.info('%s', line)
    return Guard(line, told, len(marked) - len(told), _from_page(inputs), None)


def changed_since(inputs: FeatureInputs, said: Mapping[str, object]) -> list[str]:
    """Which labels are others than those that rows were harmonized with, in a sentence, or none.

    Nothing is said where the last harmonization was of other rows.

    Parameters
    ----------
    inputs : FeatureInputs
    said : mapping
        The sidecar of what was harmonized, from these very values.
    """
    path = inputs.files.anatomy
    made, now = sidecars.read(path), _made_of(inputs, said['TargetSite'], said.get('ModelSHA256'))
    found = _rows_of(path)
    others = [name for name, value in now.items() if made.get(name) != value]
    if others != ['RowsSHA256'] or sorted(found) != sorted(inputs.table.names):
        return []
    sites = zip(inputs.table.names, inputs.labels.sites.tolist(), strict=True)
    moved = [name for name, site in sites if found[name]['source_site'] != site]
    what = f'the site of {listed(moved)}' if moved else 'age or sex of some rows'
    return [
        f'{what} changed after the participant level, which harmonized these rows by what was '
        'said of them before; run the participant level again'
    ]


def _rows_of(path: Path) -> dict[str, dict[str, float | str]]:
    """What a table of the guard says of each row, by its name; nothing of a damaged one."""
    try:
        return {
            '_'.join(
                label for label in (row[PERSON], row.get(SESSION)) if label not in (None, 'n/a')
            ): {
                'source_site': row['source_site'],
                'anatomy_flag': row['anatomy_flag'],
                **{name: float(row[name].replace('n/a', 'nan')) for name in LIMITS},
            }
            for row in read_tsv(path)
        }
    except (OSError, KeyError, ValueError, csv.Error):
        return {}


def _not_known(why: str, level: int) -> Guard:
    return _without_rows(f'{why}; run the participant level again to have it', level)


def _without_rows(why: str, level: int) -> Guard:
    line = sentence(f'anatomy guard: {why}')
    log.log(level, '%s', line)
    return Guard(line, [], 0, '', None)


def _from_page(inputs: FeatureInputs) -> str:
    return inputs.files.anatomy.relative_to(inputs.files.root).as_posix()


def _made_of(inputs: FeatureInputs, target: object, model: object) -> dict[str, object]:
    """What the table of the guard depends on, but for the version of the program."""
    return {
        'TargetSite': target,
        'ModelSHA256': model,
        'RowsSHA256': inputs.digest,
    }


def write_guard(settings: Settings, used: UsedModel, guarded: GuardedRows) -> None:
    """Write what the guard found of each row as a table, after its sidecar."""
    inputs = guarded.inputs
    table, path, layout = inputs.table, inputs.files.anatomy, Layout(settings.output_dir)
    several = any(table.sessions)
    named: list[dict[str, Any]] = [
        {PERSON: f'sub-{person}'}
        | ({SESSION: f'ses-{session}' if session else None} if several else {})
        | {'source_site': str(site)}
        for person, session, site in zip(
            table.participants, table.sessions, inputs.labels.sites, strict=True
        )
    ]
    descriptions: Mapping[str, dict[str, str]] = {
        PERSON: {'Description': 'Label of the person'},
        SESSION: {'Description': 'Label of the session'},
        'source_site': {'Description': 'Site where the person was scanned'},
        **{name: measure.dictionary for name, measure in MEASURES.items()},
    }
    columns = list(named[0]) + list(MEASURES)
    sources = [] if table.maps else [layout.uri(inputs.files.harmonized, datasets(settings))]
    write_json(
        sidecar(path),
        {
            'Description': f'What the anatomy guard found in {table.maps or table.path.name}, '
            'harmonized',
            'GeneratedBy': [generator(settings.run.container)],
            **({'Sources': sources} if sources else {}),
            **_made_of(inputs, settings.harmonize.target_site or 'n/a', used.sha256),
            **{name: descriptions[name] for name in columns},
        },
    )
    rows = [name | row for name, row in zip(named, guarded.rows, strict=True)]
    write_atomically(path, to_tsv(rows))
