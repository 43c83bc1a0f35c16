"""The content of the card of a model that has just been trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ddae_app.imaging.quality import quantile_distance
from ddae_app.imaging.similarity import gradient_correlation, ssim
from ddae_app.methods.base import StoredHarmonizer, cohort_of
from ddae_app.methods.data import LEAST_BRAIN, SliceData
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.registry import METHODS
from ddae_app.reports.card import ModelCard, SiteFacts

MOST_SLICES, FEWEST_SCANS = 64, 4
"""On which the figures are measured."""


def make_card(
    harmonizer: StoredHarmonizer,
    data: SliceData,
    held_out: np.ndarray,
    data_license: str,
    warnings: tuple[str, ...],
) -> ModelCard:
    """The card of a trained model.

    Parameters
    ----------
    harmonizer : StoredHarmonizer
    data : SliceData
        What it was trained on.
    held_out : np.ndarray of int
        The rows that training did not see.
    data_license : str
        Of the data.
    warnings : tuple of str
        What was wrong with the data and accepted.
    """
    info, record = harmonizer.info, harmonizer.info.training
    training = {}
    if isinstance(info, DDAEInfo) and info.networks:
        training['calibrated'] = (
            'nothing was trained on the data above; what follows is of the networks, '
            f'{info.networks}'
        )
    training |= {'images seen': f'{record.images_seen:,}', 'protocol': _words(vars(info.protocol))}
    if info.network:
        loss = record.train_loss
        training |= {
            'seed': str(record.seed),
            'training loss': f'{loss:.4g}' if loss is not None else 'n/a',
            'network': _words(info.network),
        }
    training['versions'] = _words(info.versions)
    if info.notes:
        training['notes'] = info.notes
    return ModelCard(
        name=info.name,
        description=METHODS[info.method].card,
        dataset=record.dataset,
        license=data_license,
        phantom=info.phantom,
        sites=tuple(_site(data, held_out, site) for site in data.site_names),
        training=training,
        figures=_figures(harmonizer, data, held_out),
        warnings=warnings,
    )


def _words(values: Mapping[str, object]) -> str:
    return ', '.join(f'{name} {value}' for name, value in values.items())


def _site(data: SliceData, held_out: np.ndarray, site: str) -> SiteFacts:
    rows = np.flatnonzero(np.array(data.sites) == site)
    first = {data.subjects[row]: row for row in rows[::-1]}  # one row per person
    ages = data.ages[list(first.values())]
    ages = ages[~np.isnan(ages)]
    sexes = [data.sexes[row] for row in first.values() if data.sexes[row]]
    return SiteFacts(
        name=site,
        subjects=len(first),
        slices=len(rows) * data.depth,
        held_out=len({data.subjects[row] for row in set(rows) & set(held_out)}),
        age_mean=float(ages.mean()) if len(ages) else float('nan'),
        age_sd=float(ages.std()) if len(ages) else float('nan'),
        female=sexes.count('F') / len(sexes) if sexes else float('nan'),
    )


def _figures(
    harmonizer: StoredHarmonizer, data: SliceData, held_out: np.ndarray
) -> dict[str, str]:
    """Measured on scans that training did not see; without any, nothing can be said."""
    if not len(held_out):
        return {'nothing': 'nobody was held out'}
    most = max(FEWEST_SCANS, MOST_SLICES // data.depth)
    rows = np.unique(held_out[np.linspace(0, len(held_out) - 1, most).astype(int)])
    images, cohort = np.array(data.images[rows]), cohort_of(data).iloc[rows]
    loss = harmonizer.info.training.validation_loss
    itself = np.zeros_like(images)
    for site in cohort['site'].unique():
        own = (cohort['site'] == site).to_numpy()
        itself[own] = harmonizer.transform(images[own], cohort[own], site)
    found = {
        'images': f'{len(rows)}, of {data.depth} {"slice" if data.depth == 1 else "slices"} each',
        'validation loss': f'{loss:.4g}' if loss is not None else 'n/a',
        'rendered at its own site, SSIM to the scan': _mean(ssim, itself, images),
    }
    for target in harmonizer.sites:
        others = (cohort['site'] != target).to_numpy()
        if not others.any():
            continue
        before = images[others]
        after = harmonizer.transform(before, cohort[others], target)
        levels, typical = harmonizer.info.typical_intensities(target)
        distances = [
            np.mean([quantile_distance(image[None], levels, typical) for image in stack])
            for stack in (before, after)
        ]
        found[f'others rendered at {target}'] = (
            f'distance to the intensities of {target} {distances[0]:.3f} before and '
            f'{distances[1]:.3f} after; gradient correlation to the scan '
            f'{_mean(gradient_correlation, after, before)}'
        )
    return found


def _mean(
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    renderings: np.ndarray,
    scans: np.ndarray,
) -> str:
    """Mean over scans, shape (N, D, H, W), of a measure in slices that show enough brain."""
    values = []
    for rendering, scan in zip(renderings, scans, strict=True):
        enough = (scan > 0).mean(axis=(1, 2)) >= LEAST_BRAIN
        if enough.any():
            values.append(measure(rendering, scan, (scan > 0) & enough[:, None, None]))
    return f'{np.mean(values):.3f}' if values else 'n/a'
