"""What is judged: ways from scans to harmonised ones, fitted without those they are judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from ddae_app.methods.base import Harmonizer

BLUR_PIXELS = 2.0


ELSEWHERE = 'elsewhere, perhaps to these very scans'

Render = Callable[[np.ndarray], np.ndarray]
"""From the ages that everybody is said to have to the outputs of everybody, shape (N, H, W)."""


@dataclass(frozen=True)
class Candidate:
    """A way to harmonise.

    Attributes
    ----------
    name : str
    fitted : str
        To whom, in words.
    fit : callable
        From the rows to learn from to a way to render everybody.
    told_ages : bool
        Whether it can be told a false age, to see whether that is painted in.
    label_blind : bool
        Whether it is known never to be told an age, and so has none to paint in.
    fitted_here : bool
        Whether it is fitted anew to those who are not judged.
    """

    name: str
    fitted: str
    fit: Callable[[np.ndarray], Render]
    told_ages: bool = False
    label_blind: bool = False
    fitted_here: bool = False


def given(name: str, images: np.ndarray, fitted: str, *, label_blind: bool = False) -> Candidate:
    """Outputs that were made elsewhere."""
    return Candidate(name, fitted, lambda learn: lambda ages: images, label_blind=label_blind)


def untouched(images: np.ndarray) -> Candidate:
    """The scans themselves: what the others are held against."""
    return given('source', images, 'nothing to fit', label_blind=True)


def blurred(images: np.ndarray) -> Candidate:
    """Blurred scans: the site is no longer told by who learnt it from sharp ones."""
    soft = gaussian_filter(images, (0, BLUR_PIXELS, BLUR_PIXELS))
    return given('blur', np.where(images > 0, soft, 0), 'nothing to fit', label_blind=True)


def fitted_to_others(
    name: str, harmonizer: Harmonizer, images: np.ndarray, cohort: pd.DataFrame, target: str
) -> Candidate:
    """A harmoniser that is fitted anew to those who are not judged."""

    def fit(learn: np.ndarray) -> Render:
        fitted = harmonizer.fit(images[learn], cohort.iloc[learn])
        return lambda ages: fitted.transform(images, cohort.assign(age=ages), target)

    return Candidate(name, 'to the other half', fit, told_ages=True, fitted_here=True)


def stored(
    name: str, harmonizer: Harmonizer, images: np.ndarray, cohort: pd.DataFrame, target: str
) -> Candidate:
    """A harmoniser that was fitted elsewhere, and is told ages."""

    def render(ages: np.ndarray) -> np.ndarray:
        return harmonizer.transform(images, cohort.assign(age=ages), target)

    return Candidate(name, ELSEWHERE, lambda learn: render, told_ages=True)
