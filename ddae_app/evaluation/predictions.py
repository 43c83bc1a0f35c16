"""What the probes predict from the outputs of one candidate, in cross-fitting halves and folds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ddae_app.evaluation import fidelity, probes
from ddae_app.evaluation.biology import MIN_TRAINING_SCANS
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.data import FOLDS, EvaluationData
from ddae_app.evaluation.probes import Components
from ddae_app.evaluation.views import VIEWS, interior
from ddae_app.imaging.anatomy import TISSUES, tissue_shares

COSTLY_TEST_SCANS = 500
"""Probes that take a while, which are convolutional networks and those of parts of the images, are
tested on about so many scans at most."""


@dataclass
class ProbePredictions:
    """The predictions of all probes for each scan, and how its output compares with the scan.

    Attributes
    ----------
    outputs : np.ndarray, shape (N, H, W)
    labels : dict of str to np.ndarray, shape (N,), object
        None where nothing was predicted.
    values : dict of str to np.ndarray, shape (N,), float64
        NaN where nothing was predicted or measured.
    """

    outputs: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def store(self, name: str, rows: np.ndarray, predicted: np.ndarray) -> None:
        """Store predictions, numbers or labels, for some rows."""
        if predicted.dtype.kind == 'f':
            stored = self.values.setdefault(name, np.full(len(self.outputs), np.nan))
        else:
            empty = np.full(len(self.outputs), None, dtype=object)
            stored = self.labels.setdefault(name, empty)
        stored[rows] = predicted


@dataclass(frozen=True)
class Fold:
    """Training and test rows within a half.

    Attributes
    ----------
    train, test : np.ndarray of int
    source_components : Components
        Of the original training scans.
    costly : bool
        Whether the probes that take a while are trained, too.
    """

    train: np.ndarray
    test: np.ndarray
    source_components: Components
    costly: bool


class CrossFittingHalf:
    """One half of the subjects, on which methods are evaluated that are fitted to the other half.

    Parameters
    ----------
    data : EvaluationData
    fit_rows, evaluated_rows : np.ndarray of int
        Rows of the other half, and of this one.
    seed : int
        Of the folds, the probes and the false ages.
    """

    def __init__(
        self, data: EvaluationData, fit_rows: np.ndarray, evaluated_rows: np.ndarray, seed: int
    ) -> None:
        self.data, self.fit_rows, self.rows, self.seed = data, fit_rows, evaluated_rows, seed
        sites, subjects = data.sites[self.rows], data.subjects[self.rows]
        costly_folds = min(FOLDS, math.ceil(COSTLY_TEST_SCANS / len(data.images) * FOLDS))
        self.inside = interior(data.images)
        self.row_in_half = np.full(len(data.images), -1)
        self.row_in_half[self.rows] = np.arange(len(self.rows))
        self.source_fractions = _tissue_fractions(data.images[self.rows])
        self.folds = []
        for number, (train, test) in enumerate(probes.folds(sites, subjects, FOLDS, seed)):
            train, test = self.rows[train], self.rows[test]
            components = Components.fit(data.images[train], seed)
            self.folds.append(Fold(train, test, components, number < costly_folds))

    def predict(self, candidate: Candidate, predictions: ProbePredictions) -> None:
        """Render the scans of this half with a candidate, and store what probes predict."""
        render = candidate.fit(self.fit_rows)
        outputs = render(self.data.ages)
        false_age_outputs = None
        if candidate.takes_age:
            false_ages = _permuted_ages(self.data, self.rows, self.seed)
            false_age_outputs = render(false_ages)
            predictions.store('false_age', self.rows, false_ages[self.rows])
        for fold in self.folds:
            components = Components.fit(outputs[fold.train], self.seed)
            _predict_site(self.data, outputs, components, fold, predictions, self.seed)
            _predict_biology(self.data, outputs, components, fold, predictions, false_age_outputs)
        self._predict_site_from_histograms(outputs, predictions)
        self._predict_site_from_views(outputs, predictions)
        self._compare(outputs, predictions)

    def _predict_site_from_histograms(
        self, outputs: np.ndarray, predictions: ProbePredictions
    ) -> None:
        """Classify the site from the intensity quantiles of the outputs alone."""
        quantiles = probes.intensity_quantiles(outputs[self.rows])
        for fold in self.folds:
            self._classify('site_histogram', quantiles, fold, predictions)

    def _predict_site_from_views(self, outputs: np.ndarray, predictions: ProbePredictions) -> None:
        """Classify the site from one part of the outputs at a time."""
        if not self.inside.any():
            return
        for name, view in VIEWS.items():
            seen = view(outputs[self.rows], self.inside)
            for fold in (fold for fold in self.folds if fold.costly):
                self._classify(name, seen, fold, predictions)

    def _classify(
        self, name: str, seen: np.ndarray, fold: Fold, predictions: ProbePredictions
    ) -> None:
        """Classify the site from what a probe sees of the outputs of this half."""
        train, test = seen[self.row_in_half[fold.train]], seen[self.row_in_half[fold.test]]
        sites = self.data.sites[fold.train]
        classify = Components.fit(train, self.seed).fit_classifier(sites)
        predictions.store(name, fold.test, classify(test))

    def _compare(self, outputs: np.ndarray, predictions: ProbePredictions) -> None:
        """Store how the outputs of this half compare with the original scans."""
        rows = self.rows
        after, before, sites = outputs[rows], self.data.images[rows], self.data.sites[rows]
        predictions.outputs[rows] = after
        fractions = _tissue_fractions(after)
        drift = 100 * np.abs(fractions - self.source_fractions).mean(axis=1)
        comparisons = dict(zip(TISSUES, fractions.T, strict=True)) | {
            'tissue_drift': drift,
            'ssim': fidelity.ssim(after, before),
            'edges': fidelity.gradient_correlation(after, before),
            'identified': fidelity.matches_reference(after, before),
            'variance': fidelity.between_subject_variance(after, sites),
            'source_variance': fidelity.between_subject_variance(before, sites),
            'rank': fidelity.distance_rank_correlations(after, before, sites),
        }
        for name, values in comparisons.items():
            predictions.store(name, rows, values)


def _permuted_ages(data: EvaluationData, rows: np.ndarray, seed: int) -> np.ndarray:
    """All ages, of which the known ones of some rows are permuted."""
    ages, known = data.ages.copy(), rows[~np.isnan(data.ages[rows])]
    ages[known] = np.random.default_rng(seed).permutation(ages[known])
    return ages


def _predict_site(
    data: EvaluationData,
    outputs: np.ndarray,
    components: Components,
    fold: Fold,
    predictions: ProbePredictions,
    seed: int,
) -> None:
    train, test, sites = fold.train, fold.test, data.sites[fold.train]
    linear = components.fit_classifier(sites)
    predictions.store('site_linear', test, linear(outputs[test]))
    source_probe = fold.source_components.fit_classifier(sites)
    predictions.store('site_raw_probe', test, source_probe(outputs[test]))
    if fold.costly:
        predicted = probes.cnn_predict(outputs, data.sites, train, test, seed=seed)
        predictions.store('site_cnn', test, predicted)


def _predict_biology(
    data: EvaluationData,
    outputs: np.ndarray,
    components: Components,
    fold: Fold,
    predictions: ProbePredictions,
    false_age_outputs: np.ndarray | None,
) -> None:
    """Age, sex and further variables; the false ages' outputs show whether age is written in."""
    train, test = fold.train, fold.test
    ages, sexes = data.ages[train], data.sexes[train]
    known = np.flatnonzero(~np.isnan(ages))
    if len(known) >= MIN_TRAINING_SCANS and np.ptp(ages[known]) > 0:
        regress = components.subset(known).fit_regression(ages[known])
        predictions.store('age', test, regress(outputs[test]))
        if false_age_outputs is not None:
            change = regress(false_age_outputs[test]) - regress(outputs[test])
            predictions.store('predicted_age_change', test, change)
        _predict_age_of_new_sites(data, outputs, components, fold, predictions)
    for variable in data.variables:
        predicted = variable.predict(components, train, outputs[test])
        if predicted is not None:
            predictions.store(f'biology_{variable.name}', test, predicted)
    known = np.flatnonzero([sex is not None for sex in sexes])
    if len(known) >= MIN_TRAINING_SCANS and len(set(sexes[known])) == 2:
        classify = components.subset(known).fit_classifier(sexes[known].astype(str))
        predictions.store('sex', test, classify(outputs[test]))


def _predict_age_of_new_sites(
    data: EvaluationData,
    outputs: np.ndarray,
    components: Components,
    fold: Fold,
    predictions: ProbePredictions,
) -> None:
    """Predict the ages of each site with a regression trained on the other sites only."""
    ages, sites = data.ages[fold.train], data.sites[fold.train]
    known = np.flatnonzero(~np.isnan(ages))
    for site in np.unique(data.sites):
        test = fold.test[data.sites[fold.test] == site]
        others = known[sites[known] != site]
        if len(others) >= MIN_TRAINING_SCANS and len(test):
            regress = components.subset(others).fit_regression(ages[others])
            predictions.store('age_new_site', test, regress(outputs[test]))


def _tissue_fractions(images: np.ndarray) -> np.ndarray:
    """Brain fractions of CSF, gray and white matter, shape (N, 3)."""
    return np.array([list(tissue_shares(image[None]).values()) for image in images])
