"""The evaluation: which site effects remain in the outputs, and which biology is preserved.

Subjects are split into two halves. A method that has to be fitted is fitted to one half. Probes
are then trained, in folds, on its outputs for some subjects of the other half, and tested on its
outputs for the rest of that half. All outputs that a probe meets are thus of subjects that the
method has not seen, as in practice. If probes were trained on subjects that the method was fitted
to, whose site means were removed exactly, the site would be classified below chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ddae_app.evaluation import estimates, fidelity, probes, traveling, views
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.data import EvaluationData, comparable
from ddae_app.evaluation.distribution import SampleSets
from ddae_app.evaluation.estimates import Estimate, Score
from ddae_app.evaluation.features import Features
from ddae_app.evaluation.predictions import CrossFittingHalf, ProbePredictions
from ddae_app.methods.data import SEXES

_COMPARED = 'between the outputs of the other sites and the original scans of the target site'

MEANING = {
    'site_cnn': 'Balanced accuracy of a small convolutional network that is trained on the '
    'outputs to classify the site.',
    'site_linear': 'Balanced accuracy of logistic regression on principal components that is '
    'trained on the outputs to classify the site.',
    'site_histogram': 'Balanced accuracy of logistic regression on the intensity quantiles that '
    'is trained on the outputs to classify the site.',
    'site_interior': f'As site_linear, from the interior of the brain alone: the pixels that all '
    f'scans share, {views.EDGE_PIXELS} pixels from the edge.',
    'site_broad': 'As site_interior, from broad structure alone: smoothed by '
    f'{views.BROAD_PIXELS:g} pixels (standard deviation of a Gaussian).',
    'site_middle': f'As site_interior, from structure between {views.FINE_PIXELS:g} and '
    f'{views.BROAD_PIXELS:g} pixels.',
    'site_fine': 'As site_interior, from fine structure alone: without what is smoothed by '
    f'{views.FINE_PIXELS:g} pixels.',
    'site_tissues': 'As site_interior, from the tissue class of each pixel alone: where CSF, gray '
    'and white matter lie, without their intensities.',
    'site_all': 'As site_linear, by cross-validation over all participants. It is given for all '
    'that was not fitted in this evaluation, and is below chance for a method that was fitted to '
    'these participants.',
    'site_raw_probe': 'Balanced accuracy on the outputs of a site classifier that was trained on '
    'the original scans.',
    'age_mae': 'Mean absolute error, in years, of the age predicted from the images by ridge '
    'regression that is trained on other participants.',
    'age_r': 'Correlation of the predicted age with the true age.',
    'age_r_within_site': 'Correlation of the predicted age with the true age, after the site '
    'means of both are subtracted.',
    'age_mae_new_site': 'Mean absolute error, in years, of the age predicted by ridge regression '
    'that is trained on the other sites only.',
    'age_slope': 'Change of the predicted age, in years, for each year by which a false age given '
    'to the method is changed.',
    'sex': 'Balanced accuracy of logistic regression that classifies sex from the images and is '
    'trained on other participants.',
    'rank': 'Spearman correlation of the distances between participants of a site before and '
    'after harmonization.',
    'identified': 'Share of the outputs that correlate best with a scan of their own participant, '
    'among all scans of their half of the participants.',
    'variance_ratio': 'Between-subject variance within sites after harmonization, divided by that '
    'before.',
    'ssim': 'Structural similarity of the output to its scan.',
    'edges': 'Correlation of the gradient magnitudes of the output with those of its scan.',
    'tissue_drift': 'Mean absolute change of the brain fractions of CSF, gray matter and white '
    'matter, in percentage points. A change of contrast alone also changes them.',
    'target_distance': 'Wasserstein distance of the brain intensities of the outputs of the other '
    'sites to those of the median output of the target site.',
    'frechet': f'Fréchet distance {_COMPARED}, in the features of a network that was trained on '
    'simulated scans.',
    'kernel': f'Kernel distance (squared maximum mean discrepancy, cubic kernel) {_COMPARED}, in '
    'the features of a network that was trained on simulated scans.',
    'mmd': f'Squared maximum mean discrepancy (Gaussian kernel) {_COMPARED}, in principal '
    'components.',
    'fid': f'Fréchet inception distance {_COMPARED}.',
    'kid': f'Kernel inception distance {_COMPARED}.',
    'paired_psnr': 'Peak signal-to-noise ratio, in dB, between the outputs of one participant who '
    'was scanned at several sites.',
    'paired_ssim': 'Structural similarity between the outputs of one participant who was scanned '
    'at several sites.',
    'icc': 'Intraclass correlation, ICC(1), of the regional intensities of participants who were '
    'scanned at several sites.',
}


@dataclass(frozen=True)
class EvaluationResult:
    """The measures of one candidate.

    Attributes
    ----------
    estimates : dict of str to Estimate
        By measure, as ``MEANING`` explains; a measure that does not apply is absent.
    variance_explained : np.ndarray, shape (H, W), 0 to 1
        Share of the variance at each pixel that the site explains, mean of both halves.
    intensities : dict of str to np.ndarray, shape (B,)
        Of each site, how many brain pixels have an intensity in each bin; see
        ``predictions.INTENSITY_BINS``.
    shown : np.ndarray, shape (K, H, W)
        The outputs that were asked for.
    """

    estimates: dict[str, Estimate]
    variance_explained: np.ndarray
    intensities: dict[str, np.ndarray]
    shown: np.ndarray


def evaluate(
    data: EvaluationData,
    candidates: Sequence[Candidate],
    target: str,
    *,
    seed: int = 0,
    inception: Features | None = None,
    at_once: int = 1,
    shown: Sequence[int] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, EvaluationResult]:
    """Measure residual site effects and preserved biology in the outputs of each candidate.

    Parameters
    ----------
    data : EvaluationData
    candidates : sequence of Candidate
    target : str
        The site to harmonize to; without scans of it, no distances to them are measured.
    seed : int
        Of the folds, the probes and the bootstrap.
    inception : callable, optional
        Features in which FID and KID are measured; these measures are left out without it.
    at_once : int
        Candidates that are evaluated at the same time, each in a thread of its own; their number
        changes no result.
    shown : sequence of int
        Rows whose outputs are part of the result.
    progress : callable, optional
        Called with a line of text before each part of the work.

    Returns
    -------
    dict of str to EvaluationResult
        By the name of the candidate, in their order.
    """
    report_progress = progress or (lambda text: None)
    sample_sets = SampleSets.draw(data, target, seed, inception)
    travelers = traveling.rows_of_travelers(data.sites, data.subjects)
    kept = np.unique(np.concatenate([*travelers, shown]).astype(int))
    predictions = [ProbePredictions(data, kept, sample_sets.no_features()) for _ in candidates]
    every_row = np.arange(len(data.images))

    def split(rows: tuple[np.ndarray, np.ndarray]) -> CrossFittingHalf:
        return CrossFittingHalf(data, *rows, sample_sets, seed)

    def predict(
        part: str, half: CrossFittingHalf, candidate: Candidate, predictions: ProbePredictions
    ) -> None:
        report_progress(part)
        half.predict(candidate, predictions)

    def measure(candidate: Candidate, predictions: ProbePredictions) -> EvaluationResult:
        measures = _Measures(data, predictions, seed)
        _add_site(measures)
        _add_biology(measures)
        _add_fidelity(measures, target)
        measured = measures.estimates | sample_sets.distances(predictions.features)
        if not candidate.refitted:
            outputs = candidate.fit(every_row)(every_row, data.ages)
            measured['site_all'] = _cross_validated_site_accuracy(data, outputs, seed)
        explained = np.mean(predictions.explained, axis=0).clip(0, 1)
        return EvaluationResult(
            measured, explained, predictions.intensities, predictions.kept(np.array(shown, int))
        )

    # Threads suffice: nearly all of the time is spent in PyTorch and in linear algebra.
    with ThreadPoolExecutor(at_once) as pool:
        both = pool.map(split, halves(data, seed))
        parts = [
            (f'Evaluating {candidate.name}: half {number} of 2', half, candidate, found)
            for number, half in enumerate(both, 1)
            for candidate, found in zip(candidates, predictions, strict=True)
        ]
        list(pool.map(lambda part: predict(*part), parts))
        results = list(pool.map(measure, candidates, predictions))
    return {candidate.name: result for candidate, result in zip(candidates, results, strict=True)}


def halves(data: EvaluationData, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit to, and rows to evaluate, of either half of the subjects."""
    return probes.folds(data.sites, data.subjects, 2, seed)


