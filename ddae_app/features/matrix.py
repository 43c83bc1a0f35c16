"""What tables and maps have in common: a row for each person and session, columns of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

MOST_NAMED = 5
"""Of the same kind in a message; the others are counted."""


@dataclass(frozen=True)
class FeatureMatrix:
    """Values of people, whatever they come from.

    Attributes
    ----------
    path : Path
        Where they come from.
    participants : tuple of str, length N
        Labels without ``sub-``.
    sessions : tuple of str or None, length N
        Labels without ``ses-``; None where there is none.
    features : tuple of str, length F
        The names of the columns.
    values : np.ndarray, shape (N, F), float64 or float32
        In the units of the source; NaN where missing.
    """

    path: Path
    participants: tuple[str, ...]
    sessions: tuple[str | None, ...]
    features: tuple[str, ...]
    values: np.ndarray

    @property
    def maps(self) -> str:
        """What is mapped on which mesh; empty of a table."""
        return ''

    @property
    def names(self) -> list[str]:
        """The name of each row as in BIDS: ``sub-01``, or ``sub-01_ses-1``."""
        return [row_name(p, s) for p, s in zip(self.participants, self.sessions, strict=True)]

    @cached_property
    def place(self) -> dict[str, int]:
        """The column of each feature."""
        return {name: i for i, name in enumerate(self.features)}

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """The values of some features, shape (N, len(names)), whatever their order here.

        All of them in their order are no copy.
        """
        if tuple(names) == self.features:
            return self.values
        return self.values[:, [self.place[name] for name in names]]

    def rows(self, rows: np.ndarray) -> Self:
        """The same with some of the rows only."""
        chosen = rows.tolist()
        return replace(
            self,
            participants=tuple(self.participants[i] for i in chosen),
            sessions=tuple(self.sessions[i] for i in chosen),
            values=self.values[rows],
        )

    def told(self, names: Sequence[str]) -> str:
        """Some features, for people."""
        return listed(names)

    def in_one_unit(self) -> dict[str, np.ndarray]:
        """Values of each unit, shape (N,): the features, each of which may have its own."""
        return dict(zip(self.features, self.values.T, strict=True))


def row_name(participant: str, session: str | None) -> str:
    """As in BIDS."""
    return f'sub-{participant}' + (f'_ses-{session}' if session else '')


def counted(n: int, one: str, many: str = '') -> str:
    """A number of things: 1 row, 2 rows."""
    return f'{n:,} {one if n == 1 else many or f"{one}s"}'


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ', '.join(names[:MOST_NAMED]) + (f' and {more} more' if more > 0 else '')


def folders_left_out(what: str, left_out: Iterable[tuple[Sequence[str], str]]) -> list[str]:
    """Which folders with stats or maps are not taken and why, in sentences."""
    return [
        f'{len(names)} folder{"s" * (len(names) != 1)} with {what} left out, {why}: '
        f'{listed(names)}'
        for names, why in left_out
        if names
    ]
