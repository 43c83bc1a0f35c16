"""One page per participant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ddae_app.reports import boilerplate
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
    section : str
        ``Anatomical`` or ``Harmonization``.
    title, caption : str
    path : str
        Relative to the page.
    alternates : bool
        Shows two pictures in turn, and rests under the mouse.
    """

    section: str
    title: str
    caption: str
    path: str
    alternates: bool = False


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
    crash : tuple of (str, str), or None
        Name and text of the file that nipype wrote where a step failed.
    """

    name: str
    error: str | None
    summary: tuple[tuple[str, str], ...]
    quality: tuple[Measure, ...]
    figures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()
    crash: tuple[str, str] | None = None

    @property
    def sections(self) -> dict[str, list[Picture]]:
        """The figures by section."""
        found: dict[str, list[Picture]] = {}
        for picture in self.figures:
            found.setdefault(picture.section, []).append(picture)
        return found

    @property
    def parts(self) -> list[str]:
        """Headings of the scan, for the navigation."""
        return [*self.sections, *(['Quality'] if self.quality else [])]

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
        Text for a paper, as :mod:`~ddae_app.reports.boilerplate` takes it; empty if unknown.
    settings : str
        Of the run, as TOML.
    command : str
        The command line of the run.
    """

    participant: str
    version: str
    run_id: str
    warnings: tuple[str, ...]
    scans: tuple[ScanReport, ...]
    methods: str
    settings: str = ''
    command: str = ''

    @property
    def shared(self) -> list[tuple[str, str]]:
        """Facts that hold of every scan that did not fail."""
        done = [scan.summary for scan in self.scans if not scan.error]
        return [fact for fact in (done[0] if done else ()) if all(fact in facts for facts in done)]

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Facts of the participant."""
        failed = f', of which {len(self.failed)} failed' if self.failed else ''
        counted = ('T1w images', f'{len(self.scans)}{failed}')
        return [('Participant', self.participant), counted, *self.shared]

    @property
    def failed(self) -> tuple[ScanReport, ...]:
        """The scans that failed."""
        return tuple(scan for scan in self.scans if scan.error)

    @property
    def forms(self) -> dict[str, str | Markup]:
        """The methods in each form; the first is HTML, of which all but our own is escaped."""
        if not self.methods:
            return {}
        return {
            'HTML': Markup(boilerplate.html_body(self.methods)),
            'Markdown': boilerplate.to_markdown(self.methods),
            'LaTeX': boilerplate.to_latex(self.methods),
            'BibTeX': boilerplate.to_bibtex(self.methods),
        }


def write_participant_report(path: Path, report: ParticipantReport) -> None:
    """Write a participant's page, beside the folder that holds its figures."""
    write_page(path, 'participant.html.j2', report=report)
