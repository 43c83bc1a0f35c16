"""The DDAE of a table or of maps on the cortex; all that needs torch is loaded from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddae_app.errors import ModelError, UsageError
from ddae_app.features.people import RowLabels
from ddae_app.features.places import mesh_of
from ddae_app.imaging.surfaces import HEMISPHERES
from ddae_app.methods.feature_ddae.cumulants import STATISTICS
from ddae_app.methods.feature_ddae.geometry import Geometry
from ddae_app.methods.feature_ddae.model import PLACES, STEPS, FeatureDDAE
from ddae_app.methods.feature_ddae.training import train_feature_ddae
from ddae_app.methods.location_scale import SiteRegression


def geometry_of(maps: str, features: Sequence[str], places: np.ndarray | None = None) -> Geometry:
    """Where the features lie.

    Parameters
    ----------
    maps : str
        What is mapped on which mesh, ``thickness on fsaverage5``; empty of a table.
    features : sequence of str
        Vertices are called ``L0`` or ``R0``.
    places : np.ndarray, shape (2, V, 3), optional
        Of all vertices, as :func:`ddae_app.features.places.read_places` finds them.

    Raises
    ------
    UsageError
        If the mesh is none that the DDAE is for.
    ValueError
        If the places are not those of the mesh.
    """
    if not maps:
        if places is not None:
            raise ValueError('places of a table')
        return Geometry.of_table(len(features))
    mesh = mesh_of(maps)
    mesh.check(places)
    sides = list(HEMISPHERES)
    index = np.array([sides.index(name[0]) * mesh.vertices + int(name[1:]) for name in features])
    return Geometry.of_cortex(mesh.vertices, index, places)


def fit_ddae(
    maps: str,
    features: Sequence[str],
    regression: SiteRegression,
    y: np.ndarray,
    labels: RowLabels,
    covariates: np.ndarray,
    seed: int,
    places: np.ndarray | None,
) -> FeatureDDAE:
    """Train a DDAE; parameters as those of :func:`geometry_of` and ``train_feature_ddae``."""
    return train_feature_ddae(
        geometry_of(maps, features, places),
        regression,
        y,
        np.unique(labels.sites, return_inverse=True)[1],
        covariates,
        ages=labels.ages,
        sexes=labels.sexes.tolist(),
        persons=labels.persons,
        seed=seed,
    )


def stored_ddae(
    path: Path,
    maps: str,
    features: Sequence[str],
    sites: Sequence[str],
    covariates: int,
    arrays: Mapping[str, np.ndarray],
) -> FeatureDDAE:
    """The DDAE of a model file, by how many columns age and sex have, and its arrays.

    Raises
    ------
    ModelError
        If its arrays do not fit the features and sites of the file.
    """
    wrong = f'{path}: arrays of the DDAE that are not finite or do not fit its features and sites'
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ModelError(f'{wrong}; fit it again')
    try:
        geometry = geometry_of(maps, features, arrays.get(PLACES))
        ddae = FeatureDDAE.of_arrays(geometry, len(sites), arrays)
    except (LookupError, RuntimeError, ValueError, UsageError) as e:
        raise ModelError(f'{wrong}; fit it again') from e
    s, p, k = len(sites), len(features), geometry.bands.count
    expected = {
        'mean': (p,), 'sd': (p,), 'slopes': (covariates, p), 'shift': (s, p), 'scale': (s, p),
        'skew': (s, p), 'tails': (s, p), 'unit': (p,), 'usual': (2, p), 'share': (1,),
        'between': (len(STATISTICS), k), 'within': (len(STATISTICS), k),
    }  # fmt: skip
    shapes = {name: value.shape for name, value in vars(ddae.appearance).items()}
    positive = min(ddae.appearance.sd.min(), ddae.appearance.unit.min()) > 0
    if shapes != expected or ddae.trust.shape != (STEPS,) or not positive:
        raise ModelError(f'{wrong}; fit it again')
    return ddae
