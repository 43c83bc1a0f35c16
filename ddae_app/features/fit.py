"""Fitting a method to a table of features or to maps on the cortex."""

from __future__ import annotations

import numpy as np

import ddae_app
from ddae_app.errors import UsageError
from ddae_app.features.checks import (
    check_no_covariates,
    check_people,
    check_sizes,
    check_units,
    check_units_of_rows,
    varying_features,
)
from ddae_app.features.matrix import FeatureMatrix, counted, listed
from ddae_app.features.model import METHOD, FeatureModel, FeatureModelInfo
from ddae_app.features.people import CovariateDesign, RowLabels, digest_of_rows
from ddae_app.methods.location_scale import SiteRegression, refuse_confounding
from ddae_app.methods.random_intercept import FEWEST_REPEATED


def fit_model(
    table: FeatureMatrix,
    labels: RowLabels,
    *,
    name: str,
    dataset: str = 'unknown',
    method: str = METHOD,
    seed: int = 0,
    places: np.ndarray | None = None,
    age_spline: bool = False,
    allow_few: bool = False,
    allow_confounding: bool = False,
    allow_missing: bool = False,
) -> tuple[FeatureModel, list[str]]:
    """Fit a method to a table.

    Parameters
    ----------
    table : FeatureMatrix
    labels : RowLabels
    name, dataset : str
        Of the model and of the dataset.
    method : {'combat', 'ddae'}
    seed : int
        Of the training of a DDAE.
    places : np.ndarray, shape (2, V, 3), optional
        For a DDAE of maps, as :func:`ddae_app.features.places.read_places` finds them.
    age_spline : bool
        Whether age is a natural cubic spline, and no straight line.
    allow_few, allow_confounding : bool
        Whether sites of few people, and confounded sites, are accepted.
    allow_missing : bool
        Whether features of a table with too few values stay as they are, as vertices of maps
        always do, and are not refused.

    Returns
    -------
    model : FeatureModel
    warnings : list of str
        What is doubtful, a sentence each.

    Raises
    ------
    UsageError
        If no site effect can be estimated from this table.
    """
    warnings = check_people(labels, allow_few=allow_few, allow_confounding=allow_confounding)
    check_sizes(table)
    check_units(table, labels)
    check_units_of_rows(table)
    design = CovariateDesign.fit(labels, spline=age_spline)
    estimated = len(labels.site_names) + len(design.centers)
    may_lack = allow_missing or bool(table.maps)
    features, constant, same = varying_features(table, labels, estimated, allow_missing=may_lack)
    if not features:
        raise UsageError(f'{table.path}: no feature varies within each site; nothing to harmonize')
    if constant:
        why = 'too few values or ' if may_lack else ''
        where = f'within site{"s" * (len(same) > 1)} {listed(same)}' if same else 'within a site'
        warnings.append(
            f'{why}no variation {where}, so that nothing can be scaled and they stay unchanged: '
            f'{table.told(constant)}'
        )
    columns = design.columns(labels)
    refuse_confounding(labels)
    y = table.columns(features)
    warnings += unknown_covariates(labels)
    repeated = len(labels.subjects) - len(np.unique(labels.subjects))
    if 0 < repeated < FEWEST_REPEATED:
        warnings.append(
            f'only {counted(repeated, "row is a", "rows are")} further '
            f'{"session" if repeated == 1 else "sessions"} of a person, fewer than '
            f'{FEWEST_REPEATED}: all rows are taken as of different people'
        )
    longitudinal = repeated >= FEWEST_REPEATED
    member = labels.sites[:, None] == np.array(labels.site_names)
    regression = SiteRegression.fit(
        y, member.astype(float), columns, labels.persons if longitudinal else None
    )
    if not may_lack:
        check_no_covariates(table, labels, regression, features)
    ages = labels.ages[~np.isnan(labels.ages)]
    info = FeatureModelInfo(
        name=name,
        dataset=dataset,
        table=table.path.name,
        sites=labels.site_names,
        features=tuple(features),
        constant=tuple(constant),
        people=tuple(map(labels.people_of, labels.site_names)),
        rows=tuple(int((labels.sites == site).sum()) for site in labels.site_names),
        design=design,
        ages=(float(ages.min()), float(ages.max())) if ages.size else (),
        longitudinal=longitudinal,
        versions={'ddae-app': ddae_app.__version__, 'numpy': np.__version__},
        method=method,
        maps=table.maps,
        digest=digest_of_rows(table, labels),
        persons=len(np.unique(labels.subjects)),
    )
    if method == METHOD:
        return FeatureModel(info, regression), warnings
    # Imported here, since it loads torch.
    from ddae_app.features.ddae import fit_ddae

    ddae = fit_ddae(info.maps, info.features, regression, y, labels, columns, seed, places)
    return FeatureModel(info, regression, ddae), warnings


def unknown_covariates(labels: RowLabels) -> list[str]:
    """How many rows have no known age or sex, in sentences."""
    counts = {
        'age': int(np.isnan(labels.ages).sum()),
        'sex': sum(sex is None for sex in labels.sexes),
    }
    return [
        f'{n} of {len(labels.sites)} rows have no known {what}, which counts as the average {what}'
        for what, n in counts.items()
        if n
    ]
