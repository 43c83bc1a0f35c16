"""The workflow of a scan, from raw image to derivatives, and of all scans of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Preprocessed, SpaceLayout
from ddae_app.bids.provenance import Record
from ddae_app.bids.scan import Scan
from ddae_app.bids.sidecars import Metadata
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.workflows.derivatives import (
    init_harmonize_derivatives_wf,
    init_preproc_derivatives_wf,
)
from ddae_app.workflows.harmonize import (
    HARMONIZE_FIELDS,
    HarmonizeRequest,
    UnseenSite,
    init_harmonize_wf,
)
from ddae_app.workflows.preproc import PREPROC_FIELDS, PREPROC_NAME, init_preproc_wf


@dataclass(frozen=True)
class Preprocessing:
    """How every scan of a run is preprocessed; see :func:`init_preproc_wf`."""

    template: TemplateFiles
    device: str


@dataclass(frozen=True)
class ScanPlan:
    """What is to be done for one scan.

    Attributes
    ----------
    scan : Scan
    covariates : Covariates
    raw : str
        BIDS URI of the T1w.
    preprocessed : Preprocessed or None
        What an earlier run made; None to make it.
    sources : tuple of str
        BIDS URIs of the preprocessed image and of the affine.
    harmonization : dict or None
        Sidecar entries known before the run; None to stop after preprocessing.
    preproc_record, harmonize_record : dict or None
        What the outputs are made from; None where they are not made.
    raw_sha256 : str or None
        Of the T1w, to notice if it changes while the run goes on.
    voxels : int
        Of the T1w; 0 if they are not known.
    site : UnseenSite or None
        The site of the scan, where the model does not know it and its appearance is measured.
    extraction : Extraction or None
        How the brain is extracted; None if the scan is preprocessed.
    mask : str or None
        BIDS URI of the brain mask that the user has.
    """

    scan: Scan
    covariates: Covariates
    raw: str
    preprocessed: Preprocessed | None
    sources: tuple[str, ...]
    harmonization: Metadata | None
    preproc_record: Record | None = None
    harmonize_record: Record | None = None
    raw_sha256: str | None = None
    voxels: int = 0
    site: UnseenSite | None = None
    extraction: Extraction | None = None
    mask: str | None = None


def init_participant_wf(
    plans: Sequence[ScanPlan],
    *,
    layout: SpaceLayout,
    preprocessing: Preprocessing | None,
    request: HarmonizeRequest | None,
    omp_nthreads: int,
    sloppy: bool,
    name: str = 'ddae_wf',
) -> pe.Workflow:
    """One workflow per scan, independent of each other.

    Parameters
    ----------
    plans : sequence of ScanPlan
    layout : SpaceLayout
        Of the output folder.
    preprocessing : Preprocessing or None
        None if every plan starts from preprocessed images.
    request : HarmonizeRequest or None
        None if every plan stops after preprocessing.
    omp_nthreads : int
        Threads of the networks.
    sloppy : bool
        Few iterations.
    """
    workflow = pe.Workflow(name=name)
    for plan in plans:
        scan_wf = pe.Workflow(name=plan.scan.workflow)
        if plan.preprocessed is None:
            assert preprocessing is not None
            source = _add_preproc(scan_wf, plan, layout, preprocessing, omp_nthreads, sloppy)
        else:
            source = _preprocessed_node(plan.preprocessed)
        if plan.harmonization is not None:
            assert request is not None
            assert plan.harmonize_record is not None
            harmonize_wf = init_harmonize_wf(
                protocol=layout.space.protocol,
                request=request,
                covariates=plan.covariates,
                t1w=plan.scan.path,
                t1w_sha256=plan.raw_sha256,
                voxels=plan.voxels,
                site=plan.site,
                omp_nthreads=omp_nthreads,
                sloppy=sloppy,
            )
            derivatives_wf = init_harmonize_derivatives_wf(
                scan=plan.scan,
                layout=layout,
                raw=plan.raw,
                sources=plan.sources,
                metadata=plan.harmonization,
                reference=request.reference,
                record=plan.harmonize_record,
                site_effect=request.site_effect,
            )
            prefix = '' if plan.preprocessed else 'outputnode.'
            images = ('t1w_preproc', 'mask', 'xfm')
            pairs = [(f'{prefix}{field}', f'inputnode.{field}') for field in images]
            scan_wf.connect([
                (source, harmonize_wf, pairs),
                (harmonize_wf, derivatives_wf, _same(HARMONIZE_FIELDS)),
            ])  # fmt: skip
        workflow.add_nodes([scan_wf])
    return workflow


def describe(workflow: pe.Workflow) -> list[str]:
    """What the workflow does, for a paper: the texts of its parts, once each, in their order."""
    parts: dict[str, str] = {}

    def visit(part) -> None:
        parts[getattr(part, '__desc__', '')] = part.name
        for node in part._graph.nodes:
            if isinstance(node, pe.Workflow):
                visit(node)

    visit(workflow)
    # The graph does not keep the order of its nodes; the text follows the order of the work.
    later = {text: name != PREPROC_NAME for text, name in parts.items() if text}
    return sorted(later, key=lambda text: later[text])


def _add_preproc(
    scan_wf: pe.Workflow,
    plan: ScanPlan,
    layout: SpaceLayout,
    preprocessing: Preprocessing,
    omp_nthreads: int,
    sloppy: bool,
) -> pe.Workflow:
    assert plan.extraction is not None
    preproc_wf = init_preproc_wf(
        protocol=layout.space.protocol,
        template=preprocessing.template,
        extraction=plan.extraction,
        device=preprocessing.device,
        voxels=plan.voxels,
        omp_nthreads=omp_nthreads,
        sloppy=sloppy,
    )
    preproc_wf.inputs.inputnode.in_file = str(plan.scan.path)
    if plan.raw_sha256:
        preproc_wf.inputs.inputnode.sha256 = plan.raw_sha256
    assert plan.preproc_record is not None
    derivatives_wf = init_preproc_derivatives_wf(
        scan=plan.scan,
        layout=layout,
        template=preprocessing.template,
        sources=[plan.raw, *([plan.mask] if plan.mask else [])],
        extraction=plan.extraction,
        record=plan.preproc_record,
    )
    scan_wf.connect([(preproc_wf, derivatives_wf, _same(PREPROC_FIELDS))])
    return preproc_wf


def _preprocessed_node(files: Preprocessed) -> pe.Node:
    fields = ('t1w_preproc', 'mask', 'xfm')
    preprocessed = pe.Node(niu.IdentityInterface(fields=[*fields]), name='preprocessed')
    for field, file in zip(fields, files, strict=True):
        setattr(preprocessed.inputs, field, str(file))
    return preprocessed


def _same(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f'outputnode.{name}', f'inputnode.{name}') for name in names]
