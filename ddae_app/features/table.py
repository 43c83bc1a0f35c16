"""A table of features: a row for each person and session, a column for each feature."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddae_app.bids.values import is_missing, shown
from ddae_app.errors import UsageError
from ddae_app.features.matrix import MOST_NAMED, FeatureMatrix, listed, row_name
from ddae_app.files import not_fetched
from ddae_app.settings import SURFER_STATS

PERSON, SESSION = 'participant_id', 'session_id'

DELIMITERS = {'.tsv': '\t', '.csv': ','}

NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?')
INFINITE = re.compile(r'[+-]?inf(inity)?', re.IGNORECASE)
LABEL = re.compile(r'[A-Za-z0-9+]+')


@dataclass(frozen=True)
class FeatureTable(FeatureMatrix):
    """The rows of a table of features, and the texts of its cells.

    Attributes
    ----------
    path, participants, sessions, features, values
        As in :class:`FeatureMatrix`; the features are the columns that are neither person nor
        session, in their order, and the values float64.
    header : tuple of str
        All columns, in their order.
    cells : tuple of tuple of str
        The texts of each row, in the order of `header`.
    """

    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def rows(self, rows: np.ndarray) -> FeatureTable:
        """The table with some of its rows only."""
        cells = tuple(self.cells[i] for i in rows.tolist())
        return replace(super().rows(rows), cells=cells)

    def written(self, values: np.ndarray) -> str:
        """The table as TSV with other values, the same rows and columns.

        A value that did not change keeps its text; the others have twelve digits, and what is
        missing is n/a.

        Parameters
        ----------
        values : np.ndarray, shape (N, F)
        """
        text = io.StringIO()
        writer = csv.writer(text, delimiter=DELIMITERS['.tsv'], lineterminator='\n')
        writer.writerow(self.header)
        for row, cells in enumerate(self.cells):
            texts = []
            for column, cell in zip(self.header, cells, strict=True):
                i = self.place.get(column)
                if i is None:
                    texts.append(cell or 'n/a')
                elif math.isnan(values[row, i]):
                    texts.append('n/a')
                elif values[row, i] == self.values[row, i]:
                    texts.append(cell)
                else:
                    texts.append(f'{values[row, i]:.12g}')
            writer.writerow(texts)
        return text.getvalue()


def read_feature_table(path: Path) -> FeatureTable:
    """Read a table, ``.tsv`` or ``.csv``.

    Raises
    ------
    UsageError
        It is not there, not of this form, or a value is no number: the column, the row, and what
        to do, in one line.
    """
    header, rows = _read_cells(path)
    features = tuple(column for column in header if column not in (PERSON, SESSION))
    if not features:
        raise UsageError(
            f'{path}: no column but {", ".join(header)}; expected columns of features'
        )
    if not rows:
        raise UsageError(f'{path}: no rows; expected one for each person (and session)')
    persons = [_label(path, row[header.index(PERSON)], 'sub-', PERSON) for row in rows]
    sessions: list[str | None] = [None] * len(rows)
    if SESSION in header:
        texts = [row[header.index(SESSION)] for row in rows]
        sessions = [None if is_missing(t) else _label(path, t, 'ses-', SESSION) for t in texts]
    names = [row_name(p, s) for p, s in zip(persons, sessions, strict=True)]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UsageError(
            f'{path}: {listed(twice)} {"has" if len(twice) == 1 else "have"} several rows; '
            f'expected one for each person and session: remove the others, or tell them apart in '
            f'a column {SESSION}'
        )
    places = [header.index(name) for name in features]
    values = np.array(
        [
            [_number(path, row[place], header[place], name) for place in places]
            for row, name in zip(rows, names, strict=True)
        ],
        dtype=np.float64,
    )
    return FeatureTable(
        path, tuple(persons), tuple(sessions), features, values, header, tuple(rows)
    )


def _read_cells(path: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header, and the rows with as many cells; spaces around a cell are no part of it."""
    if message := not_fetched(path):
        raise UsageError(f'--features {message}')
    if not path.is_file():
        raise UsageError(
            f'--features {path}: no such file; expected a table, .tsv or .csv, or one of '
            f'{", ".join(SURFER_STATS)}'
        )
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise UsageError(f'--features {path}: expected a name that ends with .tsv or .csv')
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            lines = [
                tuple(' '.join(cell.split()) for cell in line)
                for line in csv.reader(file, delimiter=delimiter)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(
            f'--features {path}: not readable as a UTF-8 table ({e}); save it as one'
        ) from e
    lines = [line for line in lines if any(line)]
    header = lines[0] if lines else ()
    if PERSON not in header:
        if len(header) == 1 and ';' in header[0]:
            raise UsageError(
                f'{path}: the columns are separated by semicolons; save the table with '
                f'{"tabs" if delimiter != "," else "commas"} between columns, and with decimal '
                'points in its numbers'
            )
        found = ', '.join(header[:MOST_NAMED]) or 'nothing'
        raise UsageError(
            f'{path}: no column {PERSON} (found {found}{", ..." * (len(header) > MOST_NAMED)}); '
            f'call the column of the labels so, and separate columns by '
            f'{"tabs" if delimiter != "," else "commas"}'
        )
    if '' in header:
        raise UsageError(f'{path}: column {header.index("") + 1} has no name; name or remove it')
    if twice := [name for name, n in Counter(header).items() if n > 1]:
        raise UsageError(f'{path}: several columns {listed(twice)}; rename or remove the others')
    for line in lines[1:]:
        if len(line) != len(header):
            raise UsageError(
                f'{path}: the row of {shown(line[0])} has {len(line)} cells, and the header has '
                f'{len(header)}; mend the row'
            )
    return header, lines[1:]


def _label(path: Path, text: str, prefix: str, column: str) -> str:
    label = text.removeprefix(prefix)
    if is_missing(text) or not LABEL.fullmatch(label):
        session = label.partition('_ses-')[2]
        own = f': write {shown(f"ses-{session}")} into a column {SESSION}' if session else ''
        raise UsageError(
            f'{path}: {column} is {shown(text)} in a row; expected a label as in BIDS, letters '
            f'and digits, with or without {prefix}{own}'
        )
    return label


def _number(path: Path, text: str, column: str, row: str) -> float:
    if is_missing(text):
        return math.nan
    if NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    if INFINITE.fullmatch(text) or NUMBER.fullmatch(text):
        raise UsageError(
            f'{path}: column {column} of {row} is {shown(text)}, which is infinite; expected a '
            'finite number, or n/a where it is not known'
        )
    raise UsageError(
        f'{path}: column {column} of {row} is {shown(text)}; expected numbers (decimal point) or '
        'n/a in all columns but participant_id and session_id: remove the column, or mend the cell'
    )
