"""The evaluation of harmonized tables, with the measures of images that make sense for them.

As for images, people are split into two halves. A method is fitted to one half; probes are
trained, in folds, on its outputs for people of the other half, and tested on those of the rest. If
probes were tested on people that it was fitted to, whose site means were removed exactly, the site
would be classified below chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.errors import NotEvaluableError
from ddae_app.evaluation import estimates
from ddae_app.evaluation.biology import MIN_KNOWN_SCANS, MIN_TRAINING_SCANS
from ddae_app.evaluation.data import FOLDS, MIN_SUBJECTS, comparable
from ddae_app.evaluation.estimates import Estimate, Score
from ddae_app.evaluation.probes import Components, folds
from ddae_app.features.matrix import counted
from ddae_app.features.measures import variance_explained_by_site
from ddae_app.features.people import CovariateDesign, RowLabels
from ddae_app.methods.location_scale import blocks

MEANING = {
    'site_linear': 'Balanced accuracy of logistic regression on principal components that is '
    'trained on the values to classify the site, tested on other people.',
    'site_all': 'As site_linear, by cross-validation over all people. It is below chance if '
    'the method was fitted to these people.',
    'site_variance': 'Share of the variance that the site explains at equal age and sex, mean of '
    'both halves and all features.',
    'age_mae': 'Mean absolute error, in years, of the age predicted by ridge regression that is '
    'trained on other people.',
    'age_r': 'Correlation of the predicted age with the true age.',
    'age_r_within_site': 'Correlation of the predicted age with the true age, after the site '
    'means of both are subtracted.',
    'sex': 'Balanced accuracy of logistic regression that classifies sex and is trained on other '
    'people.',
    'variance_ratio': 'Variance within sites, divided by that of the source, mean of all '
    'features.',
}

APART = 1e-8
"""What is added to the squared length of each row, as a share of their mean, so that no row is
exactly a sum of others."""

Refit = Callable[[np.ndarray], np.ndarray]
"""Takes the rows to fit to, and returns the table as harmonized by that fit, shape (N, F)."""


@dataclass(frozen=True)
class FeatureResult:
    """The measures of one candidate.

    Attributes
    ----------
    estimates : dict of str to Estimate
        By measure, as ``MEANING`` explains; one that does not apply is absent.
    outputs : np.ndarray, shape (N, F)
    explained : np.ndarray, shape (F,), 0 to 1
        Share of the variance of each feature that the site explains, mean of both halves.
    """

    estimates: dict[str, Estimate]
    outputs: np.ndarray
    explained: np.ndarray


def evaluate(
    candidates: Mapping[str, np.ndarray | Refit], labels: RowLabels, *, seed: int = 0
) -> dict[str, FeatureResult]:
    """Measure residual site effects and preserved biology.

    Parameters
    ----------
    candidates : mapping of str to array or callable
        Tables, shape (N, F), NaN where missing, or how to fit anew; the first is the source.
    labels : RowLabels, N rows
    seed : int
        Of the folds, the probes and the bootstrap.

    Returns
    -------
    dict of str to FeatureResult
        By the name of the candidate.

    Raises
    ------
    NotEvaluableError
        If there are too few sites or people.
    """
    for site in labels.site_names:
        if (n := labels.people_of(site)) < MIN_SUBJECTS or len(labels.site_names) < 2:
            raise NotEvaluableError(
                f'site {site} of {len(labels.site_names)} has {counted(n, "person", "people")}; '
                'expected two sites or '
                f'more, and {MIN_SUBJECTS} people of each: add people, or leave the site out'
            )
    halves = folds(labels.sites, labels.subjects, 2, seed)
    parts = [rows for _, rows in halves]
    design = CovariateDesign.fit(labels, spline=False)
    results: dict[str, FeatureResult] = {}
    source = None
    for name, candidate in candidates.items():
        outputs = _outputs(candidate, halves)
        source = outputs if source is None else source
        measures = _Measures(labels, seed)
        for _, rows in halves:
            for train, test in folds(labels.sites[rows], labels.subjects[rows], FOLDS, seed):
                measures.predict(outputs, rows, train, test)
        explained = variance_explained_by_site(outputs, labels, design, parts)
        ratios = _variance_ratios(outputs, source, labels, parts)
        found = measures.estimated() | {
            'site_variance': _over_features(explained),
            'variance_ratio': _over_features(ratios),
        }
        if not callable(candidate):
            found['site_all'] = _over_all(candidate, labels, seed)
        results[name] = FeatureResult(found, outputs, explained)
    return results


def not_predicted(measured: Collection[str]) -> list[str]:
    """Why a measure of biology is not among those that were made, in sentences."""
    return [
        f'{what} is not predicted, so that the evaluation does not tell whether its effect is '
        f'preserved: a probe learns from {MIN_TRAINING_SCANS} rows or more whose {what} is known '
        f'and differs, which takes about {MIN_KNOWN_SCANS} in all'
        for what, measure in (('age', 'age_r'), ('sex', 'sex'))
        if measure not in measured
    ]


def site_from_demographics(labels: RowLabels, *, seed: int = 0) -> Estimate | None:
    """Balanced accuracy of the site from age and sex, which no harmonization changes.

    None where neither is known of most people of each site.
    """
    known = np.column_stack([~np.isnan(labels.ages), [sex is not None for sex in labels.sexes]])
    counts, rows = comparable(known, labels.sites, labels.subjects)
    columns = np.where(counts, CovariateDesign.fit(labels, spline=False).columns(labels), 0)[rows]
    if not columns.any():
        return None
    return _over_all(np.column_stack([columns, columns[:, 0] ** 2]), labels.rows(rows), seed)


def _outputs(
    candidate: np.ndarray | Refit, halves: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    if not callable(candidate):
        return candidate
    outputs = np.empty(0)
    for fit_rows, rows in halves:
        values = candidate(fit_rows)
        outputs = outputs if outputs.size else np.empty_like(values)
        outputs[rows] = values[rows]
    return outputs


def _prepared(values: np.ndarray, rows: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Some rows, standardized by those to train on; what is missing is the mean of these.

    Of many features, they are not returned themselves, but places in as many dimensions as there
    are rows, between which distances are the same: principal components, and all that probes
    compute from them, depend on nothing else.

    Parameters
    ----------
    values : np.ndarray, shape (N, F)
    rows : np.ndarray of int, shape (R,)
    train : np.ndarray of int
        Those to train on, among `rows`.

    Returns
    -------
    np.ndarray, shape (R, F) or (R, R)
    """
    parts = blocks(values.shape[1])
    if len(parts) == 1:
        return _standardized(values[rows], train)
    products = np.zeros((len(rows), len(rows)))
    for block in parts:
        part = _standardized(values[rows, block].astype(np.float64), train)
        products += part @ part.T
    # Of thousands of rows, eigenvectors would take minutes. Cholesky's decomposition is fast, but
    # takes no rows that depend on each other.
    products[np.diag_indices(len(rows))] += APART * max(np.trace(products) / len(rows), 1)
    return np.linalg.cholesky(products)


