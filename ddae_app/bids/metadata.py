"""What the JSON files of a dataset say of each scan, by the inheritance principle of BIDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddae_app.bids.scan import Scan
from ddae_app.bids.tables import read_object
from ddae_app.bids.values import is_missing
from ddae_app.errors import InvalidBIDSError

SCANNER_FIELDS = (
    'Manufacturer', 'ManufacturersModelName', 'MagneticFieldStrength', 'InstitutionName',
    'StationName',
)  # fmt: skip
"""Fields that name the scanner, or where it stands."""


class ScanMetadata:
    """Reads the JSON files that apply to a scan: those of its folder win over those above.

    Parameters
    ----------
    bids_dir : Path
    """

    def __init__(self, bids_dir: Path) -> None:
        self._root = bids_dir
        self._files: dict[Path, list[tuple[set[str], Path]]] = {}
        self._contents: dict[Path, dict[str, Any]] = {}

    def of(self, scan: Scan) -> dict[str, Any]:
        """All fields that apply to a scan.

        Raises
        ------
        InvalidBIDSError
            A file is not readable as a JSON object.
        """
        entities = set(scan.stem.split('_'))
        folder = self._root / scan.folder
        above = [f for f in reversed(folder.parents) if f.is_relative_to(self._root)]
        fields: dict[str, Any] = {}
        for here in (*above, folder):
            for named, path in self._files_in(here):
                if named <= entities:
                    fields |= self._content(path)
        return fields

    def text(self, scan: Scan, field: str) -> str | None:
        """One field, by its name in upper or lower case, as text; None where it does not say.

        Raises
        ------
        InvalidBIDSError
            As :meth:`of`, or the field is a list or an object.
        """
        fields = self.of(scan)
        name = next((n for n in (field, *fields) if n in fields and same(n, field)), None)
        value = None if name is None else fields[name]
        if value is not None and not isinstance(value, str | int | float):
            raise InvalidBIDSError(f'{scan.stem}: {name} of its JSON is no text and no number')
        text = '' if value is None else ' '.join(f'{value}'.split())
        return None if is_missing(text) else text

    def _files_in(self, folder: Path) -> list[tuple[set[str], Path]]:
        """The JSON files of T1w images in a folder, those of many entities last."""
        if folder not in self._files:
            named = [
                ({*path.name.removesuffix('T1w.json').strip('_').split('_')} - {''}, path)
                for path in sorted(folder.glob('*T1w.json'))
                if path.name == 'T1w.json' or path.name.endswith('_T1w.json')
            ]
            self._files[folder] = sorted(named, key=lambda item: len(item[0]))
        return self._files[folder]

    def _content(self, path: Path) -> dict[str, Any]:
        if path not in self._contents:
            self._contents[path] = read_object(path)
        return self._contents[path]


def same(first: str, second: str) -> bool:
    """Whether two names differ in upper and lower case at most."""
    return first.lower() == second.lower()
