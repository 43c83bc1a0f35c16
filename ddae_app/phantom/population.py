"""Who is scanned where: sites differ in the age and sex of their people, as real ones do."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.phantom.anatomy import AGE_RANGE, Anatomy, draw_anatomy
from ddae_app.phantom.seeds import generator


@dataclass(frozen=True)
class Subject:
    """A person.

    Attributes
    ----------
    label : str
        Participant label without ``sub-``, e.g. ``'A01'``.
    site : str
        Where they were scanned.
    age : int
        Years.
    sex : {'M', 'F'}
    seed : int
        Seed of the study, which with the label makes the anatomy.
    """

    label: str
    site: str
    age: int
    sex: str
    seed: int

    def anatomy(self) -> Anatomy:
        """The person's brain."""
        return draw_anatomy(self.age, self.sex, generator(self.seed, 'anatomy', self.label))


def site_names(count: int) -> tuple[str, ...]:
    """``PhantomA``, ``PhantomB``, ...

    Raises
    ------
    UsageError
        Not between 1 and 26.
    """
    if not 1 <= count <= len(string.ascii_uppercase):
        raise UsageError(f'{count} sites; expected 1 to 26, one per letter')
    return tuple(f'Phantom{letter}' for letter in string.ascii_uppercase[:count])


def draw_subjects(site: str, count: int, seed: int, scanner_seed: int = 0) -> list[Subject]:
    """Draw the people of one site.

    The site's mean age, spread and share of women belong to the site, hence to `scanner_seed`;
    the people belong to `seed`. The first people of a larger draw are those of a smaller one.
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