def _standardized(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values[train])
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values[train], 0).sum(axis=0) / n
    sd = np.sqrt(np.square(np.where(known, values[train] - mean, 0)).sum(axis=0) / n)
    sd[sd <= 1e-9 * np.abs(mean)] = np.inf  # no information, and no number to divide by
    return np.nan_to_num((values - mean) / sd)


class _Measures:
    """What probes predict of each row, and the scores of that."""

    def __init__(self, labels: RowLabels, seed: int) -> None:
        self._labels, self._seed = labels, seed
        n = len(labels.sites)
        self._site, self._sex = (np.full(n, None, dtype=object) for _ in range(2))
        self._age = np.full(n, np.nan)

    def predict(
        self, outputs: np.ndarray, rows: np.ndarray, train: np.ndarray, test: np.ndarray
    ) -> None:
        """Train probes on some of the rows, and store what they predict of others."""
        labels, values = self._labels.rows(rows), _prepared(outputs, rows, train)
        components = Components.fit(values[train], self._seed)
        tested = rows[test]
        self._site[tested] = components.fit_classifier(labels.sites[train])(values[test])
        ages, sexes = labels.ages[train], labels.sexes[train]
        known = np.flatnonzero(~np.isnan(ages))
        if len(known) >= MIN_TRAINING_SCANS and np.ptp(ages[known]) > 0:
            regress = components.subset(known).fit_regression(ages[known])
            self._age[tested] = regress(values[test])
        known = np.flatnonzero([sex is not None for sex in sexes])
        if len(known) >= MIN_TRAINING_SCANS and len(set(sexes[known])) == 2:
            classify = components.subset(known).fit_classifier(sexes[known].astype(str))
            self._sex[tested] = classify(values[test])

    def estimated(self) -> dict[str, Estimate]:
        """The measures with their intervals."""
        labels = self._labels
        everybody = np.arange(len(labels.sites))
        site = estimates.balanced_accuracy(labels.sites, self._site.astype(str))
        found = {'site_linear': self._estimate(site, everybody)}
        known = np.flatnonzero(~np.isnan(labels.ages) & ~np.isnan(self._age))
        if known.size:
            residuals = [
                estimates.subtract_site_means(v, labels.sites, known)
                for v in (labels.ages, self._age)
            ]
            scores = {
                'age_mae': estimates.mean(np.abs(self._age - labels.ages)),
                'age_r': estimates.correlation(labels.ages, self._age),
                'age_r_within_site': estimates.correlation(*residuals),
            }
            found |= {name: self._estimate(score, known) for name, score in scores.items()}
        known = np.flatnonzero(
            [s is not None and p is not None for s, p in zip(labels.sexes, self._sex, strict=True)]
        )
        if known.size:
            sex = estimates.balanced_accuracy(labels.sexes.astype(str), self._sex.astype(str))
            found['sex'] = self._estimate(sex, known)
        return found

    def _estimate(self, score: Score, rows: np.ndarray) -> Estimate:
        labels = self._labels
        return estimates.bootstrap_estimate(score, rows, labels.subjects, labels.sites, self._seed)


