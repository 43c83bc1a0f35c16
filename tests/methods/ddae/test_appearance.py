"""What sites look like, where their people differ too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddae_app.methods.data import SliceData, make_condition
from ddae_app.methods.ddae.appearance import edge_depth
from ddae_app.methods.ddae.appearance_fit import (
    brain_quantiles,
    edge_means,
    learn_looks,
    measure_look,
)
from ddae_app.methods.ddae.model import DDAE

from ..model.toy import CONFIG

LOOKS = replace(CONFIG, site_average=True)


def population(n, *, effect=0.0, gamma=1.0, noise=0.05, older=0.0, seed=0):
    """Two sites; the second adds `effect` to every pixel, bends it, and its people are older."""
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


def learnt(data, rows=None, **changes):
    model = DDAE(replace(LOOKS, **changes), len(data.site_names))
    learn_looks(model, data, np.arange(len(data)) if rows is None else rows)
    return model


def site_difference(model):
    a, b = model.look(at([0, 1])).average
    return (b - a).numpy()


def at(sites):
    n = len(sites)
    return make_condition([np.nan] * n, [None] * n, sites)


def test_the_effect_of_a_site_is_found_and_that_of_age_is_not():
    model = learnt(population(100, effect=0.1, older=25.0))
    assert model.average.shape == (1, 16, 16) and model.effect.shape == (3, 1, 5, 5)
    assert site_difference(model).mean() == pytest.approx(0.1 * 0.85, abs=0.01)
    assert model.effect[:2].mean().abs() < 3e-3 and not model.effect[2].any()
    assert model.deviation.item() == pytest.approx(0.05, rel=0.05)


def test_a_few_people_say_little_about_their_site():
    few, many = (np.abs(site_difference(learnt(population(n, noise=0.08)))) for n in (3, 300))
    # By chance alone, averages of three differ by about 0.05.
    assert few.mean() < 0.02
    assert many.mean() < 0.01


def test_slices_of_one_person_count_once():
    data = population(40, effect=0.05, noise=0.08)
    same = tuple(f'{site}{i % 4}' for i, site in enumerate(data.sites))
    of_few = SliceData(data.images, data.sites, data.ages, data.sexes, same)
    found = [np.abs(site_difference(learnt(d))).mean() for d in (data, of_few)]
    assert found[1] < found[0]


def test_only_the_named_rows_are_used_and_labels_may_be_missing():
    data = population(20, effect=0.1)
    images = data.images.copy()
    images[5:20] = 1.1
    blind = SliceData(images, data.sites, np.full(40, np.nan), (None,) * 40, data.subjects)
    model = learnt(blind, np.r_[0:5, 20:40], site_curve=True)
    assert model.average.isfinite().all() and model.average.max() < 0.9
    assert 0 < model.deviation < 0.2


def test_curves_bring_a_bent_contrast_to_a_common_one_and_back():
    model = learnt(population(200, gamma=2.0, older=10.0, noise=0.01), site_curve=True)
    assert (model.curve.diff(dim=1) > 0).all() and (model.curve[:, 0] == 0).all()
    x = torch.linspace(0.35, 0.6, 256).reshape(1, 1, 16, 16)
    a, b = (model.look(at([site])) for site in (0, 1))
    bent = x**2
    at_common = [model.to_common(x, a), model.to_common(bent, b)]
    assert (x - bent).abs().mean() > 0.2
    torch.testing.assert_close(*at_common, atol=0.02, rtol=0)
    # Back, and to the other site.
    depth = edge_depth(x)
    back = model.restore(model.normalise(at_common[0], a), a, depth)
    np.testing.assert_allclose(back, x, atol=1e-5)
    rendered = model.from_common(at_common[0], b, depth)
    torch.testing.assert_close(rendered, bent, atol=0.02, rtol=0)


def test_the_noise_of_each_site_is_measured_if_asked_for():
    data = population(30, noise=0.0)
    rng = np.random.default_rng(1)
    sd = np.repeat([0.01, 0.04], 30)[:, None, None, None]
    data = replace(
        data, images=(data.images + sd * rng.normal(size=data.images.shape)).astype('f4')
    )
    assert learnt(data, noise_corrected=True).noise[:2].tolist() == pytest.approx(
        [0.01, 0.04], rel=0.2
    )
    assert not learnt(data).noise.any()


def test_the_look_of_a_new_site_is_measured_from_its_scans():
    model = learnt(population(200, noise=0.02), site_curve=True)
    new = population(200, effect=-0.1, gamma=1.6, noise=0.02, seed=1)
    scans = new.images[np.array(new.sites) == 'B']
    like = population(200, noise=0.02, seed=1).images[np.array(new.sites) == 'B']
    truth = torch.from_numpy(like[100:])
    unknown = model.look(at([-1]))
    error = {}
    for n in (1, 5, 100):
        look = measure_look(model, scans[:n], n)
        assert (look.curve.diff(dim=1) > 0).all()
        x = torch.from_numpy(scans[100:])
        common = model.to_common(x, look.expand(len(x)))
        deviation = model.normalise(common, look.expand(len(x)))
        found = model.restore(deviation, unknown.expand(len(x)), edge_depth(x))
        error[n] = (found - truth).square().mean().sqrt().item()
    before = (x - truth).square().mean().sqrt().item()
    assert error[100] < error[5] < before / 3
    assert error[100] < before / 5


def test_quantiles_of_an_image_without_brain_are_zero():
    assert not brain_quantiles(np.zeros((1, 1, 16, 16), np.float32)).any()


def test_a_model_without_looks_measures_none():
    model = DDAE(CONFIG, 2)
    look = measure_look(model, population(5).images, 5)
    assert torch.equal(look.curve, model.curve[-1:])
    assert torch.equal(look.average, model.average[None])


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
    model = DDAE(replace(CONFIG, image_size=24, attention=(), site_edge=True), 2)
    learn_looks(model, data, np.arange(200))
    found = (model.edge[1] - model.edge[0]).tolist()
    assert found == pytest.approx([-0.1, -0.05, 0, 0], abs=0.01)
    x = data.batch(np.array([0, 100]))
    look = model.look(at([0, 1]))
    common = model.to_common(x, look)
    rim = edge_depth(x) == 1
    means = [image[mask].mean().item() for image, mask in zip(common, rim, strict=True)]
    assert means[0] == pytest.approx(means[1], abs=0.01)
    assert torch.equal(common > 0, x > 0)
    back = model.restore(model.normalise(common, look), look, edge_depth(x))
    torch.testing.assert_close(back, x)


def test_the_edge_of_a_new_site_is_measured_from_its_scans():
    model = DDAE(replace(CONFIG, image_size=24, attention=(), site_edge=True), 2)
    learn_looks(model, heads(100), np.arange(200))
    new = heads(5, dark=0.2, seed=1)
    look = measure_look(model, new.images[5:], 5)
    assert (look.edge - model.edge[-1])[0].tolist() == pytest.approx([-0.1, -0.05, 0, 0], abs=0.01)


def test_depth_below_the_edge():
    x = torch.zeros(2, 1, 12, 12)
    x[0, 0, :11, 1:] = 0.5  # the border of the image is outside
    depth = edge_depth(x)
    assert not depth[1].any()
    assert depth[0, 0, 5].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 4, 3, 2, 1]
    assert depth[0, 0, :, 6].tolist() == [1, 2, 3, 4, 5, 5, 5, 4, 3, 2, 1, 0]


def test_a_brain_too_small_for_a_depth_has_the_mean_of_the_next_one_up():
    images = np.zeros((2, 1, 8, 8), np.float32)
    images[0, 0, 2:5, 2:5] = 0.5
    images[0, 0, 3, 3] = 0.9
    means = edge_means(images)
    np.testing.assert_allclose(means, [[0.5, 0.9, 0.9, 0.9], [0, 0, 0, 0]], rtol=1e-6)


def test_each_slice_of_a_scan_has_its_own_average():
    flat = population(60)
    deep = np.concatenate([flat.images, 0.5 * flat.images], axis=1)
    n = len(flat) // 2
    deep[n:, 1] += 0.1
    model = learnt(replace(flat, images=deep), depth=2)
    both = model.look(at([0, 1]), 2).average
    difference = (both[1] - both[0]).mean(dim=(1, 2))
    # Smoothing carries a part of it from one slice to the next.
    assert difference.sum().item() == pytest.approx(0.1, abs=0.02)
    assert (both.mean(dim=(0, 2, 3))[0] > both.mean(dim=(0, 2, 3))[1]).all()
    second = replace(at([0, 1]), position=torch.tensor([1, 1]))
    assert torch.equal(model.look(second).average, both[:, 1:])
