"""ComBat for tables of features: fitted once, kept in a file, applied to rows of known sites."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy

import ddae_app
from ddae_app.errors import ModelError, UsageError
from ddae_app.features.checks import check_people, check_units, check_units_of, varying_features
from ddae_app.features.matrix import FeatureMatrix, listed
from ddae_app.features.people import CovariateDesign, RowLabels
from ddae_app.files import write_atomically
from ddae_app.methods.location_scale import SiteRegression, refuse_confounding
from ddae_app.methods.modelfile import MAX_METADATA, open_model

FORMAT_VERSION = 1
"""Raised whenever an older program could no longer read a model file correctly."""

METADATA_KEY = 'ddae_features'
"""Another one than that of models of images, so that neither is taken for the other."""

METHOD = 'combat'

FEWEST_REPEATED = 10
"""Rows beyond the first of each person, from which the variance of people can be estimated."""


@dataclass(frozen=True, kw_only=True)
class FeatureModelInfo:
    """What a model file of features says of itself.

    Attributes
    ----------
    name : str
    dataset, table : str
        Name of the dataset, and file name of the table, that it was fitted to.
    sites : tuple of str, length S
    features : tuple of str, length P
        Those that are harmonized.
    constant : tuple of str
        Those that vary within no site, and stay as they are.
    people, rows : tuple of int, length S
        Numbers of each site.
    design : CovariateDesign
    ages : tuple of float
        Lowest and highest known age, years; empty if none is known.
    longitudinal : bool
        Whether each person has an intercept that is drawn at random.
    versions : dict of str
        Of ddae-app and numpy, when it was fitted.
    method : str
        A method of :data:`ddae_app.methods.registry.METHODS`.
    maps : str
        What is mapped on which mesh; empty of a table.
    """

    name: str
    dataset: str
    table: str
    sites: tuple[str, ...]
    features: tuple[str, ...]
    constant: tuple[str, ...]
    people: tuple[int, ...]
    rows: tuple[int, ...]
    design: CovariateDesign
    ages: tuple[float, ...]
    longitudinal: bool
    versions: dict[str, str]
    method: str = METHOD
    maps: str = ''


@dataclass(frozen=True)
class FeatureModel:
    """ComBat of a table of features, age and sex protected.

    Johnson et al. 2007 (doi 10.1093/biostatistics/kxj037); for cortical thickness, Fortin et al.
    2018 (doi 10.1016/j.neuroimage.2017.11.024); with several sessions of a person, Beer et al.
    2020 (doi 10.1016/j.neuroimage.2020.117129); with a spline of age, Pomponio et al. 2020
    (doi 10.1016/j.neuroimage.2019.116450).

    Attributes
    ----------
    info : FeatureModelInfo
    regression : SiteRegression
        S sites, P features.
    """

    info: FeatureModelInfo
    regression: SiteRegression

    def harmonized(
        self, table: FeatureMatrix, labels: RowLabels, target: str | None = None
    ) -> np.ndarray:
        """The table without its site effects.

        Parameters
        ----------
        table : FeatureMatrix
            It may hold other people than those that the model was fitted to; the order of its
            columns does not matter.
        labels : RowLabels, N rows
        target : str, optional
            The site to bring all others to, whose own values do not change (reference batch).
            Without, all are brought to the mean of the sites.

        Returns
        -------
        np.ndarray, shape (N, F), dtype of the values of `table`
            In the order of its columns; NaN where it has no value. Vertices of maps that the model
            does not harmonize stay as they are.

        Raises
        ------
        UsageError
            If the target or a site is none of the model, the columns are others, or the values
            seem to be in other units.
        """
        sites = self._sites(labels, target)
        self._check_columns(table)
        check_units_of(table, labels, self._expected())
        reference = None if target is None else self.info.sites.index(target)
        known = [i for i, name in enumerate(self.info.features) if name in table.place]
        columns = [table.place[self.info.features[i]] for i in known]
        out, y = table.values.copy(), table.values[:, columns]
        effects = self.regression.effects(reference).part(np.array(known, dtype=int))
        harmonized = effects.removed(y, sites, self.info.design.columns(labels), labels.persons)
        if reference is not None:  # the same to the last digit
            harmonized[sites == reference] = y[sites == reference]
        out[:, columns] = harmonized
        return out

    def _expected(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Mean and standard deviation of people of average age and sex, by site and unit."""
        fit = self.regression
        sds = np.sqrt(fit.squares.sum(axis=0) / fit.counts.sum(axis=0) * (1 + fit.ratio))
        expected = {}
        for site, means in zip(self.info.sites, fit.intercepts, strict=True):
            names, found = self.info.features, np.array([means, sds])
            if self.info.maps:
                names, found = (self.info.maps,), np.median(np.abs(found), axis=1)[:, None]
            expected[site] = dict(zip(names, zip(*found.tolist(), strict=True), strict=True))
        return expected

    def _sites(self, labels: RowLabels, target: str | None) -> np.ndarray:
        """The number of the site of each row."""
        known = ', '.join(self.info.sites)
        if target is not None and target not in self.info.sites:
            raise UsageError(
                f'--target-site {target!r} is no site of the model {self.info.name!r}; it knows '
                f'{known}'
            )
        if unknown := [site for site in labels.site_names if site not in self.info.sites]:
            raise UsageError(
                f'site {listed(unknown)} is unknown to the model {self.info.name!r}, which knows '
                f'{known}; fit again with it (train), or leave its rows out'
            )
        return np.array([self.info.sites.index(site) for site in labels.sites])

    def _check_columns(self, table: FeatureMatrix) -> None:
        remedy = 'add or remove columns, or fit a model to this table (train --model-name NAME)'
        if self.info.maps != table.maps:
            raise UsageError(
                f'{table.path}: {table.maps or "a table"}, but the model {self.info.name!r} was '
                f'fitted to {self.info.maps or "a table"}; give another --model, or fit one to '
                'these data (train --model-name NAME)'
            )
        if table.maps:  # the edge of the medial wall differs between groups of people
            return
        known = {*self.info.features, *self.info.constant}
        for names, problem in (
            (known - {*table.features}, 'are missing; the model'),
            ({*table.features} - known, 'are not known; the model'),
        ):
            if names:
                raise UsageError(
                    f'{table.path}: columns {listed(sorted(names))} {problem} '
                    f'{self.info.name!r} was fitted to {self.info.table}: {remedy}'
                )

    def save(self, path: Path) -> None:
        """Write it to one safetensors file, whole or not at all."""
        content = {'format_version': FORMAT_VERSION, 'info': self.info}
        text = msgspec.json.encode(content, order='deterministic').decode()
        arrays = {
            name: np.ascontiguousarray(value) for name, value in vars(self.regression).items()
        }
        write_atomically(path, safetensors.numpy.save(arrays, {METADATA_KEY: text}))

    @classmethod
    def load(cls, path: Path) -> FeatureModel:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelError
            If the file is no such thing, or its parts do not fit each other.
        """
        with open_model(path, 'np') as file:
            info = _parse(path, file.metadata() or {})
            s, p, c = len(info.sites), len(info.features), len(info.design.centers)
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            expected = {
                'intercepts': (s, p), 'slopes': (c, p), 'squares': (s, p), 'counts': (s, p),
                'ratio': (p,),
            }  # fmt: skip
            if shapes != expected:
                raise ModelError(
                    f'{path}: arrays of shapes {shapes}, where {expected} are expected'
                )
            arrays = {item.name: file.get_tensor(item.name) for item in fields(SiteRegression)}
        finite = all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays.values())
        least = {'squares': 0, 'counts': 1, 'ratio': 0}
        if not finite or any(arrays[name].min() < end for name, end in least.items()):
            raise ModelError(f'{path}: arrays that are not finite or out of range; fit it again')
        return cls(info, SiteRegression(**arrays))


def fit_model(
    table: FeatureMatrix,
    labels: RowLabels,
    *,
    name: str,
    dataset: str = 'unknown',
    age_spline: bool = False,
    allow_few: bool = False,
    allow_confounding: bool = False,
) -> tuple[FeatureModel, list[str]]:
    """Fit ComBat to a table.

    Parameters
    ----------
    table : FeatureMatrix
    labels : RowLabels
    name, dataset : str
        Of the model and of the dataset.
    age_spline : bool
        Whether age is a natural cubic spline, and no straight line.
    allow_few, allow_confounding : bool
        Whether sites of few people, and confounded sites, are accepted.

    Returns
    -------
    model : FeatureModel
    warnings : list of str
        What is doubtful, a sentence each.

    Raises
    ------
    UsageError
        If no site effect can be estimated from this table.
    """
    warnings = check_people(labels, allow_few=allow_few, allow_confounding=allow_confounding)
    check_units(table, labels)
    design = CovariateDesign.fit(labels, spline=age_spline)
    estimated = len(labels.site_names) + len(design.centers)
    features, constant = varying_features(table, labels, estimated)
    if not features:
        raise UsageError(f'{table.path}: no feature varies within a site; nothing to harmonize')
    if constant:
        why = 'too few values or ' if table.maps else ''
        warnings.append(
            f'{why}no variation within any site, so that ComBat cannot scale them and leaves '
            f'them unchanged: {table.told(constant)}'
        )
    columns = design.columns(labels)
    refuse_confounding(columns[:, [0, -1]], labels.sites)
    y = table.columns(features)
    warnings += _unknown(labels)
    repeated = len(labels.subjects) - len(np.unique(labels.subjects))
    if 0 < repeated < FEWEST_REPEATED:
        warnings.append(
            f'only {repeated} rows are further sessions of a person, fewer than '
            f'{FEWEST_REPEATED}: all rows are taken as of different people'
        )
    longitudinal = repeated >= FEWEST_REPEATED
    member = labels.sites[:, None] == np.array(labels.site_names)
    regression = SiteRegression.fit(
        y, member.astype(float), columns, labels.persons if longitudinal else None
    )
    ages = labels.ages[~np.isnan(labels.ages)]
    info = FeatureModelInfo(
        name=name,
        dataset=dataset,
        table=table.path.name,
        sites=labels.site_names,
        features=tuple(features),
        constant=tuple(constant),
        people=tuple(map(labels.people_of, labels.site_names)),
        rows=tuple(int((labels.sites == site).sum()) for site in labels.site_names),
        design=design,
        ages=(float(ages.min()), float(ages.max())) if ages.size else (),
        longitudinal=longitudinal,
        versions={'ddae-app': ddae_app.__version__, 'numpy': np.__version__},
        maps=table.maps,
    )
    return FeatureModel(info, regression), warnings


def _unknown(labels: RowLabels) -> list[str]:
    counts = {
        'age': int(np.isnan(labels.ages).sum()),
        'sex': sum(sex is None for sex in labels.sexes),
    }
    return [
        f'{n} of {len(labels.sites)} rows have no known {what}, which counts as the average {what}'
        for what, n in counts.items()
        if n
    ]


def _parse(path: Path, metadata: dict[str, str]) -> FeatureModelInfo:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f'{path}: no model of features (no {METADATA_KEY!r} metadata); give one that ddae-app '
            'train --features wrote'
        )
    try:
        if len(text) > MAX_METADATA:
            raise ModelError(f'{path}: metadata of {len(text)} bytes; expected {MAX_METADATA}')
        header: dict[str, Any] = msgspec.json.decode(text)
        if header['format_version'] != FORMAT_VERSION:
            raise ModelError(
                f'{path}: format version {header["format_version"]}, but this ddae-app reads '
                f'{FORMAT_VERSION}; fit the model again'
            )
        info = msgspec.convert(header['info'], FeatureModelInfo)
    except (msgspec.MsgspecError, KeyError, TypeError, RecursionError) as e:
        raise ModelError(
            f'{path}: metadata that cannot be read ({e!r}); fit the model again'
        ) from e
    parts = (
        len({*info.features, *info.constant}) == len(info.features) + len(info.constant),
        len(info.people) == len(info.rows) == len({*info.sites}) == len(info.sites) >= 2,
        len(info.design.names) == len(info.design.centers),
        len(info.ages) in (0, 2) and bool(info.features),
    )
    if not all(parts):
        raise ModelError(
            f'{path}: metadata whose parts do not fit each other; fit the model again'
        )
    return info