def _over_all(values: np.ndarray, labels: RowLabels, seed: int) -> Estimate:
    predicted, everybody = np.empty_like(labels.sites), np.arange(len(labels.sites))
    for train, test in folds(labels.sites, labels.subjects, FOLDS, seed):
        prepared = _prepared(values, everybody, train)
        classify = Components.fit(prepared[train], seed).fit_classifier(labels.sites[train])
        predicted[test] = classify(prepared[test])
    return estimates.bootstrap_estimate(
        estimates.balanced_accuracy(labels.sites, predicted),
        np.arange(len(predicted)), labels.subjects, labels.sites, seed,
    )  # fmt: skip


def _over_features(values: np.ndarray) -> Estimate:
    """The mean of all features, its interval over them."""
    low, high = np.quantile(values, estimates.INTERVAL)
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def _variance_ratios(
    outputs: np.ndarray, source: np.ndarray, labels: RowLabels, parts: Sequence[np.ndarray]
) -> np.ndarray:
    """Variance within the sites of each part, over that of the source; of what varies there."""
    after, before = (
        np.sum([_within(values[rows], labels.rows(rows)) for rows in parts], axis=0)
        for values in (outputs, source)
    )
    varies = before > 0
    return after[varies] / before[varies] if varies.any() else np.ones(1)


def _within(values: np.ndarray, labels: RowLabels) -> np.ndarray:
    """Squared distances from the mean of the site, summed; shape (F,)."""
    total = np.zeros(values.shape[1])
    for block in blocks(len(total)):
        for site in labels.site_names:
            here = values[labels.sites == site, block].astype(np.float64)
            known = ~np.isnan(here)
            mean = np.where(known, here, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            total[block] += np.square(np.where(known, here - mean, 0)).sum(axis=0)
    return total
