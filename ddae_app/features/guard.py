"""The anatomy guard of features: which people changed in a way that their site does not explain.

A site changes each feature in the same way in all of its people. What a person's values changed by
must therefore follow from these values, by one line for each feature of the site; what does not
was added or taken away. In the spirit of :mod:`ddae_app.imaging.anatomy`, the guard looks at
source and harmonized values alone, so that it does not matter how these were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.bids.measures import Measure, above
from ddae_app.features.matrix import FeatureMatrix
from ddae_app.features.model import FeatureModel
from ddae_app.features.people import RowLabels, digest_of_rows
from ddae_app.methods.location_scale import blocks

LIMITS = {
    'anatomy_unexplained': 1.5,
    'anatomy_share': 0.5,
    'source_farthest': 6.0,
    'source_deviation': 3.0,
}
"""A row above one of them is marked (benchmarks/feature_guard.py)."""

PART = 200
"""One of so many features, at least one, makes up the worst place: a region of the cortex."""

FEWEST = 5
"""Rows of a site, from which on it is known how the site changed."""

STEPS = 5
"""In which the lines are fitted."""

LEAST_RESIDUAL = 0.02
"""Standard deviations; smaller residuals weigh no more."""

DISTANT = 2.0
"""Standard deviations: rows farther away weigh less, since they would draw the line to them."""

DIGITS = 3
"""That are told: what is smaller is rounding."""

LEAST_REST = 0.01
"""Of the variance, that is left to the other people."""

MEASURES = {
    'source_deviation': Measure(
        'How far the values before harmonization are from what is expected at the site, age and '
        'sex of the person: root mean square over the features, in standard deviations of the '
        'other people',
        range='0 or more, about 1',
        **above(LIMITS['source_deviation']),
    ),
    'source_farthest': Measure(
        f'The same of the farthest feature, or where there are more than {2 * PART - 1} features, '
        f'of the farthest 1 in {PART}',
        range='0 or more',
        **above(LIMITS['source_farthest']),
    ),
    'source_place': Measure('The feature that is farthest from what is expected'),
    'change': Measure(
        'What harmonization changed: root mean square over the features, in standard deviations',
        range='0 or more',
    ),
    'anatomy_share': Measure(
        'What harmonization changed and the site does not explain, over what sets the person '
        'apart from what is expected (at least one standard deviation)',
        range='0 or more, lower is better',
        **above(LIMITS['anatomy_share']),
    ),
    'anatomy_unexplained': Measure(
        'Largest change that the site does not explain, in standard deviations: of one feature, '
        f'or where there are more than {2 * PART - 1}, root mean square of the largest 1 in '
        f'{PART}',
        range='0 or more, lower is better',
        **above(LIMITS['anatomy_unexplained']),
    ),
    'anatomy_place': Measure('The feature with the largest change that is not explained'),
    'anatomy_flag': Measure(
        'Why the row should be looked at before use; none if nothing is unusual, not checked if '
        f'nothing is, and the site has fewer than {FEWEST} rows to compare with, or the row '
        'no value',
        unusual='not none',
    ),
}
"""What is said of each row, by the name of its column."""


@dataclass(frozen=True)
class AnatomyCheck:
    """What the guard found in N rows of P features that were harmonized.

    Attributes
    ----------
    features : tuple of str, length P
    away : np.ndarray, shape (N, P), float32
        Source less what is expected at site, age and sex, in standard deviations; NaN if missing.
    left : np.ndarray, shape (N, P), float32
        What the site does not explain of the change, in standard deviations; NaN where that
        cannot be told.
    change : np.ndarray, shape (N,)
        Root mean square, in standard deviations.
    """

    features: tuple[str, ...]
    away: np.ndarray
    left: np.ndarray
    change: np.ndarray

    def row(self, row: int) -> dict[str, float | str]:
        """The values of ``MEASURES`` of a row; NaN, or an empty text, is what is not known."""
        away, left = self.away[row], self.left[row]
        known = ~np.isnan(left)
        farthest, changed = self._place(away), self._place(left)
        measured = {
            'source_deviation': _size(away),
            'source_farthest': _worst(away),
            'change': float(self.change[row]),
            'anatomy_share': _size(left) / max(_size(away[known]), 1.0),
            'anatomy_unexplained': _worst(left),
        }
        # Rounded first, so that nobody is marked by a value that reads like the limit.
        said = {name: round(value, DIGITS) for name, value in measured.items()}
        reasons = {
            'anatomy_unexplained': f'{changed} changed by {_most(left):+.1f} SD in a way that the '
            'site does not explain',
            'anatomy_share': f'over all features, {said["anatomy_share"]:.0%} of what sets the '
            'person apart changed in a way that the site does not explain',
            'source_farthest': f'before harmonization, {farthest} is {_most(away):+.1f} SD from '
            'what is expected',
            'source_deviation': 'before harmonization, the features are '
            f'{said["source_deviation"]:.1f} SD from what is expected',
        }
        flag = '; '.join(why for name, why in reasons.items() if said[name] > LIMITS[name])
        found: dict[str, float | str] = {
            **said,
            'source_place': farthest,
            'anatomy_place': changed,
            'anatomy_flag': flag or ('none' if known.any() else 'not checked'),
        }
        return {name: found[name] for name in MEASURES}

    def _place(self, values: np.ndarray) -> str:
        """The feature of the largest value; empty if all are 0 or not known."""
        size = np.round(np.nan_to_num(np.abs(values)), DIGITS)
        return self.features[int(size.argmax())] if size.any() else ''


def check_anatomy(
    model: FeatureModel, table: FeatureMatrix, labels: RowLabels, values: np.ndarray
) -> AnatomyCheck:
    """Look at each row of harmonized values.

    Parameters
    ----------
    model : FeatureModel
        It says what is expected of a person, and what a standard deviation is. It knows all
        sites of `labels`.
    table : FeatureMatrix
        Before harmonization; features that the model leaves as they are take no part.
    labels : RowLabels, N rows
    values : np.ndarray, shape (N, F)
        Harmonized; NaN where the table has none.
    """
    fit, info = model.regression, model.info
    known, columns = model.places(table)
    sites = np.array([info.sites.index(site) for site in labels.sites])
    covariates, persons = info.design.columns(labels), labels.persons
    took_part = info.digest == digest_of_rows(table, labels)
    away, left = np.empty((2, len(sites), len(known)), dtype=np.float32)
    squares, counts = np.zeros((2, len(sites)))
    for block in blocks(len(known)):
        place, column = known[block], columns[block]
        sd = np.where(fit.sd[place] > 0, fit.sd[place], 1)  # age and sex explain the value
        source = table.values[:, column].astype(float)
        expected = covariates @ fit.slopes[:, place] / sd
        z = (source - fit.intercepts[:, place][sites]) / sd - expected
        change = (values[:, column] - source) / sd
        lines = [z, expected, *([_means_of(z, persons)] if info.longitudinal else [])]
        left[:, block] = unexplained(change, lines, sites)
        away[:, block] = _of_others(z, fit.counts[:, place].sum(axis=0)) if took_part else z
        squares += np.nansum(np.square(change), axis=1)
        counts += (~np.isnan(change)).sum(axis=1)
    names = tuple(info.features[i] for i in known)
    return AnatomyCheck(names, away, left, np.sqrt(squares / np.maximum(counts, 1)))


def unexplained(
    change: np.ndarray, regressors: Sequence[np.ndarray], sites: np.ndarray
) -> np.ndarray:
    """What of a change does not follow from the values by the line of the site.

    Parameters
    ----------
    change : np.ndarray, shape (N, P)
        In standard deviations; NaN where a value is missing.
    regressors : sequence of np.ndarray, shape (N, P)
        What the change may depend on, in standard deviations: first the values.
    sites : np.ndarray, shape (N,)

    Returns
    -------
    np.ndarray, shape (N, P)
        Never more than the change itself, so that what did not change is 0. NaN where a value is
        missing, and where it changed and a site has fewer than ``FEWEST`` values.
    """
    out = np.full(change.shape, np.nan)
    for site in np.unique(sites):
        rows = sites == site
        out[rows] = _beside_line(change[rows], [values[rows] for values in regressors])
    return out


def _beside_line(change: np.ndarray, regressors: Sequence[np.ndarray]) -> np.ndarray:
    """The same of one site: residuals of a regression by least absolute deviations.

    It is computed by least squares that are weighted anew in each step (Schlossmacher 1973, doi
    10.1080/01621459.1973.10481433), so that one person who changed otherwise does not bend it.
    """
    known = ~np.isnan(change)
    y = np.where(known, change, 0)
    x = [known.astype(float), *(np.where(known, values, 0) for values in regressors)]
    base = known / (1 + np.square(x[1] / DISTANT))
    weight, size, left = base, len(x), y
    # Slopes that rows do not show are 0.
    ridge = np.diag([1e-6, *[1.0] * (size - 1)])
    for _ in range(STEPS):
        gram, right = np.empty((y.shape[1], size, size)), np.empty((y.shape[1], size, 1))
        for i in range(size):
            weighted = weight * x[i]
            right[:, i, 0] = np.einsum('np,np->p', weighted, y)
            for j in range(i + 1):
                gram[:, i, j] = gram[:, j, i] = np.einsum('np,np->p', weighted, x[j])
        slopes = np.linalg.solve(gram + ridge, right)[..., 0].T
        left = y - sum(slope * values for slope, values in zip(slopes, x, strict=True))
        weight = base / np.maximum(np.abs(left), LEAST_RESIDUAL)
    left = np.clip(left, -np.abs(y), np.abs(y))
    told = known & ((known.sum(axis=0) >= FEWEST) | (y == 0))
    return np.where(told, left, np.nan)


def _of_others(z: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Residuals over the standard deviation of the other rows of a fit.

    A row far away makes the standard deviation larger, so that by the one of all rows it could
    not be farther than the square root of their number.
    """
    return z / np.sqrt(np.maximum(1 - np.square(z) / counts, LEAST_REST))


def _means_of(z: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """The mean over the rows of the person of each row, shape (N, P)."""
    sums = np.zeros((persons.max() + 1, z.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, persons, np.nan_to_num(z))
    np.add.at(counts, persons, ~np.isnan(z))
    return (sums / np.maximum(counts, 1))[persons]


def _size(values: np.ndarray) -> float:
    """Root mean square of what is known; NaN if nothing is."""
    known = values[~np.isnan(values)].astype(float)
    return float(np.sqrt(np.square(known).mean())) if known.size else float('nan')


def _worst(values: np.ndarray) -> float:
    """Root mean square of the largest of each ``PART`` values, at least of one."""
    known = np.abs(values[~np.isnan(values)])
    worst = max(known.size // PART, 1)
    return _size(np.partition(known, -worst)[-worst:]) if known.size else float('nan')


def _most(values: np.ndarray) -> float:
    """The largest value, with its sign."""
    return float(values[int(np.nan_to_num(np.abs(values)).argmax())])
