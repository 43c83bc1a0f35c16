"""Populations of the sites, which differ in age and sex as those of real sites do."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.phantom.anatomy import AGE_RANGE, Anatomy, draw_anatomy
from ddae_app.phantom.head import Head, draw_head
from ddae_app.phantom.seeds import generator


@dataclass(frozen=True)
class Subject:
    """A simulated subject.

    Attributes
    ----------
    label : str
        Participant label without ``sub-``, e.g. ``'A01'``.
    site : str
        Site of the scan.
    age : int
        Years.
    sex : {'M', 'F'}
    seed : int
        Seed of the study, which together with the label determines the anatomy.
    """

    label: str
    site: str
    age: int
    sex: str
    seed: int

    def anatomy(self) -> Anatomy:
        """The brain of the subject."""
        return draw_anatomy(self.age, self.sex, generator(self.seed, 'anatomy', self.label))

    def head(self) -> Head:
        """What surrounds the brain of the subject."""
        return draw_head(self.age, generator(self.seed, 'head', self.label))


def site_names(count: int) -> tuple[str, ...]:
    """``PhantomA``, ``PhantomB``, ...

    Raises
    ------
    UsageError
        The count is not between 1 and 26.
    """
    if not 1 <= count <= len(string.ascii_uppercase):
        raise UsageError(f'{count} sites; expected 1 to 26, one per letter')
    return tuple(f'Phantom{letter}' for letter in string.ascii_uppercase[:count])


def draw_subjects(site: str, count: int, seed: int, scanner_seed: int = 0) -> list[Subject]:
    """Draw the subjects of one site.

    The mean age, its spread and the share of women depend on the site and on `scanner_seed`. The
    subjects depend on `seed`, and the first ones of a larger draw are those of a smaller one.
    """
    population = generator(scanner_seed, 'population', site)
    mean = population.uniform(0.2, 0.75)
    concentration = population.uniform(2.5, 6)
    women = population.uniform(0.35, 0.65)
    low, high = AGE_RANGE
    subjects = []
    for number in range(1, count + 1):
        label = f'{site.removeprefix("Phantom")}{number:02d}'
        rng = generator(seed, 'person', label)
        share = rng.beta(mean * concentration, (1 - mean) * concentration)
        subjects.append(
            Subject(
                label=label,
                site=site,
                age=int(np.rint(low + (high - low) * share)),
                sex='F' if rng.random() < women else 'M',
                seed=seed,
            )
        )
    return subjects
