"""From a raw T1w image to the preprocessed image: in template space, brain only."""

from __future__ import annotations

from dataclasses import asdict

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.extraction import Extraction
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.interfaces.preproc import (
    Conform,
    CorrectBias,
    ExtractBrain,
    MeasureBrain,
    RegisterMNI,
    ResampleGrid,
)
from ddae_app.settings import Protocol
from ddae_app.workflows.memory import planned_gb

PREPROC_FIELDS = (
    't1w_grid', 't1w_preproc', 'mask', 'xfm', 'kind', 'registration_qc', 'brain_qc',
)  # fmt: skip
"""The outputs of the workflow."""

PREPROC_NAME = 'preproc_wf'

NETWORK_GB = {'hd-bet': 4.0, 'deepbet': 1.5}
"""Methods of brain extraction that run a network, and the memory that they need."""


def init_preproc_wf(
    *,
    protocol: Protocol,
    template: TemplateFiles,
    extraction: Extraction,
    device: str,
    voxels: int = 0,
    omp_nthreads: int = 1,
    sloppy: bool = False,
    name: str = PREPROC_NAME,
) -> pe.Workflow:
    """Bring one T1w image to the model's grid: conform, brain, register, resample, N4.

    Parameters
    ----------
    protocol : Protocol
        Template and grid.
    template : TemplateFiles
        The template's images.
    extraction : Extraction
        How the brain is extracted.
    device : str
        Torch device of the network that extracts the brain.
    voxels : int
        Of the scan, by which memory is planned; 0 if they are not known.
    omp_nthreads : int
        Threads of that network.
    sloppy : bool
        Few iterations.

    Inputs
    ------
    in_file, sha256
        T1w image as found in the dataset, and its digest if it may change meanwhile.

    Outputs
    -------
    t1w_grid
        The image on the model's grid, skull and all.
    t1w_preproc
        The same, bias-corrected, brain only.
    mask
        Brain mask on the model's grid.
    xfm
        ITK affine that resamples the T1w into template space.
    kind
        ``head`` or ``brain``: what the T1w shows.
    registration_qc, brain_qc
        Quality measures by name.
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = preprocessing_methods(protocol, extraction.method)
    fields = ['in_file', 'sha256']
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*PREPROC_FIELDS]), name='outputnode')
    conform = pe.Node(Conform(), name='conform', mem_gb=planned_gb('conform', voxels, 1))
    extract_brain = _extract_brain(
        protocol, template, extraction, device, voxels, omp_nthreads, sloppy
    )
    register_mni = pe.Node(
        RegisterMNI(brain=str(template.brain), mask=str(template.mask), sloppy=sloppy),
        name='register_mni',
        mem_gb=planned_gb('register_mni', voxels, 1),
    )
    resample_grid = pe.Node(
        ResampleGrid(protocol=asdict(protocol)), name='resample_grid', mem_gb=0.5
    )
    correct_bias = pe.Node(CorrectBias(sloppy=sloppy), name='correct_bias', mem_gb=0.5)
    measure_brain = pe.Node(
        MeasureBrain(template_mask=str(template.grid_mask)), name='measure_brain', mem_gb=0.5
    )
    workflow.connect([
        (inputnode, conform, [('in_file', 'in_file'), ('sha256', 'sha256')]),
        (conform, extract_brain, [('out_file', 'in_file')]),
        (conform, register_mni, [('out_file', 'in_file')]),
        (extract_brain, register_mni, [('out_mask', 'in_mask')]),
        (conform, resample_grid, [('out_file', 'in_file')]),
        (extract_brain, resample_grid, [('out_mask', 'in_mask')]),
        (register_mni, resample_grid, [('out_xfm', 'in_xfm')]),
        (resample_grid, correct_bias, [('out_file', 'in_file'), ('out_mask', 'in_mask')]),
        (resample_grid, measure_brain, [('out_mask', 'in_mask')]),
        (correct_bias, measure_brain, [('out_file', 'in_file')]),
        (register_mni, measure_brain, [('qc', 'registration_qc')]),
        (extract_brain, outputnode, [('kind', 'kind')]),
        (register_mni, outputnode, [('out_xfm', 'xfm'), ('qc', 'registration_qc')]),
        (resample_grid, outputnode, [('out_file', 't1w_grid'), ('out_mask', 'mask')]),
        (correct_bias, outputnode, [('out_file', 't1w_preproc')]),
        (measure_brain, outputnode, [('qc', 'brain_qc')]),
    ])  # fmt: skip
    return workflow


def _extract_brain(
    protocol: Protocol,
    template: TemplateFiles,
    extraction: Extraction,
    device: str,
    voxels: int,
    omp_nthreads: int,
    sloppy: bool,
) -> pe.Node:
    """The step that finds the brain, with no more inputs than its method needs."""
    method, network = extraction.method, extraction.method in NETWORK_GB
    interface = ExtractBrain(method=method)
    if network:
        interface.inputs.trait_set(device=device, use_gpu=device.startswith('cuda'))
    if method == 'hd-bet':
        interface.inputs.trait_set(weights=str(extraction.file), weights_sha256=extraction.sha256)
    elif method == 'mask':
        # Without a digest it cannot be read, as the step will say.
        digest = {'given_sha256': extraction.sha256} if extraction.sha256 else {}
        interface.inputs.trait_set(given=str(extraction.file), **digest)
    elif method == 'template':
        interface.inputs.trait_set(
            brain=str(template.brain),
            mask=str(template.mask),
            template=template.name,
            protocol=asdict(protocol),
            sloppy=sloppy,
            **({'head': str(template.head)} if template.head else {}),
        )
    return pe.Node(
        interface,
        name='extract_brain',
        mem_gb=planned_gb('extract_brain', voxels, NETWORK_GB.get(method, 1)),
        n_procs=omp_nthreads if network else 1,
    )


def preprocessing_methods(protocol: Protocol, skull_strip: str) -> str:
    """What preprocessing does, for a paper; `skull_strip` is empty if unknown."""
    brain = {
        'hd-bet': 'The brain of each T1-weighted image was extracted with HD-BET [@isensee2019], '
        'a network of the nnU-Net framework [@isensee2021].',
        'deepbet': 'The brain of each T1-weighted image was extracted with the networks of '
        'deepbet [@fisch2024].',
        'template': 'Each T1-weighted image was registered to the template, whose brain mask was '
        'brought to the image by symmetric diffeomorphic registration (SyN) [@avants2008].',
        'mask': 'Brain masks of an earlier analysis were used.',
        'none': 'The T1-weighted images had been skull-stripped before.',
    }.get(skull_strip, 'The brain of each T1-weighted image was extracted.')
    grid = ' x '.join(map(str, protocol.grid))
    fetched = protocol.template.endswith('cAsym')
    source = 'TemplateFlow [@ciric2022]' if fetched else 'Nilearn [@abraham2014]'
    return (
        f'{brain} The brain was registered to that of {protocol.template} [@fonov2009; '
        f'@fonov2011], as distributed with {source}, by an affine transform with ANTs '
        f'[@avants2011], resampled to {grid} voxels over the field of view of the template, and '
        'corrected for intensity inhomogeneity with N4 [@tustison2010].'
    )
