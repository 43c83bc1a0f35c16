"""From the scans of a run to a plan for each: what lies on disk is read, and work is decided."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from nipype.pipeline.engine import Workflow

from ddae_app.bids import provenance, sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.extraction import Extraction, find_mask, is_alone
from ddae_app.bids.layout import Preprocessed, RunFiles, SpaceLayout
from ddae_app.bids.scan import Scan
from ddae_app.engine.decision import (
    Decision,
    OutputState,
    PlanRequest,
    ScanState,
    decide,
    summary,
)
from ddae_app.engine.digests import Digests
from ddae_app.engine.inputs import (
    dataset_links,
    derivative_roots,
    extraction_of,
    find_preprocessed,
    mask_filter,
    mask_folders,
    preprocessed_not_fetched,
    select_all_scans,
    tell_of_masks,
)
from ddae_app.engine.run import run_workflow
from ddae_app.errors import DdaeError
from ddae_app.files import not_fetched
from ddae_app.imaging.conform import count_voxels
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.templates import load_template, write_template
from ddae_app.methods.device import resolve_device
from ddae_app.methods.find import FoundModel
from ddae_app.settings import Settings
from ddae_app.workflows.harmonize import (
    SiteScan,
    UnseenSite,
    appearance_file,
    init_appearance_wf,
)
from ddae_app.workflows.participant import Preprocessing, ScanPlan, init_participant_wf

log = logging.getLogger('ddae_app')

MOST_SITE_SCANS = 40
"""More scans do not improve the appearance of a site."""

SiteScans = Mapping[str, Sequence[SiteScan]]
"""Preprocessed scans by their site."""


@dataclass(frozen=True)
class Planner:
    """Reads what earlier runs left, and plans what is to be done.

    Attributes
    ----------
    settings : Settings
    cohort : Cohort
    layout : SpaceLayout
        Of the output folder.
    model : FoundModel or None
        None to stop after preprocessing.
    site_scans : mapping of str to sequence of SiteScan, or None
        Where the appearance of an unseen site is measured in its scans: those of each site. None
        if that is not asked for, or they have not been preprocessed yet.
    anew : bool
        Plan as if there were no outputs.
    """

    settings: Settings
    cohort: Cohort
    layout: SpaceLayout
    model: FoundModel | None
    site_scans: SiteScans | None = None
    anew: bool = False

    def decide(self, scan: Scan) -> Decision:
        """What is to be done of one scan."""
        return decide(self.state_of(scan), self._request, self._roots)

    def plan(self, decision: Decision) -> ScanPlan:
        """What is to be run for a scan of which something is."""
        scan, links = decision.scan, self._links
        covariates, extraction = self.cohort[scan], decision.extraction
        mask = extraction.file if extraction and extraction.method == 'mask' else None
        files = decision.preprocessed or self.layout.preprocessed(scan)
        return ScanPlan(
            scan=scan,
            covariates=covariates,
            raw=sidecars.raw_uri(scan, self.settings.bids_dir),
            preprocessed=decision.preprocessed,
            sources=tuple(self.layout.uri(path, links) for path in (files.image, files.transform)),
            harmonization=self._request.metadata(covariates),
            preproc_record=decision.preproc_record,
            harmonize_record=decision.harmonize_record,
            raw_sha256=decision.raw_sha256,
            voxels=count_voxels(scan.path),
            site=self.unseen(covariates.site),
            extraction=extraction,
            mask=self.layout.uri(mask, links) if mask else None,
        )

    def is_made(self, plan: ScanPlan) -> bool:
        """Whether all outputs of a plan are there, made from what it says."""
        layout, scan = self.layout, plan.scan
        states = []
        if plan.preproc_record is not None:
            wanted = layout.preproc_outputs(scan)
            state = _output_state(layout.image('preproc', scan), wanted)
            states.append((state, plan.preproc_record))
        if plan.harmonize_record is not None:
            asked = self.settings.harmonize
            wanted = layout.harmonize_outputs(scan, site_effect=asked.write_site_effect)
            state = _output_state(layout.image('harmonized', scan), wanted)
            states.append((state, plan.harmonize_record))
        return all(not state.missing and state.record == record for state, record in states)

    def unseen(self, site: str | None) -> UnseenSite | None:
        """A site whose appearance is measured in its scans; None if the model knows it."""
        if self.model is None or self.site_scans is None or site is None:
            return None
        if site in self.model.info.source_sites:
            return None
        if site not in self._unseen:
            scans = _of_all_people(self.site_scans.get(site, ()), MOST_SITE_SCANS)
            digest = provenance.digest_of_images([scan.image for scan in scans])
            self._unseen[site] = UnseenSite(site, scans, digest)
        return self._unseen[site]

    def state_of(self, scan: Scan) -> ScanState:
        """What lies on disk of one scan."""
        layout, space, asked = self.layout, self.layout.space, self.settings.harmonize
        covariates = self.cohort[scan]
        # Outputs in the output folder itself are compared, and made again where they changed.
        roots = self._roots[:-1] if self._request.preprocess else self._roots
        reused = find_preprocessed(scan, space, roots)
        wanted = layout.harmonize_outputs(scan, site_effect=asked.write_site_effect)
        unseen = self.unseen(covariates.site)
        raw_not_fetched = not_fetched(scan.path)
        return ScanState(
            scan=scan,
            covariates=covariates,
            raw_sha256=None if raw_not_fetched else self._digests.of(scan.path),
            raw_not_fetched=raw_not_fetched,
            not_fetched=preprocessed_not_fetched(scan, space, self._roots),
            extraction=self._extraction_of(scan, reused),
            reused=reused,
            reused_record=provenance.read_record(reused.image) if reused else None,
            preproc=_output_state(layout.image('preproc', scan), layout.preproc_outputs(scan)),
            harmonized=_output_state(layout.image('harmonized', scan), wanted),
            own=find_preprocessed(scan, space, self._roots[-1:]),
            site_subjects=unseen.subjects if unseen else None,
            site_scans_sha256=unseen.digest if unseen else None,
        )

    @cached_property
    def _digests(self) -> Digests:
        run = self.settings.run
        return Digests(run.work_dir.resolve() / 'digests', remembers=not run.dry_run)

    @cached_property
    def _roots(self) -> list[Path]:
        return derivative_roots(self.settings)

    @cached_property
    def _links(self) -> dict[str, Path]:
        return dataset_links(self.settings)

    @cached_property
    def _request(self) -> PlanRequest:
        asked, model = self.settings, self.model
        return PlanRequest(
            protocol=self.layout.space.protocol,
            sloppy=asked.preproc.sloppy,
            model=model.info if model else None,
            facts=_facts_of(model) if model else None,
            target_site=asked.harmonize.target_site,
            unseen_site=asked.harmonize.unseen_site,
            keep_noise=asked.harmonize.keep_noise,
            preprocess=asked.harmonize.stage != 'harmonize',
            anew=self.anew,
        )

    def _extraction_of(self, scan: Scan, reused: Preprocessed | None) -> Extraction | str:
        """How the brain of a scan is extracted, where that is asked for; or why it cannot be."""
        if reused is not None or not self._request.preprocess:
            return Extraction('none')
        if not self._masks:
            return self._extraction
        try:
            mask = find_mask(
                scan,
                self._masks,
                mask_filter(self.settings),
                alone=is_alone(scan),
            )
            return not_fetched(mask) or Extraction('mask', mask, self._digests.of(mask))
        except DdaeError as e:
            return str(e)

    @cached_property
    def _extraction(self) -> Extraction:
        return extraction_of(self.settings.preproc)

    @cached_property
    def _masks(self) -> list[Path]:
        folders = mask_folders(self.settings)
        if folders:
            tell_of_masks(folders, self.settings.preproc)
        return folders

    @cached_property
    def _unseen(self) -> dict[str, UnseenSite]:
        # Once a site: every scan of it is looked at.
        return {}


def scans_by_site(
    settings: Settings,
    layout: SpaceLayout,
    without: Collection[Scan] = (),
    coming: Collection[Scan] = (),
) -> dict[str, list[SiteScan]]:
    """Every preprocessed scan of the dataset by its site, but for some of them.

    In a dry run, those that would be preprocessed count as well. Their T1w images stand for what
    is not there yet, so that the digest of their site is none of an earlier run.
    """
    roots, by_site = derivative_roots(settings), dict[str, list[SiteScan]]()
    scans, cohort = select_all_scans(settings)
    faulty = [scan.stem for scan in scans if cohort[scan].fault]
    if faulty:
        log.warning(
            'no site is measured in %s%s, of which the tables are not understood',
            ', '.join(faulty[:5]), f' and {len(faulty) - 5} more' if len(faulty) > 5 else '',
        )  # fmt: skip
    for scan in scans:
        if scan in without:
            continue
        if message := preprocessed_not_fetched(scan, layout.space, roots):
            log.warning('%s is not used to measure its site: %s', scan.stem, message)
            continue
        files = find_preprocessed(scan, layout.space, roots)
        if scan in coming:
            image = mask = scan.path
        elif files:
            image, mask = files.image, files.mask
        else:
            continue
        if site := cohort[scan].site:
            by_site.setdefault(site, []).append(SiteScan(image, mask, scan.participant))
    return by_site


def preprocessing_of(
    settings: Settings, layout: SpaceLayout, plans: Sequence[ScanPlan]
) -> Preprocessing:
    """Load the template and choose the device, before any scan is touched.

    Raises
    ------
    TemplateError, UsageError
        Something is missing; the message says where to get it.
    """
    protocol = layout.space.protocol
    template = load_template(protocol.template, settings.preproc.templateflow_home)
    folder = settings.run.work_dir.resolve() / 'templates'
    methods = {plan.extraction.method for plan in plans if plan.extraction}
    network = bool(methods & {'hd-bet', 'deepbet'})
    device = str(resolve_device(settings.harmonize.device)) if network else 'cpu'
    grid = model_grid(protocol.template, protocol.grid)
    return Preprocessing(write_template(template, folder, grid), device)


def decide_preprocessing(
    settings: Settings, scans: Sequence[Scan], cohort: Cohort, layout: SpaceLayout
) -> tuple[Planner, list[Decision]]:
    """Which scans are to be preprocessed, whatever is asked of the model."""
    planner = Planner(settings, cohort, layout, None)
    return planner, [planner.decide(scan) for scan in scans]


def preprocess_missing(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    layout: SpaceLayout,
    logs: RunFiles,
) -> dict[Scan, str]:
    """Preprocess the scans that are not preprocessed yet; why each that failed did."""
    planner, decisions = decide_preprocessing(settings, scans, cohort, layout)
    for line in summary(decisions):
        log.info('%s', line)
    refused = {d.scan: d.refusal for d in decisions if d.refusal}
    plans = {d.scan: planner.plan(d) for d in decisions if d.is_work}
    if not plans:
        return refused
    preprocessing = preprocessing_of(settings, layout, list(plans.values()))

    def build(some: Sequence[Scan]) -> Workflow:
        return init_participant_wf(
            [plans[scan] for scan in some],
            layout=layout,
            preprocessing=preprocessing,
            request=None,
            omp_nthreads=settings.run.omp_nthreads,
            sloppy=settings.preproc.sloppy,
        )

    return refused | run_workflow(build, list(plans), settings.run, logs)


def _facts_of(model: FoundModel) -> sidecars.ModelFacts:
    info = model.info
    return sidecars.ModelFacts(model.method.label, info.name, model.sha256, info.phantom)


def _output_state(image: Path, wanted: Sequence[Path]) -> OutputState:
    if not image.is_file():
        return OutputState()
    missing = next((path.name for path in wanted if not path.is_file()), None)
    return OutputState(True, missing, provenance.read_record(image))


def _of_all_people(scans: Sequence[SiteScan], most: int) -> tuple[SiteScan, ...]:
    """At most so many: one of each participant, then a second, and so on, evenly spread."""
    rounds: list[list[int]] = []
    taken: Counter[str] = Counter()
    for i, scan in enumerate(scans):
        if taken[scan.participant] == len(rounds):
            rounds.append([])
        rounds[taken[scan.participant]].append(i)
        taken[scan.participant] += 1
    chosen: list[int] = []
    for those in rounds:
        chosen += _evenly(those, most - len(chosen))
    return tuple(scans[i] for i in sorted(chosen))


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many, spread over all."""
    step = max(len(numbers) / most, 1) if most else 1
    return [numbers[int(i * step)] for i in range(min(len(numbers), most))]


def measure_unseen_sites(
    settings: Settings, model: FoundModel, sites: Sequence[UnseenSite], logs: RunFiles
) -> tuple[dict[str, Path], dict[str, str]]:
    """Measure the appearance of sites that the model does not know, once each.

    Returns
    -------
    files : dict of str to Path
        By site, of those that were measured.
    failures : dict of str to str
        Why each site that failed did.
    """
    if not sites:
        return {}, {}
    device = str(resolve_device(settings.harmonize.device))
    build = partial(
        init_appearance_wf,
        model=model.path,
        model_sha256=model.sha256,
        device=device,
        omp_nthreads=settings.run.omp_nthreads,
    )
    failed = run_workflow(build, sites, settings.run, logs)
    work_dir = settings.run.work_dir.resolve()
    # With --stop-on-first-crash, sites after one that failed are not measured.
    files = {
        site.name: file
        for site in sites
        if site not in failed and (file := appearance_file(site, work_dir)).is_file()
    }
    return files, {site.name: reason for site, reason in failed.items()}
