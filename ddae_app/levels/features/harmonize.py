"""Train and participant level for a table of features: fit a method, and apply it."""

from __future__ import annotations

import logging

import numpy as np

from ddae_app.bids.dataset import dataset_name
from ddae_app.bids.layout import ModelFiles, RunFiles
from ddae_app.bids.output_folder import locked
from ddae_app.errors import ModelError, UsageError
from ddae_app.features.checks import check_people, without_variation
from ddae_app.features.fit import fit_model, unknown_covariates
from ddae_app.features.matrix import FeatureMatrix, counted
from ddae_app.features.measures import became_negative
from ddae_app.features.model import METHOD, FeatureModelInfo, read_features_info
from ddae_app.features.people import RowLabels
from ddae_app.features.places import read_places
from ddae_app.files import write_atomically
from ddae_app.levels.features.dataset import describe_dataset
from ddae_app.levels.features.guard import GuardedRows, write_guard
from ddae_app.levels.features.inputs import FeatureInputs, read_inputs
from ddae_app.levels.features.outputs import write_harmonized
from ddae_app.levels.features.page import methods_text, model_facts, site_rows, write_page
from ddae_app.levels.features.used import UsedModel
from ddae_app.methods.registry import METHODS
from ddae_app.methods.suitability import FEWEST_TO_CALIBRATE
from ddae_app.reports.boilerplate import write_boilerplate
from ddae_app.reports.features import format_features_card
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

CARDS = {
    'combat': 'ComBat (Johnson et al. 2007; Fortin et al. 2018)',
    'ddae': 'A Disentangled Diffusion Autoencoder (Ijishakin, Lawry Aguila et al. 2024, arXiv '
    '2408.15890), with the appearance of each site (docs/features)',
}
"""What a model of each method is, for its card."""

SCOPES = {
    'combat': 'these sites',
    'ddae': 'these sites, and of others from which the same run has '
    f'{FEWEST_TO_CALIBRATE} people or more',
}
"""Of which sites it harmonizes people."""


def run_train(settings: Settings) -> int:
    """Fit a method to the table, and write the model and its card.

    Returns
    -------
    int
        0.

    Raises
    ------
    DdaeError
        The table or the dataset is not suitable.
    """
    inputs = read_inputs(settings)
    if target := settings.harmonize.target_site:
        log.info(
            'one model serves every target: --target-site %s is used at the participant level',
            target,
        )
    files = inputs.files.model(settings.train.model_name)
    with locked(files.model):
        _fit(settings, inputs, files)
    describe_dataset(settings)
    return 0


def run_participant(settings: Settings, logs: RunFiles) -> int:
    """Harmonize the table with the model of ``--model``, or its own, which is fitted once.

    Parameters
    ----------
    settings : Settings
    logs : RunFiles
        Of this run, for the methods text.

    Returns
    -------
    int
        0.

    Raises
    ------
    DdaeError
        The table, the dataset or the model is not suitable.
    """
    inputs = read_inputs(settings)
    table, labels, target = inputs.table, inputs.labels, settings.harmonize.target_site
    used, warnings = _model(settings, inputs)
    used = used.calibrated_to(table, labels)
    model = used.model
    log.info(
        'model %r from %s; sites: %s; SHA-256 %s', model.info.name, used.path,
        ', '.join(used.fitted_sites), used.sha256[:16],
    )  # fmt: skip
    values = model.harmonized(table, labels, target)
    doubts = _doubts(settings, used, inputs, values)
    guarded = GuardedRows.of(inputs, used, values)
    if guarded.worth_telling:
        doubts.append(guarded.line)
    else:
        log.info('%s', guarded.line)
    for line in doubts:
        log.warning('%s', line)
    describe_dataset(settings)
    write_harmonized(settings, inputs, used, values, guarded.rows)
    write_guard(settings, used, guarded)
    text = methods_text(used, target)
    write_boilerplate(logs.citations, text)
    lines = [*inputs.warnings, *warnings, *doubts]
    write_page(inputs, used, target, values, lines, text, guarded.of_page())
    where = settings.output_dir if table.maps else inputs.files.harmonized
    log.info('harmonized: %s', where)
    log.info('report: %s', inputs.files.page)
    return 0


