"""From working files to named derivatives with sidecars, and to figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.names import Scan, sidecar
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
    ds_preproc = _sink('ds_preproc', output_dir, image, metadata)
    ds_mask = _sink('ds_mask', output_dir, brain, mask(space, own_uri(image)))
    ds_xfm = _sink('ds_xfm', output_dir, transform_path(scan, space))
    ds_registration = _sink('ds_registration', output_dir, scan.figure('registration', '.svg'))
    ds_brain = _sink('ds_brain', output_dir, scan.figure('brain', '.svg'))
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
    return workflow


def init_harmonize_derivatives_wf(
    *,
    scan: Scan,
    output_dir: Path,
    space: Space,
    raw: str,
    metadata: Metadata,
    reference: dict[str, list[float]],
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
    ds_slices = _sink('ds_slices', output_dir, before, slices(space, preproc_path(scan, space)))
    rendered = slices(space, before, harmonized=metadata)
    ds_harmonized = _sink('ds_harmonized', output_dir, after, rendered)
    ds_before_after = _sink('ds_before_after', output_dir, scan.figure('harmonized', '.svg'))
    ds_histogram = _sink('ds_histogram', output_dir, scan.figure('histogram', '.svg'))
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
        (plot_harmonization, ds_histogram, [('histogram', 'in_file')]),
    ])  # fmt: skip
    if site_effect:
        effect = site_effect_of(rendered, own_uri(before))
        _add_sink(
            workflow, 'difference', output_dir, effect_path(scan, space), effect, gather_results
        )
    if space.protocol.depth > 1:
        gather_native = pe.Node(niu.Merge(3), name='gather_native', run_without_submitting=True)
        workflow.connect([
            (inputnode, gather_native, [
                ('native_facts', 'in1'), ('qc', 'in2'), ('provenance', 'in3'),
            ]),
        ])  # fmt: skip
        ds_planes = _sink('ds_planes', output_dir, scan.figure('planes', '.svg'))
        workflow.connect(plot_harmonization, 'planes', ds_planes, 'in_file')
        own = native(raw, [after, transform_path(scan, space)], metadata)
        _add_sink(workflow, 'native', output_dir, native_path(scan), own, gather_native)
        if site_effect:
            path, effect = native_effect_path(scan), site_effect_of(own, raw)
            _add_sink(workflow, 'native_difference', output_dir, path, effect, gather_native)
    return workflow


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


def _add_sink(
    workflow: pe.Workflow,
    field: str,
    output_dir: Path,
    path: Path,
    metadata: Metadata,
    gathered: pe.Node,
) -> None:
    """Write what comes in as `field`, with what the run found for its sidecar."""
    sink = _sink(f'ds_{field}', output_dir, path, metadata)
    workflow.connect([
        (workflow.get_node('inputnode'), sink, [(field, 'in_file')]),
        (gathered, sink, [('out', 'results')]),
    ])  # fmt: skip


def _sink(
    name: str, output_dir: Path, path: Path, metadata: dict[str, Any] | None = None
) -> pe.Node:
    sink = DerivativeSink(out_path=str(output_dir / path))
    if metadata is not None:
        sink.inputs.metadata = metadata
        sink.inputs.sidecar = str(output_dir / sidecar(path))
    return pe.Node(sink, name=name, run_without_submitting=True)


def _as_result(kind):
    return {'HeadKind': kind}
