"""Whether a cohort can tell a site from the people who were scanned there."""

from __future__ import annotations

import numpy as np

from ddae_app.methods.data import SliceData

FEWEST_PEOPLE = 10
"""With fewer, what these people happen to be is easily taken for the site."""

FEWEST_KNOWN = 5
"""Ages or sexes that a site must have before they are held to say something."""


def sites_with_few_people(data: SliceData) -> dict[str, int]:
    """People of each site that has fewer than ``FEWEST_PEOPLE``."""
    people = {
        site: len({p for p, s in zip(data.subjects, data.sites, strict=True) if s == site})
        for site in data.site_names
    }
    return {site: n for site, n in people.items() if n < FEWEST_PEOPLE}


def confounded_sites(data: SliceData) -> dict[str, str]:
    """Sites whose people are all unlike those of the other sites, and in what.

    A site's people are all of one sex, and some elsewhere are of the other; or its youngest is
    older than everybody elsewhere, or its oldest younger. A model then cannot tell site from sex
    or age.
    """
    of_person = {key: row for row, key in enumerate(zip(data.sites, data.subjects, strict=True))}
    once = list(of_person.values())
    sites, ages_of_all = np.array(data.sites)[once], data.ages[once]
    sexes = np.array([data.sexes[row] or '' for row in once])
    found = {}
    for site in data.site_names:
        here = sites == site
        own, others = ({*sexes[rows]} - {''} for rows in (here, ~here))
        known = (here & (sexes != '')).sum()
        if known >= FEWEST_KNOWN and len(own) == 1 and others - own:
            found[site] = f'sex (everybody there is {own.pop()})'
            continue
        ages, elsewhere = (v[~np.isnan(v)] for v in (ages_of_all[here], ages_of_all[~here]))
        if len(ages) < FEWEST_KNOWN or not len(elsewhere):
            continue
        if ages.min() > elsewhere.max() or ages.max() < elsewhere.min():
            found[site] = (
                f'age ({ages.min():g} to {ages.max():g} years there, {elsewhere.min():g} to '
                f'{elsewhere.max():g} elsewhere)'
            )
    return found
