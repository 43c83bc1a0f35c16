"""The pictures of the group page, the paper's among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddae_app.bids.layout import Layout
from ddae_app.errors import DdaeError
from ddae_app.evaluation import probes
from ddae_app.evaluation.embedding import embedded
from ddae_app.evaluation.protocol import Judgement
from ddae_app.levels.group.collect import Outputs
from ddae_app.methods import registry
from ddae_app.methods.compatibility import mismatch
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.latents import latent_codes, reconstructed
from ddae_app.methods.find import find_model, load_harmonizer, read_models
from ddae_app.reports.evaluation import EvaluationFigure
from ddae_app.reports.site_figures import (
    draw_codes,
    draw_explained,
    draw_site_histograms,
    draw_slices,
)
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

MOST_CODES = 1500
"""Points of a plane; more take minutes, and hide each other."""

MOST_SITES = 7
"""Columns of a sheet of slices."""


def draw_pictures(
    settings: Settings,
    outputs: Outputs,
    found: Mapping[str, Judgement],
    default_model: Path | None,
) -> tuple[EvaluationFigure, ...]:
    """All that can be drawn.

    Parameters
    ----------
    settings : Settings
    outputs : Outputs
    found : mapping of str to Judgement
        By method.
    default_model : Path or None
        See :func:`ddae_app.methods.find.find_model`.
    """
    sites = outputs.cohort['site'].to_numpy(str)
    shown = [name for name in found if name != 'blur']
    figures = [
        EvaluationFigure(
            'What the site explains',
            'Share of the variance at each pixel, less what chance explains.',
            draw_explained({name: found[name].explained for name in shown}),
        ),
        EvaluationFigure(
            'Intensities by site',
            'All brain pixels of each site; where the site is gone the lines lie on each other.',
            draw_site_histograms({name: found[name].outputs for name in shown}, sites),
        ),
        EvaluationFigure(
            'One person of each site',
            f'The scan as it is, and as if acquired at {outputs.target}. Of each site the person '
            'of the median age.',
            _sheet(outputs, {name: found[name].outputs for name in shown}),
        ),
    ]
    model = _matching_model(settings, outputs, default_model)
    if model is not None:
        figures += [_codes(settings, outputs, model), _reconstructions(settings, outputs, model)]
    return tuple(figures)


def _sheet(outputs: Outputs, images: Mapping[str, np.ndarray]) -> bytes:
    rows = _typical(outputs)
    return draw_slices(
        {name: own[rows] for name, own in images.items()},
        outputs.cohort['site'].iloc[rows].tolist(),
    )


def _typical(outputs: Outputs) -> np.ndarray:
    """The person of the median age of each site, of at most ``MOST_SITES``."""
    chosen = []
    for _, own in list(outputs.cohort.reset_index(drop=True).groupby('site'))[:MOST_SITES]:
        far = (own['age'] - own['age'].median()).abs().fillna(0)
        chosen.append(int(far.idxmin()))
    return np.array(chosen)


def _matching_model(
    settings: Settings, outputs: Outputs, default_model: Path | None
) -> DDAEHarmonizer | None:
    """The DDAE of this run, if it knows the sites of the scans; else None, and the log says so."""
    try:
        trained = Layout(settings.output_dir).models()
        found = find_model(settings.harmonize.model, default_model, trained, registry.DEFAULT)
        sites = {*outputs.cohort['site'], outputs.target}
        why = mismatch(found.info, sites, outputs.protocol, any_slices=True)
        if why:
            raise DdaeError(f'the model {found.info.name!r}: {why}')
        model = DDAEHarmonizer.load(found.path, device=settings.harmonize.device)
        if model.info.config.condition_dropout == 0:
            raise DdaeError(f'the model {found.info.name!r} cannot do without age and sex')
        return model
    except DdaeError as error:
        log.warning('neither codes nor reconstructions are drawn: %s', error)
        return None


def _codes(settings: Settings, outputs: Outputs, model: DDAEHarmonizer) -> EvaluationFigure:
    rng = np.random.default_rng(settings.random_seed)
    n = len(outputs.source)
    rows = np.sort(rng.permutation(n)[:MOST_CODES])
    sites = outputs.cohort['site'].to_numpy(str)[rows]
    subjects = outputs.cohort['subject'].to_numpy(str)[rows]
    planes, told = {}, []
    for name, claimed in (
        ('true site told', sites),
        (f'{outputs.target} told', np.full(len(rows), outputs.target)),
    ):
        codes = latent_codes(model, outputs.source[rows], sites.tolist(), claimed.tolist())
        planes[name] = embedded(codes, settings.random_seed)
        told.append(probes.linear_accuracy(codes, sites, subjects, seed=settings.random_seed))
    return EvaluationFigure(
        'Codes of the DDAE',
        'z_k and z_u of each scan on a plane (UMAP), with its own site told and with the target, '
        f'age and sex untold. By logistic regression the site is told from them at {told[0]:.2f} '
        f'and {told[1]:.2f} (chance {1 / len(set(sites)):.2f}).',
        draw_codes(planes, sites),
    )


def _reconstructions(
    settings: Settings, outputs: Outputs, model: DDAEHarmonizer
) -> EvaluationFigure:
    rows = _typical(outputs)
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
        'Scans rendered at their own site. The DDAE adds to a scan what it changes, so here it '
        'takes noise and shading only.',
        draw_slices(images, sites, differences=True),
    )
