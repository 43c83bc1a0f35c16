"""The appearance of sites, also where their subjects differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.condition import batch_of, label_blind
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import (
    Appearance,
    SiteAppearance,
    fit_site_appearance,
    measure_appearance,
    stack_appearances,
)
from ddae_app.methods.ddae.intensity import edge_depth

from ..toy import CONFIG

AVERAGES = replace(CONFIG, site_average=True)
EDGES = replace(CONFIG, image_size=24, attention=(), site_edge=True)
EVERYTHING = replace(EDGES, site_curve=True, site_average=True, noise_corrected=True)


def population(n, *, effect=0.0, gamma=1.0, noise=0.05, older=0.0, seed=0):
    """Two sites; the second adds `effect` to every pixel, bends it, and its subjects are older."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(['A', 'B'], n)
    ages = rng.uniform(20, 60, 2 * n) + np.where(sites == 'B', older, 0)
    level = 0.6 - ages / 400 + np.where(sites == 'B', effect, 0)
    tissue = np.linspace(0.5, 1.2, 16)[:, None]
    images = level[:, None, None] * tissue + rng.normal(0, noise, (2 * n, 16, 16))
    images = np.clip(images, 0.01, None) ** np.where(sites == 'B', gamma, 1)[:, None, None]
    subjects = tuple(map(str, range(2 * n)))
    images = images[:, None].astype(np.float32)
    return SliceData(images, tuple(sites), ages, ('M', 'F') * n, subjects)


def fitted(data, rows=None, **changes) -> SiteAppearance:
    rows = np.arange(len(data)) if rows is None else rows
    return fit_site_appearance(replace(AVERAGES, **changes), data, rows)


def at(appearance: SiteAppearance, sites, position=0, n=1) -> Appearance:
    condition = label_blind(sites, np.full(len(sites), position))
    return appearance(condition.site, condition.position, n)


def site_difference(appearance):
    a, b = at(appearance, [0, 1]).average
    return (b - a).numpy()


def test_the_effect_of_a_site_is_measured_and_that_of_age_is_not():
    appearance = fitted(population(100, effect=0.1, older=25.0))
    assert appearance.average.shape == (1, 16, 16) and appearance.effect.shape == (3, 1, 5, 5)
    assert site_difference(appearance).mean() == pytest.approx(0.1 * 0.85, abs=0.01)
    assert appearance.effect[:2].mean().abs() < 3e-3 and not appearance.effect[2].any()
    assert appearance.deviation.item() == pytest.approx(0.05, rel=0.05)


def test_a_few_subjects_say_little_about_their_site():
    few, many = (np.abs(site_difference(fitted(population(n, noise=0.08)))) for n in (3, 300))
    # By chance alone, averages of three differ by about 0.05.
    assert few.mean() < 0.02
    assert many.mean() < 0.01


def test_slices_of_one_subject_count_once():
    data = population(40, effect=0.05, noise=0.08)
    same = tuple(f'{site}{i % 4}' for i, site in enumerate(data.sites))
    of_few = replace(data, subjects=same)
    effects = [np.abs(site_difference(fitted(d))).mean() for d in (data, of_few)]
    assert effects[1] < effects[0]


def test_only_the_named_rows_are_used_and_labels_may_be_missing():
    data = population(20, effect=0.1)
    images = data.images.copy()
    images[5:20] = 1.1
    blind = SliceData(images, data.sites, np.full(40, np.nan), (None,) * 40, data.subjects)
    appearance = fitted(blind, np.r_[0:5, 20:40], site_curve=True)
    assert appearance.average.isfinite().all() and appearance.average.max() < 0.9
    assert 0 < appearance.deviation < 0.2


def test_curves_bring_a_bent_contrast_to_a_common_one_and_back():
    appearance = fitted(population(200, gamma=2.0, older=10.0, noise=0.01), site_curve=True)
    assert (appearance.curve.diff(dim=1) > 0).all() and (appearance.curve[:, 0] == 0).all()
    x = torch.linspace(0.35, 0.6, 256).reshape(1, 1, 16, 16)
    a, b = (at(appearance, [site]) for site in (0, 1))
    bent = x**2
    at_common = [appearance.to_common(x, a), appearance.to_common(bent, b)]
    assert (x - bent).abs().mean() > 0.2
    torch.testing.assert_close(*at_common, atol=0.02, rtol=0)
    # Back, and to the other site.
    depth = edge_depth(x)
    back = appearance.restore(appearance.normalize(at_common[0], a), a, depth)
    np.testing.assert_allclose(back, x, atol=1e-5)
    rendered = appearance.from_common(at_common[0], b, depth)
    torch.testing.assert_close(rendered, bent, atol=0.02, rtol=0)


