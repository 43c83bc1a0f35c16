"""The mesh of fsaverage: an icosahedron whose triangles are divided again and again.

Level k has ``10 * 4**k + 2`` vertices, which are the first ones of the next level
(Fischl et al. 1999, doi 10.1002/(sici)1097-0193(1999)8:4<272::aid-hbm10>3.0.co;2-4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddae_app.errors import UsageError

FINEST, LAST = 5, 3
"""Levels of maps: nilearn brings along fsaverage5, which holds the coarser ones."""

RING = 7
"""A vertex and its neighbors, of which twelve vertices have five and all others six."""


@dataclass(frozen=True)
class MeshLevel:
    """One level of the mesh.

    Attributes
    ----------
    rings : np.ndarray of int, shape (V, 7)
        Each vertex, and its neighbors in the order of their angle, counterclockwise from west.
        One that has five takes the place of the sixth itself (Zhao et al. 2019, doi
        10.1007/978-3-030-20351-1_67).
    parents : np.ndarray of int, shape (V - U, 2)
        Between which vertices of the next coarser level, of U, each of the others lies.
    """

    rings: np.ndarray
    parents: np.ndarray


def level_of(vertices: int) -> int:
    """The level with so many vertices.

    Raises
    ------
    UsageError
        If it is none of those that are known here.
    """
    known = {_size(level): level for level in range(LAST, FINEST + 1)}
    if vertices not in known:
        raise UsageError(
            f'a mesh of {vertices:,} vertices in a hemisphere; the DDAE is for fsaverage5, 4 and '
            f'3 ({", ".join(f"{n:,}" for n in reversed(known))}): resample the maps, or harmonize '
            'them with ComBat (without --method)'
        )
    return known[vertices]


def sphere(vertices: int) -> np.ndarray:
    """Where the vertices of a level lie on the unit sphere, shape (V, 3)."""
    return _fsaverage5()[0][: _size(level_of(vertices))]


def mesh_levels(vertices: int, count: int) -> list[MeshLevel]:
    """A level and those below it, finest first.

    Parameters
    ----------
    vertices : int
        Of the finest one.
    count : int
        How many, at most the number of the level.

    Raises
    ------
    UsageError
        If there is no such level.
    """
    places, edges = _fsaverage5()
    finest, levels = level_of(vertices), []
    for level in range(FINEST, finest - count, -1):
        coarser = _size(level - 1)
        # A new vertex lies between two old ones, on the edge that it divides.
        to_new = edges[(edges[:, 0] < coarser) & (edges[:, 1] >= coarser)]
        parents = to_new[np.argsort(to_new[:, 1], kind='stable'), 0].reshape(-1, 2)
        if level <= finest:
            levels.append(MeshLevel(_rings(places[: _size(level)], edges), parents))
        edges = np.unique(np.sort(parents, axis=1), axis=0)
    return levels


def _size(level: int) -> int:
    return 10 * 4**level + 2


def _fsaverage5() -> tuple[np.ndarray, np.ndarray]:
    """Places on the unit sphere, shape (V, 3), and pairs of neighbors, the smaller one first."""
    # Imported here, since nilearn takes seconds.
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import load_surf_mesh

    mesh = load_surf_mesh(fetch_surf_fsaverage('fsaverage5')['sphere_left'])
    sides = np.concatenate([mesh.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (0, 2))])
    places = mesh.coordinates / np.linalg.norm(mesh.coordinates, axis=1, keepdims=True)
    return places, np.unique(np.sort(sides, axis=1), axis=0)


def _rings(places: np.ndarray, edges: np.ndarray) -> np.ndarray:
    both = np.concatenate([edges, edges[:, ::-1]])
    up = np.array([0.0, 0.0, 1.0])
    east = np.cross(up, places)
    east[np.linalg.norm(east, axis=1) < 1e-6] = [1.0, 0.0, 0.0]  # at a pole, any direction
    north = np.cross(places, east)
    step = places[both[:, 1]] - places[both[:, 0]]
    angle = np.arctan2(
        (step * north[both[:, 0]]).sum(axis=1), (step * east[both[:, 0]]).sum(axis=1)
    )
    order = np.lexsort((angle, both[:, 0]))
    center, neighbor = both[order].T
    first = np.searchsorted(center, np.arange(len(places)))
    rings = np.tile(np.arange(len(places))[:, None], (1, RING))
    rings[center, 1 + np.arange(len(center)) - first[center]] = neighbor
    return rings
