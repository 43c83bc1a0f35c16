"""What is to be done for each scan, and why: new, changed, incomplete, done, or taken over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ddae_app.bids import provenance as records
from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort, Covariates
from ddae_app.bids.layout import Scan
from ddae_app.engine.inputs import (
    derivative_roots,
    find_preprocessed,
    prepare_preprocessing,
)
from ddae_app.engine.run import run_workflow
from ddae_app.errors import WeightsError
from ddae_app.files import digest_of
from ddae_app.imaging.weights import check_weights
from ddae_app.methods.find import FEWEST_PEOPLE, FoundModel, too_few_to_adapt
from ddae_app.settings import Settings
from ddae_app.workflows.derivatives import (
    harmonize_outputs,
    harmonized_path,
    preproc_outputs,
    preproc_path,
)
from ddae_app.workflows.harmonize import Preprocessed, SiteScan
from ddae_app.workflows.participant import ScanPlan, init_participant_wf

log = logging.getLogger('ddae_app')

MOST_SITE_SCANS = 40
"""The look of a site does not get better by more."""


@dataclass(frozen=True)
class Step:
    """What is to be done of a scan in one stage.

    Attributes
    ----------
    state : {'new', 'changed', 'incomplete', 'done', 'reused', 'none', 'refused'}
        The first three are work; ``none`` is what was not asked for.
    why : str
        What changed, what is missing, where it is taken from, why it is refused.
    """

    state: str
    why: str = ''

    @property
    def is_work(self) -> bool:
        """Whether anything is run."""
        return self.state in ('new', 'changed', 'incomplete')


@dataclass(frozen=True)
class Verdict:
    """What is to be done of a scan.

    Attributes
    ----------
    scan : Scan
    preprocess, harmonize : Step
    plan : callable or None
        Makes the plan, for which the scan is read; None if nothing is to be run.
    """

    scan: Scan
    preprocess: Step
    harmonize: Step
    plan: Callable[[], ScanPlan] | None = None

    @property
    def refusal(self) -> str | None:
        """Why the scan cannot be done, if so."""
        return next(
            (step.why for step in (self.preprocess, self.harmonize) if step.state == 'refused'),
            None,
        )


class Planner:
    """Finds out what is to be done, by what lies in the output folder and what that was made from.

    Parameters
    ----------
    settings : Settings
    cohort : Cohort
    space : Space
        Where the outputs lie.
    model : FoundModel or None
        None to stop after preprocessing.
    mates : mapping of str to sequence of SiteScan, optional
        Preprocessed scans of each site, where a site's look is taken from them.
    anew : bool
        Plan as if there were no outputs.
    """

    def __init__(
        self,
        settings: Settings,
        cohort: Cohort,
        space: sidecars.Space,
        model: FoundModel | None,
        mates: Mapping[str, Sequence[SiteScan]] | None = None,
        *,
        anew: bool = False,
    ) -> None:
        self.settings, self.cohort, self.space, self.model = settings, cohort, space, model
        self.mates, self.anew = mates, anew
        self.roots = derivative_roots(settings)
        self._digests: dict[Path, str | None] = {}

    def judge(self, scan: Scan) -> Verdict:
        """What is to be done of one scan."""
        covariates, none = self.cohort[scan], Step('none')
        of_site = self._site_scans(covariates.site)
        if refusal := self.refusal(covariates.site):
            return Verdict(scan, none, Step('refused', refusal))
        preprocess, found = self._preprocess(scan)
        if preprocess.state == 'refused':
            return Verdict(scan, preprocess, none)
        metadata = self._metadata(covariates)
        harmonize, record = none, None
        if metadata is not None:
            harmonize, record = self._harmonize(scan, metadata, found, of_site)
        if not (preprocess.is_work or harmonize.is_work):
            return Verdict(scan, preprocess, harmonize)

        def plan() -> ScanPlan:
            return ScanPlan(
                scan=scan,
                covariates=covariates,
                raw=sidecars.raw_uri(scan, self.settings.bids_dir),
                preprocessed=None if preprocess.is_work else found,
                harmonization=metadata,
                preproc_record=self._preproc_record(scan) if preprocess.is_work else None,
                harmonize_record=record() if record else None,
                raw_sha256=self._digest(scan.path),
                site_scans=of_site,
            )

        return Verdict(scan, preprocess, harmonize, plan)

    def refusal(self, site: str | None) -> str | None:
        """Why scans of a site cannot be harmonised, if so."""
        model, policy = self.model, self.settings.harmonize.unseen_site
        if model is None or site in model.info.sites:
            return None
        found = f'source site {site or "n/a"} is unknown to {model.info.name!r}'
        if model.info.phantom:
            return (
                f'{found}, which is a phantom model: it knows simulated scanners only; train a '
                'model on your data (ddae-app BIDS_DIR OUTPUT_DIR train)'
            )
        if policy == 'adapt' and site:
            if self.mates is None:
                return None
            people = len({mate.participant for mate in self._site_scans(site)})
            return None if people >= FEWEST_PEOPLE else too_few_to_adapt(site, people)
        if policy == 'agnostic':
            return None
        ways = '--unseen-site agnostic or adapt, ' if model.info.method == 'ddae' else ''
        return (
            f'{found} (it knows {", ".join(model.info.sites)}); give --source-site, '
            f'{ways}or a model trained with this site'
        )

    def _site_scans(self, site: str | None) -> tuple[SiteScan, ...]:
        """Scans that show the look of a site that the model does not know."""
        if self.model is None or self.mates is None or site is None:
            return ()
        known = site in self.model.info.sites
        return () if known else _evenly(self.mates.get(site, ()), MOST_SITE_SCANS)

    def _preprocess(self, scan: Scan) -> tuple[Step, Preprocessed | None]:
        """What is to be done before the model, and what is there already."""
        if self.settings.harmonize.stage == 'harmonize':
            found = find_preprocessed(scan, self.space, self.roots)
            if found is not None:
                return self._reuse(scan, found), found
            return Step(
                'refused',
                f'no preprocessed image in {", ".join(map(str, self.roots))}; run --stage preproc '
                'first, with the template of the model',
            ), None
        found = find_preprocessed(scan, self.space, self.roots[1:])
        if found is not None:
            return self._reuse(scan, found), found
        step = self._compare(
            preproc_outputs(scan, self.space),
            preproc_path(scan, self.space),
            lambda: self._preproc_record(scan),
        )
        own = find_preprocessed(scan, self.space, self.roots[:1])
        return step, None if step.is_work else own

    def _reuse(self, scan: Scan, found: Preprocessed) -> Step:
        """Take over what was preprocessed before, unless it was another image."""
        made = records.read_record(found.image) or {}
        before, now = made.get('RawSHA256'), self._digest(scan.path)
        if before and now and before != now:
            return Step(
                'refused',
                f'the T1w image changed since {found.image} was made of it; preprocess it again',
            )
        depth = len(preproc_path(scan, self.space).parts)
        return Step('reused', str(found.image.parents[depth - 1]))

    def _harmonize(
        self,
        scan: Scan,
        metadata: sidecars.Metadata,
        found: Preprocessed | None,
        of_site: Sequence[SiteScan],
    ) -> tuple[Step, Callable[[], records.Record]]:
        """What the model has to do; `found` is None if the scan is to be preprocessed anew."""
        asked = self.settings.harmonize

        def record() -> records.Record:
            made = self._preproc_record(scan) if found is None else records.identity(found.image)
            return records.of_harmonization(
                made,
                metadata,
                [mate.image for mate in of_site],
                keep_noise=asked.keep_noise,
                sloppy=self.settings.preproc.sloppy,
            )

        wanted = harmonize_outputs(scan, self.space, site_effect=asked.write_site_effect)
        step = self._compare(wanted, harmonized_path(scan, self.space), record)
        if found is None and step.state == 'done':
            step = Step('changed', 'preprocessing')
        return step, record

    def _compare(
        self, wanted: Sequence[Path], image: Path, expected: Callable[[], records.Record]
    ) -> Step:
        """Whether outputs are there, and made from what they should be; `image` tells."""
        root = self.settings.output_dir
        if self.anew or not (root / image).is_file():
            return Step('new')
        absent = next((path for path in wanted if not (root / path).is_file()), None)
        if absent:
            return Step('incomplete', f'{absent.name} is missing')
        made = records.read_record(root / image)
        if made is None:
            return Step('incomplete', 'interrupted, or made by an earlier version')
        now = expected()
        return Step('done') if made == now else Step('changed', records.difference(made, now))

    def _preproc_record(self, scan: Scan) -> records.Record:
        asked = self.settings.preproc
        return records.of_preprocessing(
            self._digest(scan.path),
            self.space.protocol,
            asked.skull_strip,
            self._weights_sha256,
            sloppy=asked.sloppy,
        )

    @cached_property
    def _weights_sha256(self) -> str | None:
        asked = self.settings.preproc
        if asked.skull_strip != 'hd-bet':
            return None
        if asked.hd_bet_weights is None:
            raise WeightsError('no folder of HD-BET weights; give --hd-bet-weights')
        return check_weights(asked.hd_bet_weights, asked.hd_bet_sha256)

    def _metadata(self, covariates: Covariates) -> sidecars.Metadata | None:
        asked, model = self.settings.harmonize, self.model
        if model is None or not asked.target_site:
            return None
        facts = sidecars.ModelFacts(
            model.info.method, model.info.name, model.sha256, model.info.phantom
        )
        return sidecars.harmonization(
            facts, covariates, asked.target_site, asked.unseen_site, self.settings.random_seed
        )

    def _digest(self, path: Path) -> str | None:
        if path not in self._digests:
            self._digests[path] = digest_of(path)
        return self._digests[path]


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """What a run is about to do: a line for each kind of work, and what changed."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for verdict in verdicts:
        for name, step in (('preprocess', verdict.preprocess), ('harmonize', verdict.harmonize)):
            if step.state not in ('none', 'refused'):
                why = f' ({step.why})' if step.state in ('changed', 'reused') else ''
                counts[name, step.state, why] += 1
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] != 'preprocess', item[0]))
    return [f'{name}: {n} {state}{why}' for (name, state, why), n in ordered]


