"""After a run: what was written, the quality tables, and a page per participant."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddae_app import __version__
from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.dataset import update_scans
from ddae_app.bids.layout import PREPROC_FIGURES, RunFiles, SpaceLayout
from ddae_app.bids.measures import MEASURES
from ddae_app.bids.output_folder import locked
from ddae_app.bids.provenance import read_record
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import derivative_roots, find_preprocessed, scans_with_outputs
from ddae_app.engine.run import Crashes, crash_reason, is_taken
from ddae_app.files import not_fetched
from ddae_app.levels.participant.others import OtherScans
from ddae_app.methods.find import FoundModel
from ddae_app.reports.participant import (
    Measure,
    ParticipantReport,
    Picture,
    ScanReport,
    write_participant_report,
)
from ddae_app.settings import Settings, to_toml

log = logging.getLogger('ddae_app')

FIGURES = {
    'brain': (
        'Anatomical',
        'Brain mask',
        'The line is the outline of the brain mask.',
    ),
    'registration': (
        'Anatomical',
        'Spatial normalization',
        "The scan and the template alternate; the line is the outline of the template's brain. "
        'Hover to pause.',
    ),
    'flicker': (
        'Harmonization',
        'Before and after',
        'The two alternate in one fixed window: contrast may change, but no edge may move. Hover '
        'to pause.',
    ),
    'harmonized': (
        'Harmonization',
        'Difference',
        'The slices before and after, and their difference; the line is the outline of the brain.',
    ),
    'planes': (
        'Harmonization',
        'All three planes',
        'Through the middle of the brain, and through the place where the change is explained '
        'least by contrast and shading.',
    ),
    'histogram': (
        'Harmonization',
        'Intensities',
        'Intensities of the brain before and after, beside those of scans of the target site.',
    ),
}
"""Figures of a scan by their desc label: section, title, caption, in the order of the page."""

ALTERNATING = {'registration', 'flicker'}
"""Those of them that show two pictures in turn."""


@dataclass(frozen=True)
class Results:
    """What the tables and pages of a run are made from.

    Attributes
    ----------
    settings : Settings
    layout : SpaceLayout
        Of the output folder.
    cohort : Cohort
    model : FoundModel or None
    logs : RunFiles
        Of the run.
    text : str
        The methods text; empty if unknown.
    """

    settings: Settings
    layout: SpaceLayout
    cohort: Cohort
    model: FoundModel | None
    logs: RunFiles
    text: str


SLOPPY = 'PreprocessedSloppily'
"""Entry of a scan whose preprocessing was for testing only."""


def outputs_missing(
    layout: SpaceLayout, scans: Sequence[Scan], roots: Sequence[Path], *, harmonized: bool
) -> dict[Scan, str]:
    """Scans that lack an output, and which; preprocessed scans may be in any of the `roots`."""
    missing = {}
    for scan in scans:
        files = find_preprocessed(scan, layout.space, roots) or layout.preprocessed(scan)
        wanted = [files.image, files.mask]
        if harmonized:
            wanted = sorted(layout.harmonized_images(scan).values())
        absent = [path for path in wanted if not path.is_file()]
        if absent:
            missing[scan] = (
                not_fetched(absent[0]) or f'{absent[0].relative_to(layout.root)} was not written'
            )
    return missing


def with_unreached(
    missing: Mapping[Scan, str], unreached: Collection[Scan], *, stopped: bool
) -> dict[Scan, str]:
    """Why scans lack outputs, and why those that a run did not reach are not done."""
    why = ', since the run ended at another failure (--stop-on-first-crash)' if stopped else ''
    earlier = 'not reached; the outputs are those of an earlier run'
    told = {scan: missing[scan] + why if scan in missing else earlier for scan in unreached}
    return {**missing, **told}


def entries_of(layout: SpaceLayout, scan: Scan, roots: Sequence[Path]) -> dict[str, Any]:
    """Texts and finite numbers in the sidecars of a scan, the harmonized image's last.

    The preprocessed image may be in any of the `roots`. A harmonized image that is not whole, or
    was made of a preprocessed image that has been replaced, is left out.
    """
    files = find_preprocessed(scan, layout.space, roots) or layout.preprocessed(scan)
    harmonized = layout.image('harmonized', scan)
    images = [files.image, *([harmonized] if read_record(harmonized) is not None else [])]
    entries = {k: v for image in images for k, v in sidecars.read(image).items()}
    if (read_record(files.image) or {}).get('Sloppy'):
        entries[SLOPPY] = 'yes'
    return {k: v for k, v in entries.items() if isinstance(v, str) or _is_finite(v)}


def _is_finite(value: Any) -> bool:
    # JSON has numbers that no float can hold.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def write_results(
    results: Results, scans: Sequence[Scan], failures: Mapping[Scan, str]
) -> list[Path]:
    """Write ``*_scans.tsv`` and one HTML page per participant.

    A page also shows the scans of the participant that were not selected, as far as the output
    folder has them or says why they failed: jobs that take a session each write the same page. The
    page of a participant of whom another run works on a scan is left to that run.

    Returns
    -------
    list of Path
        The pages that were written.
    """
    layout, settings = results.layout, results.settings
    roots = derivative_roots(settings)
    entries = {scan: entries_of(layout, scan, roots) for scan in scans}
    for scan in scans:
        for sentence in _unchecked(entries[scan]):
            log.warning('%s: %s', scan.stem, sentence)
    tables: dict[Path, dict[str, dict[str, Any] | None]] = {}
    for scan in scans:
        if entries[scan] and scan not in failures:
            table = layout.scans_table(scan)
            images = [layout.image(kind, scan) for kind in ('preproc', 'harmonized')]
            image = next((path for path in images if path.is_file()), None)
            if image is None:  # preprocessed in another folder, and not harmonized
                continue
            row = dict.fromkeys(MEASURES) | _row(results.cohort[scan], entries[scan])
            # A run that took the preprocessed image from another folder wrote the other name.
            tables.setdefault(table, {}).update(
                {
                    path.relative_to(table.parent).as_posix(): row if path == image else None
                    for path in images
                }
            )
    update_scans(tables)
    # A run that only renews pages has no crashes; those of failed scans are in earlier logs.
    crashes = Crashes(layout.runs() if settings.run.reports_only else [results.logs])
    others = OtherScans.of(settings, layout, scans)
    by_participant: dict[str, list[Scan]] = {}
    for scan in scans:
        by_participant.setdefault(scan.participant, []).append(scan)
    pages = []
    for participant, own in by_participant.items():
        if any(is_taken(failures[scan]) for scan in own if scan in failures):
            continue
        reports = {
            scan.stem: _failed_report(scan, failures[scan], crashes)
            if scan in failures
            else _scan_report(layout, scan, results.cohort[scan], entries[scan])
            for scan in own
        }
        page = layout.page(participant)
        # Of jobs that end at the same time, the last finds what the others wrote.
        with locked(page):
            reports |= _other_reports(results, participant, reports, others)
            write_participant_report(page, _report(results, participant, reports))
        pages.append(page)
    return pages


def _other_reports(
    results: Results, participant: str, own: Collection[str], others: OtherScans
) -> dict[str, ScanReport]:
    """What is said of scans that this run did not select, by their names."""
    layout, reports = results.layout, {}
    roots = derivative_roots(results.settings)
    for scan in scans_with_outputs(results.settings.bids_dir, layout, participant):
        if scan.stem not in own:
            entries = entries_of(layout, scan, roots)
            known = others.known(scan, entries)
            reports[scan.stem] = _scan_report(layout, scan, known, entries, selected=False)
    for scan, run, file in others.failed(participant, reports.keys()):
        facts, crash = (('T1w', scan.path.name),), _crash(run, file)
        reports[scan.stem] = ScanReport(
            scan.stem, crash_reason(file), facts, (), (), crash=crash, selected=False
        )
    return reports


def _report(
    results: Results, participant: str, scans: Mapping[str, ScanReport]
) -> ParticipantReport:
    # A run that was called from Python has no command line, and no file of what was asked for.
    # Other settings hold what the run found out, such as its folder in the work directory.
    command, asked = results.logs.command, results.logs.settings
    return ParticipantReport(
        participant=participant,
        version=__version__,
        run_id=results.logs.run_id,
        warnings=_warnings(results.settings, results.model),
        scans=tuple(report for _, report in sorted(scans.items())),
        methods=results.text,
        settings=asked.read_text(encoding='utf-8')
        if asked.is_file()
        else to_toml(results.settings),
        command=command.read_text(encoding='utf-8').strip() if command.is_file() else '',
    )


def _row(covariates: Covariates, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The measures of a scan by the names of their columns."""
    site = entries.get('SourceSite', covariates.site)
    sites = {'source_site': site, 'target_site': entries.get('TargetSite')}
    return sites | {name: entries[name] for name in MEASURES if name in entries}