def _cross_validated_site_accuracy(
    data: EvaluationData, outputs: np.ndarray, seed: int
) -> Estimate:
    """Accuracy of plain cross-validation, below chance if the method was fitted to these scans."""
    predicted = probes.cross_val_predict(outputs, data.sites, data.subjects, seed=seed)
    return estimates.bootstrap_estimate(
        estimates.balanced_accuracy(data.sites, predicted),
        np.arange(len(predicted)), data.subjects, data.sites, seed,
    )  # fmt: skip


@dataclass
class _Measures:
    """The measures of one candidate, as they are computed from the predictions."""

    data: EvaluationData
    predictions: ProbePredictions
    seed: int
    estimates: dict[str, Estimate] = field(default_factory=dict)

    def add(self, name: str, score: Score, rows: np.ndarray) -> None:
        """Estimate a score over some rows, given by their numbers or by a mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows):
            self.estimates[name] = estimates.bootstrap_estimate(
                score, rows, self.data.subjects, self.data.sites, self.seed
            )

    @property
    def all_rows(self) -> np.ndarray:
        return np.arange(len(self.data.images))


def _add_site(measures: _Measures) -> None:
    labels = measures.predictions.labels
    for name in (name for name in MEANING if name in labels and name.startswith('site_')):
        predicted = labels[name]
        score = estimates.balanced_accuracy(measures.data.sites, predicted.astype(str))
        measures.add(name, score, _is_predicted(predicted))


def _add_biology(measures: _Measures) -> None:
    data, predictions = measures.data, measures.predictions
    values, labels = predictions.values, predictions.labels
    if 'age' in values:
        _add_age(measures)
    if 'predicted_age_change' in values:
        given_change = values['false_age'] - data.ages
        predicted_change = values['predicted_age_change']
        changed = (given_change != 0) & _is_predicted(given_change + predicted_change)
        slope = estimates.ratio(
            np.nan_to_num(given_change * predicted_change), np.nan_to_num(given_change**2)
        )
        measures.add('age_slope', slope, changed)
    if 'sex' in labels:
        predicted = labels['sex']
        known = np.array([sex is not None for sex in data.sexes]) & _is_predicted(predicted)
        score = estimates.balanced_accuracy(data.sexes.astype(str), predicted.astype(str))
        measures.add('sex', score, known)
    for variable in data.variables:
        predicted_of = values if variable.numeric else labels
        if f'biology_{variable.name}' in predicted_of:
            predicted = predicted_of[f'biology_{variable.name}']
            for name, score in variable.scores(predicted, values, data.sites).items():
                measures.add(name, score, variable.known & _is_predicted(predicted))


def _add_age(measures: _Measures) -> None:
    ages, sites = measures.data.ages, measures.data.sites
    values = measures.predictions.values
    predicted = values['age']
    known = np.flatnonzero(~np.isnan(ages) & _is_predicted(predicted))
    measures.add('age_mae', estimates.mean(np.abs(predicted - ages)), known)
    measures.add('age_r', estimates.correlation(ages, predicted), known)
    residuals = [estimates.subtract_site_means(v, sites, known) for v in (ages, predicted)]
    measures.add('age_r_within_site', estimates.correlation(*residuals), known)
    if 'age_new_site' in values:
        error = np.abs(values['age_new_site'] - ages)
        measures.add('age_mae_new_site', estimates.mean(error), ~np.isnan(error))


def _add_fidelity(measures: _Measures, target: str) -> None:
    sites, subjects, predictions = (
        measures.data.sites,
        measures.data.subjects,
        measures.predictions,
    )
    values = predictions.values
    for name in ('ssim', 'edges', 'rank', 'identified', 'tissue_drift'):
        measures.add(name, estimates.mean(values[name]), measures.all_rows)
    variance_ratio = estimates.ratio(values['variance'], values['source_variance'])
    measures.add('variance_ratio', variance_ratio, measures.all_rows)
    if target in sites:
        distance = fidelity.intensity_distance_to_site(predictions.quantiles, sites, target)
        measures.add('target_distance', estimates.mean(distance), sites != target)
    traveled = traveling.rows_of_travelers(sites, subjects)
    rows = np.concatenate([*traveled, []]).astype(int)
    kept = predictions.kept(rows), sites[rows], subjects[rows]
    for name, similarity in traveling.paired_similarity(*kept).items():
        of_all = np.full(len(sites), np.nan)
        of_all[rows] = similarity
        measures.add(name, estimates.mean(of_all), ~np.isnan(of_all))
    icc = traveling.intraclass_correlation(*kept, measures.seed)
    if icc:
        measures.estimates['icc'] = icc


def _is_predicted(predicted: np.ndarray) -> np.ndarray:
    """Rows for which a prediction exists, shape (N,), bool."""
    if predicted.dtype.kind == 'f':
        return ~np.isnan(predicted)
    return np.array([value is not None for value in predicted])


def controls(data: EvaluationData, *, seed: int = 0) -> Mapping[str, Estimate]:
    """Balanced accuracy of the site from what no harmonization of intensities can change.

    ``mask`` classifies it from the shape of the brain, ``demographics`` from age and sex, and
    ``shuffled`` from the scans when the sites are permuted among the subjects. Where neither age
    nor sex is known of most people of each site, there is no ``demographics``.

    Parameters
    ----------
    data : EvaluationData
    seed : int
        Of the permutation, the folds and the bootstrap.
    """
    rng = np.random.default_rng(seed)
    # Subjects take part once for each of their sites: by their first sites alone, people who were
    # all scanned at every site would be of one site.
    visits, number = np.unique(
        np.column_stack([data.subjects, data.sites]), axis=0, return_inverse=True
    )
    shuffled = rng.permutation(visits[:, 1])[number.ravel()]
    everybody = np.arange(len(data.sites))
    features = {
        'mask': ((data.images > 0).astype(np.float32), data.sites, everybody),
        'shuffled': (data.images, shuffled, everybody),
    }
    demographics, known = _demographics(data)
    if len(known):
        features['demographics'] = demographics, data.sites, known
    measured = {}
    for name, (values, labels, rows) in features.items():
        true, subjects = labels[rows], data.subjects[rows]
        predicted = probes.cross_val_predict(values[rows], true, subjects, seed=seed)
        measured[name] = estimates.bootstrap_estimate(
            estimates.balanced_accuracy(true, predicted),
            np.arange(len(rows)), subjects, data.sites[rows], seed,
        )  # fmt: skip
    return measured


def _demographics(data: EvaluationData) -> tuple[np.ndarray, np.ndarray]:
    """Age, sex and squared age of all scans, shape (N, 3), and the rows of which they are known.

    What is unknown of many people of a site is 0 for all.
    """
    sexes = np.array([np.nan if sex is None else float(SEXES[sex]) for sex in data.sexes])
    columns = np.stack([data.ages, sexes], 1)
    counts, rows = comparable(~np.isnan(columns), data.sites, data.subjects)
    columns = np.where(counts, columns, 0)
    if len(rows):
        columns = columns / np.maximum(np.std(columns[rows], axis=0), 1e-12)
    return np.column_stack([columns, columns[:, :1] ** 2]), rows
