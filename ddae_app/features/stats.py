"""One stats file of FreeSurfer or FastSurfer: the regions, their measures, and who wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ddae_app.bids.values import shown
from ddae_app.errors import UsageError
from ddae_app.files import not_fetched

REGION = 'StructName'

_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?')
_NAN = re.compile(r'[+-]?nan(\([^)]*\))?', re.IGNORECASE)
_CVS = re.compile(r'Id: *[^,]+,v (?P<version>\S+)')

AGAIN = 'run FreeSurfer or FastSurfer again for this person, or copy the file again'


@dataclass(frozen=True)
class Measure:
    """A measure of the header, such as the mean thickness of the hemisphere.

    Attributes
    ----------
    group, name : str
        The first two of its names, such as ``Cortex`` and ``MeanThickness``.
    text, unit : str
        Its value, and ``mm``, ``mm^2``, ``mm^3`` or ``unitless``.
    """

    group: str
    name: str
    text: str
    unit: str


@dataclass(frozen=True)
class StatsFile:
    """What a stats file holds.

    Attributes
    ----------
    path : Path
    sha256 : str
    header : dict of str to str
        What follows the first word of a line of the header, by that word.
    measures : tuple of Measure
    regions : dict of str to dict of str to str
        The text of each column of a region; empty where there is no number.
    """

    path: Path
    sha256: str
    header: Mapping[str, str]
    measures: tuple[Measure, ...]
    regions: Mapping[str, Mapping[str, str]]

    @property
    def version(self) -> str:
        """The program that wrote the file, and its version."""
        program = self.header.get('generating_program', '').split(' ')[0]
        fast = self.header.get('FastSurfer_version', '').split(' ')[0]
        cvs = self.header.get('cvs_version', '').replace('$Id$', '')
        if match := _CVS.search(cvs):
            cvs = match['version']
        name = f'FastSurfer {fast}' if fast else cvs
        return ' '.join(part for part in (program, name) if part) or 'unknown'


def read_stats(path: Path, columns: tuple[str, ...]) -> StatsFile:
    """Read a stats file.

    Parameters
    ----------
    path : Path
    columns : tuple of str
        Those that are needed; the values of the others are not looked at.

    Raises
    ------
    UsageError
        It is not readable, no such file, damaged or cut.
    """
    if message := not_fetched(path):
        raise UsageError(message)
    try:
        content = path.read_bytes()
    except OSError as e:
        raise UsageError(f'{path}: not readable ({e.strerror})') from e
    header: dict[str, str] = {}
    measures: list[Measure] = []
    names: list[str] | None = None
    regions: dict[str, dict[str, str]] = {}
    # User names and paths in the header may be in any encoding.
    for line in content.decode('utf-8', errors='replace').splitlines():
        if line.startswith('#'):
            key, _, rest = line[1:].strip().partition(' ')
            if key == 'ColHeaders':
                names = rest.split()
            elif key == 'Measure':
                measures.append(_measure(path, rest))
            else:
                header.setdefault(key, rest.strip())
            continue
        if not line.strip():
            continue
        if names is None:
            break
        region, texts = _region(path, names, line.split(), columns)
        if region in regions:
            raise UsageError(f'{path}: two rows of {shown(region)}; {AGAIN}')
        regions[region] = texts
    if names is None or not regions:
        missing = 'line "# ColHeaders"' if names is None else 'rows of regions'
        raise UsageError(
            f'{path}: no {missing}; expected a stats file, so this one is damaged or cut: {AGAIN}'
        )
    if lacking := [name for name in (REGION, *columns) if name not in names]:
        raise UsageError(
            f'{path}: no column {lacking[0]}; expected {", ".join((REGION, *columns))}'
        )
    if not content.endswith(b'\n'):
        raise UsageError(f'{path}: cut in its last line; {AGAIN}')
    return StatsFile(path, sha256(content).hexdigest(), header, tuple(measures), regions)


def _measure(path: Path, text: str) -> Measure:
    """``Cortex, MeanThickness, Mean Thickness, 2.5, mm``; some lack the second comma."""
    parts = [part.strip() for part in text.split(',')]
    if len(parts) < 4 or not parts[1]:
        raise UsageError(f'{path}: {shown("# Measure " + text)} is damaged; {AGAIN}')
    name = parts[1].split()[0]
    return Measure(parts[0], name, _number(path, parts[-2], name), parts[-1])


def _region(
    path: Path, names: list[str], cells: list[str], columns: tuple[str, ...]
) -> tuple[str, dict[str, str]]:
    row = dict(zip(names, cells, strict=False))
    region = row.get(REGION, cells[0])
    if len(cells) != len(names):
        raise UsageError(
            f'{path}: the row of {shown(region)} has {len(cells)} values of {len(names)}, so the '
            f'file is damaged or cut; {AGAIN}'
        )
    return region, {name: _number(path, row[name], region) for name in columns if name in row}


def _number(path: Path, text: str, what: str) -> str:
    """A text that is a finite number, or nothing where it says that there is none."""
    if _NAN.fullmatch(text):
        return ''
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return text
    raise UsageError(f'{path}: {shown(text)} of {shown(what)} is no number; {AGAIN}')