def _failed_report(scan: Scan, error: str, crashes: Crashes) -> ScanReport:
    """What is said of a scan that failed in the latest of some runs."""
    crash = None
    if found := crashes.of(scan):
        crash, reason = _crash(*found), crash_reason(found[1])
        error = error if reason in error else f'{error}; an earlier run failed: {reason}'
    return ScanReport(scan.stem, error, (('T1w', scan.path.name),), (), (), crash=crash)


def _crash(run: RunFiles, file: Path) -> tuple[str, str]:
    """Name and text of a crash file for a page."""
    return run.link(file), file.read_text(errors='replace')


def _scan_report(
    layout: SpaceLayout,
    scan: Scan,
    covariates: Covariates | None,
    entries: Mapping[str, Any],
    *,
    selected: bool = True,
) -> ScanReport:
    """What is said of a scan; without covariates, of one that nothing tells them of."""
    measures = tuple(
        Measure(
            name,
            f'{entries[name]:.4g}',
            measure.meaning,
            flagged=measure.is_unusual(entries[name], entries),
        )
        for name, measure in MEASURES.items()
        if isinstance(entries.get(name), float | int)
    )
    pictures = tuple(
        Picture(*words, path.relative_to(layout.root).as_posix(), alternates=desc in ALTERNATING)
        for desc, words in FIGURES.items()
        if (path := layout.figure(scan, desc)).is_file()
        and (desc in PREPROC_FIGURES or 'TargetSite' in entries)
    )
    summary = _summary(layout, scan, covariates or Covariates(), entries)
    if covariates is None:
        del summary['Site'], summary['Age, sex']
    unread = covariates.unread.values() if covariates else ()
    warnings = *_scan_warnings(entries), *unread
    return ScanReport(
        scan.stem,
        None,
        tuple(summary.items()),
        measures,
        pictures,
        warnings,
        selected=selected,
    )


