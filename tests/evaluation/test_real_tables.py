"""Comparison with published results on real tables: R's ComBat, and regional volumes of IXI."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.probes import age_accuracy  # of the benchmarks
from ddae_app.evaluation.probes import linear_accuracy
from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.combat import ComBat
from ddae_app.settings import Protocol


def test_combat_returns_what_the_r_package_does(test_data):
    folder = test_data / 'data' / 'tables' / 'combat_reference'
    values = pd.read_csv(folder / 'input.csv').to_numpy()
    reference = {
        name: pd.read_csv(folder / f'{name}.csv').to_numpy()
        for name in ('parametric_adjusted', 'parametric_unadjusted')
    }
    # Brought into the range of images, .1 to 1.1; ComBat moves along.
    unit = np.ptp(values)
    shift = 0.1 - values.min() / unit
    scans = (values.T / unit + shift).astype(np.float32)[:, None, :]
    assert scans.min() > 0 and scans.max() < CEILING
    cohort = pd.DataFrame(
        {
            'subject': [f'p{i}' for i in range(10)],
            'site': ['1'] * 5 + ['2'] * 5,
            'age': np.nan,
            'sex': ['M', 'F'] * 5,
        }
    )
    for name, known in (
        ('parametric_adjusted', cohort),
        ('parametric_unadjusted', cohort.assign(sex=None)),
    ):
        combat = ComBat(protocol=Protocol(grid=(1, 200, 1), slice_shape=(1, 200))).fit(
            scans, known
        )
        adjusted = (combat.without_site(scans, known) - shift) * unit
        assert np.abs(adjusted.T - reference[name]).max() < 1e-4, name  # of float32


@pytest.fixture(scope='module')
def volumes(test_data):
    """Regional volumes of subjects at three hospitals, with their site and age."""
    folder = test_data / 'data' / 'tables'
    table = pd.read_csv(folder / 'IXI_DLMUSE.csv').merge(
        pd.read_csv(folder / 'IXI_demog.csv'), on='ID'
    )
    regions = table.drop(columns=['ID', 'Age', 'Sex']).to_numpy(float)
    regions = (regions - regions.mean(axis=0)) / np.maximum(regions.std(axis=0), 1e-12)
    site = table['ID'].str.split('-').str[1].to_numpy(str)
    return regions, site, table['Age'].to_numpy(float), table['ID'].to_numpy(str)


def test_the_probes_reproduce_published_results_on_real_volumes(volumes):
    """Balanced accuracy of the site .80 (chance .33); age with r .79 and an error of 4.9 years."""
    regions, site, age, subjects = volumes
    assert set(site) == {'Guys', 'HH', 'IOP'}
    assert linear_accuracy(regions, site, subjects) == pytest.approx(0.80, abs=0.06)
    known = ~np.isnan(age)
    mae, r = age_accuracy(regions[known], age[known], subjects[known])
    assert r == pytest.approx(0.79, abs=0.06)
    assert mae == pytest.approx(4.9, abs=0.9)
