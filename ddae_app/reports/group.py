"""One page for all participants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ddae_app import __version__
from ddae_app.reports.evaluation import EvaluationReport
from ddae_app.reports.page import write_page

WIDTH, LEFT, RIGHT = 520, 130, 500
"""Of a strip plot, in its own units: its width, and where values begin and end."""

ROW, AXIS = 28, 24
"""Heights of a site and of the axis."""

MAX_DOTS = 300
"""Per site and measure: ten thousand scans must not make a page that no browser opens."""

NOT_MEASURES = ('bids_name', 'source_site', 'target_site')


@dataclass(frozen=True)
class Dot:
    """A scan: its place, its name and value, and its page."""

    x: float
    y: float
    label: str
    page: str | None


@dataclass(frozen=True)
class Row:
    """The scans of a site; `box` holds the places of the quartiles, None below five scans."""

    site: str
    y: int
    scans: int
    box: tuple[float, ...] | None
    dots: list[Dot]


@dataclass(frozen=True)
class Tick:
    """A labelled place on the axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Strip:
    """The values of one measure, a row of dots per site; `hidden` dots are left out."""

    name: str
    meaning: str
    height: int
    ticks: list[Tick]
    rows: list[Row]
    hidden: int


def write_group_report(
    path: Path,
    rows: Sequence[Mapping[str, str]],
    meanings: Mapping[str, str],
    pages: Mapping[str, str],
    evaluation: EvaluationReport | str = '',
) -> None:
    """Write the page of all scans: verdicts, a strip plot by site per measure, and a table.

    Parameters
    ----------
    path : Path
    rows : sequence of mapping
        One per scan, from column to text; ``bids_name`` names the scan, ``source_site`` its site.
        Every other column but ``target_site`` that holds numbers is plotted; ``n/a`` is left out.
    meanings : mapping
        What each measure means.
    pages : mapping
        Participant's page by scan name.
    evaluation : EvaluationReport or str
        Whether the site is gone and the person still there; or why that was not measured.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    measures = [name for name in columns if name not in NOT_MEASURES]
    strips = [_strip(name, meanings.get(name, ''), rows, pages) for name in measures]
    table = [
        {
            'page': pages.get(row['bids_name']),
            'cells': {column: row.get(column, 'n/a') for column in columns},
        }
        for row in rows
    ]
    write_page(
        path,
        'group.html.j2',
        version=__version__,
        columns=columns,
        meanings=meanings,
        rows=table,
        evaluation=None if isinstance(evaluation, str) else evaluation,
        not_evaluated=evaluation if isinstance(evaluation, str) else '',
        strips=[strip for strip in strips if strip],
        width=WIDTH,
        left=LEFT,
    )


def _strip(
    name: str, meaning: str, rows: Sequence[Mapping[str, str]], pages: Mapping[str, str]
) -> Strip | None:
    """One measure; None where no scan has a number."""
    sites: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        value = _number(row.get(name, ''))
        if math.isfinite(value):
            site = row.get('source_site', 'n/a')
            sites.setdefault(site, []).append((value, row['bids_name']))
    if not sites:
        return None
    values = [value for scans in sites.values() for value, _ in scans]
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(min(values), max(values))
    # The ticks reach beyond the values; a single value gets some room, too.
    low, high = float(ticks[0]), float(ticks[-1])

    def place(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (RIGHT - LEFT), 1)

    lines, hidden = [], 0
    for i, (site, scans) in enumerate(sorted(sites.items())):
        y = ROW * i + ROW // 2
        chosen = _chosen(sorted(scans))
        hidden += len(scans) - len(chosen)
        dots = [
            Dot(place(value), y + _jitter(n), f'{scan}: {value:.4g}', pages.get(scan))
            for n, (value, scan) in enumerate(chosen)
        ]
        quartiles = np.quantile([value for value, _ in scans], (0.25, 0.5, 0.75))
        box = tuple(place(float(q)) for q in quartiles) if len(scans) >= 5 else None
        lines.append(Row(site, y, len(scans), box, dots))
    marks = [Tick(place(float(tick)), f'{tick:.6g}') for tick in ticks]
    return Strip(name, meaning, ROW * len(lines) + AXIS, marks, lines, hidden)


def _chosen(scans: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Of more scans than can be drawn, the outermost and some of the others, evenly."""
    if len(scans) <= MAX_DOTS:
        return scans
    ends = MAX_DOTS // 6
    middle = scans[ends:-ends]
    some = np.linspace(0, len(middle) - 1, MAX_DOTS - 2 * ends).astype(int)
    return [*scans[:ends], *(middle[i] for i in some), *scans[-ends:]]


def _jitter(n: int) -> float:
    """Golden-ratio steps within 6 units of the middle: neighbours in value fall far apart."""
    return round(((n * 0.618034) % 1 - 0.5) * 12, 1)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
