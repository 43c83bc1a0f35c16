"""Participant level: preprocess and harmonise every selected T1w."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import write_description
from ddae_app.bids.names import Scan
from ddae_app.files import remove_leftovers, write_atomically
from ddae_app.harmonize.device import resolve_device
from ddae_app.harmonize.models import (
    FEWEST_PEOPLE,
    SLICE_NETWORKS,
    FoundModel,
    check_options,
    check_protocol,
    check_target,
    find_model,
    too_few_to_adapt,
)
from ddae_app.levels.execution import run_workflow
from ddae_app.levels.outputs import outputs_missing, write_results
from ddae_app.levels.preparation import (
    check_sites_known,
    derivative_roots,
    find_preprocessed,
    output_space,
    prepare_preprocessing,
    preprocess_missing,
    scans_by_site,
    select_scans,
    skull_strip_of,
)
from ddae_app.settings import Protocol, Settings
from ddae_app.workflows.harmonize import HarmonizeRequest, SiteScan
from ddae_app.workflows.participant import ScanPlan, init_participant_wf, methods
from ddae_app.workflows.preproc import preprocessing_methods

log = logging.getLogger('ddae_app')

BATCH_SIZE = 16

MOST_SITE_SCANS = 40
"""The look of a site does not get better by more."""


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
    model = None
    if settings.harmonize.stage != 'preproc':
        asked = settings.harmonize
        model = find_model(asked.model, default_model, settings.output_dir, asked.method)
        log.info('%s', model.describe())
        check_target(model, asked.target_site)
        check_options(model, asked.unseen_site, asked.keep_noise)
    scans, cohort = select_scans(settings)
    if model:
        check_sites_known(settings, cohort)
    protocol = (
        check_protocol(model, settings.preproc.template, settings.preproc.slices)
        if model
        else protocol_without_model(settings)
    )
    space = output_space(protocol)
    write_description(settings.output_dir, settings.bids_dir)
    if settings.run.reports_only:
        text = _last_methods(settings.output_dir)
        return _finish(settings, scans, cohort, space, model, {}, text, log_dir)
    unprepared, mates = {}, None
    if model and settings.harmonize.unseen_site == 'adapt' and not settings.run.boilerplate_only:
        if settings.harmonize.stage != 'harmonize':
            known = model.info.sites
            can = [
                scan
                for scan in scans
                if (site := cohort[scan].site) in known or not _refusal(model, site, 'adapt', None)
            ]
            unprepared = preprocess_missing(settings, can, cohort, space, log_dir)
        mates = scans_by_site(settings, space)
    todo = [scan for scan in scans if scan not in unprepared]
    plans, failures = plan_scans(settings, todo, cohort, space, model, mates)
    failures |= unprepared
    workflow, text = _workflow(settings, plans, space, model)
    write_atomically(log_dir / 'CITATION.md', text + '\n')
    if settings.run.boilerplate_only:
        log.info('methods text: %s', log_dir / 'CITATION.md')
        return 0
    if plans:
        planned = [plan.scan for plan in plans]
        for scan in planned:
            for folder in (scan.folder, scan.figure('any', '').parent):
                remove_leftovers(settings.output_dir / folder, f'{scan.stem}_')
        failures |= run_workflow(workflow, planned, settings.run, log_dir)
    return _finish(settings, scans, cohort, space, model, failures, text, log_dir)


def protocol_without_model(settings: Settings) -> Protocol:
    """The protocol of a run that has no model to ask: the paper's, but of all slices.

    The networks that it is compared with take the medial one only, and so did the
    DDAE of the paper.
    """
    asked, usual = settings.preproc, Protocol()
    as_published = settings.harmonize.method in SLICE_NETWORKS or settings.train.preset == 'paper'
    slices = asked.slices or ('medial' if as_published else 'all')
    return replace(usual, template=asked.template or usual.template, slices=slices)


def plan_scans(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    model: FoundModel | None,
    mates: Mapping[str, Sequence[SiteScan]] | None = None,
) -> tuple[list[ScanPlan], dict[Scan, str]]:
    """What is to be done for each scan, and why not for the others.

    `mates` are the preprocessed scans of each site, where a site's look is taken from them.
    """
    roots = derivative_roots(settings)
    asked = settings.harmonize
    plans, failures = [], {}
    for scan in scans:
        covariates = cohort[scan]
        unseen = model is not None and covariates.site not in model.info.sites
        of_site: tuple[SiteScan, ...] = ()
        if model and unseen:
            site = covariates.site
            if mates is not None and site is not None:
                of_site = _evenly(mates.get(site, ()), MOST_SITE_SCANS)
            people = len({mate.participant for mate in of_site}) if mates is not None else None
            if refusal := _refusal(model, site, asked.unseen_site, people):
                failures[scan] = refusal
                continue
        search = roots if asked.stage == 'harmonize' or mates is not None else roots[1:]
        preprocessed = find_preprocessed(scan, space, search)
        if asked.stage == 'harmonize' and preprocessed is None:
            failures[scan] = (
                f'no preprocessed image in {", ".join(map(str, roots))}; run --stage preproc '
                'first, with the template of the model'
            )
            continue
        harmonization = None
        if model and asked.target_site:
            info = model.info
            facts = sidecars.ModelFacts(info.method, info.name, model.sha256, info.phantom)
            harmonization = sidecars.harmonization(
                facts, covariates, asked.target_site, asked.unseen_site, settings.random_seed
            )
        raw = sidecars.raw_uri(scan, settings.bids_dir)
        plans.append(ScanPlan(scan, covariates, raw, preprocessed, harmonization, of_site))
    return plans, failures


def _refusal(
    model: FoundModel, site: str | None, unseen_site: str, people: int | None
) -> str | None:
    """Why a scan from a site that the model does not know cannot be harmonised, if so.

    `people` counts those whose scans can show the look of the site; None if nobody asked.
    """
    found = f'source site {site or "n/a"} is unknown to {model.info.name!r}'
    if model.info.phantom:
        return (
            f'{found}, which is a phantom model: it knows simulated scanners only; train a model '
            'on your data (ddae-app BIDS_DIR OUTPUT_DIR train)'
        )
    if unseen_site == 'adapt' and site:
        enough = people is None or people >= FEWEST_PEOPLE
        return None if enough else too_few_to_adapt(site, people or 0)
    if unseen_site == 'agnostic':
        return None
    ways = '--unseen-site agnostic or adapt, ' if model.info.method == 'ddae' else ''
    return (
        f'{found} (it knows {", ".join(model.info.sites)}); give --source-site, '
        f'{ways}or a model trained with this site'
    )


def _last_methods(output_dir: Path) -> str:
    """The methods text of the latest run here; run ids begin with the time."""
    texts = sorted((output_dir / 'logs').glob('*/CITATION.md'))
    return texts[-1].read_text(encoding='utf-8').strip() if texts else ''


def _evenly(scans: Sequence[SiteScan], most: int) -> tuple[SiteScan, ...]:
    """At most so many, spread over all."""
    step = max(len(scans) / most, 1)
    return tuple(scans[int(i * step)] for i in range(min(len(scans), most)))


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
    return workflow, ' '.join([*(text for text in earlier if text not in said), said]).strip()


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
