"""What is to be done for each scan, and why: new, changed, incomplete, done, or reused.

Pure functions of what lies on disk (:class:`ScanState`) and what was asked for
(:class:`PlanRequest`); :mod:`ddae_app.engine.plan` reads the one and carries out the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddae_app.bids import provenance, sidecars
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Preprocessed
from ddae_app.bids.scan import Scan
from ddae_app.methods.compatibility import site_refusal
from ddae_app.methods.modelfile import ModelInfo
from ddae_app.settings import Protocol


@dataclass(frozen=True)
class Step:
    """What is to be done of a scan in one stage.

    Attributes
    ----------
    state : {'new', 'changed', 'incomplete', 'done', 'reused', 'none', 'refused'}
        The first three are work; ``none`` is what was not asked for.
    why : str
        What changed, what is missing, what is reused, why it is refused.
    """

    state: str
    why: str = ''

    @property
    def is_work(self) -> bool:
        """Whether anything is run."""
        return self.state in ('new', 'changed', 'incomplete')


NOTHING = Step('none')


@dataclass(frozen=True)
class Decision:
    """What is to be done of a scan.

    Attributes
    ----------
    scan : Scan
    preprocess, harmonize : Step
    preprocessed : Preprocessed or None
        What harmonization starts from; None to preprocess the scan.
    preproc_record, harmonize_record : dict or None
        What the outputs will be made from; None where they are not made.
    raw_sha256 : str or None
        Of the T1w image, to notice if it changes while the run continues.
    extraction : Extraction or None
        How the brain is extracted; None if the scan is not preprocessed.
    """

    scan: Scan
    preprocess: Step = NOTHING
    harmonize: Step = NOTHING
    preprocessed: Preprocessed | None = None
    preproc_record: provenance.Record | None = None
    harmonize_record: provenance.Record | None = None
    raw_sha256: str | None = None
    extraction: Extraction | None = None

    @property
    def is_work(self) -> bool:
        """Whether anything is run."""
        return self.preprocess.is_work or self.harmonize.is_work

    @property
    def refusal(self) -> str | None:
        """Why the scan cannot be processed, if so."""
        steps = self.preprocess, self.harmonize
        return next((step.why for step in steps if step.state == 'refused'), None)


@dataclass(frozen=True)
class PlanRequest:
    """What a run was asked to do with every scan.

    Attributes
    ----------
    protocol : Protocol
    sloppy : bool
    model : ModelInfo or None
        None to stop after preprocessing.
    facts : ModelFacts or None
        What sidecars say of the model.
    target_site : str or None
    unseen_site : {'refuse', 'agnostic', 'adapt'}
    keep_noise : bool
    preprocess : bool
        Whether scans may be preprocessed; else they have to be preprocessed already.
    anew : bool
        Plan as if there were no outputs.
    """

    protocol: Protocol
    sloppy: bool = False
    model: ModelInfo | None = None
    facts: sidecars.ModelFacts | None = None
    target_site: str | None = None
    unseen_site: str = 'refuse'
    keep_noise: bool = False
    preprocess: bool = True
    anew: bool = False

    def metadata(self, covariates: Covariates) -> sidecars.Metadata | None:
        """What sidecars say of the harmonization of a scan before the run, if there is one."""
        if self.facts is None or not self.target_site:
            return None
        return sidecars.harmonization(self.facts, covariates, self.target_site, self.unseen_site)


@dataclass(frozen=True)
class OutputState:
    """What an earlier run left of one stage of a scan.

    Attributes
    ----------
    present : bool
        Whether the image that stands for the stage is there.
    missing : str or None
        Name of the first output that is not.
    record : dict or None
        What the outputs were made from; None if that is not recorded.
    """

    present: bool = False
    missing: str | None = None
    record: provenance.Record | None = None


@dataclass(frozen=True)
class ScanState:
    """What lies on disk of a scan.

    Attributes
    ----------
    scan : Scan
    covariates : Covariates
    raw_sha256 : str or None
        Of the T1w image; None if it cannot be read.
    reused : Preprocessed or None
        What is to be taken over instead of preprocessing the scan, from another output folder, or
        where preprocessing was not asked for, from any.
    reused_record : dict or None
        What that was made from.
    preproc, harmonized : OutputState
        In the output folder.
    own : Preprocessed or None
        The preprocessed scan in the output folder, if it is complete.
    site_subjects : int or None
        Where the appearance of its site is measured in scans of the site: number of their
        subjects; None where it is not, or the scans have not been preprocessed yet.
    site_scans_sha256 : str or None
        Digest of these scans.
    extraction : Extraction or str
        How its brain is extracted if it is preprocessed; why it cannot be.
    raw_not_fetched, not_fetched : str or None
        What to do about the T1w image, or about the preprocessed scan, if its content was not
        fetched (:func:`ddae_app.files.not_fetched`).
    """

    scan: Scan
    covariates: Covariates
    raw_sha256: str | None
    reused: Preprocessed | None = None
    reused_record: provenance.Record | None = None
    preproc: OutputState = OutputState()
    harmonized: OutputState = OutputState()
    own: Preprocessed | None = None
    site_subjects: int | None = None
    site_scans_sha256: str | None = None
    extraction: Extraction | str = Extraction('none')
    raw_not_fetched: str | None = None
    not_fetched: str | None = None


def decide(state: ScanState, request: PlanRequest, searched: Sequence[Path] = ()) -> Decision:
    """What is to be done of one scan.

    Parameters
    ----------
    state : ScanState
    request : PlanRequest
    searched : sequence of Path
        Folders in which preprocessed scans were looked for, the output folder last, for messages.
    """
    scan, known = state.scan, state.covariates
    if known.fault:
        return Decision(scan, Step('refused', known.fault))
    if refusal := _refusal(state, request):
        return Decision(scan, harmonize=Step('refused', refusal))
    if isinstance(state.extraction, str):
        return Decision(scan, Step('refused', state.extraction))
    preproc_record = provenance.preprocessing_record(
        state.raw_sha256, request.protocol, state.extraction, sloppy=request.sloppy
    )
    preprocess = _preprocess(state, request, preproc_record, searched)
    if preprocess.state == 'refused':
        return Decision(scan, preprocess)
    preprocessed = None if preprocess.is_work else state.reused or state.own
    metadata = request.metadata(state.covariates)
    harmonize, harmonize_record = NOTHING, None
    if metadata is not None:
        if preprocess.is_work:
            made_from = preproc_record
        else:
            made_from = (state.reused_record if state.reused else state.preproc.record) or {}
        harmonize_record = provenance.harmonization_record(
            made_from,
            metadata,
            state.site_scans_sha256,
            keep_noise=request.keep_noise,
            sloppy=request.sloppy,
        )
        harmonize = _compare(state.harmonized, harmonize_record, anew=request.anew)
        if preprocess.is_work and harmonize.state == 'done':
            harmonize = Step('changed', 'preprocessing')
    if harmonize.is_work and request.protocol.depth > 1 and state.raw_not_fetched:
        # The harmonized scan in its own space is made of the T1w image.
        return Decision(scan, preprocess, Step('refused', state.raw_not_fetched))
    return Decision(
        scan,
        preprocess,
        harmonize,
        preprocessed,
        preproc_record if preprocess.is_work else None,
        harmonize_record,
        state.raw_sha256,
        state.extraction if preprocess.is_work else None,
    )


def _refusal(state: ScanState, request: PlanRequest) -> str | None:
    """Why a scan cannot be harmonized, whatever lies on disk."""
    known, model = state.covariates, request.model
    if model is None:
        return None
    if known.unread and model.uses_covariates:
        return next(iter(known.unread.values()))
    return site_refusal(model, known.site, request.unseen_site, state.site_subjects, known.no_site)


def _preprocess(
    state: ScanState,
    request: PlanRequest,
    record: provenance.Record,
    searched: Sequence[Path],
) -> Step:
    if state.not_fetched:
        return Step('refused', state.not_fetched)
    if state.reused is None:
        if request.preprocess and state.raw_not_fetched:
            return Step('refused', state.raw_not_fetched)
        if request.preprocess:
            step = _compare(state.preproc, record, anew=request.anew)
            elsewhere = ', '.join(map(str, searched[:-1]))
            if step.state == 'new' and elsewhere:
                return Step('new', f'not preprocessed in {elsewhere}')
            return step
        return Step(
            'refused',
            f'no preprocessed image in {", ".join(map(str, searched))}; run --stage preproc '
            'first, with the template of the model',
        )
    reused = state.reused_record or {}
    before = reused.get('RawSHA256')
    if before and state.raw_sha256 and before != state.raw_sha256:
        return Step(
            'refused',
            f'the T1w image changed since {state.reused.image} was made of it; preprocess it '
            'again',
        )
    depth = len(state.scan.folder.parts) + 1
    # Flags of preprocessing have no effect on it.
    method = f', skull stripping {reused["SkullStrip"]}' if 'SkullStrip' in reused else ''
    sloppy = ', made with --sloppy: not suitable for analysis' if reused.get('Sloppy') else ''
    return Step('reused', f'{state.reused.image.parents[depth - 1]}{method}{sloppy}')


def _compare(output: OutputState, expected: provenance.Record, *, anew: bool) -> Step:
    """Whether outputs are there, and made from what they should be."""
    if anew or not output.present:
        return Step('new')
    if output.record not in (None, expected):
        # It may be the reason why an output is missing, such as the model of other slices.
        return Step('changed', provenance.difference(output.record, expected))
    if output.missing:
        return Step('incomplete', f'{output.missing} is missing')
    if output.record is None:
        return Step('incomplete', 'interrupted, or made by an earlier version')
    return Step('done')


def summary(decisions: Sequence[Decision]) -> list[str]:
    """What a run is about to do: a line for each kind of work, and what changed."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for decision in decisions:
        for name, step in (
            ('preprocess', decision.preprocess),
            ('harmonize', decision.harmonize),
        ):
            if step.state not in ('none', 'refused'):
                why = f' ({step.why})' if step.why and step.state != 'incomplete' else ''
                counts[name, step.state, why] += 1
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] != 'preprocess', item[0]))
    return [f'{name}: {n} {state}{why}' for (name, state, why), n in ordered]


def listing(decisions: Sequence[Decision]) -> list[str]:
    """A table, tab-separated, of what would be done for each scan and why."""
    lines = ['\t'.join(('scan', 'preprocess', 'harmonize', 'why'))]
    for decision in decisions:
        steps = decision.preprocess, decision.harmonize
        why = dict.fromkeys(step.why for step in steps if step.why)
        states = (step.state for step in steps)
        lines.append('\t'.join([decision.scan.stem, *states, '; '.join(why) or '-']))
    return lines
