"""The figures of the group page; some of them are those of the DDAE paper."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddae_app.bids.layout import Layout
from ddae_app.errors import DdaeError
from ddae_app.evaluation import probes
from ddae_app.evaluation.embedding import umap_embedding
from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.predictions import INTENSITY_BINS
from ddae_app.evaluation.protocol import EvaluationResult
from ddae_app.levels.group.collect import Outputs
from ddae_app.methods import registry
from ddae_app.methods.compatibility import mismatch
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.latents import latents_of, reconstructed
from ddae_app.methods.find import find_model, load_harmonizer, read_models
from ddae_app.reports.evaluation import EvaluationFigure
from ddae_app.reports.site_figures import (
    draw_accuracies,
    draw_embeddings,
    draw_site_histograms,
    draw_slices,
    draw_variance_maps,
)
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

MAX_POINTS = 1500
"""Of an embedding; more points take minutes, and hide each other."""

MAX_SITES = 7
"""Columns of a figure of slices."""


SEEN_BY_PROBES = {
    'site_cnn': 'convolutional network',
    'site_linear': 'linear probe',
    'site_histogram': 'intensity histogram',
    'site_interior': 'interior of the brain',
    'site_broad': 'broad structure',
    'site_middle': 'middle structure',
    'site_fine': 'fine structure',
    'site_tissues': 'tissue classes',
}
"""Labels of the probes by their measures, in the order of the figure."""


CONTROLS = {'mask': 'brain mask', 'demographics': 'age and sex'}
"""Labels of what no harmonization changes."""


def draw_pictures(
    settings: Settings,
    outputs: Outputs,
    results: Mapping[str, EvaluationResult],
    controls: Mapping[str, Estimate],
    chance: float,
    default_model: Path | None,
) -> tuple[EvaluationFigure, ...]:
    """Draw all figures for which there are data and models.

    Parameters
    ----------
    settings : Settings
    outputs : Outputs
    results : mapping of str to EvaluationResult
        By method, with the outputs of :func:`typical_rows`.
    controls : mapping of str to Estimate
        See :func:`ddae_app.evaluation.protocol.controls`.
    chance : float
        Balanced accuracy of a random guess at the site.
    default_model : Path or None
        See :func:`ddae_app.methods.find.find_model`.
    """
    shown = {name: result for name, result in results.items() if name != 'blur'}
    figures = [
        EvaluationFigure(
            'What tells the site',
            'The dots show the balanced accuracy of probes that are trained on the outputs, or on '
            'one part of them at a time, with 95 % intervals. Chance is the dashed line.',
            draw_accuracies(
                {name: _site_accuracies(result.estimates) for name, result in shown.items()}
                | {
                    'controls': {
                        label: controls[name]
                        for name, label in CONTROLS.items()
                        if name in controls
                    }
                },
                chance,
            ),
        ),
        EvaluationFigure(
            'Variance explained by the site',
            'The maps show the share of the variance at each pixel that the site explains, '
            'corrected for chance (omega squared), in either half of the participants and '
            'averaged.',
            draw_variance_maps(
                {name: result.variance_explained for name, result in shown.items()}
            ),
        ),
        EvaluationFigure(
            'Intensities by site',
            'The lines show the distribution of brain intensities at each site. They coincide if '
            'the intensities have no site effects.',
            draw_site_histograms(
                {name: result.intensities for name, result in shown.items()}, INTENSITY_BINS
            ),
        ),
        EvaluationFigure(
            f'One participant of {which_sites(outputs)}',
            'The first row shows the original scans, and the other rows show them harmonized to '
            f'{_targets(outputs)}. Of a site, who is closest to the median age is shown.',
            draw_slices(
                {name: result.shown for name, result in shown.items()},
                outputs.cohort['site'].iloc[typical_rows(outputs)].tolist(),
            ),
        ),
    ]
    model = matching_model(settings, outputs, default_model)
    if model is not None:
        figures += [_latents(settings, outputs, model), _reconstructions(settings, outputs, model)]
    return tuple(figures)


def _targets(outputs: Outputs) -> str:
    """The site that the outputs are harmonized to, and that of the baselines if it is another."""
    if outputs.baseline_target == outputs.target:
        return outputs.target
    return f'{outputs.target} (baselines: {outputs.baseline_target})'


def _site_accuracies(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The accuracies of one method, by what the probe sees."""
    return {label: estimates[name] for name, label in SEEN_BY_PROBES.items() if name in estimates}