def _fit(settings: Settings, inputs: FeatureInputs, files: ModelFiles) -> list[str]:
    """Fit to the table, and write the model after its card; what is doubtful, in sentences."""
    if files.model.exists() and not files.card.exists():
        raise UsageError(
            f'{files.model} is there without {files.card.name}, so it comes from elsewhere; give '
            'another --model-name'
        )
    _check_replaced(files, inputs.table)
    method = settings.harmonize.method or METHOD
    places = None
    if method != METHOD:
        home = settings.preproc.templateflow_home
        places = read_places(inputs.table.maps, home, inputs.cortex)
    model, warnings = fit_model(
        inputs.table,
        inputs.labels,
        name=files.name,
        dataset=dataset_name(settings.bids_dir),
        method=method,
        seed=settings.random_seed,
        places=places,
        age_spline=settings.table.age_spline,
        allow_few=settings.train.allow_few_scans,
        allow_confounding=settings.train.allow_confounding,
    )
    for line in warnings:
        log.warning('%s', line)
    sites = site_rows(inputs, model, model.effects())
    card = format_features_card(
        files.name,
        model_facts(model, model.info.sites),
        sites,
        warnings,
        method=CARDS[model.info.method],
        scope=SCOPES[model.info.method],
        what=inputs.table.maps,
    )
    write_atomically(files.card, card)
    model.save(files.model)
    log.info('model: %s', files.model)
    log.info('card: %s', files.card)
    return warnings


def _check_replaced(files: ModelFiles, table: FeatureMatrix) -> None:
    """Refuse to put a model of a table in the place of one of maps, or the other way round."""
    if not files.model.exists():
        return
    try:
        maps = read_features_info(files.model).maps
    except ModelError:  # a damaged one may go
        return
    if bool(maps) != bool(table.maps):
        raise UsageError(
            f'{files.model} was fitted to {maps or "a table"}, and not to '
            f'{table.maps or "a table"}, whose outputs have the same name; rename the table, or '
            'give another output folder'
        )


def _model(settings: Settings, inputs: FeatureInputs) -> tuple[UsedModel, list[str]]:
    """The model of the run, and what was doubtful when it was fitted here."""
    spline = settings.table.age_spline
    named = settings.harmonize.model
    files = inputs.files.model(settings.train.model_name)
    if named is None:
        with locked(files.model):
            if not files.is_made:
                warnings = _fit_first(settings, inputs, files)
                return UsedModel.read(files.model, fitted_here=True), warnings
    used = UsedModel.read(named or files.model)
    method = settings.harmonize.method
    if method not in (None, used.model.info.method):
        raise UsageError(
            f'--method {method}: {used.path} is a model of {used.model.label}; leave the flag '
            'out, fit again with it (train), or give another --model-name'
        )
    if spline and not used.model.info.design.knots:
        raise UsageError(
            f'--age-spline: {used.path} was fitted with a straight line of age; leave the flag '
            'out, or fit again with it (train)'
        )
    return used, []


def _fit_first(settings: Settings, inputs: FeatureInputs, files: ModelFiles) -> list[str]:
    """Fit the model of a participant level, as :func:`_fit`.

    Raises
    ------
    UsageError
        The rows are a part of the people, or no model can be fitted to them.
    """
    if settings.select.participant_label:
        raise UsageError(
            f'--participant-label: {files.model} is not there, and a model is fitted to all '
            'people: run train first (this command with train, and without --participant-label), '
            'or give --model'
        )
    _check_target(settings, inputs)
    log.info(
        '%s is not there: fitting %s to %s first, once; to apply another model, give --model',
        files.model, METHODS[settings.harmonize.method or METHOD].label,
        'these maps' if inputs.table.maps else 'this table',
    )  # fmt: skip
    train = settings.train
    try:
        check_people(
            inputs.labels,
            allow_few=train.allow_few_scans,
            allow_confounding=train.allow_confounding,
        )
    except UsageError as e:
        raise UsageError(
            f'{e}; where these rows are a part of the people, run train with all of them first, '
            'or give --model'
        ) from e
    return _fit(settings, inputs, files)


