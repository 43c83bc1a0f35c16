"""Against what others found in real tables: R's ComBat, and what regional volumes tell of IXI."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ddae_app.evaluation import probes
from ddae_app.methods.combat import ComBat
from ddae_app.settings import Protocol


def test_combat_returns_what_the_r_package_does(test_data):
    folder = test_data / 'data' / 'tables' / 'combat_reference'
    values = pd.read_csv(folder / 'input.csv').to_numpy()
    reference = {
        name: pd.read_csv(folder / f'{name}.csv').to_numpy()
        for name in ('parametric_adjusted', 'parametric_unadjusted')
    }
    shift = 100.0  # images are not negative; ComBat moves along
    scans = (values.T + shift).astype(np.float32)[:, None, :]
    assert scans.min() > 0
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
        found = combat.without_site(scans, known) - shift
        assert np.abs(found.T - reference[name]).max() < 1e-3, name  # of float32 at 100


@pytest.fixture(scope='module')
def volumes(test_data):
    """Regional volumes of people at three hospitals, their age."""
    folder = test_data / 'data' / 'tables'
    table = pd.read_csv(folder / 'IXI_DLMUSE.csv').merge(
        pd.read_csv(folder / 'IXI_demog.csv'), on='ID'
    )
    regions = table.drop(columns=['ID', 'Age', 'Sex']).to_numpy(float)
    regions = (regions - regions.mean(axis=0)) / np.maximum(regions.std(axis=0), 1e-12)
    site = table['ID'].str.split('-').str[1].to_numpy(str)
    return regions, site, table['Age'].to_numpy(float), table['ID'].to_numpy(str)


def test_the_probes_find_in_real_volumes_what_others_found(volumes):
    """Site at .80 balanced accuracy, chance .33; age at r .79, 4.9 years off."""
    regions, site, age, people = volumes
    assert set(site) == {'Guys', 'HH', 'IOP'}
    assert probes.linear_accuracy(regions, site, people) == pytest.approx(0.80, abs=0.06)
    known = ~np.isnan(age)
    mae, r = probes.age_agreement(regions[known], age[known], people[known])
    assert r == pytest.approx(0.79, abs=0.06)
    assert mae == pytest.approx(4.9, abs=0.9)
