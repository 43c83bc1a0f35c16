"""The results of the evaluation as the group page shows them, method by method."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Estimate(Protocol):
    """A value with its interval, computed from `n` scans."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...


class Finding(Protocol):
    """One or two sentences, and whether they are a warning."""

    @property
    def text(self) -> str: ...
    @property
    def warning(self) -> bool: ...


@dataclass(frozen=True)
class MethodReport:
    """The results of one method.

    Attributes
    ----------
    name, fitted_to : str
        The method, and the data that it was fitted to, in words.
    findings : sequence of Finding
        The first is about the site.
    estimates : mapping of str to Estimate
        By measure; a measure that does not apply is absent.
    """

    name: str
    fitted_to: str
    findings: Sequence[Finding]
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class EvaluationFigure:
    """A figure that is embedded in the page: title, caption and the bytes of a PNG."""

    title: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """The PNG as a data URL, since the page is a single file."""
        return f'data:image/png;base64,{base64.b64encode(self.png).decode()}'


@dataclass(frozen=True)
class EvaluationReport:
    """The results of the evaluation.

    Attributes
    ----------
    headline : str
        The main result in one or two sentences.
    scans : int
        Number of scans that were evaluated.
    target : str
        The site to harmonize to.
    chance : float
        Balanced accuracy of a random guess at the site.
    protocol : str
        How the measures were taken, in words.
    meanings : mapping of str to str
        The definition of each measure.
    controls : mapping of str to Estimate
        Balanced accuracy of the site as classified from other data than intensities.
    methods : sequence of MethodReport
        The first is that of the original scans.
    figures : sequence of EvaluationFigure
    cautions : sequence of str
        Why site and biology may not be told apart in these scans, and which baselines were left
        out.
    seen, advice : sequence of str
        What still tells the site from the outputs, and what to do next, in sentences.
    """

    headline: str
    scans: int
    target: str
    chance: float
    protocol: str
    meanings: Mapping[str, str]
    controls: Mapping[str, Estimate]
    methods: Sequence[MethodReport]
    figures: Sequence[EvaluationFigure] = ()
    cautions: Sequence[str] = ()
    seen: Sequence[str] = ()
    advice: Sequence[str] = ()
