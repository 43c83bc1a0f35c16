"""In which unit the shifts of sites are smooth over the cortex: the maps say it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.surfaces import simulate
from ddae_app.features.people import CovariateDesign
from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from ddae_app.methods.feature_ddae.geometry import Geometry
from ddae_app.methods.feature_ddae.model import UNIT, FeatureDDAE
from ddae_app.methods.feature_ddae.networks import FeatureNetworks
from tests.methods.test_feature_ddae import NO_TRUST, Data

VERTICES, PEOPLE, SITES = 2562, 40, 4


def simulated(smooth_in: str) -> Data:
    made = simulate(PEOPLE, SITES, vertices=VERTICES, strange=False, smooth_in=smooth_in)
    cortex, labels = np.flatnonzero(made.cortex), made.labels
    return Data(
        Geometry.of_cortex(VERTICES, cortex),
        made.source[:, cortex],
        made.truth[:, cortex],
        np.unique(labels.sites, return_inverse=True)[1],
        CovariateDesign.fit(labels, spline=False).columns(labels),
        labels.persons,
    )


def units_of(look: FeatureAppearance) -> dict[str, np.ndarray]:
    """In mm."""
    return {'mm': np.ones_like(look.sd), 'deviations': look.sd, 'mean': look.mean}


def relative(unit: np.ndarray, look: FeatureAppearance) -> np.ndarray:
    """In standard deviations, whatever its size."""
    return unit / look.sd / np.median(unit / look.sd)


def error_of_shifts(data: Data, look: FeatureAppearance) -> float:
    """Of the difference of sites at average age and sex, from that of the truth, mm."""
    away = np.array(
        [
            (data.y - data.truth.astype(float))[data.sites == site].mean(axis=0)
            for site in range(SITES)
        ]
    )
    wrong = look.shift * look.sd - away
    return float(np.sqrt(np.square(wrong - wrong.mean(axis=0)).mean()))


@pytest.mark.parametrize('smooth_in', ['mm', 'deviations', 'mean'])
def test_the_maps_say_in_which_unit_shifts_are_smooth(smooth_in):
    data = simulated(smooth_in)
    look = data.appearance()
    units = units_of(look)
    assert look.unit == pytest.approx(relative(units[smooth_in], look))
    errors = {
        name: error_of_shifts(data, data.appearance(unit=unit)) for name, unit in units.items()
    }
    assert min(errors, key=errors.__getitem__) == smooth_in


@pytest.mark.parametrize('reversed_rows', [False, True])
def test_maps_whose_mean_is_0_somewhere_are_no_share_of_it(reversed_rows):
    """As curvature and sulcal depth; and the order of the rows does not matter."""
    data = simulated('mm')
    data = replace(data, y=data.y - np.median(data.y, axis=0))
    look = data.appearance()
    assert (look.mean <= 0).any()
    if reversed_rows:
        look = data.rows(np.arange(len(data.y))[::-1]).appearance()
    assert look.unit == pytest.approx(relative(units_of(look)['mm'], look))


def test_vertices_at_which_people_hardly_differ_do_not_decide():
    data = simulated('mm')
    odd = slice(0, None, 240)
    y = data.y.astype(float)
    for site in range(SITES):
        here = y[data.sites == site]
        here[:, odd] = here[:, odd].mean(axis=0) + 1e-3 * (here - here.mean(axis=0))[:, odd]
        y[data.sites == site] = here
    look = replace(data, y=y).appearance()
    assert look.unit == pytest.approx(relative(units_of(look)['mm'], look))


def test_features_of_a_table_have_no_unit_but_their_own():
    data = simulated('mm')
    few = replace(data, geometry=Geometry.of_table(50), y=data.y[:, :50], truth=data.truth[:, :50])
    assert (few.appearance().unit == 1).all()


def test_a_new_site_is_measured_in_the_unit_of_the_model():
    data = simulated('mean')
    known, new = (data.rows(np.flatnonzero(rows)) for rows in (data.sites < 3, data.sites == 3))
    regression = known.regression()
    look = known.appearance(regression)
    more = regression.with_site(new.y, new.covariates)
    errors = {}
    for name, unit in units_of(look).items():
        other = known.appearance(regression, unit)
        found = other.calibrated(more, data.geometry.bands, new.y, new.covariates)
        errors[name] = error_of_shifts(data, found)
        assert (found.shift[:3] == other.shift).all()
    assert (look.unit == known.appearance(regression, look.mean).unit).all()
    sure = replace(look, between=np.full_like(look.between, 1e12))  # nothing is shrunk
    found = sure.calibrated(more, data.geometry.bands, new.y, new.covariates)
    measured = (more.intercepts[3] - look.mean) / look.sd
    assert found.shift[3] == pytest.approx(measured, abs=1e-6)
    assert min(errors, key=errors.__getitem__) == 'mean'


def test_models_of_earlier_versions_took_shifts_as_smooth_in_standard_deviations():
    data = simulated('mm')
    look = data.appearance()
    networks = FeatureNetworks(data.geometry, SITES).eval()
    arrays = FeatureDDAE(data.geometry, look, networks, NO_TRUST).arrays()
    earlier = {name: value for name, value in arrays.items() if name != UNIT}
    read = FeatureDDAE.of_arrays(data.geometry, SITES, earlier)
    assert (read.appearance.unit == 1).all()
    assert (read.appearance.shift == look.shift).all()
    again = FeatureDDAE.of_arrays(data.geometry, SITES, arrays)
    assert (again.appearance.unit == look.unit).all() and (look.unit != 1).any()
