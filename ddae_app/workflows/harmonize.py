"""From a preprocessed image to harmonized slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ddae_app.bids.covariates import Covariates
from ddae_app.interfaces.harmonize import (
    APPEARANCE_NAME,
    BringBack,
    Harmonize,
    MeasureAppearance,
)
from ddae_app.interfaces.preproc import ExtractSlices
from ddae_app.settings import Protocol
from ddae_app.workflows.memory import planned_gb

HARMONIZE_FIELDS = (
    'slices', 'harmonized', 'difference', 'native', 'native_difference', 'native_facts',
    'slice_facts', 'qc', 'provenance',
)  # fmt: skip
"""The outputs of the workflow."""


@dataclass(frozen=True)
class HarmonizeRequest:
    """What is asked of the model, for all scans of a run.

    Attributes
    ----------
    model : Path
        Model file.
    model_sha256 : str
    description : str
        What the method does, for the methods text.
    target_site : str
    unseen_site : {'refuse', 'agnostic', 'adapt'}
    keep_noise : bool
    device : str
        A torch device, resolved: ``cpu``, ``cuda`` or ``cuda:n``.
    batch_size : int
        Slices at once.
    reference : dict
        Intensity quantiles of the target site: ``levels``, ``p25``, ``median``, ``p75``.
    site_effect : bool
        Whether to write the difference as well.
    appearances : mapping of str to Path
        Files with the appearance of sites that the model does not know.
    """

    model: Path
    model_sha256: str
    description: str
    target_site: str
    unseen_site: str
    keep_noise: bool
    device: str
    batch_size: int
    reference: dict[str, list[float]]
    site_effect: bool = False
    appearances: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class SiteScan:
    """A preprocessed scan of a site: image, brain mask, and its participant."""

    image: Path
    mask: Path
    participant: str


@dataclass(frozen=True)
class UnseenSite:
    """A site that the model does not know, and the scans in which its appearance is measured.

    Attributes
    ----------
    name : str
    scans : tuple of SiteScan
    digest : str
        SHA-256 of what the scans were made from.
    """

    name: str
    scans: tuple[SiteScan, ...]
    digest: str

    @property
    def subjects(self) -> int:
        """Number of subjects among the scans."""
        return len({scan.participant for scan in self.scans})

    @property
    def stem(self) -> str:
        """Its name in the log."""
        return f'site {self.name}'

    @property
    def workflow(self) -> str:
        """A name for its workflow."""
        return f'site_{self.digest[:16]}_wf'


def init_appearance_wf(
    sites: Sequence[UnseenSite],
    *,
    model: Path,
    model_sha256: str,
    device: str,
    omp_nthreads: int = 1,
    name: str = 'appearance_wf',
) -> pe.Workflow:
    """Measure the appearance of sites that the model does not know, once each.

    Parameters
    ----------
    sites : sequence of UnseenSite
    model : Path
        Model file.
    model_sha256 : str
    device : str
        Resolved torch device.
    omp_nthreads : int
        Threads of the network on a CPU.

    Outputs
    -------
    The file of a site is where :func:`appearance_file` says.
    """
    workflow = pe.Workflow(name=name)
    for site in sites:
        measure_appearance = pe.Node(
            MeasureAppearance(
                model=str(model),
                model_sha256=model_sha256,
                site=site.name,
                images=[str(scan.image) for scan in site.scans],
                masks=[str(scan.mask) for scan in site.scans],
                participants=[scan.participant for scan in site.scans],
                device=device,
                use_gpu=device.startswith('cuda'),
            ),
            name='measure_appearance',
            mem_gb=1.5,
            n_procs=omp_nthreads,
        )
        site_wf = pe.Workflow(name=site.workflow)
        site_wf.add_nodes([measure_appearance])
        workflow.add_nodes([site_wf])
    return workflow


def appearance_file(site: UnseenSite, work_dir: Path, name: str = 'appearance_wf') -> Path:
    """Where :func:`init_appearance_wf` leaves the appearance of a site."""
    return work_dir / name / site.workflow / 'measure_appearance' / APPEARANCE_NAME


def init_harmonize_wf(
    *,
    protocol: Protocol,
    request: HarmonizeRequest,
    covariates: Covariates,
    t1w: Path,
    t1w_sha256: str | None = None,
    voxels: int = 0,
    site: UnseenSite | None = None,
    omp_nthreads: int = 1,
    sloppy: bool = False,
    name: str = 'harmonize_wf',
) -> pe.Workflow:
    """Cut the slices that the model takes out of a preprocessed image and harmonize them.

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
    voxels : int
        Of the scan, by which memory is planned; 0 if they are not known.
    site : UnseenSite, optional
        The site of this scan, where its appearance was measured.
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
        ``IntensityScale``, ``SliceIndices`` and ``bright_share``, for the sidecars.
    qc, provenance
        Quality measures; steps and device that were used.
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = harmonization_methods(request.description, protocol)
    fields = ['t1w_preproc', 'mask', 'xfm']
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*HARMONIZE_FIELDS]), name='outputnode')
    extract_slices = pe.Node(
        ExtractSlices(protocol=asdict(protocol)), name='extract_slices', mem_gb=0.5
    )
    harmonize = pe.Node(
        Harmonize(
            model=str(request.model),
            model_sha256=request.model_sha256,
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
    if site:
        harmonize.inputs.appearance = str(request.appearances[site.name])
        harmonize.inputs.site_scans = len(site.scans)
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
        digest = {'sha256': t1w_sha256} if t1w_sha256 else {}
        bring_back = pe.Node(
            BringBack(t1w=str(t1w), **digest),
            name='bring_back',
            mem_gb=planned_gb('bring_back', voxels, 2),
        )
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


def harmonization_methods(description: str, protocol: Protocol) -> str:
    """What harmonization does, for a paper; `description` is of what is done to the slices."""
    if protocol.depth == 1:
        return description
    return description + (
        " The difference was brought back into each scan's own space through the inverse "
        'transform and added to the scan itself.'
    )
