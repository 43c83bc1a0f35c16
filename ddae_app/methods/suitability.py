"""Whether the sites of a cohort can be separated from the subjects who were scanned there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

FEWEST_TO_TRAIN = 10
"""Subjects of a site. With fewer, their own features are easily attributed to the site."""

FEWEST_TO_CALIBRATE = 5
"""The same where no network is trained; what is measured is shrunk by what chance makes of few."""

FEWEST_KNOWN = 5
"""Known ages or sexes that a site needs before they are compared."""


class People(Protocol):
    """What is known of the subjects of some scans, a value a scan."""

    @property
    def sites(self) -> Sequence[str] | np.ndarray:
        """Where each was acquired."""

    @property
    def subjects(self) -> Sequence[str] | np.ndarray:
        """Who was scanned."""

    @property
    def ages(self) -> np.ndarray:
        """Years; NaN where unknown."""

    @property
    def sexes(self) -> Sequence[str | None] | np.ndarray:
        """M, F or None."""


def sites_with_few_subjects(data: People, fewest: int = FEWEST_TO_TRAIN) -> dict[str, int]:
    """Number of subjects of each site that has fewer than so many."""
    subjects = {
        site: len({p for p, s in zip(data.subjects, data.sites, strict=True) if s == site})
        for site in sorted(set(data.sites))
    }
    return {site: n for site, n in subjects.items() if n < fewest}


def confounded_sites(data: People) -> dict[str, str]:
    """Sites that are confounded with age or sex, and how.

    The subjects of a site are all of one sex, and some elsewhere are of the other; or its youngest
    is older than all others, or its oldest younger. A model then cannot separate the site
    from sex or age.
    """
    sites, ages_of_all, sexes = _once(data)
    confounded = {}
    for site in map(str, np.unique(sites)):
        here = sites == site
        here_sexes, other_sexes = ({*sexes[rows]} - {''} for rows in (here, ~here))
        known = (here & (sexes != '')).sum()
        if known >= FEWEST_KNOWN and len(here_sexes) == 1 and other_sexes - here_sexes:
            confounded[site] = f'sex (all its subjects are {here_sexes.pop()})'
            continue
        ages, elsewhere = (v[~np.isnan(v)] for v in (ages_of_all[here], ages_of_all[~here]))
        if len(ages) < FEWEST_KNOWN or not len(elsewhere):
            continue
        if ages.min() > elsewhere.max() or ages.max() < elsewhere.min():
            confounded[site] = (
                f'age ({ages.min():g} to {ages.max():g} years there, {elsewhere.min():g} to '
                f'{elsewhere.max():g} elsewhere)'
            )
    return confounded


def ages_beyond(data: People, mean: float, sd: float) -> str | None:
    """A warning if all known ages are beyond those of reference scans, by more than two SD.

    Parameters
    ----------
    data : People
    mean, sd : float
        Years, of the people of the reference scans.
    """
    ages = data.ages[~np.isnan(data.ages)]
    low, high = mean - 2 * sd, mean + 2 * sd
    if len(ages) < FEWEST_KNOWN or (ages.max() >= low and ages.min() <= high):
        return None
    return (
        f'all subjects are {ages.min():g} to {ages.max():g} years old, and most of the packaged '
        f'scans are of people of {low:.0f} to {high:.0f} years: what age does to these images is '
        'not known, and harmonization to a packaged site removes part of it; choose a target of '
        'their age (--target-scans)'
    )


def unexamined_sites(data: People) -> list[str]:
    """What :func:`confounded_sites` could not look at, as sentences.

    Of a site with fewer than ``FEWEST_KNOWN`` known ages, or where nobody else has one, it is not
    known whether it is confounded with age; and the same for sex. A site that is alone cannot be.
    """
    sites, ages, sexes = _once(data)
    told = []
    for what, known in (('age', ~np.isnan(ages)), ('sex', sexes != '')):
        counts = {str(site): int((known & (sites == site)).sum()) for site in np.unique(sites)}
        few = {site: n for site, n in counts.items() if n < FEWEST_KNOWN}
        if few:
            named = ', '.join(
                f'{site} ({what} known of {n} of {int((sites == site).sum())} subjects)'
                for site, n in few.items()
            )
            told.append(
                f'confounding of site with {what} was not examined for {named}: a known {what} '
                f'of {FEWEST_KNOWN} subjects is needed'
            )
        told += [
            f'confounding of site with {what} was not examined for {site}: no subject of another '
            f'site has a known {what}'
            for site, n in counts.items()
            if n == sum(counts.values()) and site not in few and len(counts) > 1
        ]
    return told


def _once(data: People) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Site, age and sex (empty where unknown) of each subject at each site, once.

    They are those of the last scan of which they are known.
    """
    known: dict[tuple[str, str], tuple[float, str]] = {}
    for site, subject, age, sex in zip(
        data.sites, data.subjects, data.ages, data.sexes, strict=True
    ):
        before = known.get((site, subject), (np.nan, ''))
        known[site, subject] = before[0] if np.isnan(age) else age, sex or before[1]
    ages, sexes = zip(*known.values(), strict=True)
    return np.array([site for site, _ in known]), np.array(ages), np.array(sexes)
