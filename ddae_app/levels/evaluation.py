"""Judging what a run has written: is the site gone, and is the person still there?"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.names import Scan, sidecar
from ddae_app.errors import ImageError, UsageError
from ddae_app.evaluation import candidates as ways
from ddae_app.evaluation.findings import findings
from ddae_app.evaluation.people import People
from ddae_app.evaluation.protocol import MEANING, Judgement, controls, evaluate
from ddae_app.harmonize.combat import ComBat
from ddae_app.harmonize.histogram import HistogramMatching
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import extract_slices
from ddae_app.imaging.templates import TEMPLATES
from ddae_app.levels.preparation import (
    derivative_roots,
    find_preprocessed,
    output_space,
    select_scans,
)
from ddae_app.reports.evaluation import EvaluationFigure, EvaluationReport, MethodReport
from ddae_app.reports.site_figures import draw_explained, draw_site_histograms
from ddae_app.settings import Protocol, Settings
from ddae_app.workflows.derivatives import harmonized_path, slices_path

log = logging.getLogger('ddae_app')

PROTOCOL = (
    'Medial axial slice of each scan. People are dealt into two halves; a method that is fitted '
    'here is fitted to one and judged on the other, where in five folds every probe learns from '
    'the outputs for some people and is judged on those for others. Intervals hold 95 % of 1000 '
    'bootstrap samples of people within sites.'
)


@dataclass(frozen=True)
class Outputs:
    """The medial slices of a dataset, before and after.

    Attributes
    ----------
    source : np.ndarray, shape (N, H, W), float32
    harmonized : np.ndarray of that shape, or None
        If the scans were harmonised.
    cohort : pandas.DataFrame, N rows
    target : str
    method : str
        What harmonised them.
    label_blind : bool
        Whether that was told no age.
    """

    source: np.ndarray
    harmonized: np.ndarray | None
    cohort: pd.DataFrame
    target: str
    method: str
    label_blind: bool


def evaluate_outputs(settings: Settings) -> EvaluationReport:
    """Judge the scans as they are, what became of them, and the baselines fitted to them.

    Raises
    ------
    UsageError
        If there are too few people, or nothing is preprocessed; one line that says so.
    """
    scans, cohort = select_scans(settings)
    outputs = gather(settings, scans, cohort)
    people, known = People.of(outputs.source, outputs.cohort), outputs.cohort
    candidates = [ways.untouched(outputs.source)]
    if outputs.harmonized is not None:
        fitted = 'elsewhere, perhaps to these very scans'
        candidates.append(
            ways.given(outputs.method, outputs.harmonized, fitted, label_blind=outputs.label_blind)
        )
    for name, method in (('histogram', HistogramMatching()), ('combat', ComBat())):
        judged = outputs.source, known, outputs.target
        candidates.append(ways.fitted_to_others(name, method, *judged))
    candidates.append(ways.blurred(outputs.source))
    log.info(
        'judging %s on %d scans of %d sites',
        ', '.join(way.name for way in candidates), len(known), known['site'].nunique(),
    )  # fmt: skip
    found = evaluate(
        people,
        candidates,
        outputs.target,
        seed=settings.random_seed,
        progress=lambda text: log.info('%s', text),
    )
    source = found['source'].estimates
    return EvaluationReport(
        scans=len(known),
        target=outputs.target,
        chance=people.chance,
        protocol=PROTOCOL,
        meanings=MEANING,
        controls=controls(people, seed=settings.random_seed),
        methods=tuple(
            MethodReport(
                way.name,
                way.fitted,
                findings(own, source, people.chance, label_blind=way.label_blind),
                own,
            )
            for way in candidates
            if (own := found[way.name].estimates)
        ),
        figures=_figures(found, people.sites),
    )


def _figures(found: Mapping[str, Judgement], sites: np.ndarray) -> tuple[EvaluationFigure, ...]:
    shown = [name for name in found if name != 'blur']
    return (
        EvaluationFigure(
            'What the site explains',
            'Share of the variance at each pixel, less what chance explains.',
            draw_explained({name: found[name].explained for name in shown}),
        ),
        EvaluationFigure(
            'Intensities by site',
            'All brain pixels of each site; where the site is gone the lines lie on each other.',
            draw_site_histograms({name: found[name].outputs for name in shown}, sites),
        ),
    )


def metrics_json(report: EvaluationReport) -> str:
    """Every figure with its interval and number of scans."""
    content = {
        'Scans': report.scans,
        'TargetSite': report.target,
        'Chance': report.chance,
        'Protocol': report.protocol,
        'Measures': dict(report.meanings),
        'Controls': {name: vars(value) for name, value in report.controls.items()},
        'Methods': {
            method.name: {
                'Fitted': method.fitted,
                'Findings': [finding.text for finding in method.findings],
                'Estimates': {name: vars(value) for name, value in method.estimates.items()},
            }
            for method in report.methods
        },
    }
    return json.dumps(_without_nan(content), indent=2, allow_nan=False) + '\n'


def gather(settings: Settings, scans: Sequence[Scan], cohort: Cohort) -> Outputs:
    """The medial slices of all scans that were preprocessed, or of those harmonised if any was.

    Raises
    ------
    UsageError
        If there are none.
    """
    space = _space(settings, scans)
    known = [scan for scan in scans if cohort[scan].site is not None]
    facts = {scan: _harmonized_facts(settings, scan, space) for scan in known}
    kinds = Counter(kind for kind in facts.values() if kind)
    kind = kinds.most_common(1)[0][0] if kinds else None
    sources, outputs, rows = [], [], []
    for scan in known:
        if kind and facts[scan] != kind:
            continue
        try:
            source = _medial_slice(settings, scan, space)
        except ImageError as error:
            log.warning('%s is left out: %s', scan.stem, error)
            continue
        if source is None:
            continue
        sources.append(source)
        if kind:
            outputs.append(_harmonized_slice(settings, scan, space))
        person = cohort[scan]
        rows.append((scan.participant, person.site, person.age, person.sex))
    if not rows:
        raise UsageError(f'no preprocessed scan of a known site in {settings.output_dir}')
    if len(rows) < len(scans):
        log.warning(
            '%d of %d scans are judged; the others lack a site, preprocessing, or the '
            'harmonization of most', len(rows), len(scans),
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=['subject', 'site', 'age', 'sex'])
    return Outputs(
        np.stack(sources),
        np.stack(outputs) if kind else None,
        table,
        kind[0] if kind else _target(settings, table),
        kind[1] if kind else 'nothing',
        kind is not None and kind[2],
    )


def _target(settings: Settings, table: pd.DataFrame) -> str:
    """The site that baselines are brought to where nothing was harmonised."""
    asked, sites = settings.harmonize.target_site, table['site']
    if asked is not None and asked not in set(sites):
        raise UsageError(
            f'--target-site {asked!r} is not among the sites {", ".join(sorted(set(sites)))}'
        )
    return asked or str(sites.value_counts().index[0])


def _space(settings: Settings, scans: Sequence[Scan]) -> sidecars.Space:
    """The space in which most of the scans were preprocessed."""
    asked, roots = settings.preproc.template, derivative_roots(settings)
    spaces = [
        output_space(replace(Protocol(), template=template))
        for template in TEMPLATES
        if asked in (None, template)
    ]
    counts = [sum(bool(find_preprocessed(s, space, roots)) for s in scans) for space in spaces]
    if not any(counts):
        raise UsageError(
            f'no scan was preprocessed in {", ".join(map(str, roots))}; run the participant level'
        )
    return spaces[int(np.argmax(counts))]


def _medial_slice(settings: Settings, scan: Scan, space: sidecars.Space) -> np.ndarray | None:
    """As a model sees it: cut already where the scan was harmonised, else from the whole image."""
    slices = settings.output_dir / slices_path(scan, space)
    if slices.is_file():
        return _middle(slices)
    found = find_preprocessed(scan, space, derivative_roots(settings))
    if found is None:
        return None
    image, mask = (np.asarray(volumes.read(file).dataobj) for file in (found.image, found.mask))
    grid = model_grid(space.protocol.template, space.protocol.grid)
    return extract_slices(image, mask > 0, grid, space.protocol).data[0]


def _harmonized_facts(
    settings: Settings, scan: Scan, space: sidecars.Space
) -> tuple[str, str, bool] | None:
    """To which site, and with what, a scan was harmonised, and whether that was label-blind."""
    path = settings.output_dir / harmonized_path(scan, space)
    if not path.is_file():
        return None
    facts = json.loads(sidecar(path).read_text(encoding='utf-8'))
    method = f'{facts["HarmonizationMethod"]} ({facts["ModelName"]})'
    return facts['TargetSite'], method, bool(facts.get('LabelBlind'))


def _harmonized_slice(settings: Settings, scan: Scan, space: sidecars.Space) -> np.ndarray:
    return _middle(settings.output_dir / harmonized_path(scan, space))


def _middle(path: Path) -> np.ndarray:
    """The middle slice of a stack in a file."""
    stack = volumes.read(path).dataobj
    return np.ascontiguousarray(stack[:, :, stack.shape[2] // 2], dtype=np.float32)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
