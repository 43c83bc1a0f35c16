"""From working files to named derivatives with sidecars, and to figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import SpaceLayout, sidecar
from ddae_app.bids.provenance import KEY, Record
from ddae_app.bids.scan import Scan
from ddae_app.bids.sidecars import Metadata, mask, native, preproc, slices
from ddae_app.bids.sidecars import site_effect as site_effect_of
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.interfaces.derivatives import DerivativeSink
from ddae_app.interfaces.figures import PlotHarmonization, PlotPreproc
from ddae_app.workflows.harmonize import HARMONIZE_FIELDS
from ddae_app.workflows.preproc import PREPROC_FIELDS


def init_preproc_derivatives_wf(
    *,
    scan: Scan,
    layout: SpaceLayout,
    template: TemplateFiles,
    sources: Sequence[str],
    extraction: Extraction,
    record: Record,
    name: str = 'preproc_derivatives_wf',
) -> pe.Workflow:
    """Write the preprocessed image, brain mask, transform and figures of one scan.

    Parameters
    ----------
    scan : Scan
    layout : SpaceLayout
        Of the output folder.
    template : TemplateFiles
    sources : sequence of str
        BIDS URIs of the T1w, and of the brain mask that the user had of it.
    extraction : Extraction
        How the brain was extracted.
    record : dict
        What the image is made from.

    Inputs
    ------
    t1w_grid, t1w_preproc, mask, xfm, kind, registration_qc, brain_qc
        As :func:`~ddae_app.workflows.preproc.init_preproc_wf` puts them out.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*PREPROC_FIELDS]), name='inputnode')
    image, space = layout.image('preproc', scan), layout.space
    gather_results = pe.Node(niu.Merge(3), name='gather_results', run_without_submitting=True)
    plot_preproc = pe.Node(
        PlotPreproc(template=str(template.grid_brain), template_mask=str(template.grid_mask)),
        name='plot_preproc',
        mem_gb=1,
    )
    metadata = preproc(space, sources, extraction)
    sinks = _Sinks(image, record, [layout.image('harmonized', scan)])
    ds_preproc = sinks.last('ds_preproc', metadata)
    ds_mask = sinks.add('ds_mask', layout.image('mask', scan), mask(space, sources))
    ds_xfm = sinks.add('ds_xfm', layout.transform(scan))
    ds_registration = sinks.add('ds_registration', layout.figure(scan, 'registration'))
    ds_brain = sinks.add('ds_brain', layout.figure(scan, 'brain'))
    workflow.connect([
        (inputnode, gather_results, [
            (('kind', _as_result), 'in1'), ('registration_qc', 'in2'), ('brain_qc', 'in3'),
        ]),
        (inputnode, ds_preproc, [('t1w_preproc', 'in_file')]),
        (gather_results, ds_preproc, [('out', 'results')]),
        (inputnode, ds_mask, [('mask', 'in_file')]),
        (inputnode, ds_xfm, [('xfm', 'in_file')]),
        (inputnode, plot_preproc, [
            ('t1w_grid', 'head'), ('t1w_preproc', 'brain'), ('mask', 'mask'),
        ]),
        (plot_preproc, ds_registration, [('registration', 'in_file')]),
        (plot_preproc, ds_brain, [('brain', 'in_file')]),
    ])  # fmt: skip
    sinks.connect(workflow)
    return workflow


