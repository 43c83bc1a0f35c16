"""What the anatomy guard says of the rows of a run: one line, a table, and a part of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ddae_app.bids.dataset import generator, to_tsv, write_json
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.features.guard import (
    FEWEST,
    LIMITS,
    MEASURES,
    AnatomyCheck,
    check_anatomy,
)
from ddae_app.features.maps import SurfaceMaps
from ddae_app.features.matrix import listed
from ddae_app.features.table import PERSON, SESSION
from ddae_app.files import write_atomically
from ddae_app.levels.features.dataset import datasets
from ddae_app.levels.features.inputs import FeatureInputs
from ddae_app.levels.features.page import sentence
from ddae_app.levels.features.used import UsedModel
from ddae_app.reports.cortex import MESH, CortexMap
from ddae_app.reports.features import Cortex, Guard, MarkedRow
from ddae_app.settings import Settings

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
    """

    inputs: FeatureInputs
    check: AnatomyCheck
    rows: list[dict[str, float | str]]

    @classmethod
    def of(cls, inputs: FeatureInputs, used: UsedModel, values: np.ndarray) -> GuardedRows:
        """Look at harmonized values, shape (N, F)."""
        check = check_anatomy(used.model, inputs.table, inputs.labels, values)
        return cls(inputs, check, [check.row(i) for i in range(len(values))])

    @cached_property
    def marked(self) -> list[int]:
        """The rows to look at, first those that are farthest above a limit."""
        rows = [i for i in range(len(self.rows)) if self._excess(i, LIMITS) > 1]
        return sorted(rows, key=lambda i: -self._excess(i, LIMITS))

    @cached_property
    def unchecked(self) -> list[int]:
        """The rows of sites with too few others, at which nothing is unusual."""
        return [i for i, row in enumerate(self.rows) if row['anatomy_flag'] == 'not checked']

    @property
    def line(self) -> str:
        """What was found, for the log and the page."""
        names, n = self.inputs.table.names, len(self.marked)
        verb = 'is' if n == 1 else 'are'
        line = f'anatomy guard: {n} of {len(self.rows)} rows {verb} marked'
        if n:
            line += f' ({listed([names[i] for i in self.marked])})'
        if self.unchecked:
            sites = sorted({str(self.inputs.labels.sites[i]) for i in self.unchecked})
            line += (
                f', and {len(self.unchecked)} are not checked, of sites with fewer than {FEWEST} '
                f'rows: {listed(sites)}'
            )
        return f'{line}; {self.inputs.files.anatomy.name} says why' if self.worth_telling else line

    @property
    def worth_telling(self) -> bool:
        """Whether the line is a warning."""
        return bool(self.marked or self.unchecked)

    def of_page(self) -> Guard:
        """The part of the page."""
        listed_rows = self.marked[:MOST_LISTED]
        return Guard(
            line=sentence(self.line),
            rows=[self._told(i) for i in listed_rows],
            more=len(self.marked) - len(listed_rows),
            file=self.inputs.files.anatomy.relative_to(self.inputs.files.root).as_posix(),
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
        return 'left' if self._excess(i, KINDS['left']) > 1 else 'away'

    def _excess(self, i: int, names: Iterable[str]) -> float:
        """By how much a row is above the limits of measures, at most; 1 is at the limit."""
        return max(np.nan_to_num(float(self.rows[i][n]) / LIMITS[n]) for n in names)

    def _places(self, i: int) -> list[tuple[str, float]]:
        """The features for which a row is marked most, with their values."""
        values = getattr(self.check, self._kind(i))[i]
        order = np.argsort(-np.nan_to_num(np.abs(values)), kind='stable')[:MOST_PLACES]
        return [(self.check.features[k], float(values[k])) for k in order]

    def _drawn(self) -> Cortex | None:
        """The first marked rows of maps; None of a table, or of another mesh."""
        table = self.inputs.table
        if not isinstance(table, SurfaceMaps) or table.mesh != MESH or not self.marked:
            return None
        maps = []
        place = [table.place[name] for name in self.check.features]
        for i in self.marked[:MOST_DRAWN]:
            kind = self._kind(i)
            values = np.full(len(table.features), np.nan)
            values[place] = np.abs(getattr(self.check, kind)[i])
            title = f'{table.names[i]}: {TITLES[kind]}, SD'
            ends = 0.0, 2 * LIMITS[KINDS[kind][0]]
            maps.append(CortexMap(title, table.on_mesh(values), kind, 'inferno', ends))
        return Cortex(maps, '')


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
            'TargetSite': settings.harmonize.target_site or 'n/a',
            'ModelSHA256': used.sha256,
            **{name: descriptions[name] for name in columns},
        },
    )
    rows = [name | row for name, row in zip(named, guarded.rows, strict=True)]
    write_atomically(path, to_tsv(rows))
