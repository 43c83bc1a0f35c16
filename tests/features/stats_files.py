"""Stats files as FreeSurfer 7 and FastSurfer 2 write them, of people with known site effects."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ddae_app.features.people import RowLabels
from tests.features.simulated import truth_of, with_sites

REGIONS = ('bankssts', 'cuneus', 'fusiform', 'insula', 'precentral')
STRUCTURES = {
    4: 'Left-Lateral-Ventricle', 10: 'Left-Thalamus', 17: 'Left-Hippocampus', 24: 'CSF',
    43: 'Right-Lateral-Ventricle', 49: 'Right-Thalamus', 53: 'Right-Hippocampus',
}  # fmt: skip

SURFACE_VERSION, VOLUME_VERSION = '7.4.1', '7.4.1'

_CORTEX = """# Table of FreeSurfer cortical parcellation anatomical statistics
#
# CreationTime 2024/02/03-04:05:06-GMT
# generating_program mris_anatomical_stats
# cvs_version {version}
# mrisurf.c-cvs_version {version}
# cmdline mris_anatomical_stats -th3 -mgz -f ../stats/{side}.{atlas}.stats -b {name} {side} white
# sysname  Linux
# user     jos\xe9
#
# SUBJECTS_DIR /data/freesurfer
# anatomy_type surface
# subjectname {name}
# hemi {side}
# AnnotationFile ../label/{side}.{atlas}.annot
# AnnotationFileTimeStamp 2024/02/03 04:05:06
# Measure Cortex, NumVert, Number of Vertices, 137256, unitless
# Measure Cortex, WhiteSurfArea, White Surface Total Area, {area}, mm^2
# Measure Cortex, MeanThickness, Mean Thickness, {thickness}, mm
# Measure BrainSeg, BrainSegVol, Brain Segmentation Volume, 1193318.000000, mm^3
# Measure BrainSegNotVent, BrainSegVolNotVent, Brain Segmentation Volume Without Ventricles, \
1170000.500000, mm^3
# Measure Cortex, CortexVol Total cortical gray matter volume, 480123.875000, mm^3
# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, {etiv}, mm^3
# NTableCols 10
# TableCol  1 ColHeader StructName
# TableCol  1 FieldName Structure Name
# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd \
CurvInd
"""

_VOLUMES = """# Title Segmentation Statistics
#
# generating_program {program}
# {version}
# cmdline mri_segstats --seg mri/aseg.mgz --sum stats/aseg.stats --etiv --subject {name}
# anatomy_type volume
#
# Measure BrainSeg, BrainSegVol, Brain Segmentation Volume, {brain}, mm^3
# Measure lhCortex, lhCortexVol, Left hemisphere cortical gray matter volume, {cortex}, mm^3
# Measure BrainSegVol-to-eTIV, BrainSegVol-to-eTIV, Ratio of BrainSegVol to eTIV, 0.75, unitless
# Measure SurfaceHoles, SurfaceHoles, Total number of defect holes in surfaces, 31, unitless
{etiv}# NRows 45
# NTableCols 10
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax \
normRange
"""


def values_of(labels: RowLabels) -> np.ndarray:
    """So many features with site effects as a person has at most, around 50."""
    return with_sites(truth_of(labels, 3 * 2 * len(REGIONS)), labels)


def write_cortex(
    folder: Path,
    values: np.ndarray,
    *,
    atlas: str = 'aparc',
    version: str = SURFACE_VERSION,
    left_out: tuple[str, ...] = (),
    head: bool = True,
) -> None:
    """The stats of both hemispheres; `values` are those of :func:`values_of` of one person.

    Without `head`, as ``mris_anatomical_stats -noglobal`` of FreeSurfer 7.3 writes them.
    """
    stats = folder / 'stats'
    stats.mkdir(parents=True, exist_ok=True)
    for side, part in zip(('lh', 'rh'), values.reshape(2, len(REGIONS), 3), strict=True):
        text = _CORTEX.format(
            side=side, atlas=atlas, version=version, name=folder.name,
            area=f'{900 * part.mean():.1f}', thickness=f'{part.mean() / 20:.5f}',
            etiv=f'{30000 * values.mean():.6f}',
        )  # fmt: skip
        if not head:
            text = re.sub('# Measure (BrainSeg|Cortex, CortexVol|Estimated).*\n', '', text)
        for region, (thickness, area, volume) in zip(REGIONS, part, strict=True):
            if region not in left_out:
                text += (
                    f'{region:<40}{1421:5d}{area * 20:7.0f}{volume * 40:7.0f}'
                    f'{thickness / 20:7.3f} 0.490     0.106     0.020       13     1.1\n'
                )
        (stats / f'{side}.{atlas}.stats').write_text(text, encoding='latin-1')


def write_volumes(
    folder: Path, values: np.ndarray, *, fast: bool = False, name_of_fast: str = 'aseg+DKT.stats'
) -> None:
    """The volumes of structures; FastSurfer's without a measure of the head, and with cortex."""
    stats = folder / 'stats'
    stats.mkdir(parents=True, exist_ok=True)
    head = f'{30000 * values.mean():.6f}'
    etiv = '# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, '
    text = _VOLUMES.format(
        program='segstats.py' if fast else 'mri_segstats',
        version='FastSurfer_version 2.3.3 (stable)' if fast else f'cvs_version {VOLUME_VERSION}',
        name=folder.name, brain=f'{24000 * values.mean():.6f}',
        cortex=f'{5000 * values.mean():.6f}', etiv='' if fast else f'{etiv}{head}, mm^3\n',
    )  # fmt: skip
    names = STRUCTURES | ({1002: 'ctx-lh-caudalanteriorcingulate'} if fast else {})
    for i, (label, name) in enumerate(names.items()):
        text += (
            f'{i + 1:3d} {label:4d}  {7000 + i:6d}  {values[i] * 100:9.1f}  {name:<30} '
            '35.5 12.8 10.0 85.0 75.0\n'
        )
    (stats / (name_of_fast if fast else 'aseg.stats')).write_text(text)


def write_recons(root: Path, labels: RowLabels, names: list[str] | None = None) -> Path:
    """The folder of each row with the stats of aparc and aseg."""
    names = names or [f'sub-{subject}' for subject in labels.subjects]
    for name, values in zip(names, values_of(labels), strict=True):
        write_cortex(root / name, values)
        write_volumes(root / name, values)
    return root
