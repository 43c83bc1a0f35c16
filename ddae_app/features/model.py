"""Models of features, ComBat or DDAE: fitted once, kept in a file, applied to other rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import safetensors.numpy

from ddae_app.errors import ModelError, UsageError
from ddae_app.features.checks import check_sizes, check_units_of, check_units_of_rows
from ddae_app.features.matrix import FeatureMatrix, counted, listed
from ddae_app.features.people import CovariateDesign, RowLabels
from ddae_app.files import write_atomically
from ddae_app.methods.location_scale import SiteEffects, SiteRegression
from ddae_app.methods.modelfile import MAX_METADATA, open_model, read_array
from ddae_app.methods.registry import METHODS
from ddae_app.methods.suitability import FEWEST_TO_CALIBRATE

if TYPE_CHECKING:
    from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
    from ddae_app.methods.feature_ddae.model import FeatureDDAE

FORMAT_VERSION = 1
"""Raised whenever an older program could no longer read a model file correctly."""

METADATA_KEY = 'ddae_features'
"""Another one than that of models of images, so that neither is taken for the other."""

METHOD = 'combat'
"""What is fitted where no method is asked for."""

DDAE_ARRAYS = 'ddae.'
"""What the names of its arrays begin with in a file."""


@dataclass(frozen=True, kw_only=True)
class FeatureModelInfo:
    """What a model file of features says of itself.

    Attributes
    ----------
    name : str
    dataset, table : str
        Name of the dataset, and file name of the table, that it was fitted to; another table may
        have the same name, which `digest` tells.
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
    digest : str
        Of the rows that it was fitted to (:func:`ddae_app.features.people.digest_of_rows`); empty
        in files of earlier versions.
    persons : int
        Whom it was fitted to, each counted once, also those who were at several sites; 0 in files
        of earlier versions.
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
    digest: str = ''
    persons: int = 0


