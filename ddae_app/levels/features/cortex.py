"""What is drawn of maps on the cortex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddae_app.features.maps import SurfaceMaps
from ddae_app.features.matrix import FeatureMatrix
from ddae_app.features.places import shown_vertices
from ddae_app.reports.cortex import MESH, CortexMap
from ddae_app.reports.features import Cortex, FeatureFacts


@dataclass(frozen=True)
class Drawn:
    """Maps as they are drawn, on the mesh of the pictures.

    Attributes
    ----------
    table : SurfaceMaps
    vertices : np.ndarray of int, shape (2, V)
        By hemisphere, the left one first: which vertex of the maps is shown at each vertex.
    """

    table: SurfaceMaps
    vertices: np.ndarray

    @classmethod
    def of(cls, table: FeatureMatrix, places: np.ndarray | None) -> Drawn | None:
        """None of a table, and of maps of which it is not known where on this mesh they lie.

        Parameters
        ----------
        table : FeatureMatrix
        places : np.ndarray, shape (2, W, 3), or None
            Of the vertices of the maps, where they have to be given.
        """
        if not isinstance(table, SurfaceMaps):
            return None
        vertices = shown_vertices(table.mesh, places)
        return None if vertices is None else cls(table, vertices)

    def values(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values of each feature, shape (F,), as they are shown; NaN where there is none."""
        on_mesh = self.table.on_mesh(values).items()
        return {
            side: part[shown] for (side, part), shown in zip(on_mesh, self.vertices, strict=True)
        }


def cortex_of(
    table: FeatureMatrix,
    places: np.ndarray | None,
    tables: Mapping[str, np.ndarray],
    features: Sequence[FeatureFacts],
) -> Cortex | None:
    """Pictures of maps: their mean, and the variance that the site explains.

    Parameters
    ----------
    table : FeatureMatrix
    places : np.ndarray, shape (2, W, 3), or None
        Of the vertices of the maps, where they have to be given.
    tables : mapping of str to np.ndarray, shape (N, F)
        What ``before`` and ``after`` are.
    features : sequence of FeatureFacts

    Returns
    -------
    Cortex or None
        None of a table.
    """
    if not isinstance(table, SurfaceMaps):
        return None
    drawn = Drawn.of(table, places)
    if drawn is None:
        where = f'maps on {table.mesh}' if table.mesh else 'these maps'
        return Cortex(
            (),
            f'The cortex is drawn of maps on {MESH}, fsaverage6 and fsaverage, and of maps on '
            f'fsLR that a DDAE harmonizes; there is no picture of {where}.',
        )
    maps = [
        CortexMap(f'Mean {table.measure} of all people, {name}', drawn.values(mean), 'mean')
        for name, values in tables.items()
        for mean in [_known_mean(values)]
    ]
    for name in tables:
        share = np.full(len(table.features), np.nan)
        share[[table.place[f.name] for f in features]] = [100 * vars(f)[name] for f in features]
        title = f'% of the variance that the site explains, {name}'
        maps.append(CortexMap(title, drawn.values(share), 'share', 'inferno'))
    return Cortex(maps, '')


def _known_mean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=0, dtype=float)
    return np.divide(total, known.sum(axis=0), where=known.any(axis=0), out=total * np.nan)