def which_sites(outputs: Outputs) -> str:
    """Of which sites :func:`typical_rows` has a participant, in words."""
    number = outputs.cohort['site'].nunique()
    return 'each site' if number <= MAX_SITES else f'the first {MAX_SITES} of {number} sites'


def typical_rows(outputs: Outputs) -> np.ndarray:
    """The row of the participant closest to the median age, of the first ``MAX_SITES`` sites.

    Of a site without a known age, the first row.
    """
    chosen = []
    for _, site in list(outputs.cohort.reset_index(drop=True).groupby('site'))[:MAX_SITES]:
        difference = (site['age'] - site['age'].median()).abs().fillna(np.inf)
        chosen.append(int(difference.idxmin()))
    return np.array(chosen)


def matching_model(
    settings: Settings, outputs: Outputs, default_model: Path | None
) -> DDAEHarmonizer | None:
    """The DDAE of this run, if it knows the sites of the scans; else None, and the log says so."""
    try:
        trained = Layout(settings.output_dir).models()
        # Of several models, the one that harmonized the scans; it may have been replaced since.
        used = [m.path for m in read_models(trained) if m.sha256 == outputs.model_sha256]
        named = settings.harmonize.model
        found = find_model(named, default_model, used or trained, registry.DEFAULT)
        sites = {*outputs.cohort['site'], outputs.target}
        why = mismatch(found.info, sites, outputs.protocol, any_slices=True)
        if why:
            raise DdaeError(f'the model {found.info.name!r}: {why}')
        model = DDAEHarmonizer.load(found.path, device=settings.harmonize.device)
        if model.info.config.condition_dropout == 0:
            raise DdaeError(f'the model {found.info.name!r} needs age and sex')
        return model
    except DdaeError as error:
        log.warning('The figures of latents and reconstructions are not drawn: %s.', error)
        return None


def _latents(settings: Settings, outputs: Outputs, model: DDAEHarmonizer) -> EvaluationFigure:
    rng = np.random.default_rng(settings.random_seed)
    n = len(outputs.source)
    rows = np.sort(rng.permutation(n)[:MAX_POINTS])
    sites = outputs.cohort['site'].to_numpy(str)[rows]
    subjects = outputs.cohort['subject'].to_numpy(str)[rows]
    embeddings, accuracies = {}, []
    for name, claimed in (
        ('encoded with the true site', sites),
        (f'encoded with {outputs.target}', np.full(len(rows), outputs.target)),
    ):
        latents = latents_of(model, outputs.source[rows], sites.tolist(), claimed.tolist())
        embeddings[name] = umap_embedding(latents, settings.random_seed)
        accuracy = probes.linear_accuracy(latents, sites, subjects, seed=settings.random_seed)
        accuracies.append(accuracy)
    return EvaluationFigure(
        'Latents of the DDAE',
        'Each point shows the latents (z_k, z_u) of a scan, embedded in a plane by UMAP. The '
        f'encoder was given the true site (left) or {outputs.target} (right), and neither '
        'age nor sex. Logistic regression classifies the site from these latents with a balanced '
        f'accuracy of {accuracies[0]:.2f} and {accuracies[1]:.2f} '
        f'(chance {1 / len(set(sites)):.2f}).',
        draw_embeddings(embeddings, sites),
    )


def _reconstructions(
    settings: Settings, outputs: Outputs, model: DDAEHarmonizer
) -> EvaluationFigure:
    rows = typical_rows(outputs)
    scans, cohort = outputs.source[rows], outputs.cohort.iloc[rows]
    sites = cohort['site'].tolist()
    images = {'source': scans, 'DDAE': reconstructed(model, scans, sites)}
    for found in read_models(Layout(settings.output_dir).models()):
        fits = mismatch(found.info, sites, outputs.protocol) is None
        if found.method.reconstructs and fits:
            other = load_harmonizer(found.path, device=settings.harmonize.device)
            images[f'{found.method.label} ({found.info.name})'] = np.concatenate(
                [
                    other.transform(scans[[i]], cohort.iloc[[i]], site)
                    for i, site in enumerate(sites)
                ]
            )
    return EvaluationFigure(
        'Reconstructions',
        'Scans are rendered at their own site. The DDAE adds its change to the scan, so that it '
        'removes only noise and shading here.',
        draw_slices(images, sites, differences=True),
    )
