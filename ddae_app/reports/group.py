"""One page for all participants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddae_app import __version__
from ddae_app.reports.page import write_page

LEFT, RIGHT, LINE = 104, 392, 18
"""Of a strip plot, in its own units: where values begin and end, and the height of a site."""


@dataclass(frozen=True)
class Strip:
    """The values of one measure, a line of dots per site."""

    name: str
    meaning: str
    low: str
    high: str
    height: int
    sites: list[dict]


def write_group_report(
    path: Path,
    rows: Sequence[Mapping[str, str]],
    meanings: Mapping[str, str],
    pages: Mapping[str, str],
) -> None:
    """Write the page of all scans: a strip plot by site per measure, and a table.

    Parameters
    ----------
    path : Path
    rows : sequence of mapping
        One per scan, from column to text; ``bids_name`` names the scan, ``source_site`` its site.
    meanings : mapping
        What each measure means.
    pages : mapping
        Participant's page by scan name.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    strips = [_strip(name, meanings.get(name, ''), rows) for name in columns]
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
        rows=table,
        strips=[strip for strip in strips if strip],
    )


def _strip(name: str, meaning: str, rows: Sequence[Mapping[str, str]]) -> Strip | None:
    values = [(row, _number(row.get(name, ''))) for row in rows]
    known = [(row, value) for row, value in values if not math.isnan(value)]
    if not known:
        return None
    low, high = min(v for _, v in known), max(v for _, v in known)
    span = high - low or 1.0
    sites: dict[str, list[dict]] = {}
    for row, value in known:
        x = LEFT + 4 + (value - low) / span * (RIGHT - LEFT - 8)
        dot = {'x': round(x, 1), 'label': f'{row["bids_name"]}: {value:.4g}'}
        sites.setdefault(row.get('source_site', 'n/a'), []).append(dot)
    lines = [
        {'site': site, 'dots': dots, 'y': LINE * (i + 1)}
        for i, (site, dots) in enumerate(sorted(sites.items()))
    ]
    return Strip(name, meaning, f'{low:.4g}', f'{high:.4g}', LINE * (len(lines) + 2), lines)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
