"""What the group page says of the site and of people, method by method."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Estimate(Protocol):
    """A number with its interval, from `n` scans."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...


class Finding(Protocol):
    """A sentence, and whether it tells of something wrong."""

    @property
    def text(self) -> str: ...
    @property
    def wrong(self) -> bool: ...


@dataclass(frozen=True)
class MethodReport:
    """What was found of one method.

    Attributes
    ----------
    name, fitted : str
        And to whom it was fitted.
    findings : sequence of Finding
        The first is the verdict on the site.
    estimates : mapping of str to Estimate
        By measure; one that could not be taken is not there.
    """

    name: str
    fitted: str
    findings: Sequence[Finding]
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class EvaluationFigure:
    """A picture that goes into the page: what it shows, and the bytes of a PNG."""

    title: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """For the page, which is one file."""
        return f'data:image/png;base64,{base64.b64encode(self.png).decode()}'


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that was judged.

    Attributes
    ----------
    headline : str
        The answer in one sentence.
    scans : int
    target : str
        The site whose look the scans were given.
    chance : float
        Balanced accuracy of a guess at the site.
    protocol : str
        How it was measured, in words.
    meanings : mapping of str to str
        Of each measure.
    controls : mapping of str to Estimate
        How well the site is told by other things than intensities.
    methods : sequence of MethodReport
        The first is that of the untouched scans.
    figures : sequence of EvaluationFigure
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
