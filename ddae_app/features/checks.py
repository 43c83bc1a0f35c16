"""Whether site effects can be estimated from a table, and what in it is doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.features.matrix import FeatureMatrix, listed
from ddae_app.features.people import RowLabels
from ddae_app.methods.location_scale import ROUNDING, SiteRegression
from ddae_app.methods.suitability import (
    FEWEST_TO_TRAIN,
    confounded_sites,
    sites_with_few_subjects,
    unexamined_sites,
)

FEWEST_VALUES = 2
"""Of a feature at a site: from one value no spread follows."""

THOUSAND, LIKE_THOUSAND = 1000.0, 2.0
"""Units of volume and area differ by powers of the one; medians of sites that differ by such a
power, give or take a factor of the other, are taken for other units."""

LARGEST = 1e150
"""Squares of larger numbers, summed over people, are not finite."""

SO_MANY, SHARE = 5, 0.2
"""Features of a row, and which share of its values, that only other units move together."""

LONG = 1e10
"""From here on, a number is told by its power of ten."""

FAR = 5.0
"""Standard deviations: within so many, a value may be just a small or a large one."""

EXPLAINED, FREE = 0.99, 10
"""Of the variance within sites, the share that age and sex explain of themselves alone; told by
so many rows more than there are unknowns."""

APART = (0.05, 0.95)
"""Quantiles: values in other units do not overlap between these."""


def check_people(
    labels: RowLabels, *, allow_few: bool = False, allow_confounding: bool = False
) -> list[str]:
    """Refuse people from whom no site effect can be estimated, as for images.

    Returns
    -------
    list of str
        What was allowed, and what could not be examined.

    Raises
    ------
    UsageError
        One site, a site of few people or one that is confounded, unless allowed.
    """
    if len(labels.site_names) < 2:
        raise UsageError(
            f'all rows are of site {labels.site_names[0]}; at least two sites are needed (is '
            '--site-column right?)'
        )
    for site in labels.site_names:
        if labels.people_of(site) < FEWEST_VALUES:
            raise UsageError(
                f'site {site} has rows of one person, and two are needed; leave the site out'
            )
    few = [
        f'site {site} has {n} people, fewer than {FEWEST_TO_TRAIN}: what is their own may be '
        'taken for an effect of the site'
        for site, n in sites_with_few_subjects(labels).items()
    ]
    confounded = [
        f'site {site} is confounded with {reason}, so that an effect of that may be removed as '
        'one of the site'
        for site, reason in confounded_sites(labels).items()
    ]
    for problems, allowed, flag in (
        (few, allow_few, '--allow-few-scans'),
        (confounded, allow_confounding, '--allow-confounding'),
    ):
        if problems and not allowed:
            raise UsageError(f'{problems[0]}; leave its rows out, or give {flag}')
    return [*few, *confounded, *unexamined_sites(labels)]


def varying_features(
    table: FeatureMatrix, labels: RowLabels, estimated: int, *, allow_missing: bool = False
) -> tuple[list[str], list[str], list[str]]:
    """The features that can be scaled, those that stay as they are, and the sites that say so.

    At some site, these do not vary, so that nothing can be scaled there (the ComBat of sva leaves
    them out as well), or they have too few values.

    Parameters
    ----------
    table : FeatureMatrix
    labels : RowLabels
    estimated : int
        Number of sites and covariates, of which there have to be fewer than values.
    allow_missing : bool
        Whether features with too few values stay as they are, and are not refused.

    Raises
    ------
    UsageError
        If a site has no values of a feature, or one only, or all are too few, unless allowed.
    """
    counts, differ = np.empty((2, len(labels.site_names), len(table.features)))
    for i, site in enumerate(labels.site_names):
        values = table.values[labels.sites == site]
        counts[i] = (~np.isnan(values)).sum(axis=0)
        differ[i] = _differ(values)
    varies = np.all(differ, axis=0)
    enough = (counts.min(axis=0) >= FEWEST_VALUES) & (counts.sum(axis=0) > estimated)
    if not allow_missing:
        _check_counts(table, labels, counts, varies, estimated)
    kinds: tuple[list[str], list[str]] = [], []
    for name, fine in zip(table.features, varies & enough, strict=True):
        kinds[0 if fine else 1].append(name)
    same = ~np.all(differ, axis=1)
    return *kinds, [site for site, some in zip(labels.site_names, same, strict=True) if some]


def without_variation(table: FeatureMatrix, rows: np.ndarray) -> list[str]:
    """The features that have two values or more in some rows, and all of these the same."""
    values = table.values[rows]
    known = (~np.isnan(values)).sum(axis=0) >= FEWEST_VALUES
    same = known & ~_differ(values)
    return [table.features[i] for i in np.flatnonzero(same)]


def _differ(values: np.ndarray) -> np.ndarray:
    """Which columns hold different values, by more than rounding: as the sums of shares do not."""
    lowest, highest = (end(values).astype(float) for end in (np.fmin.reduce, np.fmax.reduce))
    return highest - lowest > ROUNDING * np.maximum(np.abs(lowest), np.abs(highest))


def _check_counts(
    table: FeatureMatrix, labels: RowLabels, counts: np.ndarray, varies: np.ndarray, estimated: int
) -> None:
    """Refuse a column of which a site, or all of them, have too few values."""
    for site, here in zip(labels.site_names, counts, strict=True):
        for n in range(FEWEST_VALUES):
            names = [table.features[i] for i in np.flatnonzero(here == n)]
            if names:
                some = 'no value' if n == 0 else 'one value only'
                raise UsageError(
                    f'{table.path}: {listed(names)} {_have(names)} {some} at site {site}; '
                    f'expected {FEWEST_VALUES} or more at each site: remove the column, or the '
                    'rows of the site'
                )
    total = counts.sum(axis=0)
    few = np.flatnonzero(varies & (total <= estimated))
    if few.size:
        names = [table.features[i] for i in few]
        raise UsageError(
            f'{table.path}: {listed(names)} {_have(names)} {total[few].min():.0f} '
            f'values; expected more than {estimated}, the number of sites and covariates: remove '
            'the column, or add rows'
        )


def check_no_covariates(
    table: FeatureMatrix, labels: RowLabels, regression: SiteRegression, features: Sequence[str]
) -> None:
    """Refuse columns that are an age or a sex by another name: they follow from these alone.

    They would not be harmonized, and the evaluation would predict age or sex from them. A DDAE
    would also take from them that no site scales what age and sex do.

    Parameters
    ----------
    table : FeatureMatrix
    labels : RowLabels
        Of its rows.
    regression : SiteRegression
        Of these features on site, age and sex.
    features : sequence of str

    Raises
    ------
    UsageError
        With the columns.
    """
    within = np.zeros(len(features))
    for site in labels.site_names:
        values = table.columns(features)[labels.sites == site]
        within += np.square(np.nan_to_num(values - np.nanmean(values, axis=0))).sum(axis=0)
    rows, (sites, _) = regression.counts.sum(axis=0), regression.counts.shape
    free = rows - sites - len(regression.slopes)
    left = regression.squares.sum(axis=0) * (1 + regression.ratio)
    share = np.ones_like(left)  # squares of what is smaller than any anatomy are 0
    np.divide(left / np.maximum(free, 1), within / (rows - sites), out=share, where=within > 0)
    if names := [features[i] for i in np.flatnonzero((free >= FREE) & (share < 1 - EXPLAINED))]:
        raise UsageError(
            f'{table.path}: {listed(names)} {"follows" if len(names) == 1 else "follow"} from age '
            'and sex alone, as an age or sex by another name does, which is no feature; expected '
            'in participants.tsv, from where age and sex are read: remove the column here'
        )


def check_sizes(table: FeatureMatrix) -> None:
    """Refuse columns with values so large that nothing can be computed from them.

    Raises
    ------
    UsageError
        With the columns and their largest value.
    """
    ends = (reduce(table.values).astype(float) for reduce in (np.fmax.reduce, np.fmin.reduce))
    largest = np.abs(list(ends)).max(axis=0)
    if names := [table.features[i] for i in np.flatnonzero(largest > LARGEST)]:
        raise UsageError(
            f'{table.path}: {table.told(names)} {_have(names)} values of up to '
            f'{np.nanmax(largest):.3g}, too large to compute with; expected numbers of anatomy: '
            'mend these cells, or write n/a'
        )


def same_values(table: FeatureMatrix) -> list[str]:
    """Rows with the same values in all features, in sentences: one is a copy.

    Those of fewer than five different values beside 0, as of lesions or ratings, may agree by
    chance.
    """
    found: dict[bytes, list[int]] = {}
    for i, row in enumerate(table.values):
        found.setdefault(sha256(row.tobytes()).digest(), []).append(i)
    return [
        f'{listed([table.names[i] for i in rows])} have the same values in all '
        f'{len(table.features):,} features, so that all but one are copies; look where they come '
        'from'
        for rows in found.values()
        if len(rows) > 1 and len(np.unique(_beside_zero(table.values[rows[0]]))) >= SO_MANY
    ]


def _beside_zero(row: np.ndarray) -> np.ndarray:
    return row[np.isfinite(row) & (row != 0)]


def check_units_of_rows(table: FeatureMatrix) -> None:
    """Refuse rows in other units than those of most people, in five features or more.

    A single small or large value may be real, and so may many in features of which people have
    more and less by orders of magnitude, as of lesions, or with values below 0. Maps are checked
    when they are read.

    Raises
    ------
    UsageError
        With the rows.
    """
    here = (table.values > 0).any(axis=0) & ~(table.values < 0).any(axis=0)
    if table.maps or not here.any():
        return
    positive = np.where(table.values[:, here] > 0, table.values[:, here], np.nan)
    usual, narrow = usual_sizes(positive)
    apart = np.log(positive / usual) / np.log(THOUSAND)
    powers = np.round(apart)
    near = narrow & (np.abs(apart - powers) < np.log(LIKE_THOUSAND) / np.log(THOUSAND))
    unusual = narrow & ~np.isnan(apart) & ~(near & (powers == 0))
    others: dict[int, list[str]] = {}
    for name, row, fine, odd in zip(table.names, powers, near, unusual, strict=True):
        found, counts = np.unique(row[fine & (row != 0)], return_counts=True)
        # Other units move most of what is unusual alike, and a failed segmentation does not.
        least = max(SO_MANY, np.isfinite(row).sum() * SHARE, odd.sum() / 2)
        if counts.size and counts.max() >= least:
            others.setdefault(int(found[counts.argmax()]), []).append(name)
    if others:
        power, names = max(others.items(), key=lambda item: len(item[1]))
        raise UsageError(
            f'{table.path}: {listed(names)} {_have(names)} values about '
            f'{times(THOUSAND ** abs(power))} {"larger" if power > 0 else "smaller"} than '
            'those of most people, as if in other units; expected one unit in each column: '
            f'convert {"this row" if len(names) == 1 else "these rows"}'
        )


def check_units(table: FeatureMatrix, labels: RowLabels) -> None:
    """Refuse a table in which a site has other units, mL and cubic millimeters for example.

    Only features of positive values are looked at, and only where the values of two sites do not
    overlap.

    Raises
    ------
    UsageError
        With the columns and the sites.
    """
    mixed: dict[tuple[str, str, float], list[str]] = {}
    sites = labels.site_names
    for name, values in table.in_one_unit().items():
        known = ~np.isnan(values)
        if not known.any() or values[known].min() < 0:
            continue
        parts = [values[known & (labels.sites == site)] for site in sites]
        ends = {
            site: (*np.quantile(part, (APART[0], 0.5, APART[1])),)
            for site, part in zip(sites, parts, strict=True)
            if part.size
        }
        low, high = (end(ends, key=lambda site: ends[site][1]) for end in (min, max))
        factor = unit_factor(ends[high][1], ends[low][1])
        if factor > 1 and ends[low][2] < ends[high][0]:
            mixed.setdefault((high, low, factor), []).append(name)
    if mixed:
        (high, low, factor), names = max(mixed.items(), key=lambda item: len(item[1]))
        raise UsageError(
            f'{table.path}: {listed(names)} {_have(names)} values at site {high} about '
            f'{times(factor)} those at site {low}, as if in other units; expected one unit in '
            'each column: convert the rows of a site'
        )


def check_units_of(
    table: FeatureMatrix,
    labels: RowLabels,
    expected: Mapping[str, Mapping[str, tuple[float, float]]],
) -> None:
    """Refuse a table in other units than those of a model.

    Parameters
    ----------
    table : FeatureMatrix
    labels : RowLabels
    expected : mapping of str to mapping of str to tuple of float
        What the model expects at average age and sex, and the standard deviation around that, by
        site and feature.

    Raises
    ------
    UsageError
        With the columns and the site.
    """
    mixed: dict[tuple[str, str, float], list[str]] = {}
    in_one_unit = table.in_one_unit()
    for site in labels.site_names:
        here = labels.sites == site
        for name, values in in_one_unit.items():
            model, sd = expected[site].get(name, (0.0, 0.0))
            known = values[here & ~np.isnan(values)]
            if not known.size or min(model, known.min()) <= 0:
                continue
            median = float(np.median(known))
            factor = unit_factor(max(median, model), min(median, model))
            if factor > 1 and abs(median - model) > FAR * sd:
                than = 'larger' if median > model else 'smaller'
                mixed.setdefault((site, than, factor), []).append(name)
    if mixed:
        (site, than, factor), names = max(mixed.items(), key=lambda item: len(item[1]))
        raise UsageError(
            f'{table.path}: {listed(names)} {_have(names)} values at site {site} about '
            f'{times(factor)} {than} than those that the model was fitted to, as if in other '
            'units; convert them to the units of the model'
        )


def usual_sizes(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The size that most rows have, and whether most are about as large, each of shape (P,).

    On one side at least, also where up to half of the rows are in other units.

    Parameters
    ----------
    sizes : np.ndarray, shape (N, P)
        0 or more; NaN where not known.
    """
    low, usual, high = np.nanquantile(sizes, (0.25, 0.5, 0.75), axis=0, method='lower')
    narrow = (high < LIKE_THOUSAND * usual) | (usual < LIKE_THOUSAND * low)
    return usual, narrow


def unit_factor(larger: float, smaller: float) -> float:
    """The power of a thousand by which two positive numbers nearly differ; 1 if by none."""
    if smaller <= 0:
        return 1.0
    power = round(np.log(larger / smaller) / np.log(THOUSAND))
    factor = THOUSAND**power
    near = 1 / LIKE_THOUSAND < larger / smaller / factor < LIKE_THOUSAND
    return factor if power > 0 and near else 1.0


def times(factor: float) -> str:
    """How many times, for people."""
    return f'{factor:,.0f} times' if factor < LONG else f'{factor:.0e} times'


def _have(names: Sequence[str]) -> str:
    return 'has' if len(names) == 1 else 'have'
