"""The README files of a phantom dataset and of its truth."""

from __future__ import annotations

from ddae_app import __version__
from ddae_app.phantom.design import YEARS_BETWEEN_SESSIONS, Design


def raw_readme(design: Design) -> str:
    """The README of the raw dataset."""
    changes = []
    if design.atrophy is not None:
        loss = f'{design.atrophy:g}% of its first volume'
        changes.append(f'From each session to the next, gray matter loses {loss}.')
    if design.change_scanner:
        changes.append('Each session is in the scanner of the next site.')
    if changes:
        changes.append(f'Sessions are {YEARS_BETWEEN_SESSIONS} years apart.')
    return README.format(
        version=__version__,
        what='scans of whole heads' if design.whole_head else 'scans without skull',
        design='\n'.join([str(design), *changes]),
    )


def truth_readme(design: Design) -> str:
    """The README of the derivative that contains the truth."""
    title = 'Every scan of the dataset above at every other site'
    if not design.traveling:
        title = 'What is true of the dataset above'
    text = f'{title}\n{"=" * len(title)}\n\n'
    if design.traveling:
        text += TRAVELING
    if design.whole_head:
        text += MASKS
    if design.atrophy is not None:
        text += VOLUMES
    return text + LICENSE


README = """\
Multi-site brain phantoms
=========================

Simulated T1-weighted {what}, written by ddae-phantom (ddae-app {version}).
No person was scanned. The anatomy is a random deformation of the MNI152NLin2009aSym template
(Fonov et al. 2011) that depends on age and sex; each site has a scanner with its own contrast,
bias field, resolution, orientation, noise and intensity scale, and its own distribution of age
and sex.

License: the images are yours to use for any purpose, with the notice of the template:
Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Center, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and
its documentation for any purpose and without fee is hereby granted, provided that the above
copyright notice appear in all copies. The authors and McGill University make no representations
about the suitability of this software for any purpose. It is provided "as is" without express or
implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.

{design}
"""

TRAVELING = """\
desc-siteX is the same head at the same position, on the voxels of the source scan, rendered
with the scanner of site X: its contrast, mean bias field, blur and intensity scale, no noise.
"""

MASKS = """\
desc-brain_mask is the brain in the scan: the voxels of which it fills more than half.
"""

VOLUMES = """\
sub-*_sessions.tsv holds the volumes of the tissues of each participant at each session.
"""

LICENSE = """\
License and notice: as in the README of that dataset.
"""