@dataclass(frozen=True)
class FeatureModel:
    """ComBat or DDAE of a table of features, age and sex protected.

    ComBat: Johnson et al. 2007 (doi 10.1093/biostatistics/kxj037); for cortical thickness, Fortin
    et al. 2018 (doi 10.1016/j.neuroimage.2017.11.024); with several sessions of a person, Beer
    et al. 2020 (doi 10.1016/j.neuroimage.2020.117129); with a spline of age, Pomponio et al. 2020
    (doi 10.1016/j.neuroimage.2019.116450). DDAE: docs/features.

    Attributes
    ----------
    info : FeatureModelInfo
    regression : SiteRegression
        S sites, P features.
    ddae : FeatureDDAE, optional
        Of the same sites and features; without it, the model is ComBat.
    """

    info: FeatureModelInfo
    regression: SiteRegression
    ddae: FeatureDDAE | None = None

    @property
    def label(self) -> str:
        """How the method is called."""
        return METHODS[self.info.method].label

    @property
    def given_places(self) -> np.ndarray | None:
        """Where the vertices of maps lie, shape (2, V, 3), if a DDAE had to be given that."""
        return None if self.ddae is None else self.ddae.geometry.given

    def effects(self, target: str | None = None) -> SiteEffects | FeatureAppearance:
        """Shift and scale of each site, against the target or against the mean of all sites."""
        reference = None if target is None else self.info.sites.index(target)
        if self.ddae is not None:
            return self.ddae.appearance.against(reference)
        return self.regression.effects(reference)

    def calibrated(self, table: FeatureMatrix, labels: RowLabels) -> FeatureModel:
        """With the sites of some rows that it was not fitted to, measured in these rows.

        Parameters
        ----------
        table : FeatureMatrix
        labels : RowLabels, N rows

        Returns
        -------
        FeatureModel
            This one, if it knows all sites, or if it is ComBat, which is fitted to all sites
            together.

        Raises
        ------
        UsageError
            A new site has too few people, or its values seem to be in other units.
        """
        model = self
        for site in labels.site_names:
            if self.ddae is not None and site not in self.info.sites:
                model = model._with_site(site, table, labels)
        return model

    def _with_site(self, site: str, table: FeatureMatrix, labels: RowLabels) -> FeatureModel:
        assert self.ddae is not None
        if (people := labels.people_of(site)) < FEWEST_TO_CALIBRATE:
            raise UsageError(
                f'site {site} is unknown to the model {self.info.name!r}, and '
                f'{counted(people, "person is", "people are")} too few to measure it; expected '
                f'{FEWEST_TO_CALIBRATE}: add people, leave its rows out, or fit again with them '
                '(train)'
            )
        self._check_table(table)
        rows = np.flatnonzero(labels.sites == site)
        here, theirs = table.rows(rows), labels.rows(rows)
        of_sites = list(self._expected().values())
        average = {
            name: tuple(np.mean([expected[name] for expected in of_sites], axis=0).tolist())
            for name in of_sites[0]
        }
        check_units_of(here, theirs, {site: average})
        y, covariates = self._values(here), self.info.design.columns(theirs)
        info = replace(
            self.info,
            sites=(*self.info.sites, site),
            people=(*self.info.people, people),
            rows=(*self.info.rows, len(rows)),
        )
        regression = self.regression.with_site(y, covariates)
        ddae = self.ddae.calibrated(regression, y, covariates, theirs.persons)
        return replace(self, info=info, regression=regression, ddae=ddae)

    def _values(self, table: FeatureMatrix) -> np.ndarray:
        """The features of the model, shape (N, P); NaN where the table has none.

        A table of these features in their order is no copy.
        """
        if table.features == self.info.features:
            return table.values
        y = np.full((len(table.values), len(self.info.features)), np.nan, table.values.dtype)
        known, columns = self.places(table)
        y[:, known] = table.values[:, columns]
        return y

    def places(self, table: FeatureMatrix) -> tuple[list[int], list[int]]:
        """Which features of the model the table has, and their columns there."""
        features = self.info.features
        known = [i for i, name in enumerate(features) if name in table.place]
        return known, [table.place[features[i]] for i in known]

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
            seem to be in other units or are too large to compute with.
        """
        sites = self._sites(labels, target)
        self._check_table(table)
        check_units_of(table, labels, self._expected())
        check_units_of_rows(table)
        reference = None if target is None else self.info.sites.index(target)
        y, covariates = self._values(table), self.info.design.columns(labels)
        if self.ddae is not None:
            harmonized = self.ddae.harmonized(y, sites, covariates, labels.persons, reference)
        else:
            effects = self.regression.effects(reference)
            harmonized = effects.removed(y, sites, covariates, labels.persons)
        if reference is not None:  # the same to the last digit
            harmonized[sites == reference] = y[sites == reference]
        if table.features == self.info.features:
            return harmonized
        out = table.values.copy()
        known, columns = self.places(table)
        out[:, columns] = harmonized[:, known]
        return out

    def _expected(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Mean and standard deviation of people of average age and sex, by site and unit."""
        fit = self.regression
        expected = {}
        for site, means in zip(self.info.sites, fit.intercepts, strict=True):
            names, found = self.info.features, np.array([means, fit.sd])
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

    def _check_table(self, table: FeatureMatrix) -> None:
        check_sizes(table)
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
        # A model does not say in which folder a table was, since models are passed on.
        other = 'another ' if self.info.table == table.path.name else ''
        for names, problem in (
            (known - {*table.features}, 'are missing; the model'),
            ({*table.features} - known, 'are not known; the model'),
        ):
            if names:
                raise UsageError(
                    f'{table.path}: columns {listed(sorted(names))} {problem} '
                    f'{self.info.name!r} was fitted to {other}{self.info.table}, of '
                    f'{self.info.dataset}: {remedy}'
                )

    def save(self, path: Path) -> None:
        """Write it to one safetensors file, whole or not at all."""
        content = {'format_version': FORMAT_VERSION, 'info': self.info}
        text = msgspec.json.encode(content, order='deterministic').decode()
        arrays = dict(vars(self.regression))
        if self.ddae is not None:
            arrays |= {f'{DDAE_ARRAYS}{k}': v for k, v in self.ddae.arrays().items()}
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
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
            names = [k for k in file.keys() if not k.startswith(DDAE_ARRAYS)]  # noqa: SIM118
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in names}
            expected = {
                'intercepts': (s, p), 'slopes': (c, p), 'squares': (s, p), 'counts': (s, p),
                'ratio': (p,),
            }  # fmt: skip
            if shapes != expected:
                raise ModelError(
                    f'{path}: arrays of shapes {shapes}, where {expected} are expected'
                )
            arrays = {name: read_array(path, file, name) for name in names}
            others = {
                k.removeprefix(DDAE_ARRAYS): read_array(path, file, k)
                for k in file.keys()  # noqa: SIM118
                if k.startswith(DDAE_ARRAYS)
            }
        finite = all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays.values())
        least = {'squares': 0, 'counts': 1, 'ratio': 0}
        if not finite or any(arrays[name].min() < end for name, end in least.items()):
            raise ModelError(f'{path}: arrays that are not finite or out of range; fit it again')
        if (info.method == 'ddae') != bool(others):
            raise ModelError(f'{path}: arrays of another method than {info.method}; fit it again')
        ddae = None
        if others:
            # Imported here, since it loads torch.
            from ddae_app.features.ddae import stored_ddae

            ddae = stored_ddae(path, info.maps, info.features, info.sites, c, others)
        return cls(info, SiteRegression(**arrays), ddae)


def read_features_info(path: Path) -> FeatureModelInfo:
    """What a model file of features says of itself.

    Raises
    ------
    ModelError
        If the file is no such thing.
    """
    with open_model(path, 'np') as file:
        return _parse(path, file.metadata() or {})


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
