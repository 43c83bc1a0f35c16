"""Calibration: site appearance and residual correction of any sites, under unchanged networks.

The networks of a model see scans on a scale that all sites share. So they can serve sites that
they were not trained on, once the appearance of these sites and what rendering leaves of them are
measured. That takes minutes on a CPU, where training takes hours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.methods.data import SliceData, site_quantiles
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle
from ddae_app.methods.ddae.config import BATCH_SIZE
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.residuals import fit_residual_correction


def calibrate(bundle: Bundle, data: SliceData) -> Bundle:
    """A model with the same networks that knows the sites of some scans, and no others.

    Parameters
    ----------
    bundle : Bundle
        It does not change.
    data : SliceData
        Scans of the sites, preprocessed with the protocol of the model.

    Returns
    -------
    Bundle
        Its ``info`` names the new sites; its ``path`` and ``sha256`` are those of `bundle`.

    Raises
    ------
    UsageError
        If the scans have another size than the networks take.
    """
    config, old = bundle.model.config, bundle.model
    expected = config.depth, config.image_size, config.image_size
    if data.images.shape[1:] != expected:
        raise UsageError(
            f'scans have (slices, rows, columns) {data.images.shape[1:]}, the networks take '
            f'{expected}; preprocess with the protocol of the model'
        )
    rows = np.arange(len(data))
    appearance = fit_site_appearance(config, data, rows, old.appearance, old.device)
    networks = old.networks.for_sites(data.site_names, bundle.info.sites)
    uncorrected = DDAE(networks, appearance).to(old.device).eval()
    residuals = fit_residual_correction(
        config, appearance, data, rows, partial(render, uncorrected, batch_size=2 * BATCH_SIZE)
    )
    counts = Counter(data.sites)
    scans_per_site = tuple(counts[site] for site in data.site_names)
    info = replace(
        bundle.info,
        sites=data.site_names,
        quantiles=site_quantiles(data),
        training=replace(bundle.info.training, scans_per_site=scans_per_site),
    )
    model = DDAE(networks, appearance, residuals).to(old.device).eval()
    return replace(bundle, model=model, info=info)
