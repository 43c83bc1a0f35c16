"""The evaluation: what can still be read from the outputs of each candidate, and what is kept.

People are dealt into two halves. What a candidate has to fit is fitted to one half; probes learn
from its outputs for some of the other half and are judged on its outputs for the rest of it, in
folds. So a probe meets the outputs as a user's colleague does: all of them of people whom the
method has not seen. (Were probes to learn from people whom it was fitted to, in whom nothing is
left of the sites' means, they would be judged below chance.) People are the unit of intervals,
too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ddae_app.errors import UsageError
from ddae_app.evaluation import estimates, fidelity, probes
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.estimates import Estimate

FOLDS = 5
FEWEST_PEOPLE = 2 * FOLDS
"""Of each site: one to judge in each fold of each half."""

CNN_JUDGED = 500
"""Scans on which convolutional networks are judged, if there are so many; each takes a while."""

FEWEST_KNOWN = 25
"""People of known age or sex, for either to be read."""


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
}


@dataclass(frozen=True)
class People:
    """Scans and who they are of.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W), float32
        0 outside the brain.
    sites, subjects : np.ndarray, shape (N,), str
    ages : np.ndarray, shape (N,), float64
        Years, NaN where unknown.
    sexes : np.ndarray, shape (N,), object
        ``M``, ``F`` or None.

    Raises
    ------
    UsageError
        If there is one site only, or one of fewer than ``FEWEST_PEOPLE`` people.
    """

    images: np.ndarray
    sites: np.ndarray
    subjects: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray

    def __post_init__(self) -> None:
        names = np.unique(self.sites)
        if len(names) < 2:
            raise UsageError(f'all scans are of site {names[0]}; two sites are needed to compare')
        for site in names:
            n = len(set(self.subjects[self.sites == site]))
            if n < FEWEST_PEOPLE:
                raise UsageError(
                    f'site {site} has {n} {"person" if n == 1 else "people"}, and {FEWEST_PEOPLE} '
                    'are needed; leave the site out (--participant-label), or add people'
                )

    @classmethod
    def of(cls, images: np.ndarray, cohort: pd.DataFrame) -> People:
        """From images and a cohort as harmonisers take them."""
        sexes = cohort['sex'].astype(object)
        return cls(
            images,
            cohort['site'].to_numpy(str),
            cohort['subject'].to_numpy(str),
            cohort['age'].to_numpy(np.float64),
            sexes.where(sexes.notna(), None).to_numpy(),
        )

    @property
    def chance(self) -> float:
        """Balanced accuracy of a guess at the site."""
        return 1 / len(np.unique(self.sites))


@dataclass
class Readings:
    """What the probes of all folds read, by row, and how the outputs compare to the scans."""

    n: int
    text: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep what was read from some rows."""
        if values.dtype.kind == 'f':
            kept = self.numbers.setdefault(name, np.full(self.n, np.nan))
        else:
            kept = self.text.setdefault(name, np.full(self.n, None, dtype=object))
        kept[rows] = values


