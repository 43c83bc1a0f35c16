"""ComBat: shift and scale of each site per pixel, shrunk towards those common to all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from ddae_app.errors import ModelError, UsageError
from ddae_app.files import write_atomically
from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.base import (
    Labels,
    TrainedModel,
    TrainingRequest,
    check_request,
    cohort_of,
    in_brain,
    known_sites,
    model_info,
    training_data,
)
from ddae_app.methods.data import SliceData, check_shape, chunks, sex_numbers
from ddae_app.methods.location_scale import SiteRegression, refuse_confounding
from ddae_app.methods.modelfile import (
    ADVICE,
    ModelInfo,
    metadata_of,
    open_model,
    parse_info,
    read_array,
)
from ddae_app.methods.suitability import People, sites_with_few_subjects
from ddae_app.settings import Protocol


@dataclass(frozen=True)
class ComBatFit:
    """What ComBat estimates for the P pixels that vary.

    Attributes
    ----------
    pixels : np.ndarray, shape (D, H, W), bool
    mean, sd : np.ndarray, shape (P,)
        Grand mean, and pooled standard deviation of the residuals.
    slopes : np.ndarray, shape (2, P)
        Of age (per year) and sex (F less M).
    shift, scale : np.ndarray, shape (S, P)
        Of each site, in standard deviations; posterior means.
    covariates : np.ndarray, shape (2,)
        Training means of age (years) and sex (share of F); they stand in for what is missing.
    """

    pixels: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    slopes: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    covariates: np.ndarray


@dataclass(frozen=True)
class ComBat:
    """Empirical-Bayes site correction per pixel, age and sex protected (Johnson et al. 2007;
    for MRI, Fortin et al. 2018).

    The shift and scale of the target site are added again, so that outputs are on its scale.

    Attributes
    ----------
    fitted : ComBatFit or None
        None before :meth:`fit`.
    known : ModelInfo or None
    protocol : Protocol
        How the images that it is fitted to were preprocessed.
    """

    fitted: ComBatFit | None = None
    known: ModelInfo | None = None
    protocol: Protocol = field(default_factory=Protocol)

    @property
    def info(self) -> ModelInfo:
        """What the model file says of itself."""
        return self._ready()[0]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that it was fitted to; any of them can be a target."""
        return self.info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> ComBat:
        """A copy fitted to these scans; no more than a slice of each is in memory at once.

        Raises
        ------
        UsageError
            If a site has scans of fewer than two subjects, if age or sex is confounded with site,
            or if an image is not finite.
        """
        data = training_data(images, cohort)
        check_people(data)
        covariates, centered = _covariates(data)
        parts = [_regression(data, z, centered) for z in range(data.depth)]
        pixels = np.stack([pixels for pixels, _ in parts])
        effects = SiteRegression(
            *(
                np.concatenate([getattr(regression, item.name) for _, regression in parts], -1)
                for item in fields(SiteRegression)
            )
        ).effects()
        fitted = ComBatFit(
            pixels, effects.mean, effects.sd, effects.slopes, effects.shift, effects.scale,
            covariates,
        )  # fmt: skip
        return replace(self, fitted=fitted, known=model_info('combat', data, self.protocol))

    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Render slices at the target site; see :class:`ddae_app.methods.base.Harmonizer`.

        What exceeds ``CEILING`` is added again at the end.

        Raises
        ------
        UsageError
            If a source site is not one that it was fitted to, or the images have another size.
        """
        info, fit = self._ready()
        labels = check_request(images, cohort, target_site, info.sites)
        scans = images[:, None] if images.ndim == 3 else images
        if scans.shape[1:] != fit.pixels.shape:
            raise UsageError(
                f'images are {scans.shape[1:]} (slices, rows, columns), ComBat was fitted to '
                f'{fit.pixels.shape}; preprocess with the protocol of the model'
            )
        design = self._design(labels)
        target = info.sites.index(target_site)
        out = np.empty(scans.shape, np.float32)
        for rows in chunks(np.arange(len(scans)), scans.shape[1]):
            given = scans[rows]
            seen = np.minimum(given, CEILING)
            expected, z = self._standardized(seen, *(part[rows] for part in design))
            rendered = seen.copy()
            rendered[:, fit.pixels] = expected + fit.sd * (
                z * fit.scale[target] + fit.shift[target]
            )
            # In this order, a scan that does not change is the same to the bit.
            rendered = np.where(given > seen, given + (rendered - seen), rendered)
            out[rows] = in_brain(rendered, given)
        return out.reshape(images.shape)

    def without_site(self, images: np.ndarray, cohort: pd.DataFrame) -> np.ndarray:
        """At no site: what other implementations of ComBat return.

        Parameters
        ----------
        images, cohort
            As :meth:`transform` takes them.

        Returns
        -------
        np.ndarray, shape (N, P), float64
            The pixels that vary.
        """
        info, fit = self._ready()
        labels = check_request(images, cohort, info.sites[0], info.sites)
        scans = images[:, None] if images.ndim == 3 else images
        expected, z = self._standardized(np.minimum(scans, CEILING), *self._design(labels))
        return expected + fit.sd * z

    def _design(self, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
        """The number of the site of each scan, and age and sex, centered; 0 where unknown."""
        info, fit = self._ready()
        known = np.stack([labels.ages, sex_numbers(labels.sexes)], axis=1)
        centered = np.where(np.isnan(known), 0, known - fit.covariates)
        return np.array(known_sites(labels.sites, info), dtype=int), centered

    def _standardized(
        self, scans: np.ndarray, sites: np.ndarray, centered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is expected of each person, and how far the image is from it, less the site."""
        _, fit = self._ready()
        expected = fit.mean + centered @ fit.slopes
        z = (scans[:, fit.pixels] - expected) / fit.sd
        return expected, (z - fit.shift[sites]) / fit.scale[sites]

    def facts(self) -> dict[str, Any]:
        """What was done, for sidecars: age and sex, where known, are covariates."""
        return {'LabelBlind': False}

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file.

        Raises
        ------
        UsageError
            If it was fitted to images of another shape than ``protocol`` says.
        """
        info, fit = self._ready()
        check_shape(fit.pixels.shape, info.protocol)
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(fit).items()}
        write_atomically(Path(path), safetensors.numpy.save(arrays, metadata_of(info)))

    @classmethod
    def load(cls, path: str | Path) -> ComBat:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelError
            If the file is no such thing, or its parts do not fit each other.
        """
        path = Path(path)
        with open_model(path, 'np') as file:
            info = parse_info(path, file.metadata() or {}, 'combat')
            stack = info.protocol.depth, *info.protocol.slice_shape
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            n, p = len(info.sites), math.prod(shapes.get('mean', ()))
            expected = {
                'pixels': stack, 'mean': (p,), 'sd': (p,), 'slopes': (2, p), 'shift': (n, p),
                'scale': (n, p), 'covariates': (2,),
            }  # fmt: skip
            if shapes != expected:
                raise ModelError(
                    f'{path}: arrays of shapes {shapes}, where {expected} are expected; {ADVICE}'
                )
            arrays = {name: read_array(path, file, name) for name in shapes}
        numbers = [array for name, array in arrays.items() if name != 'pixels']
        if (
            arrays['pixels'].dtype != bool
            or arrays['pixels'].sum() != p
            or not all(array.dtype == np.float64 and np.isfinite(array).all() for array in numbers)
        ):
            raise ModelError(
                f'{path}: arrays that are not finite or do not fit each other; {ADVICE}'
            )
        if min(arrays[name].min(initial=1) for name in ('sd', 'scale')) <= 0:
            raise ModelError(f'{path}: a scale that is not above 0; {ADVICE}')
        return cls(ComBatFit(**arrays), info, info.protocol)

    def _ready(self) -> tuple[ModelInfo, ComBatFit]:
        if self.known is None or self.fitted is None:
            raise UsageError('this ComBat knows no sites yet; call fit or load first')
        return self.known, self.fitted


