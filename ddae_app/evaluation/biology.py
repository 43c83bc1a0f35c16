"""Further columns of the participants' table: can they be read, and are their effects kept?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.evaluation import estimates, probes
from ddae_app.evaluation.estimates import Score
from ddae_app.imaging.anatomy import TISSUES

FEWEST_KNOWN = 25
"""To learn from, for a probe to read it."""

FEWEST_IN_ALL = 70
"""So that so many are to learn from in a half of the people less a fold."""

MOST_LEVELS = 6
JUDGED_ANYWAY = ('age', 'sex', 'site')


def check_names(names: Sequence[str]) -> None:
    """Refuse columns that need no asking for, or are asked for twice.

    Raises
    ------
    UsageError
    """
    for name in names:
        if name.lower() in JUDGED_ANYWAY:
            raise UsageError(f'--biology {name}: it is judged anyway; leave it out')
        if names.count(name) > 1:
            raise UsageError(f'--biology {name}: named twice; leave one out')


@dataclass(frozen=True)
class Column:
    """Something that is known of people.

    Attributes
    ----------
    name : str
    values : np.ndarray, shape (N,)
        Numbers (float64, NaN where unknown) or words (object, None where unknown).
    """

    name: str
    values: np.ndarray

    def __post_init__(self) -> None:
        count, kinds = int(self.known.sum()), len(self.levels)
        if count < FEWEST_IN_ALL:
            raise UsageError(
                f'--biology {self.name}: known of {count} scans, {FEWEST_IN_ALL} are needed'
            )
        if kinds < 2 or (not self.numeric and kinds > MOST_LEVELS):
            raise UsageError(
                f'--biology {self.name}: {kinds} different values; expected numbers that vary, or '
                f'2 to {MOST_LEVELS} words'
            )

    @classmethod
    def of(cls, name: str, texts: Sequence[str | None]) -> Column:
        """From texts: numbers, where all that are known are numbers of more than two values."""
        texts = [text if isinstance(text, str) else None for text in texts]  # pandas has NaN
        known = {text for text in texts if text is not None}
        try:
            numbers = {float(text) for text in known}
        except ValueError:
            numbers = set()
        if len(numbers) > 2 and all(map(np.isfinite, numbers)):
            return cls(name, np.array([np.nan if t is None else float(t) for t in texts]))
        return cls(name, np.array(texts, dtype=object))

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.values.dtype.kind == 'f'

    @property
    def known(self) -> np.ndarray:
        """Of whom it is known, shape (N,), bool."""
        if self.numeric:
            return ~np.isnan(self.values)
        return np.array([value is not None for value in self.values])

    @property
    def levels(self) -> list:
        """Different values, in order."""
        return sorted(set(self.values[self.known].tolist()))

    def measures(self) -> dict[str, str]:
        """Names and meanings of what is measured of it."""
        name = f'biology_{self.name}'
        if self.numeric:
            return {name: f'{self.name} read from the images of other people: correlation'}
        found = {name: f'{self.name} read from the images of other people: balanced accuracy'}
        if len(self.levels) == 2:
            first, second = self.levels
            found |= {
                f'{name}_d_{tissue}': f"Cohen's d of {second} against {first} in the share of "
                f'{tissue.upper()}, each site less its mean'
                for tissue in TISSUES
            }
        return found

    def read(
        self, own: probes.Components, learn: np.ndarray, outputs: np.ndarray
    ) -> np.ndarray | None:
        """What a probe that learnt from some rows reads from other outputs; None if it cannot.

        Parameters
        ----------
        own : Components
            Of the rows to learn from.
        learn : np.ndarray of int
        outputs : np.ndarray, shape (M, H, W)
        """
        known = np.flatnonzero(self.known[learn])
        values = self.values[learn][known]
        if len(known) < FEWEST_KNOWN or len(set(values.tolist())) < 2:
            return None
        if self.numeric:
            return own.of_rows(known).regression(values)(outputs)
        return own.of_rows(known).classifier(values.astype(str))(outputs)

    def scores(
        self, guess: np.ndarray, shares: Mapping[str, np.ndarray], sites: np.ndarray
    ) -> dict[str, Score]:
        """Its measures, over the rows where it is known and was read.

        Parameters
        ----------
        guess : np.ndarray, shape (N,)
            What was read.
        shares : mapping of str to np.ndarray, shape (N,)
            Of the tissues.
        sites : np.ndarray, shape (N,)
        """
        name = f'biology_{self.name}'
        if self.numeric:
            return {name: estimates.correlation(self.values, guess)}
        words = self.values.astype(str)
        found = {name: estimates.balanced_accuracy(words, guess.astype(str))}
        if len(self.levels) == 2:
            rows = np.flatnonzero(self.known)
            for tissue in TISSUES:
                less = estimates.within_sites(shares[tissue], sites, rows)
                found[f'{name}_d_{tissue}'] = estimates.cohens_d(less, words == self.levels[1])
        return found
