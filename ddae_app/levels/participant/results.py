"""After a run: what is there, the quality tables, and a page per participant."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddae_app import __version__
from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort, Covariates
from ddae_app.bids.dataset import QC_MEANING, update_scans
from ddae_app.bids.layout import Scan
from ddae_app.engine.run import crash_file, crash_reason
from ddae_app.imaging.anatomy import MOST_SHARE_CHANGE, MOST_UNEXPLAINED
from ddae_app.methods.find import FoundModel
from ddae_app.reports.participant import (
    Measure,
    ParticipantReport,
    Picture,
    ScanReport,
    write_participant_report,
)
from ddae_app.settings import Settings, to_toml
from ddae_app.workflows.derivatives import (
    harmonized_path,
    mask_path,
    native_path,
    preproc_path,
    slices_path,
)

USUAL_CORRELATION = 0.40
"""Fifteen real scans registered at .44 to .56; less is worth a look, much less is refused."""

USUAL_DICE = 0.92
"""Masks found in 48 scans overlap by .943 or more; masks 4 mm too small or large by .904, .933,
.907 and .884 in the middle, worse ones by less (benchmarks/failures.py)."""

NOTABLE_DISTANCE = 0.01
"""On the scale 0 to 1; scans of the target site itself move by about 0.0001."""

FIGURES = {
    'brain': (
        'Anatomical',
        'Brain mask',
        'The line is the outline of the brain that was found.',
    ),
    'registration': (
        'Anatomical',
        'Spatial normalization',
        "The scan and the template in turn; the line is the outline of the template's brain. It "
        'rests under the mouse.',
    ),
    'flicker': (
        'Harmonization',
        'Before and after',
        'In turn, in one fixed window: the contrast may change, no line may move. It rests under '
        'the mouse.',
    ),
    'harmonized': (
        'Harmonization',
        'Difference',
        'Before, after, and what harmonization added or took away; the line is the outline of the '
        'brain.',
    ),
    'planes': (
        'Harmonization',
        'All three planes',
        'Through the middle of the brain, and through the place where what changed follows least '
        'from the scan by contrast and shading.',
    ),
    'histogram': (
        'Harmonization',
        'Intensities',
        "Of the brain, before and after, against the target site's scans in training.",
    ),
}
"""Figures of a scan by their desc label: section, title, caption, in the order of the page."""

ALTERNATING = {'registration', 'flicker'}
"""Those of them that show two pictures in turn."""


def outputs_missing(
    output_dir: Path, scans: Sequence[Scan], space: sidecars.Space, *, harmonized: bool
) -> dict[Scan, str]:
    """Scans that lack an output, and which."""
    missing = {}
    for scan in scans:
        wanted = [preproc_path(scan, space), mask_path(scan, space)]
        if harmonized:
            wanted = [slices_path(scan, space), harmonized_path(scan, space)]
            wanted += [native_path(scan)] if space.protocol.depth > 1 else []
        absent = [path for path in wanted if not (output_dir / path).is_file()]
        if absent:
            missing[scan] = f'{absent[0]} was not written'
    return missing


def quality(output_dir: Path, scan: Scan, space: sidecars.Space) -> dict[str, Any]:
    """Texts and finite numbers in the sidecars of a scan, the harmonised image's last."""
    paths = preproc_path(scan, space), harmonized_path(scan, space)
    facts = {k: v for path in paths for k, v in sidecars.read(output_dir / path).items()}
    return {k: v for k, v in facts.items() if isinstance(v, str) or _is_finite(v)}


def _is_finite(value: Any) -> bool:
    # JSON has numbers that no float can hold.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def write_results(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    *,
    model: FoundModel | None,
    failures: Mapping[Scan, str],
    text: str,
    log_dir: Path,
) -> list[Path]:
    """Write ``*_scans.tsv`` and one HTML page per participant.

    Returns
    -------
    list of Path
        The pages.
    """
    rows = {}
    for scan in scans:
        facts = quality(settings.output_dir, scan, space)
        if facts and scan not in failures:
            sites = {'source_site': cohort[scan].site, 'target_site': facts.get('TargetSite')}
            rows[scan] = sites | {key: facts[key] for key in QC_MEANING if key in facts}
    image = preproc_path(Scan(Path(), '', None, ''), space).name
    update_scans(settings.output_dir, rows, image)
    pages = []
    # Pages alone run nothing that could fail; what did is in the logs of earlier runs.
    logs = log_dir.parent.iterdir() if settings.run.reports_only else [log_dir]
    runs = sorted(logs, reverse=True)
    # A run that was called from Python has none.
    command = log_dir / 'command.txt'
    for participant in dict.fromkeys(scan.participant for scan in scans):
        page = settings.output_dir / f'sub-{participant}.html'
        own = [scan for scan in scans if scan.participant == participant]
        report = ParticipantReport(
            participant=participant,
            version=__version__,
            run_id=log_dir.name,
            warnings=_warnings(settings, model),
            scans=tuple(
                _failed_report(scan, failures[scan], runs)
                if scan in failures
                else _scan_report(settings.output_dir, scan, cohort[scan], space)
                for scan in own
            ),
            methods=text,
            settings=to_toml(settings),
            command=command.read_text(encoding='utf-8').strip() if command.is_file() else '',
        )
        write_participant_report(page, report)
        pages.append(page)
    return pages


