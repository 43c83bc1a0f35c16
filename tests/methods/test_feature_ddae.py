"""The DDAE of features: what it measures of sites, and what its networks may change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.surfaces import simulate
from ddae_app.features.people import CovariateDesign
from ddae_app.imaging.icosahedron import sphere
from ddae_app.methods.condition import Condition, label_blind
from ddae_app.methods.ddae.schedule import noise_level
from ddae_app.methods.feature_ddae import training
from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from ddae_app.methods.feature_ddae.bands import DEGREES, Bands
from ddae_app.methods.feature_ddae.cumulants import STATISTICS, shown_share
from ddae_app.methods.feature_ddae.geometry import Geometry
from ddae_app.methods.feature_ddae.model import STEPS, FeatureDDAE, editing_times
from ddae_app.methods.feature_ddae.networks import FeatureNetworks
from ddae_app.methods.feature_ddae.training import train_feature_ddae
from ddae_app.methods.location_scale import SiteRegression
from tests.imaging.made_spheres import even_places

VERTICES = 642
NO_TRUST, TRUST = np.zeros(STEPS), np.ones(STEPS)


@dataclass(frozen=True)
class Data:
    """Features of people at several sites, and what they would be without the sites."""

    geometry: Geometry
    y: np.ndarray
    truth: np.ndarray
    sites: np.ndarray
    covariates: np.ndarray
    persons: np.ndarray

    def rows(self, rows: np.ndarray) -> Data:
        parts = (self.y, self.truth, self.sites, self.covariates, self.persons)
        return Data(self.geometry, *(part[rows] for part in parts))

    def regression(self, *, longitudinal: bool = False) -> SiteRegression:
        member = np.eye(self.sites.max() + 1)[self.sites]
        persons = self.persons if longitudinal else None
        return SiteRegression.fit(self.y, member, self.covariates, persons)

    def appearance(
        self, regression: SiteRegression | None = None, unit: np.ndarray | None = None
    ) -> FeatureAppearance:
        return FeatureAppearance.fit(
            regression or self.regression(),
            self.geometry.bands,
            self.y,
            self.sites,
            self.covariates,
            unit,
        )

    def combat(self, fitted: Data, *, longitudinal: bool = False) -> np.ndarray:
        effects = fitted.regression(longitudinal=longitudinal).effects()
        return effects.removed(self.y, self.sites, self.covariates, self.persons)

    def harmonized(self, model: FeatureDDAE, target: int | None = None) -> np.ndarray:
        return model.harmonized(self.y, self.sites, self.covariates, self.persons, target)

    def error(self, values: np.ndarray) -> float:
        """Distance to the truth, without the mean of all people."""
        away = values - self.truth
        return float(np.sqrt(np.square(away - away.mean(axis=0)).mean()))

    def trained(self, *, seen: int = 96, seed: int = 0, **labels) -> FeatureDDAE:
        n = len(self.y)
        known = {'ages': np.linspace(20, 80, n), 'sexes': ['M', 'F'] * (n // 2)} | labels
        return train_feature_ddae(
            self.geometry, self.regression(), self.y, self.sites, self.covariates,
            persons=self.persons, seed=seed, seen=seen, **known,
        )  # fmt: skip


def without_networks(data: Data, appearance: FeatureAppearance) -> FeatureDDAE:
    networks = FeatureNetworks(data.geometry, int(data.sites.max()) + 1).eval()
    return FeatureDDAE(data.geometry, appearance, networks, NO_TRUST)


def with_loud_networks(data: Data) -> FeatureDDAE:
    """With networks that change much: no layer of theirs is 0, and all that they say is used."""
    model = without_networks(data, data.appearance())
    draw = torch.Generator().manual_seed(0)
    for weights in model.networks.parameters():
        if not weights.any():
            nn.init.normal_(weights, std=0.2, generator=draw)
    return replace(model, trust=TRUST)


def table(
    kind: str, *, features: int = 40, people: int = 60, sessions: int = 1, own: float = 0.0
) -> Data:
    """Three sites that scale the noise alone, as in ComBat, or all that differs from 50."""
    rng = np.random.default_rng(3)
    persons = np.repeat(np.arange(3 * people), sessions)
    sites, n = persons // people, len(persons)
    ages, sexes = rng.uniform(-30, 30, n), rng.choice([-0.5, 0.5], 3 * people)[persons]
    covariates = np.column_stack([ages, sexes])
    expected = covariates @ rng.uniform(-0.06, 0.06, (2, features))
    expected += own * rng.normal(size=(3 * people, features))[persons]
    noise, shift = rng.normal(size=(n, features)), rng.normal(0, 2, (3, features))
    scale = np.array([[0.7], [1.0], [1.4]]) * rng.uniform(0.9, 1.1, (3, features))
    truth = 50 + expected + noise
    if kind == 'combat':
        y = 50 + expected + scale[sites] * noise + shift[sites]
    else:
        y = 50 + scale[sites] * (expected + noise) + shift[sites]
    return Data(Geometry.of_table(features), y, truth, sites, covariates, persons)


def maps(*, strange: bool) -> tuple[Data, np.ndarray]:
    """Maps of four sites, and which people of each a model is fitted to."""
    people = 50
    simulated = simulate(people, 4, vertices=VERTICES, strange=strange)
    cortex, labels = np.flatnonzero(simulated.cortex), simulated.labels
    fitted = np.arange(len(labels.sites)) % people < 35
    design = CovariateDesign.fit(labels.rows(np.flatnonzero(fitted)), spline=False)
    data = Data(
        Geometry.of_cortex(VERTICES, cortex),
        simulated.source[:, cortex],
        simulated.truth[:, cortex],
        np.unique(labels.sites, return_inverse=True)[1],
        design.columns(labels),
        labels.persons,
    )
    return data, fitted


@pytest.fixture(scope='module')
def regions():
    return table('all', features=12, people=20)


@pytest.fixture(scope='module')
def cortex():
    """Few maps, for the networks."""
    data, _ = maps(strange=True)
    return data.rows(np.arange(0, len(data.y), 4))


@pytest.fixture(params=['table', 'maps'])
def data(request, regions, cortex):
    return regions if request.param == 'table' else cortex


def whole_sphere(*, wall: bool) -> tuple[Bands, np.ndarray, np.ndarray]:
    """Bands of two hemispheres, their places, and which hemisphere each is of."""
    places, hemispheres = np.tile(sphere(VERTICES), (2, 1)), np.repeat([0, 1], VERTICES)
    kept = places[:, 0] < 0.8 if wall else np.ones(len(places), dtype=bool)
    return Bands.of_sphere(places[kept], hemispheres[kept]), places[kept], hemispheres[kept]


@pytest.mark.parametrize('wall', [False, True])
def test_the_bands_are_orthonormal(wall):
    bands, places, hemispheres = whole_sphere(wall=wall)
    functions = bands.basis.shape[1]
    assert functions == 2 * (DEGREES + 1) ** 2
    assert np.abs(bands.basis.T @ bands.basis - np.eye(functions)).max() < 1e-10
    counts = [2 * (2 * degree + 1) for degree in range(DEGREES + 1)]
    assert np.bincount(bands.band).tolist() == counts
    for side in (0, 1):  # a function of one hemisphere is the same with and without the other
        here = places[:, 2] * (hemispheres == side)
        low = bands.basis[:, bands.band <= 1]
        assert np.abs(low @ (low.T @ here) - here).max() < 1e-6
    assert np.abs(Bands.of_table(7).basis.T @ Bands.of_table(7).basis - 1) < 1e-12
    assert bands.smooth and not Bands.of_table(7).smooth


@pytest.mark.parametrize('vertices', [1, 50, 161])
def test_maps_of_fewer_vertices_than_functions(vertices):
    """As of a region alone: the first functions say all, and nothing is left."""
    _, places, hemispheres = whole_sphere(wall=False)
    few = np.linspace(0, len(places) - 1, vertices).astype(int)
    bands = Bands.of_sphere(places[few], hemispheres[few])
    assert len(bands.band) == bands.basis.shape[1] == vertices
    values = np.random.default_rng(0).normal(size=(3, vertices))
    power = bands.power(values)
    assert len(power) == bands.count and power[-1] < 1e-9
    noise = np.zeros((3, bands.count))
    assert np.abs(bands.shrunk(values, np.ones(bands.count), noise) - values).max() < 1e-9


@pytest.mark.parametrize('where', ['sphere', 'table'])
def test_white_noise_has_its_variance_in_every_band(where):
    bands = whole_sphere(wall=True)[0] if where == 'sphere' else Bands.of_table(500)
    noise = np.random.default_rng(0).normal(0, 3, (400, len(bands.basis)))
    power = bands.power(noise)
    assert len(power) == bands.count
    assert power == pytest.approx(np.full(len(power), 9.0), rel=0.25)
    assert power[-1] == pytest.approx(9, rel=0.02)
    sums = bands.variances(noise @ bands.basis, float(np.square(noise).sum()))
    assert sums / 400 == pytest.approx(power)


def test_shrinkage_goes_from_all_to_nothing():
    bands, places, _ = whole_sphere(wall=True)
    values = np.random.default_rng(1).normal(size=(2, len(places)))
    count = DEGREES + 2
    noise = np.ones((2, count))
    assert np.abs(bands.shrunk(values, np.full(count, 1e15), noise) - values).max() < 1e-9
    for error in (noise, 0 * noise):
        assert (bands.shrunk(values, np.zeros(count), error) == 0).all()
    half = bands.shrunk(values, np.ones(count), np.array([[1.0], [3.0]]) * noise)
    assert np.abs(half - values * [[0.5], [0.25]]).max() < 1e-12


def test_smooth_fields_are_kept_and_noise_is_not():
    bands, places, hemispheres = whole_sphere(wall=True)
    x, y, z = places.T
    field = (x * y + z**3 - 0.5 * y) * (1 + hemispheres)
    noise = np.random.default_rng(2).normal(size=len(field))
    between = np.append(np.full(DEGREES + 1, 1e6), 0.0)
    error = np.ones((1, DEGREES + 2))
    kept, left = (bands.shrunk(v[None], between, error)[0] for v in (field, noise))
    assert np.abs(kept - field).max() < 1e-4
    assert np.square(left).sum() == pytest.approx(bands.basis.shape[1], rel=0.4)
    assert np.square(left).sum() < 0.2 * np.square(noise).sum()


@pytest.mark.parametrize('gaps', [0.0, 0.2])
def test_a_table_of_combats_own_model_gets_its_statistics(gaps):
    data = table('combat')
    y = np.where(np.random.default_rng(4).uniform(size=data.y.shape) < gaps, np.nan, data.y)
    data = replace(data, y=y)
    appearance, effects = data.appearance(), data.regression().effects()
    assert np.abs(appearance.shift - effects.shift).max() < 1e-9
    assert np.abs(appearance.scale - effects.scale).max() < 1e-9
    assert np.abs(appearance.mean - effects.mean).max() < 1e-9
    assert np.abs(appearance.sd - effects.sd).max() < 1e-9
    assert appearance.share == 0


def test_a_feature_that_few_rows_have_says_nothing_of_the_others():
    data = table('combat')
    few = np.arange(len(data.y)) % 30 == 0
    y = data.y.astype(float)
    y[~few, 0] = np.nan
    appearance, others = replace(data, y=y).appearance(), data.appearance()
    assert np.abs(appearance.shift - others.shift)[:, 1:].max() < 0.02


def test_chance_in_values_that_few_rows_have_is_no_bend():
    """What is missing says nothing of how much people differ."""
    data = table('combat')
    y = np.where(np.random.default_rng(4).uniform(size=data.y.shape) < 0.7, np.nan, data.y)
    appearance = replace(data, y=y).appearance()
    assert np.abs(appearance.skew).mean() < 0.05 and np.abs(appearance.tails).mean() < 0.05


@pytest.mark.parametrize('target', [None, 1])
def test_where_a_site_scales_what_age_does_so_does_the_way_back(target):
    data = table('all')
    appearance = data.appearance()
    assert appearance.share > 0.9
    error = data.error(data.harmonized(without_networks(data, appearance)))
    assert error < 0.7 * data.error(data.combat(data))
    out = data.harmonized(without_networks(data, appearance), target)
    slopes = [np.polyfit(data.covariates[:, 0], v, 1)[0] for v in (out, data.truth)]
    assert np.abs(slopes[0] - slopes[1]).max() < 0.01


def test_people_of_several_sessions_are_not_bent():
    """What is the own of a person is many times what is left within people."""
    data = table('all', sessions=3, own=3.0)
    regression = data.regression(longitudinal=True)
    assert np.median(regression.ratio) > 5
    appearance = data.appearance(regression)
    assert np.abs(appearance.tails).mean() < 0.5
    expected = np.sqrt(regression.squares.sum(axis=0) / len(data.y) * (1 + regression.ratio))
    assert appearance.sd == pytest.approx(expected, rel=0.15)
    error = data.error(data.harmonized(without_networks(data, appearance)))
    assert error < 0.6 * data.error(data.combat(data, longitudinal=True))


def bent(skew: np.ndarray, tails: np.ndarray) -> FeatureAppearance:
    """Sites of one feature that differ in the bend alone."""
    none, one = np.zeros((len(skew), 1)), np.ones(1)
    variances = np.zeros((len(STATISTICS), 2))
    return FeatureAppearance(
        mean=0 * one, sd=one, slopes=np.zeros((2, 1)), shift=none, scale=none + 1,
        skew=skew[:, None], tails=tails[:, None], unit=one, usual=np.zeros((2, 1)),
        share=np.array(0.0), between=variances, within=variances,
    )  # fmt: skip


def test_the_bend_keeps_the_order_of_values():
    extremes = np.array([-8.0, -4, -1, -0.1, 0, 0.1, 1, 4, 8])
    skew, tails = (grid.ravel() for grid in np.meshgrid(extremes, 3 * extremes))
    look, x = bent(skew, tails), np.linspace(-6, 6, 2001)
    for site in range(len(skew)):
        out = look.unbent(x[:, None], np.full(len(x), site))[:, 0]
        assert (np.diff(out) / np.diff(x)).min() > 0.2, (skew[site], tails[site])
        beyond = x[x > 3]  # where the bend no longer grows
        assert np.ptp(out[x > 3] - beyond) < 1e-12


def test_the_bend_of_the_target_is_no_bend():
    rng = np.random.default_rng(5)
    skew, tails = np.array([0.4, -0.3, 0.4]), np.array([0.8, 0.2, 0.8])
    look, x = bent(skew, tails), rng.normal(size=(50, 1))
    first = np.zeros(50, dtype=int)
    assert (look.unbent(x, first, 0) == x).all() and (look.unbent(x, first, 2) == x).all()
    assert np.abs(look.unbent(x, first, 1) - x).max() > 0.05
    assert (bent(0 * skew, 0 * tails).unbent(x, first) == x).all()


@pytest.mark.parametrize('which', ['skew', 'tails'])
def test_the_bend_takes_away_skew_and_tails(which):
    rng = np.random.default_rng(6)
    x = rng.gamma(40, size=20000) if which == 'skew' else rng.standard_t(12, 20000)
    x = (x - x.mean()) / x.std()
    skew, tails = np.mean(x**3), np.mean(x**4) - 3
    given = np.array([[skew, 0.0] if which == 'skew' else [0.0, tails]]).T
    out = bent(*given).unbent(x[:, None], np.zeros(len(x), dtype=int))[:, 0]
    out = (out - out.mean()) / out.std()
    if which == 'skew':
        assert abs(np.mean(out**3)) < 0.2 * skew
    else:
        assert abs(np.mean(out**4) - 3) < 0.4 * tails


def test_a_row_at_its_own_site_stays_what_it_is(data):
    model = with_loud_networks(data)
    for target in np.unique(data.sites):
        here = data.rows(np.flatnonzero(data.sites == target))
        exact = replace(here, y=here.y.astype(float))
        out = exact.harmonized(model, target)
        assert np.abs(out / exact.y - 1).max() < 1e-12
        assert here.harmonized(model, target).dtype == here.y.dtype
        away = data.harmonized(model, target)[data.sites != target]
        assert np.abs(away - data.y[data.sites != target]).mean() > 0.02 * data.y.std()


@pytest.mark.parametrize('strange', [False, True])
def test_maps_of_others_come_nearer_to_the_truth_than_by_combat(strange):
    data, fitted = maps(strange=strange)
    fit, others = (data.rows(np.flatnonzero(rows)) for rows in (fitted, ~fitted))
    out = others.harmonized(without_networks(data, fit.appearance()))
    error, combat = others.error(out), others.error(others.combat(fit))
    assert error < 0.8 * combat < 0.3 * others.error(others.y)


def test_a_new_site_is_measured_in_ten_people():
    data, fitted = maps(strange=True)
    last = data.sites.max()
    known = data.rows(np.flatnonzero(fitted & (data.sites < last)))
    new = np.flatnonzero(data.sites == last)
    ten, rest = data.rows(new[:10]), data.rows(new[10:])
    before = without_networks(known, known.appearance())
    more = known.regression().with_site(ten.y, ten.covariates)
    after = before.calibrated(more, ten.y, ten.covariates, ten.persons)
    for name in ('shift', 'scale', 'skew', 'tails'):
        old, added = (getattr(model.appearance, name) for model in (before, after))
        assert len(added) == len(old) + 1 and (added[:-1] == old).all()
    for name in ('mean', 'sd', 'slopes', 'share', 'between', 'within', 'usual'):
        assert getattr(after.appearance, name) is getattr(before.appearance, name)
    assert after.networks is before.networks
    center = (known.harmonized(before) - known.truth).mean(axis=0)
    away = [v - rest.truth - center for v in (rest.y, rest.harmonized(after))]
    source, out = (np.sqrt(np.square(v).mean()) for v in away)
    assert out < source / 3


def test_a_new_site_that_is_skewed_as_all_others_is_not_bent():
    rng = np.random.default_rng(7)
    n, sites = 450, np.repeat([0, 1, 2], 150)
    values = rng.gamma(4, size=(n, 30))
    # The sites differ in their bend, so that it is not taken for noise.
    values += 0.05 * (sites - 1)[:, None] * np.square(values - 4)
    data = Data(
        Geometry.of_table(30), values, values, sites, rng.normal(size=(n, 2)), np.arange(n)
    )
    look = data.appearance()
    assert look.between[2].max() > 0 and look.usual[0].mean() == pytest.approx(1, abs=0.2)
    y, covariates = rng.gamma(4, size=(200, 30)), np.zeros((200, 2))
    more = data.regression().with_site(y, covariates)
    new = look.calibrated(more, data.geometry.bands, y, covariates)
    assert abs(new.skew[-1].mean()) < 0.15 and np.abs(new.skew[:3].mean(axis=1)).max() > 0.2


def test_a_value_that_one_row_of_a_new_site_has_is_that_of_an_average_site(regions):
    look = regions.appearance()
    look = replace(look, between=look.between + 1)  # sites differ in everything
    y = regions.y[:8].copy()
    y[1:, 0] = np.nan
    y[:, 1] = np.nan
    more = regions.regression().with_site(y, regions.covariates[:8])
    new = look.calibrated(more, regions.geometry.bands, y, regions.covariates[:8])
    assert all(np.isfinite(value).all() for value in vars(new).values())
    assert np.abs(new.skew[-1, :2] - new.skew[-1, 1]).max() == 0


def test_what_is_missing_stays_missing_and_changes_nothing_else(data):
    gaps = np.random.default_rng(8).uniform(size=data.y.shape) < 0.1
    gaps[::2] = False
    with_gaps = replace(data, y=np.where(gaps, np.nan, data.y).astype(data.y.dtype))
    model = with_loud_networks(data)
    for trust in (NO_TRUST, TRUST):
        out, whole = (d.harmonized(replace(model, trust=trust), 0) for d in (with_gaps, data))
        assert (np.isnan(out) == gaps).all()
        assert np.abs(out - whole)[::2].max() < 1e-5
        if not trust.any():
            assert (out == whole)[~gaps].all()
    assert np.isfinite(out[~gaps]).all()


def test_features_are_measured_in_the_rows_that_have_them():
    data, fitted = maps(strange=True)
    fit, others = (data.rows(np.flatnonzero(rows)) for rows in (fitted, ~fitted))
    gaps = np.random.default_rng(9).uniform(size=fit.y.shape) < 0.3
    with_gaps = replace(fit, y=np.where(gaps & (fit.sites == 0)[:, None], np.nan, fit.y))
    tails = [d.appearance().tails[0].mean() for d in (fit, with_gaps)]
    assert abs(tails[1] - tails[0]) < 0.1
    errors = [
        others.error(others.harmonized(without_networks(d, d.appearance())))
        for d in (fit, with_gaps)
    ]
    assert errors[1] < 1.1 * errors[0]


def test_a_share_is_shown_by_the_rows():
    rng = np.random.default_rng(10)
    effect, noise = rng.normal(size=(2, 200, 50))
    squared = np.square(effect).sum(axis=1)

    def share(truth: np.ndarray) -> float:
        return shown_share((effect * truth).sum(axis=1), squared)

    assert share(noise) == 0 and share(-effect + noise) == 0
    assert share(0.6 * effect + noise) == pytest.approx(0.6, abs=0.05)
    assert share(1.7 * effect + noise) == 1 and share(effect) == 1
    with np.errstate(all='raise'):
        assert shown_share(np.zeros(5), np.zeros(5)) == 0
    assert shown_share(np.array([1.0, -0.9]), np.ones(2)) == 0  # a positive sum, and not shown


def test_features_come_back_from_their_points(data):
    values = np.random.default_rng(13).normal(size=(3, data.y.shape[1])).astype(np.float32)
    points = data.geometry.on_points(values)
    assert points.shape == (3, 1, data.geometry.values, data.geometry.points)
    assert (data.geometry.of_points(points) == values).all()
    seen = points.reshape(3, -1)
    assert (seen != 0).sum() == values.size and {*seen[seen != 0]} == {*values.ravel()}


FSAVERAGE5 = 10242


@pytest.fixture(scope='module')
def finer():
    """A mesh of 12,000 vertices that is another one in each hemisphere, without a part of it."""
    places = np.stack([even_places(12000, turn) for turn in (0.0, 1.0)])
    index = np.flatnonzero(places.reshape(-1, 3)[:, 0] < 0.8)
    return Geometry.of_cortex(12000, index, places), places, index


def test_networks_see_finer_meshes_as_fsaverage5(finer):
    geometry, places, index = finer
    assert (geometry.points, geometry.values) == (FSAVERAGE5, 2)
    assert [len(level.rings) for level in geometry.levels] == [10242, 2562, 642]
    assert geometry.bands.basis.shape[0] == len(index)
    sides = np.repeat([1.0, 2.0], 12000)[:, None]
    fields = (places.reshape(-1, 3) * sides)[index].T  # of the hemispheres, and each another
    seen = geometry.on_points(fields)
    assert seen.shape == (3, 1, 2, FSAVERAGE5) and seen.dtype == np.float32
    assert seen.flags.c_contiguous
    whole = sphere(FSAVERAGE5)[:, 0] < 0.75  # all vertices around are there
    for side, scale in ((0, 1.0), (1, 2.0)):
        here = scale * sphere(FSAVERAGE5)[whole].T
        assert np.abs(seen[:, 0, side][:, whole] - here).max() < 0.02 * scale
        gone = sphere(FSAVERAGE5)[:, 0] > 0.85
        assert (seen[:, 0, side][:, gone] == 0).all()
    inner = places.reshape(-1, 3)[index][:, 0] < 0.75
    back = geometry.of_points(seen)
    assert back.shape == fields.shape and np.abs(back - fields)[:, inner].max() < 0.04


def test_what_is_missing_of_a_finer_mesh_takes_no_part(finer):
    geometry, _, index = finer
    rng = np.random.default_rng(14)
    ones = np.ones((2, len(index)))
    ones[0, rng.uniform(size=len(index)) < 0.5] = np.nan
    ones[1, index < 12000] = np.nan
    seen, complete = geometry.on_points(ones), geometry.on_points(np.ones((1, len(index))))
    assert {*np.unique(seen).round(5).tolist()} == {0.0, 1.0}
    assert (seen[1, 0, 0] == 0).all() and (seen[1, 0, 1] == complete[0, 0, 1]).all()
    alone = geometry.on_points(ones[:1])
    assert (alone[0] == seen[0]).all()


def test_the_first_vertices_of_fsaverage6_are_points_of_the_networks():
    index = np.arange(2 * 40962)
    geometry = Geometry.of_cortex(40962, index)
    full = np.random.default_rng(15).normal(size=(2, 1, 2, FSAVERAGE5)).astype(np.float32)
    values = geometry.of_points(full).reshape(2, 2, 40962)
    assert values[..., :FSAVERAGE5] == pytest.approx(full[:, 0], abs=1e-3)
    middle = geometry.between[[40961]].toarray()[0]
    assert np.sort(middle)[-2:] == pytest.approx([0.5, 0.5], abs=0.01)


def test_points_that_no_vertex_is_near_count_as_the_average():
    """A made-up mesh whose vertices are all on one half of the sphere."""
    places = np.stack([even_places(12000)] * 2)
    places[..., 2] = np.abs(places[..., 2])
    geometry = Geometry.of_cortex(12000, np.arange(24000), places)
    seen = geometry.on_points(np.ones((1, 24000)))
    below = sphere(FSAVERAGE5)[:, 2] < -0.05
    assert (seen[..., below] == 0).all() and (seen[..., ~below] >= 0).all()


def maps_at(places: np.ndarray, given: np.ndarray | None) -> Data:
    """Maps of three sites on a mesh of fsaverage, or a given one."""
    simulated = simulate(16, 3, places=places, seed=1)
    cortex, labels = np.flatnonzero(simulated.cortex), simulated.labels
    return Data(
        Geometry.of_cortex(places.shape[1], cortex, given),
        simulated.source[:, cortex],
        simulated.truth[:, cortex],
        np.unique(labels.sites, return_inverse=True)[1],
        CovariateDesign.fit(labels, spline=False).columns(labels),
        labels.persons,
    )


@pytest.mark.parametrize('kind', ['fsaverage6', 'given'])
def test_on_a_finer_mesh_it_comes_as_near_to_the_truth(kind):
    coarse = maps_at(np.stack([sphere(FSAVERAGE5)] * 2), None)
    if kind == 'given':
        places = np.stack([even_places(12000)] * 2)
        fine = maps_at(places, places)
    else:
        fine = maps_at(np.stack([sphere(40962)] * 2), None)
    error = coarse.error(coarse.harmonized(without_networks(coarse, coarse.appearance())))
    found = fine.error(fine.harmonized(fine.trained(seen=16)))
    assert found < 1.1 * error and error < 0.4 * coarse.error(coarse.y)
    assert found < 0.85 * fine.error(fine.combat(fine))


def test_untrained_networks_answer_nothing(data):
    networks = FeatureNetworks(data.geometry, 3)
    x = torch.from_numpy(data.geometry.on_points(data.y[:2] - data.y.mean(axis=0)))
    z_k = networks.condition(label_blind([0, 1]))
    assert (networks(x, torch.tensor([10, 500]), z_k, networks.encode(x)) == 0).all()


def test_networks_that_learned_nothing_change_nothing(data, monkeypatch):
    monkeypatch.setattr(training, 'LEARNING_RATE', 0.0)
    model = data.trained(seen=16)
    assert (model.trust == 0).all()
    out = data.harmonized(replace(model, trust=TRUST), 0)
    assert (out == data.harmonized(model, 0)).all()
    assert (out == data.harmonized(without_networks(data, data.appearance()), 0)).all()


def test_what_is_done_to_a_row_does_not_depend_on_the_others(data):
    model = with_loud_networks(data)
    some = data.rows(np.arange(len(data.y))[::-1][:20])
    together = some.harmonized(model, 0)
    order = np.random.default_rng(11).permutation(20)
    assert some.rows(order).harmonized(model, 0) == pytest.approx(together[order], rel=1e-6)
    for i in (0, 7, 19):
        alone = some.rows(np.array([i])).harmonized(model, 0)
        assert alone[0] == pytest.approx(together[i], rel=1e-6)
    changed = together - some.harmonized(replace(model, trust=NO_TRUST), 0)
    assert np.abs(changed).mean() > 1e-3 * data.y.std()


def test_arrays_hold_all_that_harmonizes(data):
    model, n_sites = replace(data.trained(), trust=TRUST), int(data.sites.max()) + 1
    arrays = {name: value.copy() for name, value in model.arrays().items()}
    again = FeatureDDAE.of_arrays(data.geometry, n_sites, arrays)
    for target in (None, 1):
        assert (data.harmonized(again, target) == data.harmonized(model, target)).all()
    assert again.arrays().keys() == arrays.keys()
    for name, value in again.arrays().items():
        assert value.dtype == arrays[name].dtype and (value == arrays[name]).all()
    del arrays['appearance.share']
    with pytest.raises(KeyError):
        FeatureDDAE.of_arrays(data.geometry, n_sites, arrays)
    with pytest.raises(RuntimeError):
        FeatureDDAE.of_arrays(data.geometry, n_sites + 1, model.arrays())


def test_training_is_reproducible_and_leaves_the_random_numbers_of_torch_alone(regions):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = regions.trained(seed=1).arrays()
    assert (torch.get_rng_state() == before).all()
    torch.manual_seed(6)
    second, other = regions.trained(seed=1).arrays(), regions.trained(seed=2).arrays()
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize('seen', [1, 32, 160, 176])
def test_training_may_be_as_short_as_it_likes(regions, seen):
    """Also of ten steps, a tenth of which is a single one."""
    assert np.isfinite(regions.harmonized(regions.trained(seen=seen), 0)).all()


class Watched(FeatureNetworks):
    """Networks that keep the first number of each row that they are shown, and when."""

    trained: set[float]
    judged: set[float]

    def encode(self, x_0: torch.Tensor) -> torch.Tensor:
        kept = self.judged if torch.is_inference_mode_enabled() else self.trained
        kept |= {*x_0[:, 0, 0, 0].tolist()}
        return super().encode(x_0)


@pytest.mark.parametrize('people', ['of one site', 'of all sites'])
def test_nobody_is_both_trained_on_and_held_out(regions, monkeypatch, people):
    n = len(regions.y)
    persons = np.arange(n) // 2 if people == 'of one site' else np.arange(n) % (n // 3)
    data = replace(regions, persons=persons)
    monkeypatch.setattr(Watched, 'trained', set(), raising=False)
    monkeypatch.setattr(Watched, 'judged', set(), raising=False)
    monkeypatch.setattr(training, 'FeatureNetworks', Watched)
    look = data.trained(seen=960).appearance
    first = look.left(data.y, data.sites, data.covariates)[:, 0].astype(np.float32)
    trained, judged = (
        persons[np.isin(first, list(seen))] for seen in (Watched.trained, Watched.judged)
    )
    assert not {*trained} & {*judged} and {*trained} | {*judged} == {*persons}
    assert len({*judged}) == pytest.approx(0.2 * len({*persons}), abs=1)
    assert (np.bincount(data.sites[np.isin(persons, judged)]) > 0).all()


def test_a_site_of_one_person_is_trained_on(regions):
    """Nobody is left to judge the networks by, so that they are not trusted."""
    alone = replace(regions, persons=regions.sites)
    assert (alone.trained(seen=16).trust == 0).all()


def test_as_much_of_the_site_effect_is_used_as_predicts_other_people(regions, monkeypatch):
    """Where it is the noisy value itself, the noise tells by how much it must be shrunk.

    A quarter of that value is what the networks answer without the site.
    """

    def answered(networks, noisy, t, z_k, z_u):
        unknown = networks.condition(label_blind([-1] * len(noisy)))
        return noisy * (0.25 + (z_k != unknown).any(dim=1)[:, None, None, None])

    monkeypatch.setattr(training, 'clean', answered)
    model = table('all', people=100).trained(seen=16)
    levels = noise_level(model.networks.alpha_bar[editing_times(model.networks)]).numpy()
    assert model.trust == pytest.approx(1 / (1 + levels**2) - 0.25, abs=0.06)


def test_the_site_effect_of_networks_is_used_by_its_trust(data):
    model = with_loud_networks(data)
    zero, little, whole = (
        data.harmonized(replace(model, trust=trust), 0)
        for trust in (NO_TRUST, 0.001 * TRUST, TRUST)
    )
    change = little.astype(float) - zero
    assert 0 < np.abs(change).mean() < 0.01 * np.abs(whole - zero).mean()


def test_unknown_ages_and_sexes(regions):
    n = len(regions.y)
    ages, sexes = np.linspace(20, 80, n), np.array(['M', 'F', None] * (n // 3), dtype=object)
    ages[::3] = np.nan
    for labels in (
        {'ages': ages, 'sexes': sexes.tolist()},
        {'ages': np.full(n, np.nan), 'sexes': [None] * n},
        {'ages': np.full(n, 50.0), 'sexes': ['F'] * n},
    ):
        model = regions.trained(seen=32, **labels)
        assert all(np.isfinite(value).all() for value in model.arrays().values())
        assert np.isfinite(regions.harmonized(model)).all()


def test_the_networks_are_not_told_who_it_is(regions, monkeypatch):
    told: list[Condition] = []
    model = with_loud_networks(regions)
    encoder = model.networks.condition.forward
    monkeypatch.setattr(
        model.networks.condition, 'forward', lambda c: encoder(told.append(c) or c)
    )
    regions.harmonized(model, 2)
    assert {*torch.cat([c.site for c in told]).tolist()} == {0, 1, 2}
    assert all(c.age.isnan().all() and (c.sex == -1).all() for c in told)


def test_a_site_that_was_calibrated_is_unknown_to_the_networks(data):
    model = with_loud_networks(data)
    here = data.rows(np.flatnonzero(data.sites == 1))
    more = data.regression().with_site(here.y, here.covariates)
    after = model.calibrated(more, here.y, here.covariates, here.persons)
    new = replace(here, sites=np.full(len(here.y), data.sites.max() + 1))
    assert (
        np.abs(new.harmonized(after) - new.harmonized(replace(after, trust=NO_TRUST))).max() == 0
    )
    common = np.random.default_rng(12).normal(size=(4, data.y.shape[1]))
    to_known = after.edited(common, new.sites[:4], 0)
    from_unknown = after.edited(common, np.zeros(4, dtype=int), None)
    assert np.abs(to_known).max() > 1e-3 and np.abs(from_unknown).max() > 1e-3
    for site in (0, 1):
        from_known = after.edited(common, np.full(4, site), 0)
        assert (from_known == 0).all() if site == 0 else np.abs(from_known - to_known).max() > 1e-3
    assert (after.edited(common, new.sites[:4], int(new.sites[0])) == 0).all()
