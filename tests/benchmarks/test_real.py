"""The benchmark of real scanners, on simple images whose site effect is known."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.real import Bench, judge
from benchmarks.real_methods import METHODS, Fit
from benchmarks.real_placement import aligned, place, write_aligned
from benchmarks.real_scans import EDGE_PIXELS, NEAR, Scans, interior_of
from benchmarks.real_tables import write_intervals
from benchmarks.real_take_away import (
    KINDS,
    accuracy,
    blurred,
    levels_matched,
    sharpness,
    smooth,
    take_away,
    tissue_classes,
    weights,
    without_shading,
)
from ddae_app.errors import UsageError

SIZE, PEOPLE = 48, 60


def brains(rng: np.random.Generator) -> np.ndarray:
    """Discs of three tissues, with a texture of each person's own; shape (N, H, W)."""
    down, across = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    radius = np.hypot(down, across)
    tissues = np.select([radius < 0.25, radius < 0.6, radius < 0.95], [0.2, 0.9, 0.6], 0)
    texture = gaussian_filter(rng.normal(0, 0.3, (PEOPLE, SIZE, SIZE)), (0, 1, 1))
    return np.where(radius < 0.95, np.maximum(tissues + texture, 0.01), 0).astype(np.float32)


def scans_with(effect, seed: int = 0) -> Scans:
    """Scans of two sites, the second of which has an effect on its images."""
    rng = np.random.default_rng(seed)
    images, at_b = brains(rng), np.arange(PEOPLE) % 2 == 1
    images[at_b] = np.where(images[at_b] > 0, effect(images[at_b]), 0)
    people = pd.DataFrame(
        {
            'subject': [f'p{i:02d}' for i in range(PEOPLE)],
            'site': np.where(at_b, 'B', 'A'),
            'age': rng.uniform(20, 50, PEOPLE),
            'sex': rng.choice(['F', 'M'], PEOPLE),
            'learnt': np.arange(PEOPLE) % 4 < 2,
        }
    )
    return Scans(np.repeat(images[:, None], NEAR, 1), people, False, interior_of(images))


def shaded(images: np.ndarray) -> np.ndarray:
    return images * np.linspace(0.75, 1.25, SIZE, dtype=np.float32)


def softened(images: np.ndarray) -> np.ndarray:
    return smooth(images, images > 0, 1.0)


def difference(scans: Scans, change) -> float:
    """Root mean square difference of the sites' means in the interior, after a change."""
    where, images = scans.interior, scans.slices()
    tissues = np.stack([tissue_classes(image) for image in images])
    after = change(np.where(where, images, 0), where, tissues)
    means = [after[scans.sites == site][:, where].mean(axis=0) for site in 'AB']
    return float(np.sqrt(np.square(means[0] - means[1]).mean()))


