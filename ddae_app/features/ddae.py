"""The DDAE of a table or of maps on the cortex; all that needs torch is loaded from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddae_app.bids.surface_files import MESHES
from ddae_app.errors import ModelError, UsageError
from ddae_app.features.people import RowLabels
from ddae_app.imaging.surfaces import HEMISPHERES
from ddae_app.methods.feature_ddae.geometry import Geometry
from ddae_app.methods.feature_ddae.model import FeatureDDAE
from ddae_app.methods.feature_ddae.training import train_feature_ddae
from ddae_app.methods.location_scale import SiteRegression


def geometry_of(maps: str, features: Sequence[str]) -> Geometry:
    """Where the features lie.

    Parameters
    ----------
    maps : str
        What is mapped on which mesh, ``thickness on fsaverage5``; empty of a table.
    features : sequence of str
        Vertices are called ``L0`` or ``R0``.

    Raises
    ------
    UsageError
        If the mesh is none that the DDAE is for.
    """
    if not maps:
        return Geometry.of_table(len(features))
    mesh = maps.rsplit(' on ', 1)[-1]
    if mesh not in MESHES:
        raise UsageError(
            f'{maps}: the DDAE is for fsaverage5, 4 and 3; resample the maps, or harmonize them '
            'with ComBat (without --method)'
        )
    sides = list(HEMISPHERES)
    index = np.array([sides.index(name[0]) * MESHES[mesh] + int(name[1:]) for name in features])
    return Geometry.of_cortex(MESHES[mesh], index)


def fit_ddae(
    maps: str,
    features: Sequence[str],
    regression: SiteRegression,
    y: np.ndarray,
    labels: RowLabels,
    covariates: np.ndarray,
    seed: int,
) -> FeatureDDAE:
    """Train a DDAE; parameters as those of :func:`geometry_of` and ``train_feature_ddae``."""
    return train_feature_ddae(
        geometry_of(maps, features),
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
    arrays: Mapping[str, np.ndarray],
) -> FeatureDDAE:
    """The DDAE of a model file.

    Raises
    ------
    ModelError
        If its arrays do not fit the features and sites of the file.
    """
    wrong = f'{path}: arrays of the DDAE that are not finite or do not fit its features and sites'
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ModelError(f'{wrong}; fit it again')
    try:
        ddae = FeatureDDAE.of_arrays(geometry_of(maps, features), len(sites), arrays)
    except (KeyError, RuntimeError, ValueError, UsageError) as e:
        raise ModelError(f'{wrong}; fit it again') from e
    look, shape = ddae.appearance, (len(sites), len(features))
    of_sites = {look.shift.shape, look.scale.shape, look.skew.shape, look.tails.shape}
    if of_sites != {shape} or look.usual.shape != (2, len(features)):
        raise ModelError(f'{wrong}; fit it again')
    return ddae
