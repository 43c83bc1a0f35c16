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
from dataclasses import dataclass

import numpy as np

from ddae_app.evaluation import estimates, fidelity, probes
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.people import People
from ddae_app.evaluation.readings import Half, Readings

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
    'paired_psnr': 'Of one person at two sites, to each other: PSNR, dB',
    'paired_ssim': 'The same: structural similarity',
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
    found = {}
    for candidate in candidates:
        readings = Readings(np.zeros_like(people.images))
        for number, half in enumerate(halves):
            say(f'{candidate.name}: half {number + 1} of 2')
            half.read(candidate, readings)
        measured = _summary(people, readings, target, seed)
        if not candidate.told_ages:
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


def _summary(people: People, readings: Readings, target: str, seed: int) -> dict[str, Estimate]:
    found = {}
    everybody = np.arange(len(people.images))

    def add(name: str, score: estimates.Score, rows: np.ndarray) -> None:
        found[name] = estimates.estimate(score, rows, people.subjects, people.sites, seed)

    for name in ('site_cnn', 'site_linear', 'site_histogram', 'site_raw_probe'):
        guess = readings.text[name]
        judged = everybody[[value is not None for value in guess]]
        add(name, estimates.balanced_accuracy(people.sites, guess.astype(str)), judged)
    if 'age' in readings.numbers:
        ages, guess = people.ages, readings.numbers['age']
        known = everybody[~np.isnan(ages)]
        add('age_mae', estimates.mean(np.abs(guess - ages)), known)
        add('age_r', estimates.correlation(ages, guess), known)
        centred = [_within(values, people.sites, known) for values in (ages, guess)]
        add('age_r_within_site', estimates.correlation(*centred), known)
        if 'age_new_site' in readings.numbers:
            error = np.abs(readings.numbers['age_new_site'] - ages)
            add('age_mae_new_site', estimates.mean(error), known[~np.isnan(error[known])])
    if 'age_moved' in readings.numbers:
        given = np.nan_to_num(readings.numbers['age_given'] - people.ages)
        moved = np.nan_to_num(readings.numbers['age_moved'])
        add('age_slope', estimates.ratio(given * moved, given**2), everybody[given != 0])
    if 'sex' in readings.text:
        known = everybody[[sex is not None for sex in people.sexes]]
        guess = readings.text['sex'].astype(str)
        add('sex', estimates.balanced_accuracy(people.sexes.astype(str), guess), known)
    for name in ('ssim', 'edges', 'rank', 'identified', 'tissue_drift'):
        add(name, estimates.mean(readings.numbers[name]), everybody)
    others = everybody[people.sites != target]
    distance = fidelity.distance_to_site(readings.outputs, people.sites, target)
    add('target_distance', estimates.mean(distance), others)
    pairs = fidelity.paired(readings.outputs, people.sites, people.subjects)
    for name, values in pairs.items():
        travelled = everybody[~np.isnan(values)]
        if len(travelled):
            add(name, estimates.mean(values), travelled)
    own, source = readings.numbers['variance'], readings.numbers['source_variance']
    add('variance_ratio', estimates.ratio(own, source), everybody)
    return found


def _within(values: np.ndarray, sites: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Less the mean of the site's rows."""
    out = values.astype(np.float64).copy()
    for site in np.unique(sites[rows]):
        own = rows[sites[rows] == site]
        out[own] -= out[own].mean()
    return out


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
