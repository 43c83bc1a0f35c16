"""Group level for a table of features: is the site gone, and the biology still there?"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ddae_app import __version__
from ddae_app.bids.dataset import to_tsv
from ddae_app.bids.layout import ModelFiles
from ddae_app.errors import NotEvaluableError, UsageError
from ddae_app.features.evaluation import (
    MEANING,
    FeatureResult,
    Refit,
    evaluate,
    not_predicted,
    site_from_demographics,
)
from ddae_app.features.fit import fit_model
from ddae_app.features.model import METHOD, FeatureModel, FeatureModelInfo
from ddae_app.features.people import RowLabels
from ddae_app.features.places import are_needed, read_places
from ddae_app.files import digest_of, write_atomically
from ddae_app.levels.features.cortex import cortex_of
from ddae_app.levels.features.guard import changed_since, read_guard
from ddae_app.levels.features.inputs import FeatureInputs, read_inputs
from ddae_app.levels.features.outputs import is_of_other_rows, read_harmonized
from ddae_app.levels.features.page import feature_facts, sentence, title
from ddae_app.methods.random_intercept import FEWEST_REPEATED
from ddae_app.methods.registry import METHODS
from ddae_app.methods.suitability import confounded_sites, unexamined_sites
from ddae_app.reports.features import FeaturesEvaluation, write_features_group_page
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

SOURCE, HARMONIZED = 'source', 'harmonized'
"""The tables that are compared, as they were and as written; cross-fitted ones join them."""

LEAST_KEPT = 0.01
"""Of all features; of maps, a few vertices beside the medial wall are always among them."""

PROTOCOL = (
    'People are split into two halves. Probes are trained, in five folds, on the values of some '
    'people of a half, and tested on those of the rest. For "cross-fitted", a method is '
    'fitted to the other half, as in practice with new people; "harmonized" is what was '
    'written, with a fit to perhaps these very people, from which the site is told worse than '
    'from new people. Intervals hold 95 % of 1000 bootstrap samples of people; those of '
    'site_variance and variance_ratio, of the features.'
)


def run_group(settings: Settings) -> int:
    """Evaluate the harmonized table against its source, and write the measures and a page.

    If there are too few people for an evaluation, those of an earlier run are removed.

    Returns
    -------
    int
        0.

    Raises
    ------
    NothingSelectedError
        The table has not been harmonized.
    DdaeError
        There are too few people, the tables are not what they were, or flags ask for others.
    """
    inputs = read_inputs(settings)
    labels, source = inputs.labels, inputs.table.values
    harmonized, said = read_harmonized(settings, inputs)
    _check_asked(settings, inputs, said)
    target, unmet = _target(said, labels)
    cautions = [*_cautions(inputs, said), *unmet]
    for line in cautions:
        log.warning('%s', line)
    method = next(n for n, m in METHODS.items() if m.label == said['HarmonizationMethod'])
    places = None if method == METHOD else _places(settings, inputs, said)
    halves: list[FeatureModelInfo] = []
    refit = partial(_refit, inputs, said, target, places, settings.random_seed, halves)
    fitted = dict.fromkeys((method, METHOD))  # what the simplest method does is always there
    results = _evaluated(
        {
            SOURCE: source,
            HARMONIZED: harmonized,
            **{_cross_fitted(name): partial(refit, name) for name in fitted},
        },
        inputs,
        settings.random_seed,
    )
    chance = 1 / len(labels.site_names)
    headline = _headline(results, method, chance, other=is_of_other_rows(said, inputs))
    log.info('%s', headline)
    files = inputs.files
    write_atomically(files.group_table, to_tsv(_rows(results)))
    estimates = {name: result.estimates for name, result in results.items()}
    measured = set().union(*estimates.values())
    constant = _constant(inputs, harmonized)
    missing = [
        *not_predicted(measured),
        *_left_alone(inputs, constant),
        *_of_halves(inputs, said, halves, constant),
    ]
    for line in missing:
        log.warning('%s', line)
    cross_fitted = results[_cross_fitted(method)]
    explained = [results[SOURCE].explained, cross_fitted.explained]
    features = feature_facts(inputs.table, cross_fitted.outputs, explained, constant)
    drawn = {'before': source, 'after': cross_fitted.outputs}
    write_features_group_page(
        files.group_page,
        FeaturesEvaluation(
            name=files.name,
            title=title(inputs.table, files.name),
            version=__version__,
            headline=headline,
            protocol=PROTOCOL,
            warnings=[sentence(line) for line in (*inputs.warnings, *cautions, *missing)],
            chance=chance,
            demographics=site_from_demographics(labels, seed=settings.random_seed),
            methods=estimates,
            meanings={name: text for name, text in MEANING.items() if name in measured},
            features=features,
            guard=read_guard(inputs, said),
            cortex=cortex_of(inputs.table, places, drawn, features),
        ),
    )
    log.info('measures: %s', files.group_table)
    log.info('report: %s', files.group_page)
    return 0


def _check_asked(settings: Settings, inputs: FeatureInputs, said: Mapping[str, object]) -> None:
    """Refuse flags of another harmonization than the one that is there to be evaluated."""
    target, method = settings.harmonize.target_site, settings.harmonize.method
    name = settings.train.model_name
    for flag, entry, asked in (
        (f'--target-site {target}', 'TargetSite', target),
        (f'--method {method}', 'HarmonizationMethod', method and METHODS[method].label),
        ('--age-spline', 'AgeSpline', settings.table.age_spline or None),
        (f'--model-name {name}', 'ModelName', name and inputs.files.model(name).name),
    ):
        if asked is not None and said.get(entry, asked) != asked:
            raise UsageError(
                f'{flag}: {inputs.files.name} was harmonized otherwise ({entry} of its JSON is '
                f'{said[entry]}); leave the flag out, or run the participant level with it first'
            )


def _cautions(inputs: FeatureInputs, said: Mapping[str, object]) -> Iterator[str]:
    """Why the measures may mislead, in sentences."""
    yield from changed_since(inputs, said)
    if is_of_other_rows(said, inputs):
        yield (
            f'the model {said["ModelName"]} was fitted to other rows than just these: '
            f'"{HARMONIZED}" tells what it does to new people, as far as none of these took part '
            'in its fit; what is cross-fitted is of other models, fitted to halves of these people'
        )
    stored = _stored_model(inputs, said)
    if stored.is_file() and digest_of(stored) != said.get('ModelSHA256'):
        yield (
            f'{stored} is not the model that these values were harmonized with: it was fitted '
            'again since, or that one was named with --model; to evaluate what it does, run the '
            'participant level with it first'
        )
    for site, reason in confounded_sites(inputs.labels).items():
        yield (
            f'site {site} is confounded with {reason}: what the measures call a site effect may '
            'be biology'
        )
    yield from unexamined_sites(inputs.labels)


def _evaluated(
    candidates: Mapping[str, np.ndarray | Refit], inputs: FeatureInputs, seed: int
) -> dict[str, FeatureResult]:
    """The measures of each candidate; where there are none, those of earlier rows are removed."""
    log.info('evaluating %s', '; '.join(candidates))
    try:
        return evaluate(candidates, inputs.labels, seed=seed)
    except NotEvaluableError:
        for path in (inputs.files.group_table, inputs.files.group_page):
            path.unlink(missing_ok=True)
        raise


def _target(said: Mapping[str, object], labels: RowLabels) -> tuple[str | None, list[str]]:
    """The site that half of the people can be brought to; if it is another, why, in a sentence."""
    target = str(said['TargetSite'])
    if target in labels.site_names:
        return target, []
    if target == 'n/a':
        return None, []
    return None, [
        f'no row is of site {target}, which all were brought to: what is cross-fitted is brought '
        'to the mean of all sites'
    ]


def _left_alone(inputs: FeatureInputs, constant: Sequence[str]) -> Iterator[str]:
    """That probes see features which no method scales, in a sentence, if many vary."""
    values = inputs.table.columns(constant)
    differ = np.fmin.reduce(values) < np.fmax.reduce(values)
    names = [name for name, varies in zip(constant, differ, strict=True) if varies]
    if len(names) > LEAST_KEPT * len(inputs.table.features):
        yield (
            f'left unchanged, since nothing in them could be scaled: {inputs.table.told(names)}; '
            'probes see them like all others, and may tell the site by them'
        )


def _of_halves(
    inputs: FeatureInputs,
    said: Mapping[str, object],
    halves: Sequence[FeatureModelInfo],
    constant: Collection[str],
) -> Iterator[str]:
    """Why methods that are fitted to half of the people do less than what was written."""
    kept = {name for info in halves for name in info.constant} - {*constant}
    names = [name for name in inputs.table.features if name in kept]
    if len(names) > LEAST_KEPT * len(inputs.table.features):
        yield (
            f'in a half of the people, {inputs.table.told(names)} cannot be scaled at each site, '
            'so that what is cross-fitted has the source there, and less is harmonized than in '
            'what was written'
        )
    if said.get('RandomInterceptOfPeople') and not all(info.longitudinal for info in halves):
        yield (
            f'half of the people have fewer than {FEWEST_REPEATED} further sessions, so that what '
            'is cross-fitted takes all rows as of different people, unlike what was written'
        )


def _cross_fitted(method: str) -> str:
    """The candidate of a method that is fitted to other people."""
    return f'{method}, cross-fitted'


def _places(
    settings: Settings, inputs: FeatureInputs, said: Mapping[str, object]
) -> np.ndarray | None:
    """Where the vertices lie: as the model of these maps says, or else TemplateFlow."""
    maps = inputs.table.maps
    path = _stored_model(inputs, said)
    if are_needed(maps) and path.is_file():
        own = FeatureModel.load(path)
        if own.info.maps == maps and own.given_places is not None:
            return own.given_places
    return read_places(maps, settings.preproc.templateflow_home, inputs.cortex)


def _stored_model(inputs: FeatureInputs, said: Mapping[str, object]) -> Path:
    """Where a model of the name of the used one is in the output folder, if it is there."""
    return ModelFiles(inputs.files.root / 'models', str(said['ModelName'])).model


def _refit(
    inputs: FeatureInputs,
    said: Mapping[str, object],
    target: str | None,
    places: np.ndarray | None,
    seed: int,
    halves: list[FeatureModelInfo],
    method: str,
    rows: np.ndarray,
) -> np.ndarray:
    """Fit a method to some rows as the model was fitted, and apply that to all.

    What the model says of itself is added to `halves`.
    """
    try:
        model, _ = fit_model(
            inputs.table.rows(rows),
            inputs.labels.rows(rows),
            name='half',
            method=method,
            seed=seed,
            places=places,
            age_spline=bool(said.get('AgeSpline')),
            allow_few=True,
            allow_confounding=True,
            allow_missing=True,
        )
    except UsageError as e:
        raise NotEvaluableError(
            f'{METHODS[method].label} cannot be fitted to half of the people: {e}'
        ) from e
    halves.append(model.info)
    return model.harmonized(inputs.table, inputs.labels, target)


def _constant(inputs: FeatureInputs, harmonized: np.ndarray) -> list[str]:
    """Features that the participant level left as they are."""
    same = ((harmonized == inputs.table.values) | np.isnan(harmonized)).all(axis=0)
    return [name for name, fixed in zip(inputs.table.features, same, strict=True) if fixed]


def _headline(
    results: Mapping[str, FeatureResult], method: str, chance: float, *, other: bool
) -> str:
    """What was found; of a model of other rows, what is in its values comes first."""
    before, after = (results[name].estimates for name in (SOURCE, _cross_fitted(method)))
    text = (
        f'In people whom {METHODS[method].label} was not fitted to, the site is classified at '
        f'{after["site_linear"].value:.2f} after harmonization and '
        f'{before["site_linear"].value:.2f} before (chance {chance:.2f})'
    )
    if 'age_r' in after and 'age_r' in before:
        text += (
            f'; age is predicted with r {after["age_r"].value:.2f} and an error of '
            f'{after["age_mae"].value:.1f} years after, r {before["age_r"].value:.2f} and '
            f'{before["age_mae"].value:.1f} years before'
        )
    if other:
        written = results[HARMONIZED].estimates['site_linear'].value
        text = (
            'A model that was fitted to other rows than just these wrote values in which the site '
            f'is classified at {written:.2f}. With fits to halves of these people instead: '
            f'{text[0].lower()}{text[1:]}'
        )
    return f'{text}.'


def _rows(results: Mapping[str, FeatureResult]) -> list[dict[str, object]]:
    return [
        {'table': name, 'measure': measure, **vars(result.estimates[measure])}
        for name, result in results.items()
        for measure in MEANING
        if measure in result.estimates
    ]
