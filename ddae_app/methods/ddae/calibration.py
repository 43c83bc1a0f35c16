"""Calibration: site appearance and residual correction of any sites, under unchanged networks.

The networks of a model see scans on a scale that all sites share. So they can serve sites that
they were not trained on, once the appearance of these sites and what rendering leaves of them are
measured. That takes minutes on a CPU, where training takes hours. Sites that were calibrated with
the same networks before stay, as targets above all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ddae_app.errors import UsageError
from ddae_app.methods.condition import Condition
from ddae_app.methods.data import SliceData, site_quantiles
from ddae_app.methods.ddae.appearance import SiteAppearance, fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle
from ddae_app.methods.ddae.evidence import (
    OF_APPEARANCE,
    OF_CONTRAST,
    OF_RENDERED,
    StoredEvidence,
)
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.remaining import Rendered, fit_remaining_contrast
from ddae_app.methods.ddae.render import render_to_measure
from ddae_app.methods.ddae.residuals import (
    ResidualCorrection,
    evenly_by_site,
    fit_residual_correction,
    measures_spread,
)
from ddae_app.methods.modelfile import SiteQuantiles
from ddae_app.methods.site_effects import Regression

log = logging.getLogger('ddae_app')


def calibrate(bundle: Bundle, data: SliceData) -> Bundle:
    """A model with the same networks that knows the sites of some scans.

    If `bundle` was calibrated itself, the model also knows its sites, but for those that are
    measured anew, and what its scans say of age and sex counts.

    Parameters
    ----------
    bundle : Bundle
        It does not change.
    data : SliceData
        Scans of the sites, preprocessed with the protocol of the model.

    Returns
    -------
    Bundle
        Its ``path`` and ``sha256`` are those of `bundle`.

    Raises
    ------
    UsageError
        If the scans have another size than the networks take, or none of a site shows brain.
    """
    config, old = bundle.model.config, bundle.model
    shape = config.depth, config.image_size, config.image_size
    if data.images.shape[1:] != shape:
        raise UsageError(
            f'scans have (slices, rows, columns) {data.images.shape[1:]}, the networks take '
            f'{shape}; preprocess with the protocol of the model'
        )
    _refuse_sites_without_brain(data)
    earlier = old.evidence.evidence() if old.evidence else None
    rows = np.arange(len(data))
    regression = Regression(data, rows, earlier[OF_APPEARANCE] if earlier else None)
    sites = regression.sites
    for site in sorted(set(data.site_names) & set(bundle.info.sites)) if earlier else ():
        log.info('site %s is measured in the scans of this dataset, no longer as in %s',
                 site, bundle.info.name)  # fmt: skip
    appearance = fit_site_appearance(config, data, rows, old.appearance, old.device, regression)
    kept = {
        i: bundle.info.sites.index(s) for i, s in enumerate(sites) if i >= len(data.site_names)
    }
    _keep(appearance, old.appearance, ('noise',), kept)
    networks = old.networks.for_sites(sites, bundle.info.sites)
    uncorrected = DDAE(networks, appearance).to(old.device).eval()
    rendered: list[Rendered] = []

    def render(x: Tensor, source: Condition, target: Condition) -> Tensor:
        y = render_to_measure(uncorrected, x, source, target)
        rendered.append((y, source))
        return y

    residuals, found = fit_residual_correction(
        config,
        appearance,
        data,
        rows,
        render,
        old.residuals if earlier else None,
        (earlier[OF_CONTRAST], earlier[OF_RENDERED]) if earlier else None,
    )
    measured = ('spread', 'softness') if measures_spread(config) else ('softness',)
    _keep(residuals, old.residuals, measured, kept)
    remaining, evidence = None, None
    if found:
        *of_contrast, before = found
        chosen = evenly_by_site(data, rows)
        remaining = fit_remaining_contrast(
            appearance, residuals, data, rows, before, chosen, rendered
        )
        names = OF_APPEARANCE, OF_CONTRAST, OF_RENDERED
        of_each = dict(zip(names, (regression.evidence(), *of_contrast), strict=True))
        evidence = StoredEvidence.of(shape, of_each)
    known = bundle.info
    of_kept = (known.training.subjects_per_site[i] for i in kept.values())
    subjects_per_site = (*data.subjects_per_site(), *of_kept)
    info = replace(
        known,
        sites=sites,
        evidence=evidence.columns if evidence else (),
        references=tuple(s for s in known.references if s not in data.site_names),
        quantiles=_joined(site_quantiles(data), known.quantiles, list(kept.values())),
        training=replace(known.training, subjects_per_site=subjects_per_site),
    )
    model = DDAE(networks, appearance, residuals, remaining, evidence).to(old.device).eval()
    return replace(bundle, model=model, info=info)


def _refuse_sites_without_brain(data: SliceData) -> None:
    sites = np.array(data.sites)
    for site in data.site_names:
        if not any(data.images[row].any() for row in np.flatnonzero(sites == site)):
            raise UsageError(f'no slice of site {site} shows brain; check the brain masks')


def _keep(
    new: SiteAppearance | ResidualCorrection,
    old: SiteAppearance | ResidualCorrection,
    names: Sequence[str],
    kept: dict[int, int],
) -> None:
    """Copy what is not measured again of sites that stay; `kept` says which row each had."""
    if kept:
        old_device = old.get_buffer(names[0]).device
        to, of = (torch.tensor(list(i), device=old_device) for i in (kept, kept.values()))
        for name in names:
            new.get_buffer(name)[to] = old.get_buffer(name)[of]


def _joined(new: SiteQuantiles, old: SiteQuantiles, kept: Sequence[int]) -> SiteQuantiles:
    """The quantiles of the new sites, and of some of the old ones."""
    tables = (
        (*getattr(new, name), *(getattr(old, name)[i] for i in kept))
        for name in ('low', 'median', 'high')
    )
    return SiteQuantiles(new.levels, *tables)