def check_people(people: People) -> None:
    """Refuse people to whom no ComBat can be fitted, whatever their scans show.

    Raises
    ------
    UsageError
        A site has scans of one subject, or age or sex is confounded with site.
    """
    if few := sites_with_few_subjects(people, 2):
        raise UsageError(
            f'site {next(iter(few))} has scans of one subject, ComBat needs two; leave the site '
            'out'
        )
    refuse_confounding(people)


def _covariates(people: People) -> tuple[np.ndarray, np.ndarray]:
    """Mean age and sex, and the deviations of each scan from them, 0 where unknown."""
    known = np.stack([people.ages, sex_numbers(list(people.sexes))], axis=1)
    means = _means(known)
    return means, np.where(np.isnan(known), 0, known - means)


def train_model(request: TrainingRequest) -> TrainedModel:
    """Fit ComBat for the train level."""
    fitted = ComBat(protocol=request.protocol).fit(request.data.images, cohort_of(request.data))
    return request.saved(replace(fitted, known=request.identified(fitted.info)))


def _means(known: np.ndarray) -> np.ndarray:
    """Mean of each covariate where it is known; 0 where it is never known."""
    counts = np.maximum((~np.isnan(known)).sum(axis=0), 1)
    return np.nansum(known, axis=0) / counts


def _regression(
    data: SliceData, z: int, centered: np.ndarray
) -> tuple[np.ndarray, SiteRegression]:
    """The pixels of a slice that vary, shape (H, W), and their regression on site, age and sex.

    Scans are clipped to ``CEILING``, so that a spike in one of them does not make a pixel vary.
    """
    seen = data.images[:, z]
    lowest, highest = (np.minimum(of(axis=0), CEILING) for of in (seen.min, seen.max))
    pixels = highest > lowest
    y = seen[:, pixels]
    np.minimum(y, CEILING, out=y)
    sites = np.array(data.sites)
    member = np.stack([sites == site for site in data.site_names], axis=1).astype(float)
    return pixels, SiteRegression.fit(y, member, centered)
