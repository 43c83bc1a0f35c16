"""Whether the sites of a cohort can be separated from the subjects who were scanned there."""

from __future__ import annotations

import numpy as np

from ddae_app.methods.data import SliceData

FEWEST_TO_TRAIN = 10
"""Subjects of a site. With fewer, their own features are easily attributed to the site."""

FEWEST_KNOWN = 5
"""Known ages or sexes that a site needs before they are compared."""


def sites_with_few_subjects(data: SliceData) -> dict[str, int]:
    """Number of subjects of each site that has fewer than ``FEWEST_TO_TRAIN``."""
    subjects = {
        site: len({p for p, s in zip(data.subjects, data.sites, strict=True) if s == site})
        for site in data.site_names
    }
    return {site: n for site, n in subjects.items() if n < FEWEST_TO_TRAIN}


def confounded_sites(data: SliceData) -> dict[str, str]:
    """Sites that are confounded with age or sex, and how.

    The subjects of a site are all of one sex, and some elsewhere are of the other; or its youngest
    is older than all others, or its oldest younger. A model then cannot separate the site
    from sex or age.
    """
    last_row = {key: row for row, key in enumerate(zip(data.sites, data.subjects, strict=True))}
    once = list(last_row.values())
    sites, ages_of_all = np.array(data.sites)[once], data.ages[once]
    sexes = np.array([data.sexes[row] or '' for row in once])
    confounded = {}
    for site in data.site_names:
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
