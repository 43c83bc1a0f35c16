"""What probes read from the outputs of one candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ddae_app.evaluation import fidelity, probes
from ddae_app.evaluation.biology import FEWEST_KNOWN
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.data import FOLDS, People
from ddae_app.imaging.anatomy import TISSUES, tissue_shares

CNN_JUDGED = 500
"""Scans on which convolutional networks are judged, if there are so many; each takes a while."""


@dataclass
class Readings:
    """What the probes of all folds read, by row, and how the outputs compare to the scans.

    Attributes
    ----------
    outputs : np.ndarray, shape (N, H, W)
    text, numbers : dict of str to np.ndarray, shape (N,)
        None and NaN where nothing was read.
    """

    outputs: np.ndarray
    text: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep what was read from some rows."""
        if values.dtype.kind == 'f':
            kept = self.numbers.setdefault(name, np.full(len(self.outputs), np.nan))
        else:
            kept = self.text.setdefault(name, np.full(len(self.outputs), None, dtype=object))
        kept[rows] = values


class Half:
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
        readings.outputs[rows] = seen
        now, before = _shares(seen), _shares(source)
        for tissue, shares in zip(TISSUES, now.T, strict=True):
            readings.read(tissue, rows, shares)
        readings.read('tissue_drift', rows, 100 * np.abs(now - before).mean(axis=1))
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
    for column in people.further:
        guess = column.read(own, learn, outputs[judge])
        if guess is not None:
            readings.read(f'biology_{column.name}', judge, guess)
    known = np.flatnonzero([sex is not None for sex in sexes])
    if len(known) >= FEWEST_KNOWN and len(set(sexes[known])) == 2:
        read = own.of_rows(known).classifier(sexes[known].astype(str))
        readings.read('sex', judge, read(outputs[judge]))


def _shares(images: np.ndarray) -> np.ndarray:
    """Shares of the brain of the three tissues, shape (N, 3)."""
    return np.array([list(tissue_shares(image[None]).values()) for image in images])