def _other_rows(info: FeatureModelInfo, table: FeatureMatrix) -> str:
    """What a model was fitted to; it knows the name of its table, and not the folder."""
    if not table.maps and info.table != table.path.name:
        return f'{info.table}, and not to {table.path.name}'
    rows = f'other values of {len(table.names)} rows (features, site, age or sex)'
    return rows if table.maps else f'{rows}, or to another table of the name {info.table}'


def _other_people(used: UsedModel, labels: RowLabels, remedy: str) -> list[str]:
    """Of which sites there are other people than when the model was fitted, in sentences."""
    info = used.model.info
    counts = [
        (site, labels.people_of(site), then)
        for site, then in zip(used.fitted_sites, info.people, strict=False)
    ]
    if sum(now for _, now, _ in counts) * 2 < sum(then for _, _, then in counts):
        now = ', '.join(f'{n} of {then} of site {site}' for site, n, then in counts if n)
        return [
            f'these rows are of less than half of the people that the model {info.name} was '
            f'fitted to ({now or "none"}): it stays as it is, as it should for a part of them; if '
            'the others are gone, run train to fit it again'
        ]
    return [
        f'site {site} has {now} people, and {then} when the model was fitted: {remedy}'
        for site, now, then in counts
        if now != then
    ]


def _of_people(used: UsedModel, inputs: FeatureInputs) -> list[str]:
    """What the page of a run that fits says of its people, where the model was there before."""
    lines = unknown_covariates(inputs.labels)
    if used.model.info.digest == inputs.digest:
        lines += check_people(inputs.labels, allow_few=True, allow_confounding=True)
    return lines


def _check_target(settings: Settings, inputs: FeatureInputs) -> None:
    """Refuse a target of which there is no row, before a model is fitted."""
    target, sites = settings.harmonize.target_site, inputs.labels.site_names
    if target is not None and target not in sites:
        raise UsageError(
            f'--target-site {target!r} is no site of these rows, which are of {", ".join(sites)}'
        )


def _doubts(
    settings: Settings, used: UsedModel, inputs: FeatureInputs, values: np.ndarray
) -> list[str]:
    """Why the model may not be the one for these rows, and what is odd in the result."""
    info, labels, table = used.model.info, inputs.labels, inputs.table
    lines = [
        f'site {site} is none of the model: it was measured in its '
        f'{labels.people_of(site)} people of these rows'
        for site in used.calibrated
    ]
    for site in used.calibrated:
        if alike := without_variation(table, labels.sites == site):
            lines.append(
                f'no variation within site {site}, which was measured in these rows: '
                f'{table.told(alike)}; all values were brought to what is expected at the target, '
                'also where there was nothing to measure (write n/a there)'
            )
    if not used.fitted_here:
        lines += _of_people(used, inputs)
    part = bool(settings.select.participant_label)
    if settings.harmonize.model is None and not used.fitted_here and not part:
        remedy = 'it stays as it is; run train to fit it again'
        people = _other_people(used, labels, remedy)
        if not people and info.digest not in ('', inputs.digest):
            people = [f'the model {info.name} was fitted to {_other_rows(info, table)}: {remedy}']
        lines += people
    ages = labels.ages[~np.isnan(labels.ages)]
    if info.ages and ages.size:
        beyond = int(((ages < info.ages[0]) | (ages > info.ages[1])).sum())
        if beyond:
            lines.append(
                f'{counted(beyond, "row is of an age", "rows are of ages")} beyond '
                f'{info.ages[0]:.1f} to {info.ages[1]:.1f} years, to which the model was '
                'fitted: what age does there is extrapolated'
            )
    same = used.unchanged(table)
    if not used.fitted_here and same:
        lines.append(f'left unchanged, since nothing in them could be scaled: {table.told(same)}')
    negative = became_negative(table.values, values)
    if negative.any():
        names = [table.features[i] for i in np.flatnonzero(negative)]
        what = table.told(names)
        if not table.maps:
            what = f'{"column" if len(names) == 1 else "columns"} {what}'
        lines.append(
            f'{counted(int(negative.sum()), "negative value")} in {what}, where the source has '
            f'none: {used.model.label} knows no lower end; look at these before using them'
        )
    return lines
