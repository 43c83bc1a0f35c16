"""From working files to named derivatives with sidecars, and to figures."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.layout import Scan, sidecar
from ddae_app.bids.provenance import KEY, Record
from ddae_app.bids.sidecars import Metadata, Space, mask, native, own_uri, preproc, slices
from ddae_app.bids.sidecars import site_effect as site_effect_of
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.interfaces.derivatives import DerivativeSink
from ddae_app.interfaces.figures import PlotHarmonization, PlotPreproc
from ddae_app.workflows.harmonize import HARMONIZE_FIELDS


def init_preproc_derivatives_wf(
    *,
    scan: Scan,
    output_dir: Path,
    space: Space,
    template: TemplateFiles,
    raw: str,
    skull_strip: str,
    weights_sha256: str | None,
    record: Record,
    name: str = 'preproc_derivatives_wf',
) -> pe.Workflow:
    """Write the preprocessed image, brain mask, transform and figures of one scan.

    Parameters
    ----------
    scan : Scan
    output_dir : Path
    space : Space
    template : TemplateFiles
    raw : str
        BIDS URI of the T1w.
    skull_strip : str
        Method that found the brain.
    weights_sha256 : str or None
        Of HD-BET's checkpoint.
    record : dict
        What the image is made from.

    Inputs
    ------
    t1w_grid, t1w_preproc, mask, xfm, fixed, kind, registration_qc, brain_qc
        As :func:`~ddae_app.workflows.preproc.init_preproc_wf` puts them out.
    """
    workflow = pe.Workflow(name=name)
    fields = ['t1w_grid', 't1w_preproc', 'mask', 'xfm', 'fixed', 'kind']
    inputnode = pe.Node(
        niu.IdentityInterface(fields=[*fields, 'registration_qc', 'brain_qc']), name='inputnode'
    )
    image = preproc_path(scan, space)
    brain = mask_path(scan, space)
    gather_results = pe.Node(niu.Merge(3), name='gather_results', run_without_submitting=True)
    plot_preproc = pe.Node(
        PlotPreproc(fixed_mask=str(template.mask)), name='plot_preproc', mem_gb=1
    )
    metadata = preproc(space, raw, skull_strip, weights_sha256)
    sinks = _Sinks(output_dir, image, record)
    ds_preproc = sinks.last('ds_preproc', metadata)
    ds_mask = sinks.add('ds_mask', brain, mask(space, own_uri(image)))
    ds_xfm = sinks.add('ds_xfm', transform_path(scan, space))
    ds_registration = sinks.add('ds_registration', scan.figure('registration', '.svg'))
    ds_brain = sinks.add('ds_brain', scan.figure('brain', '.svg'))
    workflow.connect([
        (inputnode, gather_results, [
            (('kind', _as_result), 'in1'), ('registration_qc', 'in2'), ('brain_qc', 'in3'),
        ]),
        (inputnode, ds_preproc, [('t1w_preproc', 'in_file')]),
        (gather_results, ds_preproc, [('out', 'results')]),
        (inputnode, ds_mask, [('mask', 'in_file')]),
        (inputnode, ds_xfm, [('xfm', 'in_file')]),
        (inputnode, plot_preproc, [('t1w_grid', 'in_file'), ('mask', 'mask'), ('fixed', 'fixed')]),
        (plot_preproc, ds_registration, [('registration', 'in_file')]),
        (plot_preproc, ds_brain, [('brain', 'in_file')]),
    ])  # fmt: skip
    sinks.connect(workflow)
    return workflow


def init_harmonize_derivatives_wf(
    *,
    scan: Scan,
    output_dir: Path,
    space: Space,
    raw: str,
    metadata: Metadata,
    reference: dict[str, list[float]],
    record: Record,
    site_effect: bool = False,
    name: str = 'harmonize_derivatives_wf',
) -> pe.Workflow:
    """Write the slices before and after harmonisation, the scan with the difference, and figures.

    Parameters
    ----------
    scan : Scan
    output_dir : Path
    space : Space
    raw : str
        BIDS URI of the T1w.
    metadata : dict
        What is known of the harmonisation before the run.
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
    before, after = slices_path(scan, space), harmonized_path(scan, space)
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
    sinks = _Sinks(output_dir, after, record)
    ds_slices = sinks.add('ds_slices', before, slices(space, preproc_path(scan, space)))
    rendered = slices(space, before, harmonized=metadata)
    ds_harmonized = sinks.last('ds_harmonized', rendered)
    ds_before_after = sinks.add('ds_before_after', scan.figure('harmonized', '.svg'))
    ds_flicker = sinks.add('ds_flicker', scan.figure('flicker', '.svg'))
    ds_histogram = sinks.add('ds_histogram', scan.figure('histogram', '.svg'))
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
        effect = site_effect_of(rendered, own_uri(before))
        ds_difference = sinks.add('ds_difference', effect_path(scan, space), effect)
        workflow.connect([
            (inputnode, ds_difference, [('difference', 'in_file')]),
            (gather_results, ds_difference, [('out', 'results')]),
        ])  # fmt: skip
    if space.protocol.depth > 1:
        ds_planes = sinks.add('ds_planes', scan.figure('planes', '.svg'))
        workflow.connect(plot_harmonization, 'planes', ds_planes, 'in_file')
        own = native(raw, [after, transform_path(scan, space)], metadata)
        written = {'native': (native_path(scan), own)}
        if site_effect:
            effect = site_effect_of(own, raw)
            written['native_difference'] = native_effect_path(scan), effect
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
    from; whichever is written first takes an earlier record away. So a record says that the whole
    stage is there and belongs together, wherever a run was killed.
    """

    def __init__(self, output_dir: Path, image: Path, record: Record) -> None:
        self.output_dir, self.image, self.record = output_dir, image, record
        self.final: pe.Node | None = None
        self.others: list[pe.Node] = []

    def add(self, name: str, path: Path, metadata: Metadata | None = None) -> pe.Node:
        """A sink of an image, with a sidecar, or of another file."""
        node = self._node(name, path, metadata)
        node.inputs.voids = (str(self.output_dir / sidecar(self.image)), KEY)
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
        sink = DerivativeSink(out_path=str(self.output_dir / path))
        if metadata is not None:
            sink.inputs.metadata = metadata
            sink.inputs.sidecar = str(self.output_dir / sidecar(path))
        return pe.Node(sink, name=name, run_without_submitting=True)


def preproc_path(scan: Scan, space: Space) -> Path:
    """The preprocessed image, relative to the output dataset."""
    return scan.derivative(desc='preproc', **space.entities)


def mask_path(scan: Scan, space: Space) -> Path:
    """The brain mask."""
    return scan.derivative('mask', desc='brain', **space.entities)


def transform_path(scan: Scan, space: Space) -> Path:
    """The affine that led to template space."""
    return scan.transform(space.protocol.template)


def slices_path(scan: Scan, space: Space) -> Path:
    """The slices as the model sees them."""
    return scan.derivative(desc='slices', **space.entities)


def harmonized_path(scan: Scan, space: Space) -> Path:
    """The harmonised slices."""
    return scan.derivative(desc='harmonized', **space.entities)


def native_path(scan: Scan) -> Path:
    """The harmonised scan in its own space."""
    return scan.derivative(desc='harmonized')


def effect_path(scan: Scan, space: Space) -> Path:
    """What harmonisation added to the slices."""
    return scan.derivative(desc='siteeffect', **space.entities)


def native_effect_path(scan: Scan) -> Path:
    """What it added to the scan in its own space."""
    return scan.derivative(desc='siteeffect')


def preproc_outputs(scan: Scan, space: Space) -> list[Path]:
    """All that preprocessing leaves, but for sidecars."""
    images = preproc_path(scan, space), mask_path(scan, space), transform_path(scan, space)
    return [*images, *(scan.figure(desc, '.svg') for desc in ('registration', 'brain'))]


def harmonize_outputs(scan: Scan, space: Space, *, site_effect: bool) -> list[Path]:
    """All that harmonisation leaves, but for sidecars."""
    whole = space.protocol.depth > 1
    paths = [harmonized_path(scan, space), slices_path(scan, space)]
    paths += [native_path(scan)] if whole else []
    if site_effect:
        paths += [effect_path(scan, space), *([native_effect_path(scan)] if whole else [])]
    figures = ('harmonized', 'flicker', 'histogram', *(('planes',) if whole else ()))
    return [*paths, *(scan.figure(desc, '.svg') for desc in figures)]


def _as_result(kind):
    return {'HeadKind': kind}
