"""The mesh of fsaverage: an icosahedron whose triangles are divided again and again.

Level k has ``10 * 4**k + 2`` vertices, which are the first ones of the next level
(Fischl et al. 1999, doi 10.1002/(sici)1097-0193(1999)8:4<272::aid-hbm10>3.0.co;2-4). Both
hemispheres have the same sphere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from ddae_app.errors import UsageError

FINEST, PACKAGED, LAST = 7, 5, 3
"""Levels of maps. nilearn brings along fsaverage5, which holds the coarser ones; finer ones follow
from it, down to the numbers of their vertices."""

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
        sizes = ', '.join(f'{n:,}' for n in reversed(known))
        raise UsageError(
            f'a mesh of {vertices:,} vertices in a hemisphere; expected fsaverage, or fsaverage6 '
            f'to 3 ({sizes}): resample the maps, or harmonize them with ComBat (without --method)'
        )
    return known[vertices]


def sphere(vertices: int) -> np.ndarray:
    """Where the vertices of a level lie on the unit sphere, shape (V, 3)."""
    return mesh(vertices)[0]


def mesh(vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """A level of fsaverage.

    Returns
    -------
    places : np.ndarray, shape (V, 3)
        On the unit sphere.
    faces : np.ndarray of int, shape (F, 3)
        The corners of each triangle.

    Raises
    ------
    UsageError
        If there is no such level.
    """
    level = level_of(vertices)
    places, faces = _fsaverage5()
    for _ in range(PACKAGED, level):
        places, faces = divided(places, faces)
    for _ in range(level, PACKAGED):
        faces = _joined(faces)
    return places[:vertices], faces


def divided(places: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next finer mesh, vertices and triangles in the order of FreeSurfer's.

    Each triangle is divided into four by the middles of its sides. Vertices are numbered as the
    triangles come, in each of which the side from the last corner to the first is the first one.

    Parameters
    ----------
    places : np.ndarray, shape (V, 3)
    faces : np.ndarray of int, shape (F, 3)

    Returns
    -------
    places : np.ndarray, shape (V + E, 3)
        Those of FreeSurfer up to 0.011 mm on its sphere, whose radius is 100 mm.
    faces : np.ndarray of int, shape (4 F, 3)
    """
    sides = faces[:, [[2, 0], [1, 2], [0, 1]]].reshape(-1, 2)
    edges, first, side = np.unique(
        np.sort(sides, axis=1), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = len(places) + np.arange(len(order))
    middles = places[edges[order]].sum(axis=1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    a, b, c = faces.T
    ca, bc, ab = number[side.ravel()].reshape(-1, 3).T
    at_first = np.column_stack([a, ab, ca])
    others = np.array([[ca, bc, c], [ab, bc, ca], [ab, b, bc]]).transpose(2, 0, 1).reshape(-1, 3)
    return np.concatenate([places, middles]), np.concatenate([at_first, others])


def interpolation(
    places: np.ndarray, corners: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Between which vertices of a mesh places lie, by barycentric coordinates.

    Parameters
    ----------
    places : np.ndarray, shape (P, 3)
        On the unit sphere.
    corners, faces : np.ndarray, shapes (V, 3) and (F, 3)
        Of a mesh as :func:`mesh` returns it, whose triangles are acute, so that the vertex next to
        a place is a corner of the triangle that holds it.

    Returns
    -------
    vertices : np.ndarray of int, shape (P, 3)
        The corners of the triangle.
    weights : np.ndarray, shape (P, 3), 0 to 1
        They add up to 1.
    """
    nearest = KDTree(corners).query(places)[1]
    count = np.bincount(faces.ravel())
    around = np.argsort(faces.ravel(), kind='stable') // 3
    first = np.cumsum(count) - count
    inverse = np.linalg.inv(corners[faces].astype(float).transpose(0, 2, 1))
    face, weights = np.zeros(len(places), dtype=int), np.full((len(places), 3), -np.inf)
    for i in range(RING - 1):
        tried = around[first[nearest] + i % count[nearest]]
        found = np.einsum('pij,pj->pi', inverse[tried], places)
        better = found.min(axis=1) > weights.min(axis=1)
        face[better], weights[better] = tried[better], found[better]
    weights = np.maximum(weights, 0)
    return faces[face], weights / weights.sum(axis=1, keepdims=True)


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
    places, faces = mesh(vertices)
    levels = []
    for _ in range(count):
        edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2)), axis=0)
        coarser = (len(places) + 6) // 4
        # A new vertex lies between two old ones, on the edge that it divides.
        to_new = edges[(edges[:, 0] < coarser) & (edges[:, 1] >= coarser)]
        parents = to_new[np.argsort(to_new[:, 1], kind='stable'), 0].reshape(-1, 2)
        levels.append(MeshLevel(_rings(places, edges), parents))
        places, faces = places[:coarser], _joined(faces)
    return levels


def _joined(faces: np.ndarray) -> np.ndarray:
    """The triangles that were divided into these (:func:`divided`), shape (F / 4, 3)."""
    at_first, others = np.split(faces, [len(faces) // 4])
    return np.column_stack([at_first[:, 0], others[2::3, 1], others[::3, 2]])


def _size(level: int) -> int:
    return 10 * 4**level + 2


def _fsaverage5() -> tuple[np.ndarray, np.ndarray]:
    """Places on the unit sphere, shape (V, 3), and the corners of triangles, shape (F, 3)."""
    # Imported here, since nilearn takes seconds.
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import load_surf_mesh

    packaged = load_surf_mesh(fetch_surf_fsaverage('fsaverage5')['sphere_left'])
    places = packaged.coordinates / np.linalg.norm(packaged.coordinates, axis=1, keepdims=True)
    return places, packaged.faces


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
