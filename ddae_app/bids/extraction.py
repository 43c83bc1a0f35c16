"""How the brain of a scan is extracted, and the brain masks that users bring."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddae_app.bids.scan import Scan
from ddae_app.errors import ImageError, UsageError
from ddae_app.files import not_fetched

MASK_FILTER: dict[str, str | None] = {'desc': 'brain', 'suffix': 'mask', 'space': None}
"""Which masks are taken unless ``--brain-mask-filter`` says otherwise, by entity."""

OWN_SPACES = (None, 'T1w', 'orig', 'scanner', 'individual')
"""Labels of ``space`` that name the space of the scan; None is a name without the entity."""

NOT_OF_THE_SCAN = ('desc', 'suffix', 'space', 'res', 'label')
"""Entities of a mask that say nothing of the scan that it belongs to."""

SURFER_MASKS = ('mask.mgz', 'brainmask.mgz')
"""The brain masks of FastSurfer and FreeSurfer, in ``<subject>/mri``."""


@dataclass(frozen=True)
class Extraction:
    """How a brain is extracted.

    Attributes
    ----------
    method : {'hd-bet', 'deepbet', 'template', 'none', 'mask'}
        ``mask`` takes the one that the user has.
    file : Path or None
        HD-BET's weights, or the mask.
    sha256 : str or None
        Of that file; others are refused.
    """

    method: str
    file: Path | None = None
    sha256: str | None = None

    def record(self) -> dict[str, str | None]:
        """What images depend on."""
        return {'SkullStrip': self.method, self._key: self.sha256}

    def metadata(self) -> dict[str, str]:
        """What sidecars say."""
        digest = {self._key: self.sha256} if self.sha256 else {}
        return {'SkullStripMethod': self.method, **digest}

    @property
    def _key(self) -> str:
        return 'BrainMaskSHA256' if self.method == 'mask' else 'SkullStripWeightsSHA256'


def read_mask_filter(path: Path) -> dict[str, str | None]:
    """Entities by which brain masks are chosen, from a JSON file.

    Raises
    ------
    UsageError
        Not readable, or not an object of texts and null.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise UsageError(f'--brain-mask-filter {path}: not readable as JSON ({e})') from e
    if not isinstance(content, dict) or not all(
        value is None or isinstance(value, str) for value in content.values()
    ):
        raise UsageError(
            f'--brain-mask-filter {path}: expected an object of entities, such as '
            '{"desc": "brain", "space": "T1w"}; null means without the entity'
        )
    return {**MASK_FILTER, **content}


def find_mask(
    scan: Scan,
    roots: Sequence[Path],
    wanted: Mapping[str, str | None],
    *,
    alone: bool,
) -> Path:
    """The brain mask of a scan in the datasets that the user named.

    A mask belongs to a scan if every entity of its name is one of the scan. A mask whose name has
    fewer entities than the scan, as that of an average of runs, is taken only of a scan that is
    alone in its session.

    Parameters
    ----------
    scan : Scan
    roots : sequence of Path
        BIDS derivatives, or folders of FreeSurfer's or FastSurfer's subjects.
    wanted : mapping of str to str or None
        Entities, as :func:`read_mask_filter` reads them.
    alone : bool
        As :func:`is_alone` tells.

    Raises
    ------
    ImageError
        There is none, or more than one.
    """
    entities = _entities(scan.path)
    found = [
        path
        for root in roots
        for path in sorted((root / scan.folder).glob('*.nii*'))
        if _belongs(_entities(path), entities, wanted, alone=alone)
    ]
    if not found and alone:
        found = [path for root in roots if (path := _of_surfer(scan, root))]
    if len(found) == 1:
        return found[0]
    where = ', '.join(map(str, roots))
    if not found:
        raise ImageError(
            f'no brain mask of {scan.stem} in {where}; expected '
            f'{scan.folder / scan.stem}_desc-brain_mask.nii.gz in the space of the T1w image. '
            'Choose others with --brain-mask-filter, or leave out the dataset after -d'
        )
    raise ImageError(
        f'{len(found)} brain masks of {scan.stem} in {where}: '
        f'{", ".join(path.name for path in found)}; choose one with --brain-mask-filter'
    )


def is_alone(scan: Scan) -> bool:
    """Whether its participant has no other T1w image in the session, selected or not.

    Other programs may have averaged all that are there.
    """
    # Systems leave files such as ._sub-01_T1w.nii.gz, which are no images.
    images = scan.path.parent.glob('sub-*_T1w.nii*')
    return len({path.name.split('.')[0] for path in images}) <= 1


def _belongs(
    mask: Mapping[str, str],
    scan: Mapping[str, str],
    wanted: Mapping[str, str | None],
    *,
    alone: bool,
) -> bool:
    spaces = OWN_SPACES if wanted['space'] is None else (wanted['space'],)
    if mask.get('space') not in spaces:
        return False
    if any(mask.get(name) != value for name, value in wanted.items() if name != 'space'):
        return False
    of_mask = {key: value for key, value in mask.items() if key not in NOT_OF_THE_SCAN}
    of_scan = {key: value for key, value in scan.items() if key not in NOT_OF_THE_SCAN}
    # What the user chose by a filter need not be compared, unless it is of another scan.
    of_scan = {k: v for k, v in of_scan.items() if k not in wanted or of_mask.get(k) != v}
    of_mask = {key: value for key, value in of_mask.items() if key not in wanted}
    return of_mask.items() <= of_scan.items() if alone else of_mask == of_scan


def read_entities(name: str) -> dict[str, str]:
    """The entities of a file name, ``sub-01_run-2_T1w`` giving ``sub`` and ``run``."""
    pairs = (part.partition('-') for part in name.split('.')[0].split('_') if '-' in part)
    return {key: value for key, _, value in pairs}


def _entities(path: Path) -> dict[str, str]:
    return {'suffix': path.name.split('.')[0].split('_')[-1], **read_entities(path.name)}


def _of_surfer(scan: Scan, root: Path) -> Path | None:
    session = f'_ses-{scan.session}' if scan.session else ''
    folder = root / f'sub-{scan.participant}{session}' / 'mri'
    masks = (folder / name for name in SURFER_MASKS)
    # One that was not fetched is found as well, so that it is not taken for missing.
    return next((mask for mask in masks if mask.is_file() or not_fetched(mask)), None)