def test_the_noise_of_each_site_is_measured_if_asked_for():
    data = population(30, noise=0.0)
    rng = np.random.default_rng(1)
    sd = np.repeat([0.01, 0.04], 30)[:, None, None, None]
    images = data.images + sd * rng.normal(size=data.images.shape)
    data = replace(data, images=images.astype(np.float32))
    noise = fitted(data, noise_corrected=True).noise[:2].tolist()
    assert noise == pytest.approx([0.01, 0.04], rel=0.2)
    assert not fitted(data).noise.any()


def test_the_appearance_of_a_new_site_is_measured_from_its_scans():
    config = replace(AVERAGES, site_curve=True)
    appearance = fitted(population(200, noise=0.02), site_curve=True)
    new = population(200, effect=-0.1, gamma=1.6, noise=0.02, seed=1)
    scans = new.images[np.array(new.sites) == 'B']
    like = population(200, noise=0.02, seed=1).images[np.array(new.sites) == 'B']
    truth = torch.from_numpy(like[100:])
    x = torch.from_numpy(scans[100:])
    unknown = at(appearance, [-1] * len(x))
    error = {}
    for n in (1, 5, 100):
        measured = measure_appearance(config, appearance, scans[:n], n)
        assert (measured.curve.diff(dim=1) > 0).all()
        of_each = stack_appearances([measured] * len(x))
        deviation = appearance.normalize(appearance.to_common(x, of_each), of_each)
        restored = appearance.restore(deviation, unknown, edge_depth(x))
        error[n] = (restored - truth).square().mean().sqrt().item()
    before = (x - truth).square().mean().sqrt().item()
    assert error[100] < error[5] < before / 3
    assert error[100] < before / 5


@pytest.mark.parametrize('brightness', [1.5, 20])
def test_a_new_site_is_measured_in_scans_clipped_as_those_of_training_are(brightness):
    config = replace(EVERYTHING, image_size=16)
    appearance = fitted(population(30), site_curve=True, site_edge=True)
    scans = population(5, seed=1).images
    scans[:2, :, 6:8, 6:8] = CEILING
    expected = measure_appearance(config, appearance, scans, 10)
    scans[:2, :, 6:8, 6:8] = brightness
    assert measure_appearance(config, appearance, scans, 10).equals(expected).all()


def test_without_any_part_the_appearance_of_a_new_site_is_that_of_an_unknown_one():
    appearance = SiteAppearance((1, 16, 16), 2)
    measured = measure_appearance(CONFIG, appearance, population(5).images, 5)
    assert measured.equals(at(appearance, [-1])).all()


def test_appearances_are_equal_only_in_every_part():
    appearance = fitted(population(20, effect=0.1, gamma=1.3), site_curve=True)
    both = at(appearance, [0, 1])
    assert both.equals(both).tolist() == [True, True]
    assert both.equals(at(appearance, [0, 0])).tolist() == [True, False]
    for part in ('curve', 'edge', 'average'):
        other = replace(both, **{part: getattr(both, part) + 1e-3})
        assert both.equals(other).tolist() == [False, False]


def heads(n, *, dark=0.0, seed=0):
    """Two sites; the second is darker at the edge, by `dark` at the rim and half that below."""
    rng = np.random.default_rng(seed)
    images = np.zeros((2 * n, 1, 24, 24), np.float32)
    images[..., 4:20, 4:20] = rng.normal(0.6, 0.02, (2 * n, 1, 16, 16))
    images[n:, :, 4:20, 4:20] -= dark / 2
    images[n:, :, 5:19, 5:19] += dark / 4
    images[n:, :, 6:18, 6:18] += dark / 4
    ages = rng.uniform(20, 60, 2 * n)
    sites, subjects = ('A',) * n + ('B',) * n, tuple(map(str, range(2 * n)))
    return SliceData(images, sites, ages, ('M', 'F') * n, subjects)


def test_the_edge_of_a_site_is_brought_to_the_common_one_and_back():
    data = heads(100, dark=0.2)
    appearance = fit_site_appearance(EDGES, data, np.arange(200))
    difference = (appearance.edge[1] - appearance.edge[0]).tolist()
    assert difference == pytest.approx([-0.1, -0.05, 0, 0], abs=0.01)
    x = batch_of(data, np.array([0, 100]))
    both = at(appearance, [0, 1])
    common = appearance.to_common(x, both)
    rim = edge_depth(x) == 1
    means = [image[mask].mean().item() for image, mask in zip(common, rim, strict=True)]
    assert means[0] == pytest.approx(means[1], abs=0.01)
    assert torch.equal(common > 0, x > 0)
    back = appearance.restore(appearance.normalize(common, both), both, edge_depth(x))
    torch.testing.assert_close(back, x)


