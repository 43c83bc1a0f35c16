"""From the stats files of many people to one table, its columns as FreeSurfer's tools name them.

``aparcstats2table`` and ``asegstats2table`` make a table of each hemisphere and measure; here,
all of them are one table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddae_app.bids.recons import Recon
from ddae_app.errors import UsageError
from ddae_app.features.matrix import listed
from ddae_app.features.stats import AGAIN, StatsFile, read_stats
from ddae_app.features.table import PERSON, SESSION, FeatureTable
from ddae_app.files import not_fetched
from ddae_app.settings import SURFER_STATS

ASEG = 'aseg'
HEMISPHERES = {'lh': 'left', 'rh': 'right'}

CORTEX = {
    'thickness': ('ThickAvg', 'mm', 'mean thickness'),
    'area': ('SurfArea', 'mm^2', 'area of the white surface'),
    'volume': ('GrayVol', 'mm^3', 'volume of gray matter'),
}
"""The measures of a region of the cortex: column, unit and meaning."""

VERTICES, VOLUME = 'NumVert', 'Volume_mm3'

OF_HEMISPHERE = {'MeanThickness': 'thickness', 'WhiteSurfArea': 'area'}
OF_HEAD = ('BrainSegVolNotVent', 'eTIV')
"""What ``aparcstats2table`` takes of the header: of each hemisphere, and once."""

OF_VOLUMES = 'aseg.stats'
"""From whose header that of the head comes where the files of the cortex have none: FreeSurfer 7.3
leaves it out there (``mris_anatomical_stats -noglobal``)."""

FULL_NAMES = ('eTIV', 'ICV')
"""Measures of the header that ``asegstats2table`` calls by the first of their names."""

RENAMED = {'Left-Thalamus-Proper': 'Left-Thalamus', 'Right-Thalamus-Proper': 'Right-Thalamus'}
"""Regions that FreeSurfer calls by another name since version 7; also, ``G&S`` is ``G_and_S``."""

OF_CORTEX = 'ctx-'
"""How regions of the cortex begin in FastSurfer's ``aseg+DKT.stats``, which ``aseg`` has not."""

