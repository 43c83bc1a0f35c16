"""The evaluation: what can still be read from the outputs of each candidate, and what is kept.

People are dealt into two halves. What a candidate has to fit is fitted to one half; probes learn
from its outputs for some of the other half and are judged on its outputs for the rest of it, in
folds. So a probe meets the outputs as a user's colleague does: all of them of people whom the
method has not seen. (Were probes to learn from people whom it was fitted to, in whom nothing is
left of the sites' means, they would be judged below chance.) People are the unit of intervals,
too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ddae_app.evaluation import estimates, fidelity, probes, travelling
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.data import People
from ddae_app.evaluation.distribution import Crowds
from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.features import Features
from ddae_app.evaluation.predictions import Half, Readings

MEANING = {
    'site_cnn': 'Site, told by a small convolutional network trained on the outputs: balanced '
    'accuracy',
    'site_linear': 'The same by logistic regression on principal components',
    'site_histogram': 'The same from the intensity histogram alone',
    'site_all': 'As site_linear, for outputs that were made elsewhere, all people together: below '
    'chance where the method was fitted to these very people',
    'site_raw_probe': 'Site, told from the outputs by a probe that was trained on scans',
    'age_mae': 'Age read from the images of other people: mean absolute error, years',
    'age_r': 'The same: correlation with the true age',
    'age_r_within_site': 'The same, each site less its mean',
    'age_mae_new_site': 'Age error of a probe that has learnt no age of the site it is judged on',
    'age_slope': 'Years that the age read follows each year of a false age told to the method',
    'sex': 'Sex, balanced accuracy',
    'rank': 'Whether people of a site who were near each other still are: Spearman correlation',
    'identified': 'How often an output is most like its own scan',
    'variance_ratio': 'What people of a site differ by, over that of the scans',
    'ssim': 'Structural similarity to the scan',
    'edges': 'Correlation of the edges with those of the scan',
    'tissue_drift': 'Change of the shares of CSF, grey and white matter, hundredths of the brain; '
    'contrast alone changes them, too',
    'target_distance': "Wasserstein distance of brain intensities to the target site's, others",
    'frechet': "Fréchet distance of the other sites' outputs to the target's scans as they are, "
    'in the features of a small network that was trained on simulated scans',
    'kernel': 'The same: kernel distance (squared maximum mean discrepancy, cubic kernel)',
    'mmd': 'The same in principal components: squared maximum mean discrepancy, Gaussian kernel',
    'fid': 'As frechet in the features of Inception: the usual FID',
    'kid': 'As kernel in the features of Inception: the usual KID',
    'paired_psnr': 'Of one person at two sites, to each other: PSNR, dB',
    'paired_ssim': 'The same: structural similarity',
    'icc': 'Of people at several sites: intraclass correlation of regional intensities',
}


@dataclass(frozen=True)
class Judgement:
    """What was found of a candidate.

    Attributes
    ----------
    estimates : dict of str to Estimate
        By measure, which ``MEANING`` explains; a measure that cannot be taken is not there.
    explained : np.ndarray, shape (H, W)
        Share of the variance at each pixel that the site explains.
    outputs : np.ndarray, shape (N, H, W)
    """

    estimates: dict[str, Estimate]
    explained: np.ndarray
    outputs: np.ndarray


def evaluate(
    people: People,
    candidates: Sequence[Candidate],
    target: str,
    *,
    seed: int = 0,
    inception: Features | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Judgement]:
    """Judge candidates.

    Parameters
    ----------
    people : People
    candidates : sequence of Candidate
    target : str
        The site whose look they give.
    seed : int
        Of the folds, the probes and the bootstrap.
    inception : callable, optional
        The features that FID and KID are measured in, which else are left out.
    progress : callable, optional
        Told what is being done.

    Returns
    -------
    dict of str to Judgement
        By candidate.
    """
    say = progress or (lambda text: None)
    halves = [
        Half(people, fit, judged, seed)
        for fit, judged in probes.folds(people.sites, people.subjects, 2, seed)
    ]
    crowds = Crowds.of(people, target, seed, inception)
    found = {}
    for candidate in candidates:
        readings = Readings(np.zeros_like(people.images))
        for number, half in enumerate(halves):
            say(f'{candidate.name}: half {number + 1} of 2')
            half.read(candidate, readings)
        summary = _Summary(people, readings, seed)
        _add_site(summary)
        _add_biology(summary)
        _add_fidelity(summary, target)
        measured = summary.found | crowds.distances(readings.outputs)
        if not candidate.fitted_here:
            measured['site_all'] = _told_of_all(people, readings.outputs, seed)
        explained = fidelity.explained_by_site(readings.outputs, people.sites)
        found[candidate.name] = Judgement(measured, explained, readings.outputs)
    return found


def _told_of_all(people: People, outputs: np.ndarray, seed: int) -> Estimate:
    """The site from outputs that were made elsewhere, all people together.

    Where the method was fitted to these very people, this is below chance.
    """
    guess = probes.told(outputs, people.sites, people.subjects, seed=seed)
    return estimates.estimate(
        estimates.balanced_accuracy(people.sites, guess),
        np.arange(len(guess)), people.subjects, people.sites, seed,
    )  # fmt: skip


@dataclass
class _Summary:
    """The measures of one candidate, as they are taken from what was read."""

    people: People
    readings: Readings
    seed: int
    found: dict[str, Estimate] = field(default_factory=dict)

    def add(self, name: str, score: estimates.Score, rows: np.ndarray) -> None:
        """A measure over some rows; `rows` may be their numbers or a mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows):
            self.found[name] = estimates.estimate(
                score, rows, self.people.subjects, self.people.sites, self.seed
            )

    @property
    def everybody(self) -> np.ndarray:
        return np.arange(len(self.people.images))


