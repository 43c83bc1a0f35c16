"""Further biological variables of the participants' table: are they preserved in the images?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.evaluation import estimates
from ddae_app.evaluation.estimates import Score
from ddae_app.evaluation.probes import Components
from ddae_app.imaging.anatomy import TISSUES

MIN_TRAINING_SCANS = 25
"""A probe is trained on no fewer scans for which its variable is known."""

MIN_KNOWN_SCANS = 70
"""With so many known scans, four fifths of a half hold at least ``MIN_TRAINING_SCANS``."""

MAX_LEVELS = 6
ALWAYS_EVALUATED = ('age', 'sex', 'site')
TAKEN = 'subject'
"""The name by which the evaluation knows who was scanned; see ``EvaluationData.from_cohort``."""


def check_names(names: Sequence[str]) -> None:
    """Refuse columns that are always evaluated, or that are named twice.

    Parameters
    ----------
    names : sequence of str
        Column names that ``--biology`` gave.

    Raises
    ------
    UsageError
        If a name is ``age``, ``sex``, ``site`` or ``subject``, or stands in the list twice.
    """
    for name in names:
        if name.lower() in ALWAYS_EVALUATED:
            raise UsageError(f'--biology {name}: this column is always evaluated; leave it out')
        if name == TAKEN:
            raise UsageError(
                f'--biology {name}: this name stands for the participants here; copy the column '
                'under another name'
            )
        if names.count(name) > 1:
            raise UsageError(f'--biology {name}: this column is named twice; name it once')


@dataclass(frozen=True)
class BiologicalVariable:
    """One column of the participants' table, with a value for each scan.

    Attributes
    ----------
    name : str
    values : np.ndarray, shape (N,)
        Numbers (float64, NaN where unknown) or categories (object, None where unknown).

    Raises
    ------
    UsageError
        If too few values are known, or if there are too few or too many different values.
    """

    name: str
    values: np.ndarray

    def __post_init__(self) -> None:
        n_known, n_levels = int(self.known.sum()), len(self.levels)
        if n_known < MIN_KNOWN_SCANS:
            raise UsageError(
                f'--biology {self.name}: the value is known for {n_known} scans, and '
                f'{MIN_KNOWN_SCANS} are needed; fill in the column, or leave it out'
            )
        if n_levels < 2 or (not self.numeric and n_levels > MAX_LEVELS):
            raise UsageError(
                f'--biology {self.name}: the column has {n_levels} different values; expected '
                f'numbers that vary, or 2 to {MAX_LEVELS} categories'
            )

    @classmethod
    def from_texts(cls, name: str, texts: Sequence[str | None]) -> BiologicalVariable:
        """Read texts as numbers where all known texts are numbers of more than two values.

        Parameters
        ----------
        name : str
        texts : sequence of str or None, length N
            None, or NaN as pandas has it, where unknown.
        """
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
        """Whether the value of each scan is known, shape (N,), bool."""
        if self.numeric:
            return ~np.isnan(self.values)
        return np.array([value is not None for value in self.values])

    @property
    def levels(self) -> list:
        """The different known values, in ascending order."""
        return sorted(set(self.values[self.known].tolist()))

    def measures(self) -> dict[str, str]:
        """Names and meanings of the measures of this variable."""
        name = f'biology_{self.name}'
        if self.numeric:
            return {
                name: f'Correlation of {self.name} with its prediction from the images, by ridge '
                'regression trained on other participants.'
            }
        meanings = {
            name: f'Balanced accuracy of {self.name} as predicted from the images, by logistic '
            'regression trained on other participants.'
        }
        if len(self.levels) == 2:
            first, second = self.levels
            meanings |= {
                f'{name}_d_{tissue}': f"Cohen's d of {second} against {first} in the brain "
                f'fraction of {TISSUES[tissue]}, after the site means are subtracted.'
                for tissue in TISSUES
            }
        return meanings

    def predict(
        self, components: Components, train: np.ndarray, test_images: np.ndarray
    ) -> np.ndarray | None:
        """Predict the variable from test images with a probe trained on other scans.

        Parameters
        ----------
        components : Components
            Principal components of the training images.
        train : np.ndarray of int, shape (L,)
            Rows of the training images.
        test_images : np.ndarray, shape (M, H, W)

        Returns
        -------
        np.ndarray, shape (M,), or None
            None if too few training scans have a known value, or if all values are equal.
        """
        known = np.flatnonzero(self.known[train])
        values = self.values[train][known]
        if len(known) < MIN_TRAINING_SCANS or len(set(values.tolist())) < 2:
            return None
        if self.numeric:
            return components.subset(known).fit_regression(values)(test_images)
        return components.subset(known).fit_classifier(values.astype(str))(test_images)

    def scores(
        self, predicted: np.ndarray, fractions: Mapping[str, np.ndarray], sites: np.ndarray
    ) -> dict[str, Score]:
        """Score the predictions, over scans with a known value and a prediction.

        Parameters
        ----------
        predicted : np.ndarray, shape (N,)
        fractions : mapping of str to np.ndarray, shape (N,), 0 to 1
            Brain fraction of each tissue.
        sites : np.ndarray, shape (N,)

        Returns
        -------
        dict of str to Score
            By measure, as :meth:`measures` names them.
        """
        name = f'biology_{self.name}'
        if self.numeric:
            return {name: estimates.correlation(self.values, predicted)}
        categories = self.values.astype(str)
        scores = {name: estimates.balanced_accuracy(categories, predicted.astype(str))}
        if len(self.levels) == 2:
            rows = np.flatnonzero(self.known)
            for tissue in TISSUES:
                residuals = estimates.subtract_site_means(fractions[tissue], sites, rows)
                scores[f'{name}_d_{tissue}'] = estimates.cohens_d(
                    residuals, categories == self.levels[1]
                )
        return scores
