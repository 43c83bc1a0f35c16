"""Calibration: site appearance and residual correction of any scans, under frozen networks.

The networks of a model see scans on a scale that all sites share. So they can serve sites that
they were not trained on, once the appearance of these sites and what rendering leaves of them are
measured. That needs no training, and is stored in a file of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from safetensors.torch import save
from torch import nn

from ddae_app.errors import ModelError, UsageError
from ddae_app.files import write_atomically
from ddae_app.methods.data import SliceData, site_quantiles
from ddae_app.methods.ddae.appearance import SiteAppearance, fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle
from ddae_app.methods.ddae.config import BATCH_SIZE
from ddae_app.methods.ddae.fields import Shape
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.residuals import ResidualCorrection, fit_residual_correction
from ddae_app.methods.modelfile import ADVICE, MAX_METADATA, SiteQuantiles, open_model
from ddae_app.methods.weights import build_checked

METADATA_KEY = 'ddae-calibration'


@dataclass(frozen=True)
class CalibrationInfo:
    """What the file of a calibration says of itself.

    Attributes
    ----------
    model_sha256 : str
        Of the model file whose networks it belongs to.
    sites : tuple of str, length S
    scans_per_site : tuple of int, length S
    quantiles : SiteQuantiles
        Brain intensities of each site.
    """

    model_sha256: str
    sites: tuple[str, ...]
    scans_per_site: tuple[int, ...]
    quantiles: SiteQuantiles


class _Measured(nn.Module):
    """What is stored of a calibration."""

    def __init__(self, appearance: SiteAppearance, residuals: ResidualCorrection) -> None:
        super().__init__()
        self.appearance, self.residuals = appearance, residuals


def calibrate(bundle: Bundle, data: SliceData) -> Bundle:
    """A model with the same networks that knows the sites of some scans, and no others.

    Parameters
    ----------
    bundle : Bundle
        Of whose networks nothing changes.
    data : SliceData
        Scans of the sites, preprocessed with the protocol of the model.

    Returns
    -------
    Bundle
        Its ``info`` names the new sites.

    Raises
    ------
    UsageError
        If the scans have another size than the networks take.
    """
    config, model = bundle.model.config, bundle.model
    expected = config.depth, config.image_size, config.image_size
    if data.images.shape[1:] != expected:
        raise UsageError(
            f'scans have (slices, rows, columns) {data.images.shape[1:]}, the networks take '
            f'{expected}; preprocess with the protocol of the model'
        )
    rows = np.arange(len(data))
    appearance = fit_site_appearance(config, data, rows, model.appearance, model.device)
    calibrated = _with_sites(bundle, data.site_names, appearance, None)
    residuals = fit_residual_correction(
        config, appearance, data, rows, partial(render, calibrated, batch_size=2 * BATCH_SIZE)
    )
    counts = Counter(data.sites)
    info = CalibrationInfo(
        bundle.sha256,
        data.site_names,
        tuple(counts[site] for site in data.site_names),
        site_quantiles(data),
    )
    return _calibrated(bundle, info, appearance, residuals)


def save_calibration(path: Path, bundle: Bundle) -> None:
    """Write what :func:`calibrate` measured, whole or not at all.

    Parameters
    ----------
    path : Path
    bundle : Bundle
        As :func:`calibrate` returns it.
    """
    info = CalibrationInfo(
        bundle.sha256,
        bundle.info.sites,
        bundle.info.training.scans_per_site,
        bundle.info.quantiles,
    )
    measured = _Measured(bundle.model.appearance, bundle.model.residuals)
    tensors = {k: v.detach().cpu().contiguous() for k, v in measured.state_dict().items()}
    text = msgspec.json.encode(info, order='deterministic').decode()
    write_atomically(path, save(tensors, {METADATA_KEY: text}))


def load_calibration(path: Path, bundle: Bundle) -> Bundle:
    """A model with the sites of a calibration.

    Parameters
    ----------
    path : Path
        What :func:`save_calibration` wrote.
    bundle : Bundle
        The model that was calibrated.

    Raises
    ------
    ModelError
        If the file is no calibration, is damaged, or belongs to another model.
    """
    with open_model(path, 'pt') as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
        if text is None or len(text) > MAX_METADATA:
            raise ModelError(f'{path}: not a calibration of ddae-app; {ADVICE}')
        try:
            info = msgspec.json.decode(text, type=CalibrationInfo)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ModelError(
                f'{path}: metadata that cannot be read ({error!r}); {ADVICE}'
            ) from error
        if info.model_sha256 != bundle.sha256:
            raise ModelError(
                f'{path}: a calibration of the model with SHA-256 {info.model_sha256[:16]}, '
                f'where one of {bundle.info.name!r} ({bundle.sha256[:16]}) is expected; calibrate '
                'again'
            )
        shape, n_sites = _shape(bundle), len(info.sites)
        measured = build_checked(
            path,
            file,
            lambda: _Measured(SiteAppearance(shape, n_sites), ResidualCorrection(shape, n_sites)),
        ).to(bundle.model.device)
    try:
        return _calibrated(bundle, info, measured.appearance, measured.residuals)
    except ModelError as error:
        raise ModelError(f'{path}: {error}; {ADVICE}') from error


def _shape(bundle: Bundle) -> Shape:
    return bundle.model.appearance.shape


def _calibrated(
    bundle: Bundle,
    calibration: CalibrationInfo,
    appearance: SiteAppearance,
    residuals: ResidualCorrection,
) -> Bundle:
    training = replace(bundle.info.training, scans_per_site=calibration.scans_per_site)
    info = replace(
        bundle.info,
        sites=calibration.sites,
        quantiles=calibration.quantiles,
        training=training,
    )
    model = _with_sites(bundle, calibration.sites, appearance, residuals)
    return replace(bundle, model=model, info=info)


def _with_sites(
    bundle: Bundle,
    sites: tuple[str, ...],
    appearance: SiteAppearance,
    residuals: ResidualCorrection | None,
) -> DDAE:
    """The networks with other sites; a site that they were trained on keeps its code."""
    known, codes_of_known = bundle.info.sites, bundle.model.codes.tolist()
    codes = [codes_of_known[known.index(site)] if site in known else -1 for site in sites]
    if residuals is None:
        residuals = ResidualCorrection(_shape(bundle), len(sites))
    model = DDAE(bundle.model.networks, appearance, residuals, codes)
    return model.to(bundle.model.device).eval()
