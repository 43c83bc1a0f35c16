"""The scans that are evaluated, with the site, age and sex of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddae_app.errors import NotEvaluableError
from ddae_app.evaluation.biology import BiologicalVariable

FOLDS = 5
MIN_SUBJECTS = 2 * FOLDS
"""Each site needs one test subject in each fold of each of the two halves."""

MOST = 0.75
"""Share of the subjects of each site of whom a fact must be known to compare the sites by it."""


class SomePeople(NamedTuple):
    """What is known of the subjects of some scans; see :class:`EvaluationData`."""

    sites: np.ndarray
    subjects: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray


@dataclass(frozen=True)
class EvaluationData:
    """The medial slices of all scans, and what is known of the subjects.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W), float32
        Intensities of about 0 to 1; 0 outside the brain.
    sites, subjects : np.ndarray, shape (N,), str
    ages : np.ndarray, shape (N,), float64
        Years, NaN where unknown.
    sexes : np.ndarray, shape (N,), object
        ``M``, ``F`` or None.
    variables : tuple of BiologicalVariable
        Further columns of the participants' table that should still be predictable.

    Raises
    ------
    NotEvaluableError
        If there is one site only, or if a site has fewer than ``MIN_SUBJECTS`` subjects.
    """

    images: np.ndarray
    sites: np.ndarray
    subjects: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray
    variables: tuple[BiologicalVariable, ...] = ()

    def __post_init__(self) -> None:
        names = np.unique(self.sites)
        if len(names) < 2:
            raise NotEvaluableError(
                f'all scans are of site {names[0]}; a comparison needs at least two sites'
            )
        counts = {site: len(set(self.subjects[self.sites == site])) for site in names}
        few = [f'{site} ({n})' for site, n in counts.items() if n < MIN_SUBJECTS]
        if few:
            others = len(names) - len(few)
            exclude = 'exclude these scans (--participant-label), or ' if others > 1 else ''
            raise NotEvaluableError(
                f'there are too few participants of {", ".join(few)}: {MIN_SUBJECTS} of each site '
                f'are needed; {exclude}add participants'
            )

    @classmethod
    def from_cohort(
        cls, images: np.ndarray, cohort: pd.DataFrame, biology: Sequence[str] = ()
    ) -> EvaluationData:
        """Take images and a cohort as harmonizers take them.

        Parameters
        ----------
        images : np.ndarray, shape (N, H, W), float32
        cohort : pandas.DataFrame, N rows
            Columns ``subject``, ``site``, ``age`` and ``sex``.
        biology : sequence of str
            Further columns of texts, None where unknown.
        """
        sexes = cohort['sex'].astype(object)
        return cls(
            images,
            cohort['site'].to_numpy(str),
            cohort['subject'].to_numpy(str),
            cohort['age'].to_numpy(np.float64),
            sexes.where(sexes.notna(), None).to_numpy(),
            tuple(BiologicalVariable.from_texts(name, cohort[name].tolist()) for name in biology),
        )

    def people(self, rows: np.ndarray) -> SomePeople:
        """What is known of the subjects of some scans, by their rows, without the images."""
        return SomePeople(self.sites[rows], self.subjects[rows], self.ages[rows], self.sexes[rows])

    @property
    def chance(self) -> float:
        """Expected balanced accuracy of a random guess at the site."""
        return 1 / len(np.unique(self.sites))


def comparable(
    known: np.ndarray, sites: np.ndarray, subjects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """By which facts the sites can be compared, and in which scans.

    A fact that is unknown of many subjects of a site counts for nobody: whatever stood in its
    place would tell this site from the others.

    Parameters
    ----------
    known : np.ndarray, shape (N, K), bool
        Whether each fact, such as the age, is known of each scan.
    sites, subjects : np.ndarray, shape (N,)

    Returns
    -------
    counts : np.ndarray, shape (K,), bool
    rows : np.ndarray of int
        Where all facts that count are known; empty where none counts.
    """

    def of_most(known: np.ndarray, share: float) -> bool:
        return all(
            len(set(subjects[known & here])) >= share * len(set(subjects[here]))
            for here in (sites == site for site in np.unique(sites))
        )

    counts = np.array([of_most(fact, MOST) for fact in known.T])
    together = np.all(known[:, counts], axis=1)
    # Two of three quarters each share one half, but for scans of one subject that differ in them.
    enough = counts.any() and of_most(together, 2 * MOST - 1)
    return counts, np.flatnonzero(together) if enough else np.array([], dtype=int)