def init_harmonize_derivatives_wf(
    *,
    scan: Scan,
    layout: SpaceLayout,
    raw: str,
    sources: Sequence[str],
    metadata: Metadata,
    reference: dict[str, list[float]],
    record: Record,
    site_effect: bool = False,
    name: str = 'harmonize_derivatives_wf',
) -> pe.Workflow:
    """Write the slices before and after harmonization, the scan with the difference, and figures.

    Parameters
    ----------
    scan : Scan
    layout : SpaceLayout
        Of the output folder.
    raw : str
        BIDS URI of the T1w.
    sources : sequence of str
        BIDS URIs of the preprocessed image and of the affine.
    metadata : dict
        What is known of the harmonization before the run.
    reference : dict
        Intensity quantiles of the target site: ``levels``, ``p25``, ``median``, ``p75``.
    record : dict
        What the images are made from.
    site_effect : bool
        Whether to write the difference as well.

    Inputs
    ------
    slices, harmonized, difference, native, native_difference, native_facts, slice_facts, qc, \
provenance
        As :func:`~ddae_app.workflows.harmonize.init_harmonize_wf` puts them out.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*HARMONIZE_FIELDS]), name='inputnode')
    before, after = layout.image('slices', scan), layout.image('harmonized', scan)
    space = layout.space
    gather_results = pe.Node(niu.Merge(3), name='gather_results', run_without_submitting=True)
    gather_facts = pe.Node(niu.Merge(1), name='gather_facts', run_without_submitting=True)
    plot_harmonization = pe.Node(
        PlotHarmonization(
            source_site=metadata['SourceSite'],
            target_site=metadata['TargetSite'],
            reference=reference,
        ),
        name='plot_harmonization',
        mem_gb=0.5,
    )
    sinks = _Sinks(after, record, layout.in_other_spaces('harmonized', scan))
    preprocessed, transform = sources
    ds_slices = sinks.add('ds_slices', before, slices(space, preprocessed))
    rendered = slices(space, layout.uri(before), harmonized=metadata)
    ds_harmonized = sinks.last('ds_harmonized', rendered)
    ds_before_after = sinks.add('ds_before_after', layout.figure(scan, 'harmonized'))
    ds_flicker = sinks.add('ds_flicker', layout.figure(scan, 'flicker'))
    ds_histogram = sinks.add('ds_histogram', layout.figure(scan, 'histogram'))
    workflow.connect([
        (inputnode, gather_facts, [('slice_facts', 'in1')]),
        (inputnode, gather_results, [
            ('slice_facts', 'in1'), ('qc', 'in2'), ('provenance', 'in3'),
        ]),
        (inputnode, ds_slices, [('slices', 'in_file')]),
        (gather_facts, ds_slices, [('out', 'results')]),
        (inputnode, ds_harmonized, [('harmonized', 'in_file')]),
        (gather_results, ds_harmonized, [('out', 'results')]),
        (inputnode, plot_harmonization, [
            ('slices', 'before'), ('harmonized', 'after'), ('qc', 'qc'),
        ]),
        (plot_harmonization, ds_before_after, [('harmonized', 'in_file')]),
        (plot_harmonization, ds_flicker, [('flicker', 'in_file')]),
        (plot_harmonization, ds_histogram, [('histogram', 'in_file')]),
    ])  # fmt: skip
    if site_effect:
        effect = site_effect_of(rendered)
        ds_difference = sinks.add('ds_difference', layout.image('effect', scan), effect)
        workflow.connect([
            (inputnode, ds_difference, [('difference', 'in_file')]),
            (gather_results, ds_difference, [('out', 'results')]),
        ])  # fmt: skip
    if space.protocol.depth > 1:
        ds_planes = sinks.add('ds_planes', layout.figure(scan, 'planes'))
        workflow.connect(plot_harmonization, 'planes', ds_planes, 'in_file')
        whole = native(raw, [layout.uri(after), transform], metadata)
        written = {'native': (layout.image('native', scan), whole)}
        if site_effect:
            effect = site_effect_of(whole)
            written['native_difference'] = layout.image('native_effect', scan), effect
        _add_native(workflow, sinks, written)
    sinks.connect(workflow)
    return workflow


def _add_native(
    workflow: pe.Workflow, sinks: _Sinks, written: dict[str, tuple[Path, Metadata]]
) -> None:
    """Write what is in the scan's own space; `written` by the field of the input node."""
    inputnode = workflow.get_node('inputnode')
    gather_native = pe.Node(niu.Merge(3), name='gather_native', run_without_submitting=True)
    workflow.connect([
        (inputnode, gather_native, [
            ('native_facts', 'in1'), ('qc', 'in2'), ('provenance', 'in3'),
        ]),
    ])  # fmt: skip
    for field, (path, metadata) in written.items():
        sink = sinks.add(f'ds_{field}', path, metadata)
        workflow.connect([
            (inputnode, sink, [(field, 'in_file')]),
            (gather_native, sink, [('out', 'results')]),
        ])  # fmt: skip


class _Sinks:
    """The sinks of one stage of a scan.

    The image that stands for the stage is written last, and then the record of what it was made
    from; the sink that writes first removes an earlier record. So a record shows that the whole
    stage is complete and belongs together, wherever a run was killed. The records of `others`,
    which share files with the image or were made of it, are removed as well.
    """

    def __init__(self, image: Path, record: Record, others: Sequence[Path] = ()) -> None:
        self.image, self.record = image, record
        self.voids = [(str(sidecar(path)), KEY) for path in (image, *others)]
        self.final: pe.Node | None = None
        self.others: list[pe.Node] = []

    def add(self, name: str, path: Path, metadata: Metadata | None = None) -> pe.Node:
        """A sink of an image, with a sidecar, or of another file."""
        node = self._node(name, path, metadata)
        node.inputs.voids = self.voids
        self.others.append(node)
        return node

    def last(self, name: str, metadata: Metadata) -> pe.Node:
        """The sink of the image that stands for the stage."""
        self.final = self._node(name, self.image, metadata)
        self.final.inputs.record = {KEY: self.record}
        return self.final

    def connect(self, workflow: pe.Workflow) -> None:
        """Make the last sink wait for the others."""
        gather_written = pe.Node(
            niu.Merge(len(self.others)), name='gather_written', run_without_submitting=True
        )
        for i, node in enumerate(self.others, 1):
            workflow.connect(node, 'out_file', gather_written, f'in{i}')
        workflow.connect(gather_written, 'out', self.final, 'after')

    def _node(self, name: str, path: Path, metadata: Metadata | None) -> pe.Node:
        sink = DerivativeSink(out_path=str(path))
        if metadata is not None:
            sink.inputs.metadata = metadata
            sink.inputs.sidecar = str(sidecar(path))
        return pe.Node(sink, name=name, run_without_submitting=True)


def _as_result(kind):
    return {'HeadKind': kind}
