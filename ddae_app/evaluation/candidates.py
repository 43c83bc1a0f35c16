"""The methods under evaluation, each with the way it gets its outputs.

A method that is fitted here is fitted to one half of the subjects and evaluated on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation.probes import IMAGES_AT_ONCE
from ddae_app.methods.base import Harmonizer

BLUR_PIXELS = 2.0
FITTED_ELSEWHERE = 'before this evaluation, possibly on these scans'
NOTHING_TO_FIT = 'not needed'

Render = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes rows, int, ascending, and the age of each, both of shape (M,), and returns the outputs of
these scans, shape (M, H, W)."""


@dataclass(frozen=True)
class Candidate:
    """A harmonization method under evaluation.

    Attributes
    ----------
    name : str
    fitted_to : str
        The data that the method was fitted to, in words.
    fit : callable
        Takes the rows to fit to and returns a function that renders scans.
    takes_age : bool
        Whether a false age can be given, to test whether the method writes it into the image.
    label_blind : bool
        Whether the method is known to receive no age, and so cannot write one into the image.
    refitted : bool
        Whether each cross-fitting half has a fit of its own, on the subjects of the other half.
    """

    name: str
    fitted_to: str
    fit: Callable[[np.ndarray], Render]
    takes_age: bool = False
    label_blind: bool = False
    refitted: bool = False


def precomputed(
    name: str, images: np.ndarray, fitted_to: str, *, label_blind: bool = False
) -> Candidate:
    """Outputs that were computed before the evaluation, shape (N, H, W)."""

    def render(rows: np.ndarray, ages: np.ndarray) -> np.ndarray:
        # All of them are asked for at once, too, and a copy would be large.
        return images if len(rows) == len(images) else images[rows]

    return Candidate(name, fitted_to, lambda rows: render, label_blind=label_blind)


def unharmonized(images: np.ndarray) -> Candidate:
    """The original scans, which are the reference for all other candidates."""
    return precomputed('source', images, NOTHING_TO_FIT, label_blind=True)


def blurred(images: np.ndarray) -> Candidate:
    """Blurred scans, a negative control.

    A site classifier that was trained on sharp scans fails on them, although the site effects
    are still there.
    """

    def render(rows: np.ndarray, ages: np.ndarray) -> np.ndarray:
        outputs = images[rows]
        for image in outputs:
            image[...] = np.where(image > 0, gaussian_filter(image, BLUR_PIXELS), 0)
        return outputs

    return Candidate('blur', NOTHING_TO_FIT, lambda rows: render, label_blind=True)


def cross_fitted(
    name: str, harmonizer: Harmonizer, images: np.ndarray, cohort: pd.DataFrame, target: str
) -> Candidate:
    """A harmonizer that is fitted, for each half of the subjects, to the other half."""

    def fit(rows: np.ndarray) -> Render:
        return _renderer(harmonizer.fit(images[rows], cohort.iloc[rows]), images, cohort, target)

    fitted_to = 'to the other half of the participants'
    return Candidate(name, fitted_to, fit, takes_age=True, refitted=True)


def pretrained(
    name: str, harmonizer: Harmonizer, images: np.ndarray, cohort: pd.DataFrame, target: str
) -> Candidate:
    """A harmonizer that was fitted before the evaluation, and that takes ages."""
    render = _renderer(harmonizer, images, cohort, target)
    return Candidate(name, FITTED_ELSEWHERE, lambda rows: render, takes_age=True)


def _renderer(fitted: Harmonizer, images: np.ndarray, cohort: pd.DataFrame, target: str) -> Render:
    def render(rows: np.ndarray, ages: np.ndarray) -> np.ndarray:
        outputs = np.empty((len(rows), *images.shape[1:]), np.float32)
        # Part by part, since a copy of all these scans would be large.
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            some = slice(start, start + IMAGES_AT_ONCE)
            people = cohort.iloc[rows[some]].assign(age=ages[some])
            outputs[some] = fitted.transform(images[rows[some]], people, target)
        return outputs

    return render
