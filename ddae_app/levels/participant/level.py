"""Participant level: preprocess and harmonize every selected T1w."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nipype.pipeline.engine import Workflow

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import dataset_name, write_description
from ddae_app.bids.layout import Layout, RunFiles, SpaceLayout
from ddae_app.bids.scan import Scan
from ddae_app.bids.understood import near_twins
from ddae_app.engine.decision import Decision, listing, summary
from ddae_app.engine.inputs import (
    Selected,
    check_sites_known,
    derivative_roots,
    derivatives,
    layout_of,
    protocol_without_model,
    select_scans,
    skull_strip_of,
)
from ddae_app.engine.plan import (
    Planner,
    SiteScans,
    measure_unseen_sites,
    preprocess_missing,
    preprocessing_of,
    scans_by_site,
)
from ddae_app.engine.run import Crashes, crash_reason, run_workflow
from ddae_app.files import remove_temporary_files
from ddae_app.levels.participant.calibration import sites_to_calibrate
from ddae_app.levels.participant.doubts import (
    doubts_of,
    tell_what_changed,
    warn_of_unknown_sites,
)
from ddae_app.levels.participant.folder_models import models_of_dataset
from ddae_app.levels.participant.methods_text import methods_text, text_of_outputs
from ddae_app.levels.participant.results import (
    Results,
    outputs_missing,
    with_unreached,
    write_results,
)
from ddae_app.methods.compatibility import (
    check_options,
    check_protocol,
    check_target,
    site_refusal,
    unseen_site_policy,
)
from ddae_app.methods.device import resolve_device
from ddae_app.methods.find import PACKAGED, FoundModel, find_model
from ddae_app.reports.boilerplate import write_boilerplate
from ddae_app.settings import Settings
from ddae_app.workflows.harmonize import HarmonizeRequest
from ddae_app.workflows.participant import ScanPlan, describe, init_participant_wf
from ddae_app.workflows.preproc import preprocessing_methods

log = logging.getLogger('ddae_app')

BATCH_SIZE = 16
"""Slices that a network sees at once."""


def run_participant(
    settings: Settings,
    logs: RunFiles,
    default_model: Path | None,
    selected: Selected | None = None,
) -> int:
    """Preprocess and harmonize the selected scans; one that fails does not affect any other.

    Parameters
    ----------
    settings : Settings
    logs : RunFiles
        Of this run.
    default_model : Path or None
        Model to use where --model is not given (``$DDAE_MODEL``).
    selected : tuple of list of Scan and Cohort, optional
        The scans of these settings, where they have been selected.

    Returns
    -------
    int
        0 if every scan has its outputs, else 1.

    Raises
    ------
    DdaeError
        Something is wrong that concerns every scan.
    """
    # In a dry run, they are not there yet.
    coming = sites_to_calibrate(settings, default_model) if settings.run.dry_run else {}
    model = _model(settings, default_model, coming)
    if model:
        policy = unseen_site_policy(model.info, settings.harmonize.unseen_site)
        settings = replace(settings, harmonize=replace(settings.harmonize, unseen_site=policy))
    scans, cohort = selected or select_scans(settings)
    if model:
        check_sites_known(settings, cohort)
        here = {site for scan in scans if (site := cohort[scan].site)}
        known = model.info.source_sites
        for line in near_twins(here - set(known), known):
            log.warning('%s', line)
        asked = settings.preproc
        layout = layout_of(settings, check_protocol(model.info, asked.template, asked.slices))
        of_folder = model.path in layout.models()
        if settings.harmonize.unseen_site == 'agnostic':
            others = [scan for scan in scans if cohort[scan].site not in coming]
            warn_of_unknown_sites(model, others, cohort, of_folder=of_folder)
        part = settings.select.participant_label or settings.select.session_label
        if not part and of_folder:
            tell_what_changed(model, scans, cohort, layout)
    else:
        layout = layout_of(settings, protocol_without_model(settings))
    run = _Run(settings, scans, cohort, layout, model, logs)
    if settings.run.dry_run:
        return run.dry_run(coming)
    write_description(
        settings.output_dir, settings.bids_dir, derivatives(settings), settings.run.container
    )
    if settings.run.reports_only:
        faults = {scan: fault for scan in scans if (fault := cohort[scan].fault)}
        return run.finish(faults)
    return run.process()


class _Run:
    """One run of the participant level, and what all its parts need."""

    def __init__(
        self,
        settings: Settings,
        scans: Sequence[Scan],
        cohort: Cohort,
        layout: SpaceLayout,
        model: FoundModel | None,
        logs: RunFiles,
    ) -> None:
        self.settings, self.scans, self.cohort = settings, scans, cohort
        self.layout, self.model, self.logs = layout, model, logs

    def dry_run(self, coming: Collection[str]) -> int:
        """Print what would be done for each scan, and write nothing; some sites become known."""
        planner = self._planner(None)
        asked = replace(self.settings.harmonize, unseen_site='agnostic')
        of_known = replace(planner, settings=replace(self.settings, harmonize=asked))
        decisions = [
            (of_known if self.cohort[scan].site in coming else planner).decide(scan)
            for scan in self.scans
        ]
        if self._adapts:
            # Only now is it known in which scans the appearance of an unseen site is measured.
            new = {decision.scan for decision in decisions if decision.preprocess.is_work}
            planner = self._planner(scans_by_site(self.settings, self.layout, coming=new))
            decisions = self._decisions(self.scans, planner)
        print('\n'.join(listing(decisions)))
        for line in summary(decisions):
            log.info('%s', line)
        return 1 if any(decision.refusal for decision in decisions) else 0

    def process(self) -> int:
        """Decide what is to be done, do it, and write the results."""
        run = self.settings.run
        failures, site_scans = {}, None
        if self._adapts and not run.boilerplate_only:
            failures = self._preprocess_first()
            # What an earlier run left of a scan that failed now is another image.
            without = self._crashed(failures)
            site_scans = scans_by_site(self.settings, self.layout, without)
        planner = self._planner(site_scans, anew=run.boilerplate_only)
        decisions = self._decisions([s for s in self.scans if s not in failures], planner)
        if failures and run.stop_on_first_crash:
            unreached = [d.scan for d in decisions if d.is_work or d.refusal]
            return self.finish(failures, unreached=unreached)
        failures |= {d.scan: d.refusal for d in decisions if d.refusal}
        # Scans may have failed when this run calibrated their sites.
        failures |= self._crashed([d.scan for d in decisions if d.preprocess.is_work])
        decisions = [decision for decision in decisions if decision.scan not in failures]
        plans = [planner.plan(decision) for decision in decisions if decision.is_work]
        if not plans:
            what = 'no other scan is to be processed' if failures else 'all outputs are up to date'
            log.info('%s; writing pages and tables', what)
            return self.finish(failures)
        for line in () if run.boilerplate_only else summary(decisions):
            log.info('%s', line)
        plans, appearances, unmeasured = self._measure_sites(plans)
        failures |= unmeasured
        if unmeasured and (run.stop_on_first_crash or not plans):
            return self.finish(failures, unreached=[plan.scan for plan in plans])
        build = self._builder(plans, appearances)
        text = self._methods_text(plans, build)
        write_boilerplate(self.logs.citations, text)
        if run.boilerplate_only:
            log.info('methods text: %s', self.logs.citations['md'])
            return 0
        scans = [plan.scan for plan in plans]
        for scan in scans:
            for folder in (self.layout.root / scan.folder, self.layout.figures(scan.participant)):
                remove_temporary_files(folder, f'{scan.stem}_')
        self._remove_leftovers([plan.scan for plan in plans if plan.harmonize_record])
        failures |= run_workflow(build, scans, run, self.logs)
        unreached = [plan.scan for plan in plans if not planner.is_made(plan)]
        return self.finish(failures, text, unreached)

    def _crashed(self, scans: Collection[Scan]) -> dict[Scan, str]:
        """Those of some scans of which a step failed in this run, and why."""
        crashes = Crashes([self.logs])
        return {scan: crash_reason(found[1]) for scan in scans if (found := crashes.of(scan))}

    def _remove_leftovers(self, scans: Sequence[Scan]) -> None:
        """Delete what an earlier harmonization wrote of scans, and this one does not replace."""
        site_effect = self.settings.harmonize.write_site_effect
        for scan in scans:
            for path in self.layout.harmonize_leftovers(scan, site_effect=site_effect):
                log.info('%s of an earlier harmonization is removed', path.name)
                path.unlink()

    def earlier_methods(self, failures: Collection[Scan]) -> str:
        """The methods text of what earlier runs left, which becomes that of this run too."""
        scans = [scan for scan in self.scans if scan not in failures]
        text = text_of_outputs(self.settings, self.layout, self.model, scans)
        if text:
            write_boilerplate(self.logs.citations, text)
        return text

    def finish(
        self,
        failures: Mapping[Scan, str],
        text: str | None = None,
        unreached: Collection[Scan] = (),
    ) -> int:
        """Write tables and pages, and report what failed.

        Parameters
        ----------
        failures : mapping of Scan to str
        text : str, optional
            The methods text; that of what earlier runs left, unless it is given.
        unreached : collection of Scan
            Those of which something was to be done that was not, whatever outputs they have.
        """
        roots = derivative_roots(self.settings)
        failed = outputs_missing(self.layout, self.scans, roots, harmonized=bool(self.model))
        stopped = bool(failures) and self.settings.run.stop_on_first_crash
        failed = with_unreached(failed, unreached, stopped=stopped) | dict(failures)
        if text is None:
            text = self.earlier_methods(failed)
        results = Results(self.settings, self.layout, self.cohort, self.model, self.logs, text)
        pages = write_results(results, self.scans, failed)
        for scan, reason in failed.items():
            log.error('%s failed: %s', scan.stem, reason)
        log.info('%d of %d T1w done', len(self.scans) - len(failed), len(self.scans))
        for page in pages:
            log.info('report: %s', page)
        return 1 if failed else 0

    @property
    def _adapts(self) -> bool:
        return self.model is not None and self.settings.harmonize.unseen_site == 'adapt'

    def _planner(self, site_scans: SiteScans | None, *, anew: bool = False) -> Planner:
        return Planner(self.settings, self.cohort, self.layout, self.model, site_scans, anew)

    def _decisions(self, scans: Sequence[Scan], planner: Planner) -> list[Decision]:
        return [planner.decide(scan) for scan in scans]

    def _preprocess_first(self) -> dict[Scan, str]:
        """Preprocess all scans, since the appearance of a site is measured in all of its scans."""
        asked = self.settings.harmonize
        if asked.stage == 'harmonize' or self.model is None:
            return {}
        info = self.model.info
        accepted = [
            scan
            for scan in self.scans
            if not self.cohort[scan].fault
            and not site_refusal(info, self.cohort[scan].site, asked.unseen_site)
        ]
        return preprocess_missing(self.settings, accepted, self.cohort, self.layout, self.logs)

    def _measure_sites(
        self, plans: Sequence[ScanPlan]
    ) -> tuple[list[ScanPlan], dict[str, Path], dict[Scan, str]]:
        """The plans that can be carried out, with the measured sites; why the others cannot."""
        sites = {plan.site.name: plan.site for plan in plans if plan.site and plan.harmonization}
        if not sites or self.model is None:
            return list(plans), {}, {}
        files, failed = measure_unseen_sites(
            self.settings, self.model, list(sites.values()), self.logs
        )
        reasons = {
            plan.scan: failed[plan.site.name]
            for plan in plans
            if plan.site and plan.site.name in failed
        }
        return [plan for plan in plans if plan.scan not in reasons], files, reasons

    def _builder(
        self, plans: Sequence[ScanPlan], appearances: Mapping[str, Path]
    ) -> Callable[[Sequence[Scan]], Workflow]:
        """Makes the workflow of some of the scans of these plans."""
        by_scan = {plan.scan: plan for plan in plans}
        anew = any(plan.extraction for plan in plans)
        preprocessing = preprocessing_of(self.settings, self.layout, plans) if anew else None
        request = self._request(appearances)
        return lambda scans: init_participant_wf(
            [by_scan[scan] for scan in scans],
            layout=self.layout,
            preprocessing=preprocessing,
            request=request,
            omp_nthreads=self.settings.run.omp_nthreads,
            sloppy=self.settings.preproc.sloppy,
        )

    def _methods_text(
        self, plans: Sequence[ScanPlan], build: Callable[[Sequence[Scan]], Workflow]
    ) -> str:
        """What the run does in words."""
        settings = self.settings
        methods = {plan.extraction.method if plan.extraction else None: plan for plan in plans}
        extractions = {method for method in methods if method}
        # A scan of each kind says it for all.
        done = describe(build([plan.scan for plan in methods.values()]))
        strip = sorted(
            {skull_strip_of(plan.preprocessed.image) for plan in plans if plan.preprocessed}
        )
        protocol = self.layout.space.protocol
        earlier = [preprocessing_methods(protocol, method) for method in strip]
        return methods_text(
            [*(part for part in earlier if part not in done), *done],
            settings,
            self.model if settings.harmonize.target_site else None,
            extractions=extractions,
            sites=[plan.covariates.site for plan in plans],
        )

    def _request(self, appearances: Mapping[str, Path]) -> HarmonizeRequest | None:
        asked, model = self.settings.harmonize, self.model
        if not (model and asked.target_site):
            return None
        return HarmonizeRequest(
            model=model.path,
            model_sha256=model.sha256,
            description=model.method.describe(keep_noise=asked.keep_noise),
            target_site=asked.target_site,
            unseen_site=asked.unseen_site,
            keep_noise=asked.keep_noise,
            device=str(resolve_device(asked.device)),
            batch_size=1 if self.settings.run.low_mem else BATCH_SIZE,
            reference=model.reference(asked.target_site),
            site_effect=asked.write_site_effect,
            appearances=appearances,
        )


def _harmonized_slices(output_dir: Path) -> str | None:
    """Which slices an earlier run harmonized, by the sidecar of one of its images."""
    images = output_dir.glob('sub-*/**/sub-*_space-*_desc-harmonized_T1w.nii.gz')
    indices = sidecars.read(image).get('SliceIndices') if (image := next(images, None)) else None
    return ('medial' if len(indices) == 1 else 'all') if isinstance(indices, list) else None


def _model(settings: Settings, default: Path | None, coming: Collection[str]) -> FoundModel | None:
    """The model of the run, if it fits what is asked of it; None to stop after preprocessing."""
    asked = settings.harmonize
    if asked.stage == 'preproc':
        return None
    trained = models_of_dataset(settings.output_dir)
    slices, flag = settings.preproc.slices, '--model'
    if asked.target_scans and asked.model:
        # In a dry run, the packaged networks stand for what would be calibrated of them.
        made = asked.model.is_relative_to(settings.output_dir)
        flag = '--target-scans' if made else PACKAGED
    if settings.run.reports_only:
        slices = slices or _harmonized_slices(settings.output_dir)
    model = find_model(asked.model, default, trained, asked.method, slices, flag=flag)
    log.info('%s', model.describe())
    if model.path in Layout(settings.output_dir).models():
        for line in doubts_of(model, dataset_name(settings.bids_dir)):
            log.warning('%s', line)
    # Pages say what each scan was harmonized to.
    if not (settings.run.reports_only or asked.target_site in coming):
        target = check_target(model.info, asked.target_site)
        if not asked.target_scans:
            log.info('target site: %s', model.describe_site(target))
    policy = unseen_site_policy(model.info, asked.unseen_site)
    check_options(model.info, policy, keep_noise=asked.keep_noise)
    return model
