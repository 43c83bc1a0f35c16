"""The group page: the evaluation, and the quality measures of all scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ddae_app import __version__
from ddae_app.reports.canvas import shortened
from ddae_app.reports.evaluation import EvaluationReport
from ddae_app.reports.page import write_page

WIDTH, LEFT, RIGHT = 520, 160, 500
"""Width of a strip plot, and the ends of its value axis, in units of its view box."""

ROW, AXIS = 28, 24
"""Heights of the row of a site, and of the axis."""

LONGEST_NAME = 18
"""Letters of a site for which there is room on the left, even if they are capitals."""

MAX_DOTS = 300
"""Per site and measure, since no browser opens a page with dots for ten thousand scans."""

NOT_MEASURES = ('bids_name', 'source_site', 'target_site')


@dataclass(frozen=True)
class Dot:
    """A scan: its position, its name and value, and its page."""

    x: float
    y: float
    label: str
    page: str | None


@dataclass(frozen=True)
class Row:
    """The scans of a site, and its name as there is room for.

    `box` holds the positions of the quartiles, or None below 5 scans.
    """

    site: str
    label: str
    y: int
    scans: int
    box: tuple[float, ...] | None
    dots: list[Dot]


@dataclass(frozen=True)
class Tick:
    """A labeled position on the axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Strip:
    """The values of one measure, with a row of dots per site; `hidden` dots are not drawn."""

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
    """Write the group page: the evaluation, a strip plot of each measure by site, and a table.

    Parameters
    ----------
    path : Path
    rows : sequence of mapping
        One row per scan, from column to text; ``bids_name`` is the name of the scan and
        ``source_site`` its site. All other numeric columns except ``target_site`` are plotted,
        without the values ``n/a``.
    meanings : mapping
        The definition of each measure.
    pages : mapping
        The participant's page, by the name of the scan.
    evaluation : EvaluationReport or str
        The results of the evaluation, or the reason why there are none.
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
    """The strip plot of one measure; None if no scan has a number."""
    sites: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        value = _number(row.get(name, ''))
        if math.isfinite(value):
            site = row.get('source_site', 'n/a')
            sites.setdefault(site, []).append((value, row['bids_name']))
    if not sites:
        return None
    values = [value for scans in sites.values() for value, _ in scans]
    least, most = min(values), max(values)
    if least == most:
        # One value that all scans have lies in the middle, on an axis of the size of the value. No
        # share, count or distance is below 0.
        least, most = least - abs(least) / 2, most + abs(most) / 2 or 1.0
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(least, most)
    # The ticks extend beyond the values.
    low, high = float(ticks[0]), float(ticks[-1])

    def position(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (RIGHT - LEFT), 1)

    lines, hidden = [], 0
    for i, (site, scans) in enumerate(sorted(sites.items())):
        y = ROW * i + ROW // 2
        chosen = _subsample(sorted(scans))
        hidden += len(scans) - len(chosen)
        dots = [
            Dot(position(value), y + _jitter(n), f'{scan}: {value:.4g}', pages.get(scan))
            for n, (value, scan) in enumerate(chosen)
        ]
        quartiles = np.quantile([value for value, _ in scans], (0.25, 0.5, 0.75))
        box = tuple(position(float(q)) for q in quartiles) if len(scans) >= 5 else None
        lines.append(Row(site, shortened(site, LONGEST_NAME), y, len(scans), box, dots))
    marks = [Tick(position(float(tick)), f'{tick:.6g}') for tick in ticks]
    return Strip(name, meaning, ROW * len(lines) + AXIS, marks, lines, hidden)


def _subsample(scans: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """All scans, or if they are too many, the outermost and evenly spaced others."""
    if len(scans) <= MAX_DOTS:
        return scans
    ends = MAX_DOTS // 6
    middle = scans[ends:-ends]
    some = np.linspace(0, len(middle) - 1, MAX_DOTS - 2 * ends).astype(int)
    return [*scans[:ends], *(middle[i] for i in some), *scans[-ends:]]


def _jitter(n: int) -> float:
    """Golden-ratio steps within 6 units of the middle, which separate scans of similar value."""
    return round(((n * 0.618034) % 1 - 0.5) * 12, 1)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