def _failed_report(scan: Scan, error: str, runs: Sequence[Path]) -> ScanReport:
    """What is said of a scan that failed in the latest of some runs, given by their logs."""
    file = next(filter(None, (crash_file(scan, run) for run in runs)), None)
    crash = None
    if file:
        crash = f'logs/{file.parent.name}/{file.name}', file.read_text(errors='replace')
        reason = crash_reason(file)
        error = error if reason in error else f'{error}; an earlier run failed: {reason}'
    return ScanReport(scan.stem, error, (('T1w', scan.path.name),), (), (), crash=crash)


def _scan_report(
    output_dir: Path,
    scan: Scan,
    covariates: Covariates,
    space: sidecars.Space,
) -> ScanReport:
    facts = quality(output_dir, scan, space)
    age = 'not known' if math.isnan(covariates.age) else f'{covariates.age:g} years'
    summary = {
        'T1w': scan.path.name,
        'Shows': {'head': 'a whole head', 'brain': 'a skull-stripped brain'}.get(
            facts.get('HeadKind', ''), 'not recorded'
        ),
        'Site': covariates.site or 'not known',
        'Age, sex': f'{age}, {covariates.sex or "not known"}',
        'Space': f'{space.protocol.template}, {facts.get("Resolution", "")}',
        'Brain extraction': str(facts.get('SkullStripMethod', 'not recorded')),
    }
    if 'TargetSite' in facts:
        phantom = ' (phantom model)' if facts.get('PhantomModel') else ''
        summary |= {
            'Target site': str(facts['TargetSite']),
            'Model': f'{facts.get("ModelName")}{phantom}, '
            f'SHA-256 {str(facts.get("ModelSHA256"))[:16]}',
            'Method': ', '.join(_how(facts)),
            'Device': str(facts.get('Device')),
            'Random seed': str(facts.get('RandomSeed')),
        }
    measures = tuple(
        Measure(name, f'{facts[name]:.4g}', meaning, flagged=is_unusual(name, facts))
        for name, meaning in QC_MEANING.items()
        if isinstance(facts.get(name), float | int)
    )
    pictures = tuple(
        Picture(*words, path.as_posix(), alternates=desc in ALTERNATING)
        for desc, words in FIGURES.items()
        if (output_dir / (path := scan.figure(desc, '.svg'))).is_file()
    )
    return ScanReport(
        scan.stem, None, tuple(summary.items()), measures, pictures, _scan_warnings(facts)
    )


def _how(facts: Mapping[str, Any]) -> list[str]:
    """How a scan was harmonised, in words."""
    parts = [str(facts.get('HarmonizationMethod'))]
    if 'SamplingSteps' in facts:
        parts += [f'{facts["SamplingSteps"]} steps']
        parts += ['denoised' if facts.get('Denoised') else 'noise kept']
    used = 'not used' if facts.get('LabelBlind') else 'used where known'
    return [*parts, f'age and sex {used}']


def is_unusual(name: str, facts: Mapping[str, Any]) -> bool:
    """Whether somebody should look at a measure."""
    if name == 'registration_correlation':
        return facts[name] < USUAL_CORRELATION
    if name == 'mask_template_dice':
        return facts[name] < USUAL_DICE
    if name == 'target_distance_after':
        before = facts.get('target_distance_before')
        return not isinstance(before, str | None) and facts[name] > before + NOTABLE_DISTANCE
    if name == 'anatomy_unexplained':
        return facts[name] > MOST_UNEXPLAINED
    if name.endswith('_share_change'):
        return abs(facts[name]) > MOST_SHARE_CHANGE
    return False


def _scan_warnings(facts: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    if not facts.get('SourceSiteKnown', True):
        scans = facts.get('ScansAdaptedTo', 0)
        look = f'{scans} scans of the site' if scans else 'this scan alone'
        found.append(
            'The model was not trained on the site of this scan: how the site looks was measured '
            f'from {look}, and what people there differ in may have been taken for it.'
        )
    if facts.get('anatomy_flag', 'none') != 'none':
        found.append(
            f'Harmonization may have changed the anatomy: {facts["anatomy_flag"]}. Compare the '
            'pictures before and after.'
        )
    return tuple(found)


def _warnings(settings: Settings, model: FoundModel | None) -> tuple[str, ...]:
    found = []
    if model and model.info.phantom:
        found.append(
            f'The model {model.info.name} is a phantom model: it was trained on simulated '
            'scanners and is of no use for real scans.'
        )
    if settings.preproc.sloppy:
        found.append('--sloppy: few iterations were made; not for results.')
    return tuple(found)
