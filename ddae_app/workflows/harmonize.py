"""From a preprocessed image to harmonised slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.cohort import Covariates
from ddae_app.interfaces.harmonize import BringBack, Harmonize
from ddae_app.interfaces.preproc import ExtractSlices
from ddae_app.settings import Protocol

HARMONIZE_FIELDS = (
    'slices', 'harmonized', 'difference', 'native', 'native_difference', 'native_facts',
    'slice_facts', 'qc', 'provenance',
)  # fmt: skip
"""What the workflow puts out."""


DESCRIPTIONS = {
    'ddae': 'Axial slices were re-rendered at the target site with a Disentangled Diffusion '
    'Autoencoder [@ijishakin2024]: each image was brought to the contrast '
    'curve, edge intensities and average image of the target site, and the difference was added '
    'between what the model makes of it at the target and at its own site, under shared noise '
    'that falls from level to level [@kulikov2024].',
    'cvae': 'Axial slices were rendered anew by a conditional variational autoencoder '
    '[@sohn2015; @moyer2020] that was told another site.',
    'style-gan': 'Axial slices were rendered in the mean style of the target site by a '
    'style-encoding generative adversarial network [@choi2020; @liu2021].',
    'combat': 'The intensities of each pixel of the axial slices were brought from their own site '
    'to the target site with ComBat [@johnson2007; @fortin2018], age and sex '
    'protected where known.',
}
"""What was done, for the methods text, by method."""


@dataclass(frozen=True)
class HarmonizeRequest:
    """What is asked of the model, for all scans of a run.

    Attributes
    ----------
    model : Path
        Model file.
    method : {'ddae', 'cvae', 'style-gan', 'combat'}
        Of the model.
    target_site : str
    unseen_site : {'refuse', 'agnostic', 'adapt'}
    keep_noise : bool
    device : str
        A torch device, resolved: ``cpu``, ``cuda`` or ``cuda:n``.
    batch_size : int
        Slices at once.
    site_effect : bool
        Whether to write the difference as well.
    """

    model: Path
    method: str
    target_site: str
    unseen_site: str
    keep_noise: bool
    device: str
    batch_size: int
    site_effect: bool = False


class Preprocessed(NamedTuple):
    """What preprocessing wrote of a scan: image, brain mask, and the affine to template space."""

    image: Path
    mask: Path
    transform: Path


@dataclass(frozen=True)
class SiteScan:
    """A preprocessed scan of a site: image, brain mask, and whose it is."""

    image: Path
    mask: Path
    participant: str


def init_harmonize_wf(
    *,
    protocol: Protocol,
    request: HarmonizeRequest,
    covariates: Covariates,
    t1w: Path,
    t1w_sha256: str | None = None,
    site_scans: Sequence[SiteScan] = (),
    omp_nthreads: int = 1,
    sloppy: bool = False,
    name: str = 'harmonize_wf',
) -> pe.Workflow:
    """Cut the slices that the model takes out of a preprocessed image and harmonise them.

    Parameters
    ----------
    protocol : Protocol
        Of the model.
    request : HarmonizeRequest
        Model, target site and device.
    covariates : Covariates
        Of this scan.
    t1w : Path
        The scan, to which the difference is added where the model takes all slices.
    t1w_sha256 : str, optional
        Its digest when the run was planned.
    site_scans : sequence of SiteScan
        Where the model does not know the site of this scan: others, to measure its look from.
    omp_nthreads : int
        Threads of the network on a CPU.
    sloppy : bool
        Few steps.

    Inputs
    ------
    t1w_preproc, mask, xfm
        Preprocessed image on the model's grid, its brain mask, and the affine that led there.

    Outputs
    -------
    slices, harmonized, difference
        Slices before and after, brain in [0, 1], and what the second adds to the first.
    native, native_difference, native_facts
        The scan with the difference, the difference, and what else its sidecar says; only where
        the model takes all slices.
    slice_facts
        ``IntensityScale`` and ``SliceIndices``, for the sidecars.
    qc, provenance
        Quality measures; steps and device that were used.
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = DESCRIPTIONS[request.method]
    if request.method == 'ddae' and not request.keep_noise:
        workflow.__desc__ += (
            ' The result was denoised by the same model, at the noise level measured in each '
            'slice [@immerkaer1996], and what rendering leaves of the spread, sharpness and '
            'contrast of its site was evened.'
        )
    fields = ['t1w_preproc', 'mask', 'xfm']
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*HARMONIZE_FIELDS]), name='outputnode')
    extract_slices = pe.Node(
        ExtractSlices(protocol=asdict(protocol)), name='extract_slices', mem_gb=0.5
    )
    harmonize = pe.Node(
        Harmonize(
            model=str(request.model),
            source_site=covariates.site or 'n/a',
            target_site=request.target_site,
            unseen_site=request.unseen_site,
            keep_noise=request.keep_noise,
            age=covariates.age if not math.isnan(covariates.age) else -1.0,
            sex=covariates.sex or '',
            sloppy=sloppy,
            batch_size=request.batch_size,
            device=request.device,
            use_gpu=request.device.startswith('cuda'),
        ),
        name='harmonize',
        mem_gb=1.5,
        n_procs=omp_nthreads,
    )
    if site_scans:
        harmonize.inputs.site_scans = [str(scan.image) for scan in site_scans]
        harmonize.inputs.site_masks = [str(scan.mask) for scan in site_scans]
        harmonize.inputs.site_people = [scan.participant for scan in site_scans]
    workflow.connect([
        (inputnode, extract_slices, [('t1w_preproc', 'in_file'), ('mask', 'in_mask')]),
        (extract_slices, harmonize, [('out_file', 'in_file')]),
        (extract_slices, outputnode, [('out_file', 'slices'), ('facts', 'slice_facts')]),
        (harmonize, outputnode, [
            ('out_file', 'harmonized'), ('difference', 'difference'), ('qc', 'qc'),
            ('provenance', 'provenance'),
        ]),
    ])  # fmt: skip
    if protocol.depth > 1:
        workflow.__desc__ += (
            " The difference was brought back into each scan's own space through the inverse "
            'transform and added to the scan itself.'
        )
        digest = {'sha256': t1w_sha256} if t1w_sha256 else {}
        bring_back = pe.Node(BringBack(t1w=str(t1w), **digest), name='bring_back', mem_gb=2)
        workflow.connect([
            (inputnode, bring_back, [('xfm', 'xfm')]),
            (extract_slices, bring_back, [('out_file', 'slices')]),
            (harmonize, bring_back, [('difference', 'difference')]),
            (bring_back, outputnode, [
                ('out_file', 'native'), ('difference', 'native_difference'),
                ('facts', 'native_facts'),
            ]),
        ])  # fmt: skip
    return workflow
