"""Judging what a run has written: is the site gone, and is the person still there?"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from ddae_app.bids.layout import Layout
from ddae_app.engine.inputs import select_scans
from ddae_app.evaluation import candidates as ways
from ddae_app.evaluation.biology import check_names
from ddae_app.evaluation.candidates import Candidate
from ddae_app.evaluation.data import People
from ddae_app.evaluation.findings import findings, headline
from ddae_app.evaluation.inception import inception_features
from ddae_app.evaluation.protocol import MEANING, controls, evaluate
from ddae_app.levels.group.collect import Outputs, gather
from ddae_app.levels.group.figures import draw_pictures
from ddae_app.methods import registry
from ddae_app.methods.compatibility import mismatch
from ddae_app.methods.find import load_harmonizer, read_models
from ddae_app.reports.evaluation import EvaluationReport, MethodReport
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

PROTOCOL = (
    'Medial axial slice of each scan. People are dealt into two halves; a method that is fitted '
    'here is fitted to one and judged on the other, where in five folds every probe learns from '
    'the outputs for some people and is judged on those for others. Intervals hold 95 % of 1000 '
    'bootstrap samples of people within sites (of distances between crowds, of 100 samples of '
    'scans).'
)


def evaluate_outputs(settings: Settings, default_model: Path | None) -> EvaluationReport:
    """Judge the scans as they are, what became of them, and the baselines fitted to them.

    Parameters
    ----------
    settings : Settings
    default_model : Path or None
        Where neither a flag nor the output folder names one.

    Raises
    ------
    NotJudgedError
        If there are too few people, or nothing is preprocessed; one line that says so.
    UsageError
        If a flag asks for what is not there.
    """
    asked = settings.evaluate
    check_names(asked.biology)
    inception = inception_features(asked.inception_weights) if asked.inception_weights else None
    scans, cohort = select_scans(settings)
    outputs = gather(settings, scans, cohort)
    people = People.of(outputs.source, outputs.cohort, asked.biology)
    candidates = _candidates(settings, outputs)
    log.info(
        'judging %s on %d scans of %d sites',
        ', '.join(way.name for way in candidates), len(people.images), round(1 / people.chance),
    )  # fmt: skip
    found = evaluate(
        people,
        candidates,
        outputs.target,
        seed=settings.random_seed,
        inception=inception,
        progress=lambda text: log.info('%s', text),
    )
    source = found['source'].estimates
    measured = set().union(*(judged.estimates for judged in found.values()))
    meanings = MEANING | {k: v for column in people.further for k, v in column.measures().items()}
    judged = outputs.method if outputs.harmonized is not None else 'source'
    return EvaluationReport(
        headline=headline(
            {name: own.estimates for name, own in found.items()}, judged, people.chance
        ),
        scans=len(people.images),
        target=outputs.target,
        chance=people.chance,
        protocol=PROTOCOL,
        meanings={name: text for name, text in meanings.items() if name in measured},
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
        figures=draw_pictures(settings, outputs, found, default_model),
    )


def _candidates(settings: Settings, outputs: Outputs) -> list[Candidate]:
    judged = outputs.source, outputs.cohort, outputs.target
    found = [ways.untouched(outputs.source)]
    if outputs.harmonized is not None:
        found.append(
            ways.given(
                outputs.method, outputs.harmonized, ways.ELSEWHERE, label_blind=outputs.label_blind
            )
        )
    found += _trained(settings, outputs)
    for name, method in registry.refitted().items():
        found.append(ways.fitted_to_others(name, registry.imported(method.refit)(), *judged))
    return [*found, ways.blurred(outputs.source)]


def _trained(settings: Settings, outputs: Outputs) -> list[Candidate]:
    """The paper's baselines that the train level has left, where they know the sites.

    A DDAE is judged by what the participant level made with it.
    """
    found = []
    for model in read_models(Layout(settings.output_dir).models()):
        info = model.info
        name = f'{model.method.label} ({info.name})'
        if info.method == registry.DEFAULT or name == outputs.method:
            continue
        why = mismatch(info, {*outputs.cohort['site'], outputs.target}, outputs.protocol)
        if why:
            log.warning('%s is not judged: %s', model.path, why)
            continue
        harmonizer = load_harmonizer(model.path, device=settings.harmonize.device)
        if harmonizer.facts()['LabelBlind']:
            images = harmonizer.transform(outputs.source, outputs.cohort, outputs.target)
            found.append(ways.given(name, images, ways.ELSEWHERE, label_blind=True))
        else:
            judged = outputs.source, outputs.cohort, outputs.target
            found.append(ways.stored(name, harmonizer, *judged))
    return found


def metrics_json(report: EvaluationReport) -> str:
    """Every figure with its interval and number of scans."""
    content = {
        'Headline': report.headline,
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


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
