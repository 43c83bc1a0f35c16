"""From a raw T1w image to the preprocessed image: in template space, brain only."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.imaging.templates import TemplateFiles
from ddae_app.interfaces.preproc import (
    Conform,
    CorrectBias,
    ExtractBrain,
    RegisterMNI,
    ResampleGrid,
)
from ddae_app.settings import Protocol

PREPROC_FIELDS = (
    't1w_grid', 't1w_preproc', 'mask', 'xfm', 'fixed', 'kind', 'registration_qc', 'brain_qc',
)  # fmt: skip
"""The outputs of the workflow."""


def init_preproc_wf(
    *,
    protocol: Protocol,
    template: TemplateFiles,
    skull_strip: str,
    weights: Path | None,
    weights_sha256: str | None,
    device: str,
    omp_nthreads: int = 1,
    sloppy: bool = False,
    name: str = 'preproc_wf',
) -> pe.Workflow:
    """Bring one T1w image to the model's grid: conform, register, resample, N4, brain.

    Parameters
    ----------
    protocol : Protocol
        Template and grid.
    template : TemplateFiles
        The template's images.
    skull_strip : {'hd-bet', 'template', 'none'}
        How the brain is extracted.
    weights : Path or None
        HD-BET's weights, for ``hd-bet``.
    weights_sha256 : str or None
        Of the weights that were checked; others are refused.
    device : str
        Torch device of HD-BET.
    omp_nthreads : int
        Threads of HD-BET.
    sloppy : bool
        Few iterations.

    Inputs
    ------
    in_file, sha256
        T1w image as found in the dataset, and its digest if it may change meanwhile.

    Outputs
    -------
    t1w_grid
        Bias-corrected image on the model's grid, skull and all.
    t1w_preproc
        The same, brain only.
    mask
        Brain mask.
    xfm
        ITK affine that resamples the T1w into template space.
    fixed
        Template image that was registered to.
    kind
        ``head`` or ``brain``: what the T1w shows.
    registration_qc, brain_qc
        Quality measures by name.
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = preprocessing_methods(protocol, skull_strip)
    fields = ['in_file', 'sha256']
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*PREPROC_FIELDS]), name='outputnode')
    conform = pe.Node(Conform(), name='conform', mem_gb=1)
    register_mni = pe.Node(
        RegisterMNI(
            brain=str(template.brain),
            mask=str(template.mask),
            template=template.name,
            sloppy=sloppy,
            **({'head': str(template.head)} if template.head else {}),
        ),
        name='register_mni',
        mem_gb=1,
    )
    resample_grid = pe.Node(
        ResampleGrid(protocol=asdict(protocol)), name='resample_grid', mem_gb=0.5
    )
    correct_bias = pe.Node(CorrectBias(sloppy=sloppy), name='correct_bias', mem_gb=0.5)
    extract_brain = pe.Node(
        ExtractBrain(
            method=skull_strip,
            mask=str(template.mask),
            device=device,
            use_gpu=skull_strip == 'hd-bet' and device.startswith('cuda'),
            sloppy=sloppy,
            **(
                {'weights': str(weights), 'weights_sha256': weights_sha256}
                if skull_strip == 'hd-bet'
                else {}
            ),
        ),
        name='extract_brain',
        mem_gb=4 if skull_strip == 'hd-bet' else 1,
        n_procs=omp_nthreads if skull_strip == 'hd-bet' else 1,
    )
    workflow.connect([
        (inputnode, conform, [('in_file', 'in_file'), ('sha256', 'sha256')]),
        (conform, register_mni, [('out_file', 'in_file'), ('kind', 'kind')]),
        (conform, resample_grid, [('out_file', 'in_file')]),
        (register_mni, resample_grid, [('out_xfm', 'in_xfm')]),
        (resample_grid, correct_bias, [('out_file', 'in_file')]),
        (correct_bias, extract_brain, [('out_file', 'in_file')]),
        (conform, extract_brain, [('kind', 'kind')]),
        (register_mni, extract_brain, [('fixed', 'fixed'), ('qc', 'registration_qc')]),
        (conform, outputnode, [('kind', 'kind')]),
        (register_mni, outputnode, [
            ('out_xfm', 'xfm'), ('fixed', 'fixed'), ('qc', 'registration_qc'),
        ]),
        (correct_bias, outputnode, [('out_file', 't1w_grid')]),
        (extract_brain, outputnode, [
            ('out_file', 't1w_preproc'), ('out_mask', 'mask'), ('qc', 'brain_qc'),
        ]),
    ])  # fmt: skip
    return workflow


def preprocessing_methods(protocol: Protocol, skull_strip: str) -> str:
    """What preprocessing does, for a paper; `skull_strip` is empty if unknown."""
    brain = {
        'hd-bet': 'The brain was extracted with HD-BET [@isensee2019], a network of the nnU-Net '
        'framework [@isensee2021].',
        'template': "The template's brain mask was brought to the scan by symmetric "
        'diffeomorphic registration (SyN) [@avants2008].',
        'none': 'The scans had been skull-stripped before.',
    }.get(skull_strip, 'The brain was extracted.')
    grid = ' x '.join(map(str, protocol.grid))
    fetched = protocol.template.endswith('cAsym')
    source = 'TemplateFlow [@ciric2022]' if fetched else 'Nilearn [@abraham2014]'
    return (
        f'Each T1-weighted image was registered to {protocol.template} [@fonov2009; @fonov2011], '
        f'as distributed with {source}, by an affine transform with ANTs [@avants2011], resampled '
        f'to {grid} voxels over the field of view of the template, and corrected for intensity '
        f'inhomogeneity with N4 [@tustison2010]. {brain}'
    )