def test_the_edge_of_a_new_site_is_measured_from_its_scans():
    appearance = fit_site_appearance(EDGES, heads(100), np.arange(200))
    new = heads(5, dark=0.2, seed=1)
    measured = measure_appearance(EDGES, appearance, new.images[5:], 5)
    difference = (measured.edge - appearance.edge[-1])[0].tolist()
    assert difference == pytest.approx([-0.1, -0.05, 0, 0], abs=0.01)


def test_each_slice_of_a_scan_has_its_own_average():
    flat = population(60)
    deep = np.concatenate([flat.images, 0.5 * flat.images], axis=1)
    n = len(flat) // 2
    deep[n:, 1] += 0.1
    appearance = fitted(replace(flat, images=deep), depth=2)
    both = at(appearance, [0, 1], n=2).average
    difference = (both[1] - both[0]).mean(dim=(1, 2))
    # Smoothing carries a part of it from one slice to the next.
    assert difference.sum().item() == pytest.approx(0.1, abs=0.02)
    assert (both.mean(dim=(0, 2, 3))[0] > both.mean(dim=(0, 2, 3))[1]).all()
    assert torch.equal(at(appearance, [0, 1], position=1).average, both[:, 1:])


def traveling(n, seed=1):
    """The same subjects at sites C and D, to which `heads` are unknown.

    C is a little dark, and D bends the contrast and is darker at the edge of the brain.
    """
    at_c, at_d = heads(n, seed=seed).images[:n], heads(n, seed=seed).images[:n]
    at_c = 0.9 * at_c
    rim = (edge_depth(torch.from_numpy(at_d)) == 1).numpy()
    at_d = at_d**1.8 - 0.05 * rim
    ages = np.tile(np.random.default_rng(seed).uniform(20, 60, n), 2)
    images = np.concatenate([at_c, at_d]).astype(np.float32)
    subjects = tuple(f'traveller-{i % n}' for i in range(2 * n))
    return SliceData(images, ('C',) * n + ('D',) * n, ages, ('M', 'F') * n, subjects)


def test_other_sites_are_brought_to_the_common_scale_of_a_reference():
    trained = heads(100, dark=0.2)
    reference = fit_site_appearance(EVERYTHING, trained, np.arange(200))
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    data, n = traveling(100), 100
    new = fit_site_appearance(EVERYTHING, data, np.arange(2 * n), reference=reference)
    # The common scale is that of the reference, which stays as it was.
    for name in ('curve', 'edge'):
        assert torch.equal(getattr(new, name)[-1], getattr(reference, name)[-1])
    for name in ('average', 'deviation'):
        assert torch.equal(getattr(new, name), getattr(reference, name))
    assert all(torch.equal(v, before[k]) for k, v in reference.state_dict().items())
    # On that scale the scans of both sites resemble each other, and those of the reference.
    common = new.common_scans(data, np.arange(2 * n))
    apart = [np.abs(x[:n] - x[n:]).mean() for x in (data.images, common)]
    assert apart[1] < apart[0] / 5
    usual = reference.common_scans(trained, np.arange(2 * n)).mean(axis=0)
    for rows in (slice(None, n), slice(n, None)):
        away = [np.abs(x[rows].mean(axis=0) - usual).mean() for x in (data.images, common)]
        assert away[1] < away[0] / 5
    assert (new.noise[:2] > 0).all()


def test_the_average_of_another_site_is_measured_against_that_of_the_reference():
    config, n = replace(EDGES, site_edge=False, site_average=True), 100
    reference = fit_site_appearance(config, heads(100), np.arange(200))
    data = traveling(n)
    new = fit_site_appearance(config, data, np.arange(2 * n), reference=reference)
    assert torch.equal(new.average, reference.average) and not new.effect[-1].any()
    averages = at(new, [0, 1]).average
    for average, scans in zip(averages, (data.images[:n], data.images[n:]), strict=True):
        mean = torch.from_numpy(scans.mean(axis=0))
        inside = edge_depth(mean[None])[0] > 2
        away = [(mean - x)[inside].abs().mean() for x in (reference.average, average)]
        assert away[1] < away[0] / 3


def test_the_sites_of_the_reference_itself_stay_as_they_were():
    data = heads(100, dark=0.2)
    reference = fit_site_appearance(EVERYTHING, data, np.arange(200))
    again = fit_site_appearance(EVERYTHING, data, np.arange(200), reference=reference)
    for name, value in again.state_dict().items():
        # How much of an effect is chance is estimated after smoothing, if there is a reference.
        bound = 2e-3 if name == 'effect' else 1e-5
        torch.testing.assert_close(value, reference.state_dict()[name], atol=bound, rtol=1e-4)
