"""Scans and who they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ddae_app.errors import NotJudgedError
from ddae_app.evaluation.biology import Column

FOLDS = 5
FEWEST_PEOPLE = 2 * FOLDS
"""Of each site: one to judge in each fold of each half."""


@dataclass(frozen=True)
class People:
    """Scans and who they are of.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W), float32
        0 outside the brain.
    sites, subjects : np.ndarray, shape (N,), str
    ages : np.ndarray, shape (N,), float64
        Years, NaN where unknown.
    sexes : np.ndarray, shape (N,), object
        ``M``, ``F`` or None.
    further : tuple of Column
        What else is known, and is to be read from the images.

    Raises
    ------
    NotJudgedError
        If there is one site only, or one of fewer than ``FEWEST_PEOPLE`` people.
    """

    images: np.ndarray
    sites: np.ndarray
    subjects: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray
    further: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        names = np.unique(self.sites)
        if len(names) < 2:
            raise NotJudgedError(
                f'all scans are of site {names[0]}; two sites are needed to compare'
            )
        for site in names:
            n = len(set(self.subjects[self.sites == site]))
            if n < FEWEST_PEOPLE:
                raise NotJudgedError(
                    f'site {site} has {n} {"person" if n == 1 else "people"}, and {FEWEST_PEOPLE} '
                    'are needed; leave the site out (--participant-label), or add people'
                )

    @classmethod
    def of(cls, images: np.ndarray, cohort: pd.DataFrame, biology: Sequence[str] = ()) -> People:
        """From images and a cohort as harmonisers take them.

        `biology` names further columns, of texts, None where unknown.
        """
        sexes = cohort['sex'].astype(object)
        return cls(
            images,
            cohort['site'].to_numpy(str),
            cohort['subject'].to_numpy(str),
            cohort['age'].to_numpy(np.float64),
            sexes.where(sexes.notna(), None).to_numpy(),
            tuple(Column.of(name, cohort[name].tolist()) for name in biology),
        )

    @property
    def chance(self) -> float:
        """Balanced accuracy of a guess at the site."""
        return 1 / len(np.unique(self.sites))
