"""Names of scans and of what is derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TRAILING_ENTITIES = ('space', 'res', 'desc')
"""Entities that a derivative adds, in the order in which BIDS wants them."""


@dataclass(frozen=True)
class Scan:
    """One T1w image of a dataset.

    Attributes
    ----------
    path : Path
        The image.
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    stem : str
        File name up to its suffix, for example ``sub-01_ses-1_run-2``.
    """

    path: Path
    participant: str
    session: str | None
    stem: str

    @property
    def folder(self) -> Path:
        """Where its derivatives lie in the output dataset, ``sub-01/ses-1/anat``."""
        session = [f'ses-{self.session}'] if self.session else []
        return Path(f'sub-{self.participant}', *session, 'anat')

    @property
    def workflow(self) -> str:
        """A name for its workflow: letters, digits and underscores."""
        return ''.join(c if c.isalnum() else '_' for c in self.stem) + '_wf'

    def derivative(self, suffix: str = 'T1w', extension: str = '.nii.gz', **entities: str) -> Path:
        """Path of an image in the output dataset, relative to its root.

        >>> scan = Scan(Path('sub-01_T1w.nii'), '01', None, 'sub-01')
        >>> str(scan.derivative(space='MNI152NLin2009cAsym', desc='preproc'))
        'sub-01/anat/sub-01_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz'
        """
        return self.folder / self._name(suffix, extension, entities)

    def transform(self, space: str) -> Path:
        """Path of the affine from this scan to `space`, relative to the output dataset."""
        return self.folder / f'{self.stem}_from-T1w_to-{space}_mode-image_xfm.txt'

    def figure(self, desc: str, extension: str) -> Path:
        """Path of a figure, relative to the output dataset."""
        name = self._name('T1w', extension, {'desc': desc})
        return Path(f'sub-{self.participant}', 'figures', name)

    def _name(self, suffix: str, extension: str, entities: dict[str, str]) -> str:
        parts = [f'{key}-{entities[key]}' for key in TRAILING_ENTITIES if key in entities]
        return '_'.join([self.stem, *parts, suffix]) + extension


def sidecar(path: Path) -> Path:
    """The JSON file that belongs to an image."""
    return path.with_name(path.name.removesuffix('.gz').removesuffix('.nii') + '.json')