def listing(verdicts: Sequence[Verdict]) -> list[str]:
    """A table, tab-separated, of what would be done for each scan and why."""
    lines = ['\t'.join(('scan', 'preprocess', 'harmonize', 'why'))]
    for verdict in verdicts:
        steps = verdict.preprocess, verdict.harmonize
        why = dict.fromkeys(step.why for step in steps if step.why)
        lines.append(
            '\t'.join([verdict.scan.stem, *(step.state for step in steps), '; '.join(why) or '-'])
        )
    return lines


def judge_preprocessing(
    settings: Settings, scans: Sequence[Scan], cohort: Cohort, space: sidecars.Space
) -> list[Verdict]:
    """Which scans are to be preprocessed, whatever is asked of the model."""
    alone = replace(settings, harmonize=replace(settings.harmonize, stage='preproc'))
    planner = Planner(alone, cohort, space, None)
    return [planner.judge(scan) for scan in scans]


def preprocess_missing(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    log_dir: Path,
) -> dict[Scan, str]:
    """Preprocess the scans that are not yet, and say why each that failed did."""
    verdicts = judge_preprocessing(settings, scans, cohort, space)
    for line in summary(verdicts):
        log.info('%s', line)
    plans = [verdict.plan() for verdict in verdicts if verdict.plan]
    if not plans:
        return {}
    workflow = init_participant_wf(
        plans,
        output_dir=settings.output_dir,
        space=space,
        preprocessing=prepare_preprocessing(settings, space.protocol),
        request=None,
        reference=None,
        omp_nthreads=settings.run.omp_nthreads,
        sloppy=settings.preproc.sloppy,
    )
    return run_workflow(workflow, [plan.scan for plan in plans], settings.run, log_dir)


def _evenly(scans: Sequence[SiteScan], most: int) -> tuple[SiteScan, ...]:
    """At most so many, spread over all."""
    step = max(len(scans) / most, 1)
    return tuple(scans[int(i * step)] for i in range(min(len(scans), most)))
