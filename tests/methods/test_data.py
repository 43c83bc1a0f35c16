"""Slices, the split by subject, balanced batches and quantiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.errors import UsageError
from ddae_app.methods.condition import batch_of, condition_of
from ddae_app.methods.data import balanced_rows, site_quantiles, split_subjects

from .toy import slices, stacks


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'images': np.zeros((20, 1, 16, 16))}, 'float64; give float32'),
        ({'images': np.zeros((20, 16, 16), np.float32)}, r'shape \(20, 16, 16\)'),
        ({'images': np.full((20, 1, 16, 16), np.nan, np.float32)}, 'not all finite'),
        ({'images': np.full((20, 1, 16, 16), -1, np.float32)}, 'not all finite and >= 0'),
        ({'sites': ('A',)}, r'\[1, 20, 20, 20\]'),
        ({'sites': ('',) * 20}, 'empty site'),
        ({'sexes': ('male',) * 20}, 'give M, F or None'),
        ({'ages': np.full(20, np.inf)}, 'infinite age'),
    ],
)
def test_wrong_data_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(slices(), **change)


def test_labels_as_tensors():
    data = slices()
    condition = condition_of(data, np.array([0, 1, 2, 19]))
    assert condition.site.tolist() == [0, 0, 0, 1]
    assert condition.sex.tolist() == [-1, 0, 1, 0]
    assert condition.age.isnan().tolist() == [True, False, False, False]


def test_a_batch_is_clipped_and_memmaps_are_fine(tmp_path):
    data = slices()
    images = np.lib.format.open_memmap(
        tmp_path / 'x.npy', 'w+', dtype=np.float32, shape=data.images.shape
    )
    images[:] = 2 * data.images
    mapped = replace(data, images=images)
    assert batch_of(mapped, np.array([0, 15])).max().item() == pytest.approx(1.2)
    assert mapped.fingerprint() == replace(data, images=2 * data.images).fingerprint()


def test_fingerprint_covers_images_and_labels():
    data = slices()
    images = data.images.copy()
    images[3, 0, 3, 3] += 0.001
    others = [
        replace(data, images=images),
        replace(data, ages=data.ages + 1),
        replace(data, sites=data.sites[::-1]),
        replace(data, subjects=data.subjects[::-1]),
        replace(data, sexes=data.sexes[::-1]),
    ]
    assert len({d.fingerprint() for d in [data, *others]}) == 6
    assert data.fingerprint() == slices().fingerprint()


def test_split_keeps_subjects_apart_and_sites_in_proportion():
    data = slices(30)
    subjects = tuple(f'{site}{i // 3}' for i, site in enumerate(data.sites))  # 3 slices each
    data = replace(data, subjects=subjects)
    train, held_out = split_subjects(data, 0.2, seed=1)
    assert sorted([*train, *held_out]) == list(range(60))
    assert not {subjects[i] for i in train} & {subjects[i] for i in held_out}
    for site in 'AB':
        assert sum(data.sites[i] == site for i in held_out) == 6
    again = split_subjects(data, 0.2, seed=1)
    assert np.array_equal(again[1], held_out)
    assert not np.array_equal(split_subjects(data, 0.2, seed=2)[1], held_out)


def test_a_traveling_subject_is_on_one_side():
    data = slices(10)
    subjects = tuple(f'p{i % 10}' for i in range(20))  # everybody was at both sites
    data = replace(data, subjects=subjects)
    for seed in range(10):
        train, held_out = split_subjects(data, 0.3, seed)
        assert len(held_out) == 6
        assert not {subjects[i] for i in train} & {subjects[i] for i in held_out}


def test_every_site_keeps_training_images():
    data = replace(slices(2), sites=('A', 'A', 'A', 'B'), subjects=('p', 'q', 'r', 'p'))
    for seed in range(20):
        train, _ = split_subjects(data, 0.6, seed)
        assert {data.sites[i] for i in train} == {'A', 'B'}


def test_batches_are_balanced_whatever_the_sizes_of_the_sites():
    site_rows = [np.arange(3), np.arange(3, 100), np.array([100])]
    rows = balanced_rows(site_rows, 30, np.random.default_rng(0))
    assert [sum(r in site for r in rows) for site in site_rows] == [10, 10, 10]
    small = [balanced_rows(site_rows, 1, np.random.default_rng(i))[0] for i in range(60)]
    assert all(any(r in site for r in small) for site in site_rows)


def test_quantiles_are_of_the_brain_and_per_site():
    quantiles = site_quantiles(slices(), n_levels=3)
    assert quantiles.levels == (0, 0.5, 1)
    assert quantiles.median[0] == pytest.approx((0.4, 0.4, 0.6), abs=1e-4)
    assert quantiles.median[1] == pytest.approx((0.6, 0.6, 0.8), abs=1e-4)
    assert all(lo <= hi for lo, hi in zip(quantiles.low[0], quantiles.high[0], strict=True))


def test_single_slices_of_scans_and_their_positions():
    data = stacks(depth=3)
    with_brain = data.with_brain(np.array([2, 15]))
    assert with_brain.tolist() == [[2, 0], [2, 1], [15, 0], [15, 1]]
    rows, positions = with_brain.T
    assert batch_of(data, rows, positions).shape == (4, 1, 16, 16)
    assert batch_of(data, rows).shape == (4, 3, 16, 16)
    assert condition_of(data, rows, positions).position.tolist() == [0, 1, 0, 1]
    assert condition_of(data, rows).position.tolist() == [0] * 4
    assert data.with_brain(np.array([], dtype=int)).shape == (0, 2)


def test_chunks_hold_fewer_scans_the_deeper_these_are():
    rows = np.arange(20)
    assert [len(chunk) for chunk in stacks(depth=128).chunks(rows)] == [2] * 10
    np.testing.assert_array_equal(np.concatenate(stacks(depth=128).chunks(rows)), rows)
    assert len(slices().chunks(rows)) == 1
