"""One page per participant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ddae_app.reports.page import write_page


@dataclass(frozen=True)
class Measure:
    """A quality measure.

    Attributes
    ----------
    name : str
    value : str
        As it is to be read.
    meaning : str
    flagged : bool
        Outside of what is usual, so that somebody should look.
    """

    name: str
    value: str
    meaning: str
    flagged: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes
    ----------
    title, caption : str
    path : str
        Relative to the page.
    """

    title: str
    caption: str
    path: str


@dataclass(frozen=True)
class ScanReport:
    """What the page says of one scan.

    Attributes
    ----------
    name : str
        The scan's BIDS name without suffix.
    error : str or None
        Why it failed.
    summary : tuple of (str, str)
        Facts: name and value.
    quality : tuple of Measure
    figures : tuple of Picture
    warnings : tuple of str
        Said above the summary.
    """

    name: str
    error: str | None
    summary: tuple[tuple[str, str], ...]
    quality: tuple[Measure, ...]
    figures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """Whether somebody should look: ``failed``, ``look`` or ``fine``."""
        if self.error:
            return 'failed'
        return 'look' if self.warnings or any(row.flagged for row in self.quality) else 'fine'


@dataclass(frozen=True)
class ParticipantReport:
    """What the page says of a participant.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    version, run_id : str
        Of the program, and of the run that wrote the page.
    warnings : tuple of str
        Said at the top, for example that the model is of phantoms.
    scans : tuple of ScanReport
    methods : str
        Text for a paper; a blank line parts paragraphs.
    """

    participant: str
    version: str
    run_id: str
    warnings: tuple[str, ...]
    scans: tuple[ScanReport, ...]
    methods: str

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The methods, a paragraph each."""
        return tuple(part.strip() for part in re.split(r'\n\s*\n', self.methods) if part.strip())


def write_participant_report(path: Path, report: ParticipantReport) -> None:
    """Write a participant's page, beside the folder that holds its figures."""
    write_page(path, 'participant.html.j2', report=report)
