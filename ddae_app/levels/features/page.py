"""The content of the page of a harmonized table, and of the card of its model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from ddae_app import __version__
from ddae_app.features.guard import FEWEST
from ddae_app.features.matrix import FeatureMatrix, counted
from ddae_app.features.measures import mean_change, variance_explained_by_site
from ddae_app.features.model import FeatureModel, FeatureModelInfo
from ddae_app.features.people import CovariateDesign
from ddae_app.features.places import mesh_of
from ddae_app.levels.features.cortex import cortex_of
from ddae_app.levels.features.inputs import FeatureInputs
from ddae_app.levels.features.outputs import covariates_in_words, target_in_words
from ddae_app.levels.features.used import UsedModel
from ddae_app.methods.location_scale import SiteEffects
from ddae_app.reports.boilerplate import plain
from ddae_app.reports.features import FeatureFacts, FeaturesReport, Guard, write_features_page

if TYPE_CHECKING:
    from ddae_app.methods.feature_ddae.appearance import FeatureAppearance

SCALES = (0.05, 0.95)
"""Quantiles over the features, between which scales are told."""


def write_page(
    inputs: FeatureInputs,
    used: UsedModel,
    target: str | None,
    values: np.ndarray,
    warnings: Sequence[str],
    methods: str,
    guard: Guard,
) -> None:
    """Write the page of a harmonized table.

    Parameters
    ----------
    inputs : FeatureInputs
    used : UsedModel
    target : str or None
    values : np.ndarray, shape (N, F)
        Harmonized.
    warnings : sequence of str
    methods : str
        The methods text.
    guard : Guard
        What the anatomy guard found.
    """
    table, model = inputs.table, used.model
    missing, unchanged = int(np.isnan(table.values).sum()), used.unchanged(table)
    facts = {
        'Maps' if table.maps else 'Table': f'{table.maps}, {table.path}'
        if table.maps
        else str(table.path),
        'Rows': f'{len(table.participants)} of {len(set(table.participants))} people',
        'Vertices' if table.maps else 'Features': f'{len(table.features)}'
        + (' outside the medial wall' if table.maps else '')
        + (
            f', of which {counted(len(unchanged), "stays as it is", "stay as they are")}'
            if unchanged
            else ''
        ),
        'Missing values': f'{missing} ({missing / table.values.size:.1%}), also in the output'
        if missing
        else 'none',
        'Brought to': target_in_words(target),
        'Model': f'{model.info.name}, SHA-256 {used.sha256[:16]}' + _fitted_to(used, inputs),
        **model_facts(model, used.fitted_sites),
    }
    features, cortex = [], None
    rows_of_sites = np.unique(inputs.labels.sites, return_counts=True)[1]
    if tells := int((rows_of_sites >= FEWEST).sum()) > 1:
        design = CovariateDesign.fit(inputs.labels, spline=False)
        explained = [
            variance_explained_by_site(v, inputs.labels, design) for v in (table.values, values)
        ]
        features = feature_facts(table, values, explained, unchanged)
        drawn = {'before': table.values, 'after': values}
        cortex = cortex_of(table, model.given_places, drawn, features)
    report = FeaturesReport(
        name=inputs.files.name,
        title=title(table, inputs.files.name),
        version=__version__,
        warnings=[sentence(line) for line in warnings],
        facts=facts,
        sites=site_rows(inputs, model, model.effects(target)),
        features=features,
        methods=methods,
        guard=guard,
        cortex=cortex,
        fewest=0 if tells else FEWEST,
    )
    write_features_page(inputs.files.page, report)


def _fitted_to(used: UsedModel, inputs: FeatureInputs) -> str:
    """Whether the model was fitted to these rows, which the name of a table does not tell."""
    digest = used.model.info.digest
    if not digest:  # of an earlier version
        return ', fitted to these rows' if used.fitted_here else ''
    same = digest == inputs.digest
    return ', fitted to these rows' if same else ', fitted to other rows or values than just these'


def title(table: FeatureMatrix, name: str) -> str:
    """What a page is of."""
    return f'Maps of {table.maps}' if table.maps else f'Table {name}'


def sentence(line: str) -> str:
    """A line of the log as a sentence; names of files keep their first letter."""
    first = line.split()[0]
    return f'{line[0].upper() if first.isalpha() else line[0]}{line[1:]}.'


def model_facts(model: FeatureModel, fitted_sites: Sequence[str]) -> dict[str, str]:
    """What the model is, names and values; the sites that it was fitted to are its first."""
    info = model.info
    facts = {
        'Method': model.label,
        'Fitted to': f'{info.maps or info.table} of {info.dataset}: '
        + ', '.join(f'{s} {n}' for s, n in zip(fitted_sites, info.people, strict=False))
        + ' people',
        'Protected': ', '.join(covariates_in_words(info))
        or 'nothing, since neither age nor sex is known to differ',
        'Sessions': 'all rows are taken as of different people'
        if not info.longitudinal
        else 'each person has an intercept that is drawn at random'
        + ('' if model.ddae else ', and scales are of what the sessions of a person differ by'),
    }
    if info.ages:
        facts['Ages'] = f'{info.ages[0]:.1f} to {info.ages[1]:.1f} years'
    return facts


def site_rows(
    inputs: FeatureInputs, model: FeatureModel, effects: SiteEffects | FeatureAppearance
) -> list[dict[str, str]]:
    """The numbers of each site of the table, as texts by column."""
    # ComBat with intercepts of people tells shifts in what is left within people, which is less.
    within = np.sqrt(1 + model.regression.ratio) if model.ddae is None else 1.0
    rows = []
    for site in inputs.labels.site_names:
        here = inputs.labels.sites == site
        labels, i = inputs.labels.rows(here), model.info.sites.index(site)
        values = inputs.table.values[here]
        ages = labels.ages[~np.isnan(labels.ages)]
        sexes = [sex for sex in labels.sexes if sex is not None]
        low, high = np.quantile(effects.scale[i], SCALES)
        rows.append(
            {
                'site': site,
                'people': str(len(np.unique(labels.subjects))),
                'rows': str(int(here.sum())),
                'age, years': f'{ages.mean():.1f} ± {ages.std():.1f}' if ages.size else 'n/a',
                'female': f'{sexes.count("F") / len(sexes):.0%}' if sexes else 'n/a',
                'missing': f'{np.isnan(values).mean():.1%}',
                'shift, SD': f'{np.median(np.abs(effects.shift[i]) / within):.2f}',
                'scale': f'{low:.2f} to {high:.2f}',
            }
        )
    return rows


def feature_facts(
    table: FeatureMatrix,
    values: np.ndarray,
    explained: Sequence[np.ndarray],
    constant: Collection[str],
) -> list[FeatureFacts]:
    """What harmonization did to each feature that is not left as it is.

    Parameters
    ----------
    table : FeatureMatrix
    values : np.ndarray, shape (N, F)
        Harmonized.
    explained : two np.ndarray, shape (F,)
        Share of the variance that the site explains, before and after.
    constant : collection of str
        Features that are left as they are.
    """
    changes = mean_change(table.values, values)
    constant = {*constant}
    return [
        FeatureFacts(name, float(before), float(after), float(change))
        for name, before, after, change in zip(table.features, *explained, changes, strict=True)
        if name not in constant
    ]


def methods_text(used: UsedModel, target: str | None) -> str:
    """A paragraph for a paper, with citations ``[@key]`` of the packaged bibliography."""
    info = used.model.info
    longitudinal = (
        ', with an intercept of each person that is drawn at random [@beer2020]'
        if info.longitudinal
        else ''
    )
    what = f'Regional features ({len(info.features)})'
    if info.maps:
        what = f'Maps of {plain(info.maps)} ({len(info.features)} vertices of both hemispheres)'
    how = _ddae_in_words(info) if used.model.ddae else _combat_in_words(info)
    sites = len(used.fitted_sites)
    # What a model of an earlier version does not say is how many were at several sites.
    fitted = (
        f'{info.persons} people' if info.persons else f'{sum(info.rows[:sites])} rows of people'
    )
    here = ', '.join(map(plain, used.calibrated))
    return (
        f'{what} were harmonized with {how}, {_protected(info)}{longitudinal}. All sites were '
        f'brought to {target_in_words(target and plain(target))}. '
        f'The model {plain(info.name)} (SHA-256 {used.sha256[:16]}) was fitted to {fitted} of '
        f'{sites} sites.'
        + (f' The appearance of {here} was measured in the rows at hand.' if here else '')
        + (_places_in_words(info.maps) if used.model.ddae and info.maps else '')
    )


def _protected(info: FeatureModelInfo) -> str:
    """What was protected, as a part of a sentence."""
    spline = ' as a natural cubic spline [@pomponio2020]' if info.design.knots else ''
    names = [word.split()[0] for word in covariates_in_words(info)]
    if not names:
        return 'while no effect of age or sex, neither of which is known to differ, was protected'
    told = ' and '.join(f'age{spline}' if name == 'age' else name for name in names)
    return f'while {told} {"was" if len(names) == 1 else "were"} protected'


def _combat_in_words(info: FeatureModelInfo) -> str:
    return (
        'ComBat [@johnson2007; @fortin2018] as '
        f'*ddae-app* {__version__} and *numpy* {version("numpy")} compute it: location and scale '
        'of each site were estimated by empirical Bayes, parametric priors shared by all '
        f'{"vertices" if info.maps else "features"}'
    )


def _ddae_in_words(info: FeatureModelInfo) -> str:
    shrunk = 'as in ComBat [@johnson2007; @fortin2018]'
    networks = 'networks that learn a vector of features'
    if info.maps:
        shrunk = (
            'at each spatial frequency [@efron1973], shifts in the unit of least expected error '
            '[@stein1981]'
        )
        networks = 'networks on the icosahedral mesh of the cortex [@zhao2019]'
    return (
        f'a Disentangled Diffusion Autoencoder [@ijishakin2024] of features, *ddae-app* '
        f'{__version__} and *torch* {version("torch")}: location, scale, skew and tails '
        f'[@cornish1938] of each site were estimated by empirical Bayes, {shrunk}, and the '
        f'difference between what {networks} render at the target and at the source site was '
        'added, under shared noise [@kulikov2024], as far as it predicted people whom they were '
        'not trained on'
    )


def _places_in_words(maps: str) -> str:
    """Whose files say where the vertices lie; ComBat does not have to know."""
    of_fsaverage = 'as distributed with Nilearn [@abraham2014]'
    if mesh_of(maps).is_known:
        return f' The vertices lie on the sphere of fsaverage [@fischl1999], {of_fsaverage}.'
    return (
        ' The vertices lie on the spheres of fsLR [@vanessen2012] in the space of fsaverage '
        '[@fischl1999], as distributed with TemplateFlow [@ciric2022], and the points of the '
        f'networks on the sphere of fsaverage, {of_fsaverage}.'
    )
