"""One page per participant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddae_app.reports.page import write_page


@dataclass(frozen=True)
class Measure:
    """A quality measure: its name, its value as text, and what it means."""

    name: str
    value: str
    meaning: str


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
    """

    name: str
    error: str | None
    summary: tuple[tuple[str, str], ...]
    quality: tuple[Measure, ...]
    figures: tuple[Picture, ...]


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
        Paragraph for a paper.
    """

    participant: str
    version: str
    run_id: str
    warnings: tuple[str, ...]
    scans: tuple[ScanReport, ...]
    methods: str


def write_participant_report(path: Path, report: ParticipantReport) -> None:
    """Write a participant's page, beside the folder that holds its figures."""
    write_page(path, 'participant.html.j2', report=report)
