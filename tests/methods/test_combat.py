"""ComBat: it returns what other implementations do, at a site of choice, and refuses the rest."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
import torch
from neuroCombat import neuroCombat
from safetensors.torch import load_file, save_file

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.combat import ComBat
from ddae_app.methods.find import load_harmonizer
from ddae_app.methods.modelfile import metadata_of
from ddae_app.settings import Protocol

N = 24
SITES = ('A', 'B', 'C')
PROTOCOL = Protocol(grid=(8, 8, 3), slices='all', slice_shape=(8, 8))


@pytest.fixture(scope='module')
def cohort():
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            'subject': [f'p{i}' for i in range(3 * N)],
            'site': np.repeat(SITES, N),
            'age': rng.uniform(20, 80, 3 * N).astype(np.float32).astype(float),
            'sex': rng.choice(['F', 'M'], 3 * N),
        }
    )


@pytest.fixture(scope='module')
def scans(cohort):
    """Scans of three slices, shape (N, 3, 8, 8), with shifts and scales of each site."""
    rng = np.random.default_rng(4)
    images = 0.6 + 0.05 * rng.normal(size=(3 * N, 3, 8, 8))
    images -= 0.001 * (cohort['age'].to_numpy() - 50)[:, None, None, None]
    for i, site in enumerate(SITES):
        there = (cohort['site'] == site).to_numpy()
        shift, scale = rng.normal(0, 0.1, (3, 8, 8)), rng.uniform(0.5, 1.5, (3, 8, 8))
        images[there] = 0.6 + 0.05 * i + shift + scale * (images[there] - 0.6)
    images[:, :, :2] = 0
    return images.clip(0).astype(np.float32)


def test_it_equals_the_reference_implementation(scans, cohort):
    values = scans[:, np.ptp(scans, axis=0) > 0].astype(np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = neuroCombat(
            values.T, cohort, 'site', categorical_cols=['sex'], continuous_cols=['age']
        )
    fitted = ComBat(protocol=PROTOCOL).fit(scans, cohort)
    assert fitted.fitted is not None
    estimates = reference['estimates']
    assert np.abs(fitted.fitted.shift - estimates['gamma.star']).max() < 1e-8
    assert np.abs(fitted.fitted.scale**2 - estimates['delta.star']).max() < 1e-8
    assert np.abs(fitted.fitted.sd**2 - estimates['var.pooled'][:, 0]).max() < 1e-8
    assert np.abs(fitted.without_site(scans, cohort) - reference['data'].T).max() < 1e-8


def test_subjects_whom_it_was_not_fitted_to(scans, cohort):
    """Each scan by itself: which others are harmonized, and in what order, plays no part."""
    even = np.arange(3 * N) % 2 == 0
    fitted = ComBat(protocol=PROTOCOL).fit(scans[even], cohort[even])
    together = fitted.transform(scans[~even], cohort[~even], 'B')
    alone = [
        fitted.transform(scans[[i]], cohort.iloc[[i]], 'B') for i in np.flatnonzero(~even)[::-1]
    ]
    assert (np.concatenate(alone[::-1]) == together).all()
    means = [
        [x[(cohort['site'][~even] == site).to_numpy()].mean(axis=0) for site in SITES]
        for x in (scans[~even], together)
    ]
    apart = [np.abs(m[0] - m[2]).mean() for m in means]
    assert apart[1] < apart[0] / 3


def test_the_order_of_scans_is_no_matter(scans, cohort):
    """Where a place looks the same in all scans of a site, as in images without noise, too."""
    scans = scans.copy()
    scans[:, 0, 2:4] = cohort['site'].map({'A': 0.3, 'B': 0.7, 'C': 0.9}).to_numpy()[:, None, None]
    order = np.random.default_rng(0).permutation(len(scans))
    one = ComBat(protocol=PROTOCOL).fit(scans, cohort)
    other = ComBat(protocol=PROTOCOL).fit(scans[order], cohort.iloc[order])
    change = one.transform(scans, cohort, 'B') - other.transform(scans, cohort, 'B')
    assert np.abs(change).max() < 1e-6


def test_what_is_saved_comes_back(scans, cohort, tmp_path):
    fitted = ComBat(protocol=PROTOCOL).fit(scans, cohort)
    path = tmp_path / 'combat.safetensors'
    fitted.save(path)
    first = path.read_bytes()
    loaded = load_harmonizer(path)
    assert loaded.info == fitted.info
    assert loaded.info.training.subjects_per_site == (N,) * 3
    out = [x.transform(scans, cohort, 'C') for x in (fitted, loaded)]
    assert (out[0] == out[1]).all()
    loaded.save(path)
    assert path.read_bytes() == first


def test_unknown_age_and_sex_count_as_average(scans, cohort):
    fitted = ComBat(protocol=PROTOCOL).fit(scans, cohort)
    assert fitted.fitted is not None
    unknown = fitted.transform(scans, cohort[['subject', 'site']], 'B')
    age, female = fitted.fitted.covariates
    assert age == pytest.approx(cohort['age'].mean())
    assert female == pytest.approx((cohort['sex'] == 'F').mean())
    average = fitted.transform(scans, cohort.assign(age=age, sex=None), 'B')
    assert np.abs(unknown - average).max() < 1e-6


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'subject': ['p'] * 3 * N}, 'site A has scans of one subject, ComBat needs two'),
        ({'age': np.repeat([30.0, 40.0, 50.0], N)}, 'age is confounded with site'),
        ({'sex': np.repeat(['F', 'M', 'M'], N)}, 'sex is confounded with site'),
        (
            {'sex': [None, *['F'] * (N - 1), *['M'] * 2 * N]},
            'sex is confounded with site: all subjects of each site whose sex is known have',
        ),
        ({'age': [np.nan, *np.repeat([30.0, 40.0, 50.0], N)[1:]]}, 'age is confounded with site'),
    ],
)
def test_cohorts_that_cannot_be_fitted(scans, cohort, change, message):
    with pytest.raises(UsageError, match=message):
        ComBat().fit(scans, cohort.assign(**change))


def test_images_that_cannot_be_fitted_or_harmonized(scans, cohort):
    broken = scans.copy()
    broken[3, 1, 4, 4] = np.nan
    with pytest.raises(UsageError, match='images 0 to .* are not all finite'):
        ComBat().fit(broken, cohort)
    fitted = ComBat(protocol=PROTOCOL).fit(scans, cohort)
    with pytest.raises(UsageError, match='non-finite values'):
        fitted.transform(broken, cohort, 'A')
    with pytest.raises(UsageError, match='source site Z is unknown to the model'):
        fitted.transform(scans, cohort.assign(site='Z'), 'A')
    with pytest.raises(UsageError, match=r'images are \(1, 8, 8\) .* fitted to \(3, 8, 8\)'):
        fitted.transform(scans[:, 0], cohort, 'A')


def test_what_could_not_be_read_again_is_not_saved(scans, cohort, tmp_path):
    fitted = ComBat().fit(scans, cohort)
    with pytest.raises(UsageError, match=r'\(3, 8, 8\), .* \(1, 128, 128\); give the protocol'):
        fitted.save(tmp_path / 'x.safetensors')
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_combat(scans, cohort, tmp_path):
    path = tmp_path / 'x.safetensors'
    ComBat(protocol=PROTOCOL).fit(scans, cohort).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ModelError, match='truncated'):
        ComBat.load(path)
    # The last number of an array becomes NaN.
    path.write_bytes(whole[:-8] + np.array([np.nan]).tobytes())
    with pytest.raises(ModelError, match='not finite'):
        ComBat.load(path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'mean': torch.tensor(1.0)}, 'arrays of shapes'),
        ({'mean': torch.ones(1, 5)}, 'arrays of shapes'),
        ({'covariates': torch.zeros(2, dtype=torch.bfloat16)}, "'covariates' is of type BF16"),
        ({'covariates': torch.zeros(2)}, 'do not fit each other'),
        ({'scale': 0.0}, 'a scale that is not above 0'),
        ({'sd': -1.0}, 'a scale that is not above 0'),
    ],
)
def test_arrays_that_are_of_no_combat(scans, cohort, tmp_path, change, message):
    path = tmp_path / 'x.safetensors'
    fitted = ComBat(protocol=PROTOCOL).fit(scans, cohort)
    fitted.save(path)
    arrays = load_file(path)
    for name, value in change.items():
        arrays[name] = value if torch.is_tensor(value) else torch.full_like(arrays[name], value)
    save_file(arrays, path, metadata_of(fitted.info))
    with pytest.raises(ModelError, match=f'x.safetensors: .*{message}.*; give another model'):
        ComBat.load(path)
