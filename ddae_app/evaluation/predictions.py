"""What the probes predict from the outputs of one candidate, in cross-fitting halves and folds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ddae_app.evaluation import fidelity, probes
from ddae_app.evaluation.biology import MIN_TRAINING_SCANS
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.data import FOLDS, EvaluationData
from ddae_app.evaluation.distribution import SampleSets
from ddae_app.evaluation.probes import Components
from ddae_app.evaluation.views import interior, views
from ddae_app.imaging.anatomy import TISSUES, tissue_shares

COSTLY_TEST_SCANS = 500
"""Probes that take a while, which are convolutional networks and those of parts of the images, are
tested on as many folds as hold so many scans or more."""

INTENSITY_BINS = np.linspace(0, 1.2, 61)
"""Edges of the bins in which the brain intensities of each site are counted."""


@dataclass
class ProbePredictions:
    """The predictions of all probes for each scan, and how its output compares with the scan.

    Of the outputs themselves only few are kept: those of all scans, of all candidates, would take
    more memory than everything else.

    Parameters
    ----------
    data : EvaluationData
    kept_rows : np.ndarray of int, shape (K,), ascending
        Scans whose outputs are needed as they are.
    features : list of np.ndarray
        Of the outputs that are compared with scans of the target site; see
        :class:`ddae_app.evaluation.distribution.SampleSets`.

    Attributes
    ----------
    labels : dict of str to np.ndarray, shape (N,), object
        None where nothing was predicted.
    values : dict of str to np.ndarray, shape (N,), float64
        NaN where nothing was predicted or measured.
    quantiles : np.ndarray, shape (N, 101)
        Of the brain intensities; see :func:`ddae_app.evaluation.fidelity.intensity_quantiles`.
    counts : list of dict of str to np.ndarray, shape (B,), int
        Of each half, by site, how many brain pixels have an intensity in each of
        ``INTENSITY_BINS``.
    explained : list of np.ndarray, shape (H, W)
        Share of the variance at each pixel that the site explains, in either half. What a fit to
        one half of the subjects leaves in the other has the opposite sign in the first, after a
        fit to the second; in both halves together it would cancel.
    """

    data: EvaluationData
    kept_rows: np.ndarray
    features: list[np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    counts: list[dict[str, np.ndarray]] = field(default_factory=list)
    explained: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        n, *shape = self.data.images.shape
        self.quantiles = np.full((n, len(fidelity.QUANTILE_LEVELS)), np.nan)
        self._kept = np.zeros((len(self.kept_rows), *shape), self.data.images.dtype)

    @property
    def intensities(self) -> dict[str, np.ndarray]:
        """The counts of both halves, by site."""
        sites = sorted({site for half in self.counts for site in half})
        return {
            site: np.sum([half[site] for half in self.counts if site in half], axis=0)
            for site in sites
        }

    def store(self, name: str, rows: np.ndarray, predicted: np.ndarray) -> None:
        """Store predictions, numbers or labels, for some rows."""
        n = len(self.data.images)
        if predicted.dtype.kind == 'f':
            stored = self.values.setdefault(name, np.full(n, np.nan))
        else:
            stored = self.labels.setdefault(name, np.full(n, None, dtype=object))
        stored[rows] = predicted

    def keep(self, rows: np.ndarray, outputs: np.ndarray) -> None:
        """Keep the outputs of these rows, ascending, as far as they are needed."""
        _, place, of = np.intersect1d(self.kept_rows, rows, return_indices=True)
        self._kept[place] = outputs[of]

    def kept(self, rows: np.ndarray) -> np.ndarray:
        """The outputs of some of ``kept_rows``, in this order."""
        return self._kept[np.searchsorted(self.kept_rows, rows)]


@dataclass(frozen=True)
class Fold:
    """Training and test rows within a half.

    Attributes
    ----------
    train, test : np.ndarray of int
        Counted within the half.
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
        Rows of the other half, and of this one, ascending.
    sample_sets : SampleSets
        Which outputs are compared with scans of the target site.
    seed : int
        Of the folds, the probes and the false ages.
    """

    def __init__(
        self,
        data: EvaluationData,
        fit_rows: np.ndarray,
        evaluated_rows: np.ndarray,
        sample_sets: SampleSets,
        seed: int,
    ) -> None:
        self.fit_rows, self.rows, self.seed = fit_rows, evaluated_rows, seed
        self.sample_sets = sample_sets
        self.scans, self.variables = data.images, data.variables
        self.sites = data.sites[self.rows]
        self.ages, self.sexes = data.ages[self.rows], data.sexes[self.rows]
        costly_folds = min(FOLDS, math.ceil(COSTLY_TEST_SCANS / len(data.images) * FOLDS))
        self.inside = interior(data.images)
        self.source_fractions = _tissue_fractions(self._own_scans())
        self.source_blocks = np.concatenate(
            [fidelity.block_means(scan[None]) for scan in self._own_scans()]
        )
        self.subjects = data.subjects[self.rows]
        self.folds = []
        dealt = probes.folds(self.sites, self.subjects, FOLDS, seed)
        for number, (train, test) in enumerate(dealt):
            components = Components.fit(data.images, seed, self.rows[train])
            self.folds.append(Fold(train, test, components, number < costly_folds))

    def _own_scans(self) -> Iterator[np.ndarray]:
        """The scans of this half one by one: a copy of all of them would be large."""
        return (self.scans[row] for row in self.rows)

    def predict(self, candidate: Candidate, predictions: ProbePredictions) -> None:
        """Render the scans of this half with a candidate, and store what probes predict."""
        render = candidate.fit(self.fit_rows)
        outputs = render(self.rows, self.ages)
        false_ages = None
        if candidate.takes_age:
            false_ages = _permuted(self.ages, self.seed)
            predictions.store('false_age', self.rows, false_ages)
        for fold in self.folds:
            components = Components.fit(outputs, self.seed, fold.train)
            self._predict_site(outputs, components, fold, predictions)
            false = None
            if false_ages is not None:
                false = render(self.rows[fold.test], false_ages[fold.test])
            self._predict_biology(outputs, false, components, fold, predictions)
        self._predict_site_from_histograms(outputs, predictions)
        self._predict_site_from_views(outputs, predictions)
        self._compare(outputs, predictions)

    def _store(
        self, name: str, fold: Fold, predicted: np.ndarray, predictions: ProbePredictions
    ) -> None:
        predictions.store(name, self.rows[fold.test], predicted)

    def _predict_site(
        self,
        outputs: np.ndarray,
        components: Components,
        fold: Fold,
        predictions: ProbePredictions,
    ) -> None:
        test, sites = outputs[fold.test], self.sites[fold.train]
        linear = components.fit_classifier(sites)
        self._store('site_linear', fold, linear(test), predictions)
        source_probe = fold.source_components.fit_classifier(sites)
        self._store('site_raw_probe', fold, source_probe(test), predictions)
        if fold.costly:
            predicted = probes.cnn_predict(
                outputs, self.sites, fold.train, fold.test, seed=self.seed
            )
            self._store('site_cnn', fold, predicted, predictions)

    def _predict_biology(
        self,
        outputs: np.ndarray,
        false_age_outputs: np.ndarray | None,
        components: Components,
        fold: Fold,
        predictions: ProbePredictions,
    ) -> None:
        """Predict what is known of the subjects.

        The test scans' outputs of false ages show whether age is written in.
        """
        test, ages = outputs[fold.test], self.ages[fold.train]
        known = np.flatnonzero(~np.isnan(ages))
        if len(known) >= MIN_TRAINING_SCANS and np.ptp(ages[known]) > 0:
            regress = components.subset(known).fit_regression(ages[known])
            predicted_ages = regress(test)
            self._store('age', fold, predicted_ages, predictions)
            if false_age_outputs is not None:
                change = regress(false_age_outputs) - predicted_ages
                self._store('predicted_age_change', fold, change, predictions)
            self._predict_age_of_new_sites(outputs, components, fold, predictions)
        for variable in self.variables:
            predicted = variable.predict(components, self.rows[fold.train], test)
            if predicted is not None:
                self._store(f'biology_{variable.name}', fold, predicted, predictions)
        sexes = self.sexes[fold.train]
        known = np.flatnonzero([sex is not None for sex in sexes])
        if len(known) >= MIN_TRAINING_SCANS and len(set(sexes[known])) == 2:
            classify = components.subset(known).fit_classifier(sexes[known].astype(str))
            self._store('sex', fold, classify(test), predictions)

    def _predict_age_of_new_sites(
        self,
        outputs: np.ndarray,
        components: Components,
        fold: Fold,
        predictions: ProbePredictions,
    ) -> None:
        """Predict the ages of each site with a regression trained on the other sites only."""
        ages, sites = self.ages[fold.train], self.sites[fold.train]
        known = np.flatnonzero(~np.isnan(ages))
        for site in np.unique(self.sites):
            test = fold.test[self.sites[fold.test] == site]
            others = known[sites[known] != site]
            if len(others) >= MIN_TRAINING_SCANS and len(test):
                regress = components.subset(others).fit_regression(ages[others])
                predictions.store('age_new_site', self.rows[test], regress(outputs[test]))

    def _predict_site_from_histograms(
        self, outputs: np.ndarray, predictions: ProbePredictions
    ) -> None:
        """Classify the site from the intensity quantiles of the outputs alone."""
        quantiles = probes.intensity_quantiles(outputs)
        for fold in self.folds:
            self._classify('site_histogram', quantiles, fold, predictions)

    def _predict_site_from_views(self, outputs: np.ndarray, predictions: ProbePredictions) -> None:
        """Classify the site from one part of the outputs at a time."""
        if not self.inside.any():
            return
        for name, seen in views(outputs, self.inside):
            for fold in (fold for fold in self.folds if fold.costly):
                self._classify(name, seen, fold, predictions)

    def _classify(
        self, name: str, seen: np.ndarray, fold: Fold, predictions: ProbePredictions
    ) -> None:
        """Classify the site from what a probe sees of the outputs of this half."""
        components = Components.fit(seen, self.seed, fold.train)
        classify = components.fit_classifier(self.sites[fold.train])
        self._store(name, fold, classify(seen[fold.test]), predictions)

    def _compare(self, after: np.ndarray, predictions: ProbePredictions) -> None:
        """Store how the outputs of this half compare with the original scans."""
        sites, blocks = self.sites, fidelity.block_means(after)
        fractions = _tissue_fractions(after)
        drift = 100 * np.abs(fractions - self.source_fractions).mean(axis=1)
        comparisons = dict(zip(TISSUES, fractions.T, strict=True)) | {
            'tissue_drift': drift,
            'ssim': fidelity.ssim(after, self._own_scans()),
            'edges': fidelity.gradient_correlation(after, self._own_scans()),
            'identified': fidelity.matches_reference(blocks, self.source_blocks, self.subjects),
            'variance': fidelity.between_subject_variance(blocks, sites),
            'source_variance': fidelity.between_subject_variance(self.source_blocks, sites),
            'rank': fidelity.distance_rank_correlations(blocks, self.source_blocks, sites),
        }
        for name, values in comparisons.items():
            predictions.store(name, self.rows, values)
        predictions.keep(self.rows, after)
        self.sample_sets.store(predictions.features, self.rows, after)
        predictions.explained.append(fidelity.variance_explained_by_site(after, sites))
        predictions.quantiles[self.rows] = fidelity.intensity_quantiles(after)
        predictions.counts.append(
            {str(site): _counts(after[sites == site]) for site in np.unique(sites)}
        )


def _counts(images: np.ndarray) -> np.ndarray:
    """How many brain pixels have an intensity in each of ``INTENSITY_BINS``."""
    return np.histogram(images[images > 0], INTENSITY_BINS)[0]


def _permuted(ages: np.ndarray, seed: int) -> np.ndarray:
    """Ages of which the known ones are permuted."""
    ages, known = ages.copy(), np.flatnonzero(~np.isnan(ages))
    ages[known] = np.random.default_rng(seed).permutation(ages[known])
    return ages


def _tissue_fractions(images: Iterable[np.ndarray]) -> np.ndarray:
    """Brain fractions of CSF, gray and white matter, shape (N, 3)."""
    return np.array([list(tissue_shares(image[None]).values()) for image in images])
