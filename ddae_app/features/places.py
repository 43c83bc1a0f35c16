"""Where the vertices of maps on the cortex lie, for methods and pictures that need to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from ddae_app.bids.surface_files import MESHES
from ddae_app.errors import UsageError
from ddae_app.imaging.icosahedron import sphere
from ddae_app.imaging.spheres import read_spheres

KNOWN, READ = 'fsaverage', 'fsLR_den-'
"""What the names begin with of meshes whose places follow from their numbers, and of those whose
places stand in files."""

ROUNDED = 1e-3
"""By how much a place may be off the unit sphere."""

OUTSIDE = 0.3
"""How far out the middle of the medial wall may lie on the unit sphere of fsaverage, where it is
at -0.8; it is at 0 where vertices are left out all around."""

LEAST_WALL = 0.02
"""The part of a hemisphere that is medial wall at least (it is 0.05 to 0.09)."""


@dataclass(frozen=True)
class Mesh:
    """A mesh that many people share.

    Attributes
    ----------
    name : str
        A key of :data:`ddae_app.bids.surface_files.MESHES`.
    vertices : int
        Of a hemisphere.
    """

    name: str
    vertices: int

    @property
    def is_known(self) -> bool:
        """Whether the places of its vertices follow from their numbers."""
        return self.name.startswith(KNOWN)

    def check(self, places: np.ndarray | None) -> None:
        """Refuse places that are not those of its vertices.

        Raises
        ------
        ValueError
            They are missing, or of another form; or they are given, and known without.
        """
        if self.is_known:
            if places is not None:
                raise ValueError(f'places of {self.name}, which are known')
            return
        if (
            places is None
            or places.shape != (2, self.vertices, 3)
            or not (np.abs(np.linalg.norm(places, axis=2) - 1) < ROUNDED).all()
        ):
            raise ValueError(f'no places of the vertices of {self.name} on the unit sphere')


def mesh_of(maps: str) -> Mesh:
    """The mesh of maps, ``thickness on fsaverage5``.

    Raises
    ------
    UsageError
        It is none that many people share.
    """
    name = maps.rsplit(' on ', 1)[-1]
    if name not in MESHES:
        raise UsageError(
            f'{maps}: the DDAE is for fsaverage, fsaverage6 to fsaverage3, and fsLR whose density '
            'is in the names of files (space-fsLR_den-32k, of CIFTI den-91k); resample the maps, '
            'or harmonize them with ComBat (without --method)'
        )
    return Mesh(name, MESHES[name])


def are_needed(maps: str) -> bool:
    """Whether a DDAE has to be given the places of the vertices; not of a table.

    Raises
    ------
    UsageError
        The mesh is none that the DDAE is for.
    """
    return bool(maps) and not mesh_of(maps).is_known


def read_places(
    maps: str, templateflow_home: Path | None, cortex: np.ndarray | None = None
) -> np.ndarray | None:
    """The places that a DDAE of maps has to be given.

    Parameters
    ----------
    maps : str
        What is mapped on which mesh; empty of a table.
    templateflow_home : Path or None
    cortex : np.ndarray of int, shape (F,), optional
        The vertices outside the medial wall among all, the left hemisphere first, by which it is
        seen whether left and right are what they are called.

    Returns
    -------
    np.ndarray, shape (2, V, 3), or None
        None of a table, and where they are known without.

    Raises
    ------
    UsageError
        The mesh is none that the DDAE is for, TemplateFlow's files are not there, or left and
        right are exchanged.
    """
    if not are_needed(maps):
        return None
    mesh = mesh_of(maps)
    places = read_spheres(mesh.name.removeprefix(READ), mesh.vertices, templateflow_home)
    if cortex is not None:
        _check_sides(maps, places, cortex)
    return places


def _check_sides(maps: str, places: np.ndarray, cortex: np.ndarray) -> None:
    """Refuse spheres on which the medial wall of both hemispheres lies outside.

    It is at the right of the left hemisphere, and at the left of the right one.
    """
    is_wall = np.ones(places.shape[:2], dtype=bool)
    is_wall.flat[cortex] = False
    if is_wall.mean(axis=1).min() < LEAST_WALL:
        return
    outward = -places[0, is_wall[0], 0].mean(), places[1, is_wall[1], 0].mean()
    if min(outward) > OUTSIDE:
        raise UsageError(
            f'{maps}: the medial wall of both hemispheres lies on the outer side of their '
            'spheres, so left and right are exchanged, in the spheres of TemplateFlow or in the '
            'maps; download the spheres again with "ddae-app-fetch spheres", or mend the maps'
        )


def shown_vertices(mesh: str, places: np.ndarray | None) -> np.ndarray | None:
    """Which vertex of a mesh lies at, or next to, each vertex of fsaverage5.

    Parameters
    ----------
    mesh : str
        Its name.
    places : np.ndarray, shape (2, V, 3), or None
        Of its vertices, where they have to be given.

    Returns
    -------
    np.ndarray of int, shape (2, 10242), or None
        By hemisphere, the left one first. None of a mesh that is coarser, or whose places are not
        known.
    """
    shown = MESHES['fsaverage5']
    if places is not None:
        return np.stack([KDTree(side).query(sphere(shown))[1] for side in places])
    if mesh.startswith(KNOWN) and MESHES.get(mesh, 0) >= shown:  # its first vertices are the same
        return np.tile(np.arange(shown), (2, 1))
    return None
