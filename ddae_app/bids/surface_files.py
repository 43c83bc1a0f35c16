"""Maps on the cortex in folders of derivatives, and the names of harmonized ones.

Of a measure ``thickness``, what is found and what is written in its place::

    sub-01[/ses-1]/anat/sub-01[_ses-1]_hemi-L[_space-fsaverage5]_thickness.shape.gii
    sub-01[/ses-1]/anat/sub-01[_ses-1]_space-fsLR_den-91k_thickness.dscalar.nii
    sub-01[_ses-1]/surf/lh.thickness[.fsaverage5.mgh]

    sub-01[/ses-1]/anat/sub-01[_ses-1]_hemi-L_space-fsaverage5_desc-harmonized_thickness.shape.gii
    sub-01[/ses-1]/anat/sub-01[_ses-1]_space-fsLR_den-91k_desc-harmonized_thickness.dscalar.nii
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddae_app.bids.recons import Recons, recons_of
from ddae_app.imaging.surfaces import CIFTI, GIFTI

MESHES = {
    'fsaverage3': 642, 'fsaverage4': 2562, 'fsaverage5': 10242, 'fsaverage6': 40962,
    'fsaverage': 163842, 'fsLR_den-32k': 32492, 'fsLR_den-59k': 59292, 'fsLR_den-164k': 163842,
}  # fmt: skip
"""Vertices of a hemisphere of the meshes that many people share."""

SAME_MESH = {
    'fsaverage_den-3k': 'fsaverage4', 'fsaverage_den-10k': 'fsaverage5',
    'fsaverage_den-41k': 'fsaverage6', 'fsaverage_den-164k': 'fsaverage',
    'fsLR_den-91k': 'fsLR_den-32k', 'fsLR_den-170k': 'fsLR_den-59k',
}  # fmt: skip
"""Other names of these; CIFTI counts what it has of both hemispheres and below the cortex."""

NATIVE = ''
"""The mesh of files that name none, or that of the person."""

WHERE = (
    'sub-*/[ses-*/]anat/*_hemi-[LR]*_{0}.shape.gii',
    'sub-*/[ses-*/]anat/*_{0}.dscalar.nii',
    'sub-*/surf/[lr]h.{0}[.MESH.mgh]',
)
"""What is looked for, for people."""

ENTITIES = re.compile(r'(sub-[A-Za-z0-9+]+(?:_[A-Za-z0-9]+-[A-Za-z0-9+]+)*)_[A-Za-z]+')


@dataclass(frozen=True)
class MapFile:
    """One file of maps.

    Attributes
    ----------
    path : Path
    participant : str
    session : str or None
        Labels without ``sub-`` and ``ses-``.
    hemispheres : str
        ``L``, ``R`` or, of CIFTI, ``LR``.
    mesh : str
        A key of ``MESHES``, another space of BIDS, or ``NATIVE``.
    entities : str
        What its BIDS name says beside ``hemi`` and ``desc``, ``sub-01_space-fsLR_den-91k``.
    """

    path: Path
    participant: str
    session: str | None
    hemispheres: str
    mesh: str
    entities: str

    @property
    def is_cifti(self) -> bool:
        """Whether it holds both hemispheres."""
        return len(self.hemispheres) > 1

    def harmonized(self, root: Path, measure: str, space: str) -> Path:
        """Its harmonized map in an output dataset.

        Parameters
        ----------
        root : Path
        measure : str
        space : str
            Of its mesh, where its own name says none; empty for one without a name.
        """
        head, mark, tail = self.entities.partition('_space-')
        space = f'{mark}{tail}' or (f'_space-{space}' if space else '')
        hemi = '' if self.is_cifti else f'_hemi-{self.hemispheres}'
        folders = [f'sub-{self.participant}', *([f'ses-{self.session}'] if self.session else [])]
        ending = CIFTI if self.is_cifti else GIFTI
        name = f'{head}{hemi}{space}_desc-harmonized_{measure}{ending}'
        return root.joinpath(*folders, 'anat', name)


def find_maps(
    folders: Sequence[Path], measure: str
) -> tuple[list[MapFile], list[tuple[tuple[str, ...], str]]]:
    """All maps of a measure in folders of derivatives, without those that are harmonized.

    Returns
    -------
    maps : list of MapFile
    left_out : list of (tuple of str, str)
        Folders of FreeSurfer that are not taken, and why.
    """
    found, left_out = [], []
    for folder in dict.fromkeys(folders):
        for pattern in ('sub-*/anat', 'sub-*/ses-*/anat'):
            for ending in (GIFTI, CIFTI):
                paths = sorted(folder.glob(f'{pattern}/sub-*_{measure}{ending}'))
                found += [file for path in paths if (file := _of_bids(path, ending))]
        maps, recons = _of_freesurfer(folder, measure)
        found += maps
        left_out += recons.left_out
    return found, left_out


def _of_bids(path: Path, ending: str) -> MapFile | None:
    name = ENTITIES.fullmatch(path.name.removesuffix(ending))
    if name is None:
        return None
    entities = dict(part.split('-', 1) for part in name[1].split('_'))
    hemispheres = entities.pop('hemi', None) if ending == GIFTI else 'LR'
    if hemispheres not in ('L', 'R', 'LR') or entities.get('desc') == 'harmonized':
        return None
    space, den = entities.get('space'), entities.get('den')
    if space in (None, 'fsnative', 'T1w'):
        mesh = NATIVE
    else:
        mesh = str(space) + (f'_den-{den}' if den else '')
        mesh = SAME_MESH.get(mesh, mesh)
    kept = '_'.join(f'{k}-{v}' for k, v in entities.items() if k not in ('hemi', 'desc'))
    return MapFile(path, entities['sub'], entities.get('ses'), hemispheres, mesh, kept)


def _of_freesurfer(folder: Path, measure: str) -> tuple[list[MapFile], Recons]:
    """The maps of the people of a folder of subjects, and what else is there."""
    name = re.compile(rf'([lr])h\.{measure}(?:\.(fsaverage\d?)\.mg[hz]|\.mg[hz])?')
    paths = sorted(folder.glob(f'sub-*/surf/?h.{measure}*'))
    named = [(path, match) for path in paths if (match := name.fullmatch(path.name))]
    recons = recons_of(dict.fromkeys(path.parent.parent for path, _ in named))
    of_people = {recon.folder: recon for recon in recons.found}
    maps = []
    for path, match in named:
        if recon := of_people.get(path.parent.parent):
            mesh = match[2] or NATIVE
            entities = recon.folder.name + (f'_space-{mesh}' if mesh else '')
            side = match[1].upper()
            maps.append(MapFile(path, recon.participant, recon.session, side, mesh, entities))
    return maps, recons
