"""Where features lie: nowhere, as regions of a table, or on the sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.imaging.icosahedron import MeshLevel, mesh_levels, sphere
from ddae_app.methods.feature_ddae.bands import Bands

LEVELS = 3
"""Of the mesh, that the networks convolve on."""


@dataclass(frozen=True)
class Geometry:
    """The points of P features.

    Attributes
    ----------
    points, values : int
        V points, with H values each.
    index : np.ndarray of int, shape (P,)
        Which of the ``H V`` values each feature is.
    places : np.ndarray, shape (V, 3), or None
        On the unit sphere; None of a table.
    levels : sequence of MeshLevel
        Of the mesh, finest first; none of a table.
    bands : Bands
        Of the features.
    """

    points: int
    values: int
    index: np.ndarray
    places: np.ndarray | None
    levels: Sequence[MeshLevel]
    bands: Bands

    @classmethod
    def of_table(cls, features: int) -> Geometry:
        """Each feature is a point."""
        return cls(features, 1, np.arange(features), None, (), Bands.of_table(features))

    @classmethod
    def of_cortex(cls, vertices: int, index: np.ndarray) -> Geometry:
        """Each vertex is a point, with a value of each hemisphere.

        Parameters
        ----------
        vertices : int
            Of a hemisphere.
        index : np.ndarray of int, shape (P,)
            The features among all vertices, the left hemisphere first.

        Raises
        ------
        UsageError
            If there is no such icosahedral mesh here.
        """
        places = sphere(vertices)
        hemisphere, vertex = np.divmod(index, vertices)
        bands = Bands.of_sphere(places[vertex], hemisphere)
        return cls(vertices, 2, index, places, mesh_levels(vertices, LEVELS), bands)

    def on_points(self, values: np.ndarray) -> np.ndarray:
        """Standardized features as networks take them, shape (N, 1, H, V), float32.

        What is missing counts as the average, 0.
        """
        full = np.zeros((len(values), self.values * self.points), dtype=np.float32)
        full[:, self.index] = np.nan_to_num(values)
        return full.reshape(len(values), 1, self.values, self.points)

    def of_points(self, full: np.ndarray) -> np.ndarray:
        """The features of what :meth:`on_points` made, shape (N, P)."""
        return full.reshape(len(full), -1)[:, self.index]
