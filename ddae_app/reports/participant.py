"""The participant page: figures, quality measures and the methods text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
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
        The value as it is displayed.
    meaning : str
    flagged : bool
        Whether the value is unusual, so that the scan should be checked.
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
        Whether it alternates between two images, which pauses while the mouse hovers over it.
    """

    section: str
    title: str
    caption: str
    path: str
    alternates: bool = False


@dataclass(frozen=True)
class ScanReport:
    """The contents of the page about one scan.

    Attributes
    ----------
    name : str
        The scan's BIDS name without suffix.
    error : str or None
        The reason why the scan failed.
    summary : tuple of (str, str)
        Names and values of the facts about the scan.
    quality : tuple of Measure
    figures : tuple of Picture
    warnings : tuple of str
        Displayed above the summary.
    crash : tuple of (str, str), or None
        Name and text of the file that nipype wrote when a step failed.
    selected : bool
        Whether the run that writes the page selected the scan.
    """

    name: str
    error: str | None
    summary: tuple[tuple[str, str], ...]
    quality: tuple[Measure, ...]
    figures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()
    crash: tuple[str, str] | None = None
    selected: bool = True

    @property
    def sections(self) -> dict[str, list[Picture]]:
        """The figures by section."""
        sections: dict[str, list[Picture]] = {}
        for figure in self.figures:
            sections.setdefault(figure.section, []).append(figure)
        return sections

    @property
    def parts(self) -> list[str]:
        """Headings of the scan, for the navigation bar."""
        return [*self.sections, *(['Quality'] if self.quality else [])]

    @property
    def state(self) -> str:
        """Whether the scan should be checked: ``failed``, ``check`` or ``ok``."""
        if self.error:
            return 'failed'
        return 'check' if self.warnings or any(row.flagged for row in self.quality) else 'ok'


@dataclass(frozen=True)
class ParticipantReport:
    """The contents of the page of a participant.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    version, run_id : str
        The version of the program, and the identifier of the run that wrote the page.
    warnings : tuple of str
        Displayed at the top, for example that the model was trained on phantoms.
    scans : tuple of ScanReport
    methods : str
        The methods text, as :mod:`~ddae_app.reports.boilerplate` takes it; empty if unknown.
    settings : str
        The settings of the run, as TOML.
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
        """Facts that are the same for every scan that did not fail."""
        summaries = [scan.summary for scan in self.scans if not scan.error]
        first = summaries[0] if summaries else ()
        return [fact for fact in first if all(fact in facts for facts in summaries)]

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Facts about the participant."""
        failed = f', of which {len(self.failed)} failed' if self.failed else ''
        counted = ('T1w images', f'{len(self.scans)}{failed}')
        return [('Participant', self.participant), counted, *self.shared]

    @property
    def compared(self) -> tuple[ScanReport, ...]:
        """The scans that are shown side by side; none where there is only one."""
        whole = tuple(scan for scan in self.scans if not scan.error)
        return whole if len(whole) > 1 else ()

    @property
    def differing(self) -> dict[str, list[str]]:
        """Facts in which the compared scans differ, but for their names; a value for each."""
        facts = [dict(scan.summary) for scan in self.compared]
        names = dict.fromkeys(name for each in facts for name in each if name != 'T1w')
        rows = {name: [each.get(name, '') for each in facts] for name in names}
        return {name: row for name, row in rows.items() if len(set(row)) > 1}

    @property
    def measured(self) -> list[tuple[Measure, list[Measure | None]]]:
        """The measures of the compared scans: one that explains each, and one for each scan."""
        tables = [{row.name: row for row in scan.quality} for scan in self.compared]
        first = {row.name: row for scan in self.compared[::-1] for row in scan.quality}
        names = dict.fromkeys(row.name for scan in self.compared for row in scan.quality)
        return [(first[name], [table.get(name) for table in tables]) for name in names]

    @property
    def pictured(self) -> dict[str, list[Picture | None]]:
        """The figures of the compared scans that do not alternate, by title."""
        tables = [
            {figure.title: figure for figure in scan.figures if not figure.alternates}
            for scan in self.compared
        ]
        titles = dict.fromkeys(title for table in tables for title in table)
        return {title: [table.get(title) for table in tables] for title in titles}

    @property
    def failed(self) -> tuple[ScanReport, ...]:
        """The scans that failed."""
        return tuple(scan for scan in self.scans if scan.error)

    @property
    def formats(self) -> dict[str, str | Markup]:
        """The methods text in each format; in the first, HTML, text of the user is escaped."""
        return _formats(self.methods) if self.methods else {}


@lru_cache(maxsize=1)
def _formats(methods: str) -> dict[str, str | Markup]:
    # All pages of a run have the same text, and its references take a second to format.
    return {
        'HTML': Markup(boilerplate.html_body(methods)),
        'Markdown': boilerplate.to_markdown(methods),
        'LaTeX': boilerplate.to_latex(methods),
        'BibTeX': boilerplate.to_bibtex(methods),
    }


def write_participant_report(path: Path, report: ParticipantReport) -> None:
    """Write the page of a participant, beside the folder that contains its figures."""
    write_page(path, 'participant.html.j2', report=report)
