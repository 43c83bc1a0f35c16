"""Tables of a BIDS dataset, and the data dictionaries beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ddae_app.bids.values import is_missing
from ddae_app.errors import InvalidBIDSError
from ddae_app.files import not_fetched

Dictionary = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Rows of a table by label.

    Attributes
    ----------
    path : Path
    prefix : {'sub-', 'ses-'}
        Of its labels.
    rows : dict of str to dict
        Empty if there is no such file.
    columns : tuple of str
    faults : dict of str to str
        What is wrong with rows that cannot be used.
    """

    path: Path
    prefix: str
    rows: dict[str, dict[str, str]]
    columns: tuple[str, ...]
    faults: dict[str, str]

    @cached_property
    def by_name(self) -> dict[str, str]:
        """The columns by their names in lower case; of two, the first."""
        return {column.lower(): column for column in reversed(self.columns)}

    def column(self, names: Sequence[str]) -> str | None:
        """The first of some names that is a column, as it is written, else in other case."""
        found = (n if n in self.columns else self.by_name.get(n.lower()) for n in names)
        return next((column for column in found if column), None)

    def alike(self, names: Sequence[str]) -> list[str]:
        """All columns of some names, in upper or lower case, in the order of the names."""
        return [c for name in names for c in self.columns if c.lower() == name.lower()]

    def value(self, label: str, column: str | None) -> str | None:
        """What a row says in a column; None where it does not say."""
        text = self.rows.get(label, {}).get(column) if column else None
        return None if is_missing(text) else text

    def similar(self, label: str) -> list[str]:
        """Labels of rows that differ in leading zeros, or upper and lower case, only."""
        return [other for other in self._by_plain.get(plain_label(label), ()) if other != label]

    def hint_at(self, labels: Iterable[str]) -> str:
        """What may be meant by labels of people that are no row, in brackets; empty if nothing."""
        similar = next((other for label in labels for other in self.similar(label)), None)
        return f' (it has sub-{similar}; were leading zeros lost?)' if similar else ''

    @cached_property
    def _by_plain(self) -> dict[str, list[str]]:
        labels: dict[str, list[str]] = {}
        for label in self.rows:
            labels.setdefault(plain_label(label), []).append(label)
        return labels


def plain_label(label: str) -> str:
    """A label without leading zeros, in lower case."""
    return label.lower().lstrip('0')


def read_table(path: Path, key: str, prefix: str) -> Table:
    """The rows of a table by the label in its column `key`; none if there is no such file.

    Raises
    ------
    InvalidBIDSError
        It is no table of this kind.
    """
    if not path.is_file():
        return Table(path, prefix, {}, (), {})
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            lines = list(csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InvalidBIDSError(
            f'{path}: not readable as a UTF-8 table ({e}); save it as one'
        ) from e
    header = [_unquoted(cell) for cell in lines[0]] if lines else []
    columns = tuple(column for column in header if column)
    if key not in columns:
        raise InvalidBIDSError(
            f'{path}: no column {key!r} (found {", ".join(columns) or "nothing"}); '
            'are the columns separated by tabs?'
        )
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise InvalidBIDSError(f'{path}: two columns {twice[0]!r}; remove or rename one')
    rows: dict[str, dict[str, str]] = {}
    faults: dict[str, str] = {}
    for line in lines[1:]:
        cells = [_unquoted(cell) for cell in line]
        row = dict(zip(header, cells, strict=False))
        label = row.get(key, '').removeprefix(prefix)
        if any(cells[len(header) :]):
            faults[label] = (
                f'{path.name}: the row of {prefix}{label} has {len(cells)} cells, and the header '
                f'has {len(header)}; mend the row'
            )
        if label and rows.setdefault(label, row) != row:
            faults[label] = (
                f'{path.name}: {prefix}{label} has several rows, which differ; expected one '
                '(what changes between sessions belongs into sub-*_sessions.tsv)'
            )
    return Table(path, prefix, rows, columns, faults)


def _unquoted(cell: str) -> str:
    """A cell without spaces around it, and without the quotes that R and spreadsheets write."""
    text = cell.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def read_dictionary(path: Path) -> Dictionary:
    """What a data dictionary says of each column, by its name in lower case.

    Raises
    ------
    InvalidBIDSError
        It is no data dictionary.
    """
    if not path.is_file():
        return {}
    content = read_object(path)
    return {k.strip().lower(): v for k, v in content.items() if isinstance(v, dict)}


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file of a dataset holds.

    Raises
    ------
    InvalidBIDSError
        It is no JSON object, or its content was not fetched.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError) as e:
        message = not_fetched(path) or f'{path}: not readable as JSON ({e})'
        raise InvalidBIDSError(message) from e
    if not isinstance(content, dict):
        raise InvalidBIDSError(f'{path}: expected a JSON object')
    return content
