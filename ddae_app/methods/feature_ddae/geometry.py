"""Where features lie: nowhere, as regions of a table, or on the sphere.

The networks see a table as it is, and the cortex on a level of the mesh of fsaverage: maps on
fsaverage5, 4 and 3 vertex by vertex, and maps on other meshes, which are finer, on fsaverage5. A
vertex of the map lies between three vertices of fsaverage5; what the networks see of these is the
mean of the vertices around, and what they change goes back by linear interpolation, by the same
weights. So the networks treat what is common to neighbors, and the appearance of sites, which is
measured at each vertex, treats the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from ddae_app.imaging.icosahedron import MeshLevel, interpolation, mesh, mesh_levels, sphere
from ddae_app.methods.feature_ddae.bands import Bands

LEVELS = 3
"""Of the mesh, that the networks convolve on."""

SEEN = 10242
"""Vertices of the finest mesh that networks convolve on, fsaverage5."""


@dataclass(frozen=True)
class Geometry:
    """The points of P features.

    Attributes
    ----------
    points, values : int
        V points, with H values each.
    between : scipy.sparse.csr_array, shape (P, H V), float32
        The weights of the values between which each feature lies; they add up to 1.
    places : np.ndarray, shape (V, 3), or None
        On the unit sphere; None of a table.
    levels : sequence of MeshLevel
        Of the mesh, finest first; none of a table.
    bands : Bands
        Of the features.
    given : np.ndarray, shape (2, W, 3), or None
        The places of all vertices of both hemispheres, of a mesh that is not known without them.
    """

    points: int
    values: int
    between: csr_array
    places: np.ndarray | None
    levels: Sequence[MeshLevel]
    bands: Bands
    given: np.ndarray | None = None

    @classmethod
    def of_table(cls, features: int) -> Geometry:
        """Each feature is a point."""
        between = _each_one(np.arange(features), features)
        return cls(features, 1, between, None, (), Bands.of_table(features))

    @classmethod
    def of_cortex(
        cls, vertices: int, index: np.ndarray, given: np.ndarray | None = None
    ) -> Geometry:
        """Each vertex of fsaverage5, or of the mesh if that is coarser, is a point of two values.

        Parameters
        ----------
        vertices : int
            Of a hemisphere.
        index : np.ndarray of int, shape (P,)
            The features among all vertices, the left hemisphere first.
        given : np.ndarray, shape (2, vertices, 3), optional
            Where the vertices lie on the unit sphere of fsaverage; without, they are those of a
            mesh of fsaverage.

        Raises
        ------
        UsageError
            If there is no such icosahedral mesh.
        """
        hemisphere, vertex = np.divmod(index, vertices)
        places = sphere(vertices)[vertex] if given is None else given[hemisphere, vertex]
        bands = Bands.of_sphere(places, hemisphere)
        points = min(vertices, SEEN)
        levels = mesh_levels(points, LEVELS)
        if points == vertices:
            between = _each_one(index, 2 * points)
        else:
            corners, weights = interpolation(places, *mesh(points))
            rows = np.repeat(np.arange(len(index)), corners.shape[1])
            columns = (hemisphere[:, None] * points + corners).ravel()
            between = csr_array(
                (weights.ravel().astype(np.float32), (rows, columns)), (len(index), 2 * points)
            )
        return cls(points, 2, between, sphere(points), levels, bands, given)

    def on_points(self, values: np.ndarray) -> np.ndarray:
        """Standardized features as networks take them, shape (N, 1, H, V), float32.

        A point is the mean of the features that it is next to. What is missing takes no part, and
        a point without any counts as the average, 0.

        Parameters
        ----------
        values : np.ndarray, shape (N, P)
        """
        known = ~np.isnan(values)
        total, weight = (
            self.between.T @ part.astype(np.float32).T for part in (np.nan_to_num(values), known)
        )
        full = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        return np.ascontiguousarray(full.T).reshape(len(values), 1, self.values, self.points)

    def of_points(self, full: np.ndarray) -> np.ndarray:
        """What points, shape (N, 1, H, V), say of the features, shape (N, P)."""
        return (self.between @ full.reshape(len(full), -1).T).T


def _each_one(index: np.ndarray, values: int) -> csr_array:
    """Each feature is the value of a point."""
    ones = np.ones(len(index), dtype=np.float32)
    return csr_array((ones, (np.arange(len(index)), index)), (len(index), values))