def _summary(
    layout: SpaceLayout, scan: Scan, covariates: Covariates, entries: Mapping[str, Any]
) -> dict[str, str]:
    """Facts of a scan, for the top of its part of the page."""
    age = 'not known' if math.isnan(covariates.age) else f'{covariates.age:g} years'
    kinds = {'head': 'a whole head', 'brain': 'a skull-stripped brain'}
    summary = {
        'T1w': scan.path.name,
        'Shows': kinds.get(entries.get('HeadKind', ''), 'not recorded'),
        'Site': f'{covariates.site} ({covariates.site_from})' if covariates.site else 'not known',
        'Age, sex': f'{age}, {covariates.sex or "not known"}',
        'Space': str(entries.get('Resolution', layout.space.protocol.template)),
        'Brain extraction': str(entries.get('SkullStripMethod', 'not recorded')),
    }
    if 'TargetSite' in entries:
        phantom = ' (made from simulated scans)' if entries.get('PhantomModel') else ''
        summary |= {
            'Target site': str(entries['TargetSite']),
            'Model': f'{entries.get("ModelName")}{phantom}, '
            f'SHA-256 {str(entries.get("ModelSHA256"))[:16]}',
            'Method': ', '.join(_how(entries)),
            'Device': str(entries.get('Device')),
        }
    return summary


def _how(entries: Mapping[str, Any]) -> list[str]:
    """How a scan was harmonized, in words."""
    parts = [str(entries.get('HarmonizationMethod'))]
    if 'SamplingSteps' in entries:
        parts += [f'{entries["SamplingSteps"]} steps']
        parts += ['denoised' if entries.get('Denoised') else 'noise kept']
    used = 'not used' if entries.get('LabelBlind') else 'used where known'
    return [*parts, f'age and sex {used}']


def _scan_warnings(entries: Mapping[str, Any]) -> tuple[str, ...]:
    warnings = []
    if SLOPPY in entries:
        warnings.append(
            'The scan was preprocessed with --sloppy, in few iterations: it is not suitable for '
            'analysis.'
        )
    if not entries.get('SourceSiteKnown', True):
        scans = entries.get('ScansAdaptedTo', 0)
        measured = f'{scans} scans of the site' if scans else 'this scan alone'
        whose = 'these subjects' if scans else 'its subject'
        warnings.append(
            'The model does not know the site of this scan: the site appearance was measured in '
            f'{measured}, and may contain features of {whose}.'
        )
    if entries.get('anatomy_flag', 'none') not in ('none', 'not checked'):
        warnings.append(
            f'Harmonization may have changed the anatomy: {entries["anatomy_flag"]}. Compare the '
            'pictures before and after.'
        )
    if (share := entries.get('bright_share', 0)) > 0:
        warnings.append(
            f'{100 * share:.2g} % of the brain outshines all tissue, as vessels do after contrast '
            'agent, and was left out of the intensity scale. Exclude contrast-enhanced scans.'
        )
    return (*warnings, *_unchecked(entries))


def _unchecked(entries: Mapping[str, Any]) -> list[str]:
    """What no guard could look at, as sentences; a scan does not pass in silence."""
    parts = [entries.get(f'{what}_unchecked', 'none') for what in ('brain', 'harmonization')]
    return [f'Could not be checked: {part}.' for part in parts if part != 'none']


def _warnings(settings: Settings, model: FoundModel | None) -> tuple[str, ...]:
    warnings = []
    if model and model.info.phantom:
        warnings.append(
            f'The model {model.info.name} was made from simulated scans; it is not suitable for '
            'real ones.'
        )
    if settings.preproc.sloppy:
        warnings.append('--sloppy: only few iterations were run; not suitable for analysis.')
    return tuple(warnings)