def unchanged(images: np.ndarray, where: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    return images


@pytest.mark.parametrize(
    ('effect', 'remove', 'keep'),
    [
        (shaded, without_shading, levels_matched),
        (lambda images: images**0.7, levels_matched, blurred),
    ],
)
def test_what_is_taken_away_is_gone_and_another_thing_is_not(effect, remove, keep):
    scans = scans_with(effect)
    before = difference(scans, unchanged)
    assert difference(scans, remove) < before / 2
    assert difference(scans, keep) > before / 2
    assert accuracy(scans, KINDS['inside'](scans.slices(), scans), 0)[0] > 0.9


def test_all_scans_are_as_soft_as_the_softest():
    scans = scans_with(softened)
    where, at_b = scans.interior, scans.sites == 'B'
    before = np.where(where, scans.slices(), 0)
    sharp = [np.log(sharpness(x, where)) for x in (before, blurred(before, where, before))]
    gaps = [abs(x[at_b].mean() - x[~at_b].mean()) for x in sharp]
    assert gaps[0] > 0.3 and gaps[1] < gaps[0] / 3


def test_interior_is_shared_and_away_from_the_edge_whatever_a_ventricle_holds():
    images = brains(np.random.default_rng(0))
    images[3, SIZE // 2, SIZE // 2] = 0
    inside = interior_of(images)
    assert inside[SIZE // 2, SIZE // 2]
    line = np.flatnonzero(inside[SIZE // 2])
    brain = np.flatnonzero(images[0, SIZE // 2])
    assert line[0] == brain[0] + EDGE_PIXELS and line[-1] == brain[-1] - EDGE_PIXELS


def test_two_deals_in_turn_judge_everybody_once():
    scans = scans_with(shaded)
    for first in (0, 2):
        (fitting, judged), (again, others) = scans.deal(first), scans.deal(first + 1)
        assert sorted([*judged, *others]) == list(range(PEOPLE))
        assert set(fitting) == set(others) and set(again) == set(judged)
    assert set(scans.deal(0)[1]) not in (set(scans.deal(2)[1]), set(scans.deal(3)[1]))


def test_nobody_whom_the_networks_saw_is_judged_on():
    scans = scans_with(shaded)
    outputs = scans.slices()
    spoiled = outputs.copy()
    learnt = scans.people['learnt'].to_numpy()
    ends = judge(scans, outputs, 'A', 0, cnn=False)
    assert ends['site_linear'][0] > 0.9
    # What is measured scan by scan does not change with the outputs of those people.
    spoiled[learnt] = np.where(spoiled[learnt] > 0, 0.5, 0)
    other = judge(scans, spoiled, 'A', 0, cnn=False)
    for name in ('ssim', 'edges', 'tissue_drift'):
        assert other[name] == ends[name]
    assert other['site_linear_learnt'] != ends['site_linear_learnt']


def test_medial_training_takes_every_slice_with_the_labels_of_its_person():
    scans = scans_with(shaded)
    scans.stacks[7] = 0.25
    data = scans.training()
    assert len(data) == PEOPLE * NEAR
    rows = [i for i, image in enumerate(data.images) if (image == 0.25).all()]
    assert [data.subjects[i] for i in rows] == ['p07'] * NEAR


def test_fitted_methods_see_the_other_half_alone(tmp_path):
    scans = scans_with(shaded)
    fitting, others = (scans.take(rows) for rows in scans.deal(0))
    out = METHODS['histogram'](Fit(fitting, others, 'A', 1, tmp_path))
    assert out.shape == others.slices().shape
    at_target = fitting.slices()[fitting.sites == 'A']
    typical = np.median([np.median(x[x > 0]) for x in at_target])
    assert np.allclose([np.median(x[x > 0]) for x in out], typical, atol=0.03)


@pytest.mark.parametrize('name', ['nyul', 'white-stripe'])
def test_a_missing_package_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'intensity_normalization', None)
    scans = scans_with(shaded)
    with pytest.raises(UsageError, match='intensity-normalization.*install the extra'):
        METHODS[name](Fit(scans, scans, 'A', 1, tmp_path))


def test_a_bench_keeps_what_is_done(tmp_path):
    bench = Bench(scans_with(shaded), tmp_path, 'A', 1)
    first = bench.judged('source', 0, cnn=False)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*') if path.is_file()}
    assert len(files) == 2
    assert bench.judged('source', 0, cnn=False) == first
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len(bench.made('source')) == 1 and bench.made('combat') == []


def test_the_histogram_of_a_volume_is_that_of_all_its_slices(tmp_path):
    scans = scans_with(lambda images: images)
    medial = scans.stacks.shape[1] // 2
    others = np.arange(scans.stacks.shape[1]) != medial
    at_b = np.flatnonzero(scans.sites == 'B')
    scans.stacks[np.ix_(at_b, others)] *= 0.5
    ends = Bench(replace(scans, volumes=True), tmp_path, 'A', 1).judged('source', 0, cnn=False)
    assert ends['site_histogram'][0] > 0.9
    assert ends['site_histogram_medial'][0] < 0.75


def test_tables_hold_mean_and_range_over_deals(tmp_path):
    rows = {'source': {'a': [(0.5, 0.4, 0.6), (0.7, 0.6, 0.8)]}, 'other': {'b': [(2.0, 1.0, 3.0)]}}
    write_intervals(tmp_path, 'table', rows)
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert lines[0] == '| method | deals | a | b |'
    assert lines[2:] == ['| source | 2 | 0.6 [0.5, 0.7] | n/a |', '| other | 1 | n/a | 2 |']
    table = pd.read_csv(tmp_path / 'table.tsv', sep='\t').set_index('method')
    assert table.loc['source', 'a_people_low'] == 0.5 and table.loc['source', 'a_lowest'] == 0.5
    assert table.loc['other', 'b_people_high'] == 3


def test_weights_point_at_the_pixels_that_tell():
    rng = np.random.default_rng(0)
    images, sites = rng.normal(0, 0.1, (40, 12, 12)), np.array(['A', 'B'] * 20)
    images[sites == 'B', 3:6, 3:6] += 1
    of_a, of_b = weights(images, sites)
    assert np.allclose(of_a, -of_b)
    assert of_b[3:6, 3:6].min() > 4 * np.abs(np.delete(of_b, slice(2, 7), 0)).max()


def test_take_away_writes_a_table_and_a_picture(tmp_path):
    scans = scans_with(shaded)
    deals = [scans.take(scans.deal(number)[1]).slices() for number in range(2)]
    take_away(scans, {'source': deals}, tmp_path, ['A', 'B'])
    table = pd.read_csv(tmp_path / 'take-away-A-B.tsv', sep='\t').set_index('left')
    assert list(table.index) == list(KINDS)
    assert table.loc['whole', 'source'] > table.loc['shuffled', 'source'] + 0.2
    assert table.loc['mask', 'source'] == 0.5
    assert (tmp_path / 'where.png').read_bytes().startswith(b'\x89PNG')


def test_placement_finds_the_slice_and_the_shift():
    rng = np.random.default_rng(0)
    blobs = np.maximum(gaussian_filter(rng.normal(0, 1, (9, SIZE, SIZE)), (1, 3, 3)) + 1, 0.1)
    blobs[:, :, :5] = blobs[:, :, -6:] = blobs[:, :7] = blobs[:, -8:] = 0
    interior = interior_of(blobs)
    assert place(blobs[6] ** 0.8, blobs, interior)[0] == 2
    ahead = np.roll(blobs[4], 2, axis=1)
    expected = (2, SIZE - 7 + 2, 5 + 2, SIZE - 9 - 7)
    assert place(ahead, blobs, interior)[1:] == expected


def test_aligned_scans_are_where_the_mean_of_the_target_is(tmp_path):
    scans = scans_with(lambda images: np.roll(images, 2, axis=2))
    before, after = (
        np.abs(images[scans.sites == 'A'].mean(axis=0) - images[scans.sites == 'B'].mean(axis=0))
        for images in (scans.slices(), aligned(scans, 'A'))
    )
    assert after[scans.interior].mean() < before[scans.interior].mean() / 2
    write_aligned(scans, 'A', 1, tmp_path)
    table = pd.read_csv(tmp_path / 'aligned.tsv', sep='\t').set_index('scans')
    assert table.loc['aligned', 'inside'] < table.loc['as they are', 'inside']
