"""Evaluate the outputs: do site effects remain, and is biological variation preserved?"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from ddae_app.bids.layout import Layout
from ddae_app.engine.inputs import check_understood, select_scans
from ddae_app.errors import UsageError
from ddae_app.evaluation.biology import check_names
from ddae_app.evaluation.candidates import (
    FITTED_ELSEWHERE,
    NOTHING_TO_FIT,
    Candidate,
    blurred,
    cross_fitted,
    precomputed,
    pretrained,
    unharmonized,
)
from ddae_app.evaluation.data import EvaluationData
from ddae_app.evaluation.explanation import explain
from ddae_app.evaluation.findings import findings, headline
from ddae_app.evaluation.inception import inception_features
from ddae_app.evaluation.protocol import MEANING, controls, evaluate, halves
from ddae_app.levels.group.collect import Outputs, gather
from ddae_app.levels.group.figures import draw_pictures, typical_rows
from ddae_app.methods import registry
from ddae_app.methods.compatibility import mismatch
from ddae_app.methods.find import load_harmonizer, read_models
from ddae_app.methods.suitability import confounded_sites, unexamined_sites
from ddae_app.reports.evaluation import EvaluationReport, MethodReport
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

PROTOCOL = (
    'The medial axial slice of each scan is evaluated. Participants are split into two halves: a '
    'method that is fitted here is fitted to one half and evaluated on the other. There, in five '
    'folds, every probe is trained on the outputs of some participants and tested on the outputs '
    'of others. Intervals hold 95 % of 1000 bootstrap samples of participants within sites; '
    'that of icc, of 500 samples of those who were scanned at several sites; those of distances '
    'between sets of scans, of 100 samples of scans.'
)


def evaluate_outputs(settings: Settings, default_model: Path | None) -> EvaluationReport:
    """Evaluate the original scans, the harmonized scans, and baselines fitted to these scans.

    Parameters
    ----------
    settings : Settings
    default_model : Path or None
        Used where neither a flag nor the output folder names a model.

    Raises
    ------
    NotEvaluableError
        If there are too few participants, or if no scan is preprocessed.
    UsageError
        If a flag names a column, a site or a file that does not exist.
    InvalidBIDSError
        If the tables say of a scan what is not understood.
    """
    asked = settings.evaluate
    check_names(asked.biology)
    inception = inception_features(asked.inception_weights) if asked.inception_weights else None
    scans, cohort = select_scans(settings)
    check_understood(cohort, scans)
    outputs = gather(settings, scans, cohort)
    data = EvaluationData.from_cohort(outputs.source, outputs.cohort, asked.biology)
    baselines, left_out = fitted_here(outputs, data, settings.random_seed)
    cautions = [*_cautions(data), *left_out]
    for caution in cautions:
        log.warning('%s', caution)
    strange_target = _strange_target(outputs)
    if strange_target:
        log.info('%s', strange_target)
    candidates = [*_candidates(settings, outputs), *baselines, blurred(outputs.source)]
    log.info(
        'Evaluating %s on %d scans of %d sites.',
        ', '.join(method.name for method in candidates), len(data.images), round(1 / data.chance),
    )  # fmt: skip
    results = evaluate(
        data,
        candidates,
        outputs.target,
        seed=settings.random_seed,
        inception=inception,
        at_once=max(1, settings.run.nprocs // settings.run.omp_nthreads),
        shown=typical_rows(outputs).tolist(),
        progress=lambda text: log.info('%s', text),
    )
    estimates = {name: result.estimates for name, result in results.items()}
    measured = set().union(*estimates.values())
    meanings = MEANING | {k: v for each in data.variables for k, v in each.measures().items()}
    main_method = outputs.method if outputs.harmonized is not None else 'source'
    measured_controls = controls(data, seed=settings.random_seed)
    fewest = int(np.unique(data.sites, return_counts=True)[1].min())
    harmonized = outputs.harmonized is not None
    explanation = explain(
        estimates[main_method], measured_controls, data.chance, fewest, harmonized=harmonized
    )
    return EvaluationReport(
        headline=headline(estimates, main_method, data.chance),
        scans=len(data.images),
        target=outputs.target,
        chance=data.chance,
        protocol=f'{PROTOCOL} {strange_target}'.rstrip(),
        meanings={name: text for name, text in meanings.items() if name in measured},
        controls=measured_controls,
        methods=tuple(
            MethodReport(
                method.name,
                method.fitted_to,
                findings(
                    estimates[method.name],
                    estimates['source'],
                    data.chance,
                    label_blind=method.label_blind,
                    fitted=method.fitted_to != NOTHING_TO_FIT,
                ),
                estimates[method.name],
            )  # fmt: skip
            for method in candidates
        ),
        figures=draw_pictures(
            settings, outputs, results, measured_controls, data.chance, default_model
        ),
        cautions=cautions,
        seen=explanation.seen,
        advice=explanation.advice,
    )


def _cautions(data: EvaluationData) -> list[str]:
    """Why site and biology may not be told apart in these scans."""
    confounded = [
        f'Site {site} is confounded with {reason}: what the measures call a site effect may be '
        'biology.'
        for site, reason in confounded_sites(data).items()
    ]
    return [*confounded, *(f'{text[0].upper()}{text[1:]}.' for text in unexamined_sites(data))]


def _strange_target(outputs: Outputs) -> str:
    """What follows where the target is a packaged site, or that of other scans; else empty."""
    if outputs.target == outputs.baseline_target:
        return ''
    return (
        f'No scan of the target site {outputs.target} is part of this dataset. Distances to the '
        'scans of the target are therefore not measured, and the baselines are harmonized to '
        f'{outputs.baseline_target}, a site of this dataset.'
    )


def _candidates(settings: Settings, outputs: Outputs) -> list[Candidate]:
    candidates = [unharmonized(outputs.source)]
    if outputs.harmonized is not None:
        candidates.append(
            precomputed(
                outputs.method, outputs.harmonized, FITTED_ELSEWHERE,
                label_blind=outputs.label_blind,
            )
        )  # fmt: skip
    return candidates + _trained(settings, outputs)


def fitted_here(
    outputs: Outputs, data: EvaluationData, seed: int
) -> tuple[list[Candidate], list[str]]:
    """The baselines that are fitted to either half, and why others are left out.

    A method may refuse the participants of a half. That is known before anything is computed.

    Parameters
    ----------
    outputs : Outputs
    data : EvaluationData
        Of these outputs.
    seed : int
        Of the halves.
    """
    candidates, left_out = [], []
    scans = outputs.source, outputs.cohort, outputs.baseline_target
    for name, method in registry.refitted().items():
        try:
            for rows, _ in halves(data, seed) if method.check else ():
                registry.imported(method.check)(data.people(rows))
        except UsageError as error:
            left_out.append(
                f'The baseline {name} is not evaluated, since it cannot be fitted to one half of '
                f'the participants: {error}.'
            )
            continue
        candidates.append(cross_fitted(name, registry.imported(method.refit)(), *scans))
    return candidates, left_out


def _trained(settings: Settings, outputs: Outputs) -> list[Candidate]:
    """The trained baselines in the output folder that know the sites of the scans.

    A DDAE is evaluated by the outputs that the participant level computed with it.
    """
    candidates = []
    scans = outputs.source, outputs.cohort, outputs.baseline_target
    for model in read_models(Layout(settings.output_dir).models()):
        info = model.info
        name = f'{model.method.label} ({info.name})'
        if info.method == registry.DEFAULT or name == outputs.method:
            continue
        reason = mismatch(info, outputs.cohort['site'], outputs.protocol)
        if reason:
            log.warning('The model %s is not evaluated: %s.', model.path, reason)
            continue
        harmonizer = load_harmonizer(model.path, device=settings.harmonize.device)
        if harmonizer.facts()['LabelBlind']:
            images = harmonizer.transform(*scans)
            candidates.append(precomputed(name, images, FITTED_ELSEWHERE, label_blind=True))
        else:
            candidates.append(pretrained(name, harmonizer, *scans))
    return candidates


def metrics_json(report: EvaluationReport) -> str:
    """All measures with their intervals and numbers of scans, as JSON."""
    content = {
        'Headline': report.headline,
        'Scans': report.scans,
        'TargetSite': report.target,
        'Chance': report.chance,
        'Cautions': list(report.cautions),
        'WhatTellsTheSite': list(report.seen),
        'Advice': list(report.advice),
        'Protocol': report.protocol,
        'Measures': dict(report.meanings),
        'Controls': {name: vars(value) for name, value in report.controls.items()},
        'Methods': {
            method.name: {
                'Fitted': method.fitted_to,
                'Findings': [finding.text for finding in method.findings],
                'Estimates': {name: vars(value) for name, value in method.estimates.items()},
            }
            for method in report.methods
        },
    }
    return json.dumps(_without_nan(content), indent=2, allow_nan=False) + '\n'


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