def _add_site(summary: _Summary) -> None:
    for name in ('site_cnn', 'site_linear', 'site_histogram', 'site_raw_probe'):
        guess = summary.readings.text[name]
        score = estimates.balanced_accuracy(summary.people.sites, guess.astype(str))
        summary.add(name, score, _was_read(guess))


def _add_biology(summary: _Summary) -> None:
    people, numbers, text = summary.people, summary.readings.numbers, summary.readings.text
    if 'age' in numbers:
        ages, guess = people.ages, numbers['age']
        known = np.flatnonzero(~np.isnan(ages) & _was_read(guess))
        summary.add('age_mae', estimates.mean(np.abs(guess - ages)), known)
        summary.add('age_r', estimates.correlation(ages, guess), known)
        centred = [estimates.within_sites(v, people.sites, known) for v in (ages, guess)]
        summary.add('age_r_within_site', estimates.correlation(*centred), known)
        if 'age_new_site' in numbers:
            error = np.abs(numbers['age_new_site'] - ages)
            summary.add('age_mae_new_site', estimates.mean(error), ~np.isnan(error))
    if 'age_moved' in numbers:
        given = np.nan_to_num(numbers['age_given'] - people.ages)
        moved = np.nan_to_num(numbers['age_moved'])
        summary.add('age_slope', estimates.ratio(given * moved, given**2), given != 0)
    if 'sex' in text:
        guess = text['sex']
        known = np.array([sex is not None for sex in people.sexes]) & _was_read(guess)
        score = estimates.balanced_accuracy(people.sexes.astype(str), guess.astype(str))
        summary.add('sex', score, known)
    for column in people.further:
        kept = numbers if column.numeric else text
        if f'biology_{column.name}' in kept:
            guess = kept[f'biology_{column.name}']
            for name, score in column.scores(guess, numbers, people.sites).items():
                summary.add(name, score, column.known & _was_read(guess))


def _add_fidelity(summary: _Summary, target: str) -> None:
    people, numbers, outputs = summary.people, summary.readings.numbers, summary.readings.outputs
    for name in ('ssim', 'edges', 'rank', 'identified', 'tissue_drift'):
        summary.add(name, estimates.mean(numbers[name]), summary.everybody)
    spread = estimates.ratio(numbers['variance'], numbers['source_variance'])
    summary.add('variance_ratio', spread, summary.everybody)
    distance = fidelity.distance_to_site(outputs, people.sites, target)
    summary.add('target_distance', estimates.mean(distance), people.sites != target)
    pairs = travelling.paired(outputs, people.sites, people.subjects)
    for name, values in pairs.items():
        summary.add(name, estimates.mean(values), ~np.isnan(values))
    alike = travelling.intraclass_correlation(outputs, people.sites, people.subjects, summary.seed)
    if alike:
        summary.found['icc'] = alike


def _was_read(guess: np.ndarray) -> np.ndarray:
    """Rows of which something was read, shape (N,), bool."""
    if guess.dtype.kind == 'f':
        return ~np.isnan(guess)
    return np.array([value is not None for value in guess])


def controls(people: People, *, seed: int = 0) -> Mapping[str, Estimate]:
    """How well the site is told by what no harmonisation of intensities changes, and by chance.

    ``mask``: from the shape of the brain; ``demographics``: from age and sex; ``shuffled``: from
    the scans, the sites dealt out at random to people.
    """
    rng = np.random.default_rng(seed)
    names, whose = np.unique(people.subjects, return_inverse=True)
    dealt = rng.permutation([people.sites[people.subjects == name][0] for name in names])[whose]
    known = np.stack([people.ages, [{'M': 0.0, 'F': 1.0}.get(s, np.nan) for s in people.sexes]], 1)
    known = np.where(np.isnan(known), np.nanmean(known, axis=0), known)
    known = np.nan_to_num(known / np.maximum(np.nanstd(known, axis=0), 1e-12))
    features = {
        'mask': ((people.images > 0).astype(np.float32), people.sites),
        'demographics': (np.column_stack([known, known[:, :1] ** 2]), people.sites),
        'shuffled': (people.images, dealt),
    }
    found = {}
    everybody = np.arange(len(people.sites))
    for name, (values, labels) in features.items():
        guess = probes.told(values, labels, people.subjects, seed=seed)
        found[name] = estimates.estimate(
            estimates.balanced_accuracy(labels, guess),
            everybody, people.subjects, people.sites, seed,
        )  # fmt: skip
    return found
