"""Participant level: preprocess and harmonise every selected T1w."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import write_description
from ddae_app.bids.layout import Scan
from ddae_app.engine.inputs import (
    check_sites_known,
    output_space,
    prepare_preprocessing,
    scans_by_site,
    select_scans,
    skull_strip_of,
)
from ddae_app.engine.plan import Planner, listing, preprocess_missing, summary
from ddae_app.engine.run import run_workflow
from ddae_app.files import remove_leftovers
from ddae_app.levels.participant.methods_text import methods_text
from ddae_app.levels.participant.results import outputs_missing, write_results
from ddae_app.methods.device import resolve_device
from ddae_app.methods.find import (
    SLICE_NETWORKS,
    FoundModel,
    check_options,
    check_protocol,
    check_target,
    find_model,
)
from ddae_app.reports.boilerplate import read_boilerplate, write_boilerplate
from ddae_app.settings import Protocol, Settings
from ddae_app.workflows.harmonize import HarmonizeRequest
from ddae_app.workflows.participant import ScanPlan, init_participant_wf, methods
from ddae_app.workflows.preproc import preprocessing_methods

log = logging.getLogger('ddae_app')

BATCH_SIZE = 16


def run_participant(settings: Settings, log_dir: Path, default_model: Path | None) -> int:
    """Preprocess and harmonise the selected scans; one that fails hurts no other.

    Parameters
    ----------
    settings : Settings
    log_dir : Path
        Folder of this run's logs.
    default_model : Path or None
        Model to use where --model is not given (``$DDAE_MODEL``).

    Returns
    -------
    int
        0 if every scan has its outputs, else 1.

    Raises
    ------
    DdaeError
        Something is wrong that concerns every scan.
    """
    model = _model(settings, default_model)
    scans, cohort = select_scans(settings)
    if model:
        check_sites_known(settings, cohort)
    protocol = (
        check_protocol(model, settings.preproc.template, settings.preproc.slices)
        if model
        else protocol_without_model(settings)
    )
    space = output_space(protocol)
    run = settings.run
    if run.dry_run:
        return _list(settings, scans, cohort, space, model)
    write_description(settings.output_dir, settings.bids_dir)
    if run.reports_only:
        text = _last_methods(settings.output_dir)
        return _finish(settings, scans, cohort, space, model, {}, text, log_dir)
    unprepared, mates = {}, None
    if model and settings.harmonize.unseen_site == 'adapt' and not run.boilerplate_only:
        unprepared = _prepare_mates(settings, scans, cohort, space, model, log_dir)
        mates = scans_by_site(settings, space)
    planner = Planner(settings, cohort, space, model, mates, anew=run.boilerplate_only)
    verdicts = [planner.judge(scan) for scan in scans if scan not in unprepared]
    failures = unprepared | {v.scan: v.refusal for v in verdicts if v.refusal}
    plans = [verdict.plan() for verdict in verdicts if verdict.plan]
    if not plans:
        log.info('no scan is to be worked on; writing pages and tables')
        text = _last_methods(settings.output_dir)
        return _finish(settings, scans, cohort, space, model, failures, text, log_dir)
    workflow, text = _workflow(settings, plans, space, model)
    write_boilerplate(log_dir, text)
    if run.boilerplate_only:
        log.info('methods text: %s', log_dir / 'CITATION.md')
        return 0
    for line in summary(verdicts):
        log.info('%s', line)
    planned = [plan.scan for plan in plans]
    for scan in planned:
        for folder in (scan.folder, scan.figure('any', '').parent):
            remove_leftovers(settings.output_dir / folder, f'{scan.stem}_')
    failures |= run_workflow(workflow, planned, run, log_dir)
    return _finish(settings, scans, cohort, space, model, failures, text, log_dir)


def _model(settings: Settings, default: Path | None) -> FoundModel | None:
    """The model of the run, if it fits what is asked of it; None to stop after preprocessing."""
    asked = settings.harmonize
    if asked.stage == 'preproc':
        return None
    model = find_model(asked.model, default, settings.output_dir, asked.method)
    log.info('%s', model.describe())
    check_target(model, asked.target_site)
    check_options(model, asked.unseen_site, asked.keep_noise)
    return model


def _list(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    model: FoundModel | None,
) -> int:
    """Say on standard output what would be done for each scan, and write nothing."""
    planner = Planner(settings, cohort, space, model)
    verdicts = [planner.judge(scan) for scan in scans]
    unprepared = any(verdict.preprocess.is_work for verdict in verdicts)
    if model and settings.harmonize.unseen_site == 'adapt' and not unprepared:
        # Only now is it known which scans show the look of an unseen site.
        planner = Planner(settings, cohort, space, model, scans_by_site(settings, space))
        verdicts = [planner.judge(scan) for scan in scans]
    print('\n'.join(listing(verdicts)))
    for line in summary(verdicts):
        log.info('%s', line)
    return 1 if any(verdict.refusal for verdict in verdicts) else 0


def protocol_without_model(settings: Settings) -> Protocol:
    """The protocol of a run that has no model to ask: the paper's, but of all slices.

    The networks that it is compared with take the medial one only, and so did the
    DDAE of the paper.
    """
    asked, usual = settings.preproc, Protocol()
    as_published = settings.harmonize.method in SLICE_NETWORKS or settings.train.preset == 'paper'
    slices = asked.slices or ('medial' if as_published else 'all')
    return replace(usual, template=asked.template or usual.template, slices=slices)


def _prepare_mates(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    model: FoundModel,
    log_dir: Path,
) -> dict[Scan, str]:
    """Preprocess first, since the look of a site is taken from all of its scans."""
    if settings.harmonize.stage == 'harmonize':
        return {}
    planner = Planner(settings, cohort, space, model)
    can = [scan for scan in scans if not planner.refusal(cohort[scan].site)]
    return preprocess_missing(settings, can, cohort, space, log_dir)


def _last_methods(output_dir: Path) -> str:
    """The methods text of the latest run here; run ids begin with the time."""
    texts = sorted((output_dir / 'logs').glob('*/CITATION.md'))
    return read_boilerplate(texts[-1]) if texts else ''


def _workflow(
    settings: Settings,
    plans: Sequence[ScanPlan],
    space: sidecars.Space,
    model: FoundModel | None,
):
    request = reference = None
    if model and settings.harmonize.target_site:
        request = HarmonizeRequest(
            model=model.path,
            method=model.info.method,
            target_site=settings.harmonize.target_site,
            unseen_site=settings.harmonize.unseen_site,
            keep_noise=settings.harmonize.keep_noise,
            device=str(resolve_device(settings.harmonize.device)),
            batch_size=1 if settings.run.low_mem else BATCH_SIZE,
            site_effect=settings.harmonize.write_site_effect,
        )
        reference = model.reference(request.target_site)
    raw = any(plan.preprocessed is None for plan in plans)
    workflow = init_participant_wf(
        plans,
        output_dir=settings.output_dir,
        space=space,
        preprocessing=prepare_preprocessing(settings, space.protocol) if raw else None,
        request=request,
        reference=reference,
        omp_nthreads=settings.run.omp_nthreads,
        sloppy=settings.preproc.sloppy,
    )
    said = methods(workflow)
    strip = sorted(
        {skull_strip_of(plan.preprocessed.image) for plan in plans if plan.preprocessed}
    )
    earlier = [preprocessing_methods(space.protocol, method) for method in strip]
    ran = ['preprocessing'] if raw else []
    ran += ['hd-bet'] if raw and settings.preproc.skull_strip == 'hd-bet' else []
    ran += ['harmonization'] if request else []
    text = methods_text(
        [*(part for part in earlier if part not in said), *said],
        ran,
        settings,
        model if request else None,
        [plan.covariates.site for plan in plans],
    )
    return workflow, text


def _finish(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    model: FoundModel | None,
    failures: Mapping[Scan, str],
    text: str,
    log_dir: Path,
) -> int:
    missing = outputs_missing(settings.output_dir, scans, space, harmonized=model is not None)
    failed = missing | dict(failures)
    pages = write_results(
        settings, scans, cohort, space, model=model, failures=failed, text=text, log_dir=log_dir
    )
    for scan, reason in failed.items():
        log.error('%s failed: %s', scan.stem, reason)
    log.info('%d of %d T1w done', len(scans) - len(failed), len(scans))
    for page in pages:
        log.info('report: %s', page)
    return 1 if failed else 0