def evaluate(
    people: People,
    candidates: Sequence[Candidate],
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Judge candidates.

    Parameters
    ----------
    people : People
    candidates : sequence of Candidate
    seed : int
        Of the folds, the probes and the bootstrap.
    progress : callable, optional
        Told what is being done.

    Returns
    -------
    dict of str to dict of str to Estimate
        By candidate and measure, which ``MEANING`` explains; a measure that cannot be taken is not
        there.
    """
    say = progress or (lambda text: None)
    parts = [
        _Part(people, fit, judged, seed)
        for fit, judged in probes.folds(people.sites, people.subjects, 2, seed)
    ]
    found = {}
    for candidate in candidates:
        readings = Readings(len(people.images))
        for number, part in enumerate(parts):
            say(f'{candidate.name}: half {number + 1} of 2')
            part.read(candidate, readings)
        found[candidate.name] = _summary(people, readings, seed)
        if not candidate.told_ages:
            found[candidate.name]['site_all'] = _told_of_all(people, candidate, seed)
    return found


class _Part:
    """Those who are judged while the other half is learnt from."""

    def __init__(self, people: People, fit: np.ndarray, judged: np.ndarray, seed: int) -> None:
        self.people, self.fit, self.judged, self.seed = people, fit, judged, seed
        within = probes.folds(people.sites[judged], people.subjects[judged], FOLDS, seed)
        self.folds = [(judged[learn], judged[judge]) for learn, judge in within]
        self.raw = [probes.Components.of(people.images[learn], seed) for learn, _ in self.folds]
        enough = math.ceil(CNN_JUDGED / len(people.images) * FOLDS)
        self.cnn_folds = min(FOLDS, enough)

    def read(self, candidate: Candidate, readings: Readings) -> None:
        """What a candidate makes of them."""
        people, seed, rows = self.people, self.seed, self.judged
        render = candidate.fit(self.fit)
        outputs = render(people.ages)
        told = None
        if candidate.told_ages:
            false = _false_ages(people, rows, seed)
            told = render(false)
            readings.read('age_given', rows, false[rows])
        for number, (learn, judge) in enumerate(self.folds):
            own = probes.Components.of(outputs[learn], seed)
            _read_site(people, outputs, own, learn, judge, self.raw[number], readings, seed)
            _read_biology(people, own, outputs, learn, judge, readings, told)
            if number < self.cnn_folds:
                guess = probes.cnn_classes(outputs, people.sites, learn, judge, seed=seed)
                readings.read('site_cnn', judge, guess)
        seen, source, sites = outputs[rows], people.images[rows], people.sites[rows]
        readings.read('ssim', rows, fidelity.ssim(seen, source))
        readings.read('edges', rows, fidelity.gradient_correlation(seen, source))
        readings.read('identified', rows, fidelity.identified(seen, source))
        readings.read('variance', rows, fidelity.own_variance(seen, sites))
        readings.read('source_variance', rows, fidelity.own_variance(source, sites))
        readings.read('rank', rows, fidelity.rank_agreements(seen, source, sites))


def _false_ages(people: People, rows: np.ndarray, seed: int) -> np.ndarray:
    """The ages of some people dealt out among them at random."""
    false, known = people.ages.copy(), rows[~np.isnan(people.ages[rows])]
    false[known] = np.random.default_rng(seed).permutation(false[known])
    return false


def _told_of_all(people: People, candidate: Candidate, seed: int) -> Estimate:
    """The site from outputs that were made elsewhere, all people together.

    Where the method was fitted to these very people, this is below chance.
    """
    outputs = candidate.fit(np.arange(0))(people.ages)
    guess = probes.told(outputs, people.sites, people.subjects, seed=seed)
    return estimates.estimate(
        estimates.balanced_accuracy(people.sites, guess),
        np.arange(len(guess)), people.subjects, people.sites, seed,
    )  # fmt: skip


def _read_site(
    people: People,
    outputs: np.ndarray,
    own: probes.Components,
    learn: np.ndarray,
    judge: np.ndarray,
    raw: probes.Components,
    readings: Readings,
    seed: int,
) -> None:
    seen, sites = outputs[judge], people.sites[learn]
    readings.read('site_linear', judge, own.classifier(sites)(seen))
    readings.read('site_raw_probe', judge, raw.classifier(sites)(seen))
    quantiles = (probes.brain_quantiles(outputs[rows]) for rows in (learn, judge))
    contrast = probes.Components.of(next(quantiles), seed)
    readings.read('site_histogram', judge, contrast.classifier(sites)(next(quantiles)))


def _read_biology(
    people: People,
    own: probes.Components,
    outputs: np.ndarray,
    learn: np.ndarray,
    judge: np.ndarray,
    readings: Readings,
    told: np.ndarray | None,
) -> None:
    """Age and sex; `told` are the outputs for false ages."""
    ages, sexes, sites = people.ages[learn], people.sexes[learn], people.sites[learn]
    known = np.flatnonzero(~np.isnan(ages))
    if len(known) >= FEWEST_KNOWN and np.ptp(ages[known]) > 0:
        read = own.of_rows(known).regression(ages[known])
        readings.read('age', judge, read(outputs[judge]))
        if told is not None:
            readings.read('age_moved', judge, read(told[judge]) - read(outputs[judge]))
        for site in np.unique(people.sites):
            there = judge[people.sites[judge] == site]
            others = known[sites[known] != site]
            if len(others) >= FEWEST_KNOWN and len(there):
                read = own.of_rows(others).regression(ages[others])
                readings.read('age_new_site', there, read(outputs[there]))
    known = np.flatnonzero([sex is not None for sex in sexes])
    if len(known) >= FEWEST_KNOWN and len(set(sexes[known])) == 2:
        read = own.of_rows(known).classifier(sexes[known].astype(str))
        readings.read('sex', judge, read(outputs[judge]))


def _summary(people: People, readings: Readings, seed: int) -> dict[str, Estimate]:
    found = {}
    everybody = np.arange(readings.n)

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
    for name in ('ssim', 'edges', 'rank', 'identified'):
        add(name, estimates.mean(readings.numbers[name]), everybody)
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