MOST = 0.8
"""The share of the regions that most people have, of which a file with less was cut, or is of
another atlas. FreeSurfer leaves out regions that are empty, which are few."""


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes
    ----------
    name : str
    block : int
        Columns of a lower one come first.
    unit, meaning : str
    """

    name: str
    block: int
    unit: str
    meaning: str


@dataclass(frozen=True)
class StatsTable:
    """A table that was read from stats files.

    Attributes
    ----------
    table : FeatureTable
    columns : tuple of Column
        The features, in the order of the table.
    files : tuple of tuple of StatsFile, length N
        Of each row.
    versions : tuple of str, length N
        What wrote them.
    unfinished : tuple of str
        The recons that are left out, each with what it lacks.
    """

    table: FeatureTable
    columns: tuple[Column, ...]
    files: tuple[tuple[StatsFile, ...], ...]
    versions: tuple[str, ...]
    unfinished: tuple[str, ...]


def file_names(what: str) -> list[tuple[str, ...]]:
    """The files that are looked for, those of FreeSurfer first."""
    if what == ASEG:
        # In FastSurfer since 2025, the second is a link to the third, which copies may lose.
        return [(OF_VOLUMES,), ('aseg+DKT.stats',), ('aseg+DKT.VINN.stats',)]
    names = [what, f'{what}.mapped'] if what == 'aparc.DKTatlas' else [what]
    return [tuple(f'{side}.{name}.stats' for side in HEMISPHERES) for name in names]


def _others(recons: Sequence[Recon]) -> str:
    """Of which words there are files, in a part of a message; empty if of none."""
    there = [what for what in SURFER_STATS if any(not _choose(what, recon)[1] for recon in recons)]
    return f'; there are those for --features {" or ".join(there)}' if there else ''


def read_stats_table(what: str, recons: Sequence[Recon], path: Path) -> StatsTable:
    """Read the stats files of all recons.

    Parameters
    ----------
    what : str
        One of :data:`ddae_app.settings.SURFER_STATS`.
    recons : sequence of Recon
    path : Path
        Of the table.

    Raises
    ------
    UsageError
        No recon has the files, or one is damaged, cut, or of another atlas.
    """
    needed = (VOLUME,) if what == ASEG else (VERTICES, *(c for c, _, _ in CORTEX.values()))
    chosen: list[tuple[Recon, tuple[StatsFile, ...]]] = []
    unfinished: list[str] = []
    for recon in recons:
        names, missing = _choose(what, recon)
        if missing:
            unfinished.append(f'{recon.folder.name} ({missing})')
            continue
        files = tuple(read_stats(recon.stats / name, needed) for name in names)
        for file in files:
            _check_kind(file)
        chosen.append((recon, files if what == ASEG else (*files, *_of_head(recon, files))))
    expected = ' or '.join(' and '.join(names) for names in file_names(what))
    if not chosen:
        raise UsageError(
            f'no stats of {what} in {listed([str(recon.stats) for recon in recons])}; expected '
            f'{expected}' + _others(recons)
        )
    for slot in range(len(file_names(what)[0])):
        _check_regions([files[slot] for _, files in chosen])
    rows = [dict(_cells(what, files)) for _, files in chosen]
    # From the row that has most on, so that what one person lacks does not go to the end.
    known = {column.name: column for row in sorted(rows, key=len, reverse=True) for column in row}
    columns = tuple(sorted(known.values(), key=lambda column: column.block))
    texts = [{column.name: text for column, text in row.items()} for row in rows]
    sessions = any(recon.session for recon, _ in chosen)
    cells = tuple(
        (
            f'sub-{recon.participant}',
            *([f'ses-{recon.session}' if recon.session else 'n/a'] if sessions else []),
            *(row.get(column.name) or 'n/a' for column in columns),
        )
        for (recon, _), row in zip(chosen, texts, strict=True)
    )
    names = tuple(column.name for column in columns)
    table = FeatureTable(
        path,
        tuple(recon.participant for recon, _ in chosen),
        tuple(recon.session for recon, _ in chosen),
        names,
        np.array([[float(row.get(name) or math.nan) for name in names] for row in texts]),
        (PERSON, *([SESSION] if sessions else []), *names),
        cells,
    )
    read = tuple(files for _, files in chosen)
    return StatsTable(table, columns, read, tuple(map(_version, read)), tuple(unfinished))


def _choose(what: str, recon: Recon) -> tuple[tuple[str, ...], str]:
    """The files to read, and what is missing where none of the sets is complete."""
    lacks = f'no {file_names(what)[0][0]}'
    for names in file_names(what):
        # One that was not fetched is found as well, so that it is not taken for missing.
        there = [
            name for name in names
            if (path := recon.stats / name).is_file() or not_fetched(path)
        ]  # fmt: skip
        if len(there) == len(names):
            return names, ''
        if there:
            lacks = f'no {next(name for name in names if name not in there)}'
    return (), lacks


def _of_head(recon: Recon, files: Sequence[StatsFile]) -> list[StatsFile]:
    """The file that has measures of the head which those of the cortex lack, if it is there."""
    path = recon.stats / OF_VOLUMES
    if {*OF_HEAD} <= {measure.name for measure in files[0].measures}:
        return []
    return [read_stats(path, (VOLUME,))] if path.is_file() or not_fetched(path) else []


def _check_kind(file: StatsFile) -> None:
    """Refuse a file whose header says that it is of another hemisphere or atlas."""
    side, _, name = file.path.name.removesuffix('.stats').partition('.')
    if side not in HEMISPHERES:
        return
    annotation = Path(file.header.get('AnnotationFile', '').replace('\\', '/')).name
    atlas = annotation.removeprefix(f'{side}.').removesuffix('.annot')
    if annotation and atlas != name:
        raise UsageError(
            f'{file.path}: its regions are of {annotation}, as its header says, and not of '
            f'{name}; {AGAIN}'
        )
    if file.header.get('hemi', side) != side:
        raise UsageError(
            f'{file.path}: of hemisphere {file.header["hemi"]}, as its header says; {AGAIN}'
        )


def _check_regions(files: Sequence[StatsFile]) -> None:
    """Refuse a file that lacks much of what most have, or has much of what they lack."""
    counts = Counter(name for file in files for name in _names(file))
    usual = {name for name, n in counts.items() if 2 * n >= len(files)}
    for file in files:
        own = _names(file)
        if len(own & usual) < MOST * len(usual):
            raise UsageError(
                f'{file.path}: {len(own & usual)} of the {len(usual)} regions that most people '
                f'have, so it is cut, or of another atlas or program; {AGAIN}, or leave its '
                'folder out'
            )
        if len(own & usual) < MOST * len(own):
            raise UsageError(
                f'{file.path}: {listed(sorted(own - usual))}, which most people do not have, so '
                f'its regions are of another atlas; {AGAIN}, or leave its folder out'
            )


def _names(file: StatsFile) -> set[str]:
    return {_renamed(name) for name in file.regions if not name.startswith(OF_CORTEX)}


def _renamed(region: str) -> str:
    """What FreeSurfer 7 calls a region."""
    return RENAMED.get(region, region.replace('&', '_and_'))


def _cells(what: str, files: Sequence[StatsFile]) -> Iterator[tuple[Column, str]]:
    """The columns of a person, each with its text; empty where there is no number."""
    yield from _of_aseg(files[0]) if what == ASEG else _of_cortex(files)


def _of_aseg(file: StatsFile) -> Iterator[tuple[Column, str]]:
    for region, texts in file.regions.items():
        if not region.startswith(OF_CORTEX):
            name = _renamed(region)
            yield Column(name, 0, 'mm^3', f'{name}: volume'), texts[VOLUME]
    for measure in file.measures:
        # Ratios of two others, and numbers of holes in surfaces, have no unit.
        if measure.unit == 'mm^3':
            name = measure.group if measure.name in FULL_NAMES else measure.name
            of = f'{name} of the header of {file.path.name}'
            yield Column(name, 1, measure.unit, of), measure.text


def _of_cortex(files: Sequence[StatsFile]) -> Iterator[tuple[Column, str]]:
    for i, (measure, (source, unit, meaning)) in enumerate(CORTEX.items()):
        for side, file in zip(HEMISPHERES, files[:2], strict=True):
            block = 2 * i + list(HEMISPHERES).index(side)
            for own, texts in file.regions.items():
                region = _renamed(own)
                # A region without a vertex has no thickness; the others are as good as absent.
                text = texts[source] if float(texts[VERTICES] or 0) > 0 else ''
                of = f'{region}, {HEMISPHERES[side]} hemisphere: {meaning}'
                yield Column(f'{side}_{region}_{measure}', block, unit, of), text
            for total in file.measures:
                if OF_HEMISPHERE.get(total.name) == measure:
                    of = f'{HEMISPHERES[side]} hemisphere: {total.name}'
                    yield Column(f'{side}_{total.name}_{measure}', block, unit, of), total.text
    of_head = {
        total.name: (total, file)
        for file in (*files[2:], files[0])  # those of the cortex count, where they are there
        for total in file.measures
        if total.name in OF_HEAD
    }
    for name in OF_HEAD:
        if name in of_head:
            total, file = of_head[name]
            of = f'{name} of the header of {file.path.name}'
            yield Column(name, 2 * len(CORTEX), 'mm^3', of), total.text


def _version(files: Sequence[StatsFile]) -> str:
    mapped = ', FastSurfer' if '.mapped.' in files[0].path.name else ''
    return ' and '.join(dict.fromkeys(file.version for file in files[:2])) + mapped
