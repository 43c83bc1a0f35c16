"""Whether scans that are measured as one site were acquired and preprocessed alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.layout import SpaceLayout
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import find_preprocessed
from ddae_app.errors import InvalidBIDSError
from ddae_app.imaging.volumes import largest_voxel_edge

MOST_NAMED = 5
"""Scans of a kind; the others are counted."""

ALIKE = 1.3
"""Voxel sizes and times of the sequence differ by less than this factor within a site. All sites
of real scans at hand have one voxel size each."""

SEQUENCE_FIELDS = 'RepetitionTime', 'EchoTime', 'InversionTime', 'FlipAngle'
"""Fields of the JSON of a scan that set its contrast."""

HEADS = {'head': 'whole heads', 'brain': 'skull-stripped before'}
"""What the sidecar of a preprocessed image says of its T1w image, in words."""


def unlike_scans(
    scans: Sequence[Scan],
    cohort: Cohort,
    layout: SpaceLayout,
    roots: Sequence[Path],
    metadata: ScanMetadata,
) -> list[str]:
    """Warnings about sites whose scans are of several kinds, a sentence each.

    Parameters
    ----------
    scans : sequence of Scan
        They have been preprocessed.
    cohort : Cohort
    layout : SpaceLayout
    roots : sequence of Path
        Where preprocessed scans lie.
    metadata : ScanMetadata
        Of the dataset.
    """
    lines = []
    by_site: dict[str, list[Scan]] = {}
    for scan in dict.fromkeys(scans):
        by_site.setdefault(cohort[scan].site or '', []).append(scan)
    for site, members in sorted(by_site.items()):
        heads, methods = kinds_of(members, layout, roots)
        for what, kinds in (
            ('T1w images', heads),
            ('methods of brain extraction', methods),
            ('voxel sizes', _grouped({s: largest_voxel_edge(s.path) for s in members}, ' mm')),
            *(
                (f'{field}s', _grouped({s: _number(metadata, s, field) for s in members}))
                for field in SEQUENCE_FIELDS
            ),
        ):
            if len(set(kinds.values())) > 1:
                lines.append(
                    f'site {site} has {what} of several kinds: {_counted(kinds)}; what they do '
                    'to the images is taken for one site effect, so give each kind a site name of '
                    'its own, or bring all scans into one form'
                )
    return lines


def unlike_references(
    references: Mapping[Scan, str], scans: Mapping[Scan, str], target: str
) -> str | None:
    """A warning if most reference scans are of another kind than most scans of the dataset.

    Parameters
    ----------
    references, scans : dict of Scan to str
        What :func:`kinds_of` tells of either, of one property.
    target : str
        Name of the target site.
    """
    if not references or not scans:
        return None
    there, here = (Counter(kinds.values()).most_common(1)[0][0] for kinds in (references, scans))
    if there == here:
        return None
    return (
        f'most scans of the target {target} are {there}, and most of the dataset are {here}; the '
        'edge of the brain then differs for a reason that is no scanner, and harmonization '
        'imitates it; choose reference scans that were prepared like those of the dataset'
    )


def kinds_of(
    scans: Sequence[Scan], layout: SpaceLayout, roots: Sequence[Path]
) -> tuple[dict[Scan, str], dict[Scan, str]]:
    """What the T1w images show, and how their brains were extracted, as far as it is recorded."""
    heads, methods = {}, {}
    for scan in scans:
        if files := find_preprocessed(scan, layout.space, roots):
            said = sidecars.read(files.image)
            if said.get('HeadKind') in HEADS:
                heads[scan] = HEADS[said['HeadKind']]
            if method := said.get('SkullStripMethod'):
                methods[scan] = f'stripped by {method}' if method != 'none' else HEADS['brain']
    return heads, methods


def _number(metadata: ScanMetadata, scan: Scan, field: str) -> float | None:
    """A number of the JSON of a scan; None if it does not say."""
    try:
        return float(metadata.text(scan, field) or 0)
    except (InvalidBIDSError, ValueError):
        return None


def _grouped(values: Mapping[Scan, float | None], unit: str = '') -> dict[Scan, str]:
    """The scans of which a value above 0 is known; those that nearly have the median are alike."""
    known = {scan: value for scan, value in values.items() if value and np.isfinite(value)}
    if not known:
        return {}
    usual = float(np.median(list(known.values())))
    return {
        scan: f'{usual if 1 / ALIKE < value / usual < ALIKE else value:.2g}{unit}'
        for scan, value in known.items()
    }


def _counted(kinds: Mapping[Scan, str]) -> str:
    """The kinds by how often they occur; all but the commonest with their scans."""
    counts = Counter(kinds.values()).most_common()
    parts = [f'{counts[0][0]} ({counts[0][1]})']
    for kind, n in counts[1:]:
        stems = [scan.stem for scan, own in kinds.items() if own == kind][:MOST_NAMED]
        more = f' and {n - len(stems)} more' if n > len(stems) else ''
        parts.append(f'{kind} ({n}: {", ".join(stems)}{more})')
    return ', '.join(parts)
