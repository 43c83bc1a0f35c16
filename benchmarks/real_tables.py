"""Tables of figures that were found in several deals of the same people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Ends = tuple[float, float, float]
"""A value, and the ends of its interval."""


def write_intervals(
    folder: Path,
    name: str,
    rows: Mapping[str, Mapping[str, Sequence[Ends]]],
    first: str = 'method',
) -> None:
    """Write the mean over the deals, the lowest and the highest, as Markdown and TSV.

    Parameters
    ----------
    folder : Path
    name : str
        Of the files ``name.md`` and ``name.tsv``.
    rows : mapping of str to mapping of str to sequence of tuple
        By method and column, the value of each deal with the ends of its interval over people.
    first : str
        Title of the column of the methods.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    short = [[first, 'deals', *columns]]
    ends = ['', '_lowest', '_highest', '_people_low', '_people_high']
    long = [[first, 'deals', *(column + end for column in columns for end in ends)]]
    for method, row in rows.items():
        deals = str(max(map(len, row.values())))
        short.append([method, deals])
        long.append([method, deals])
        for column in columns:
            if column not in row:
                short[-1].append('n/a')
                long[-1] += ['n/a'] * len(ends)
                continue
            values, low, high = np.array(row[column]).T
            figures = values.mean(), values.min(), values.max(), low.mean(), high.mean()
            long[-1] += [f'{figure:.4g}' for figure in figures]
            several = f' [{figures[1]:.3g}, {figures[2]:.3g}]' if len(values) > 1 else ''
            short[-1].append(f'{figures[0]:.3g}{several}')
    (folder / f'{name}.tsv').write_text('\n'.join('\t'.join(line) for line in long) + '\n')
    short.insert(1, ['---'] * len(short[0]))
    table = '\n'.join(f'| {" | ".join(line)} |' for line in short)
    (folder / f'{name}.md').write_text(table + '\n')
