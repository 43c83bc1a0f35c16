"""Residual site effects are measured, and undone by the correction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ddae_app.methods.condition import batch_of, condition_of
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.intensity import edge_depth, map_intensities
from ddae_app.methods.ddae.residuals import (
    KNOTS,
    ResidualCorrection,
    evenly_by_site,
    fit_residual_correction,
)
from ddae_app.methods.ddae.sharpness import soften

from ..toy import CONFIG

SIZE = 48
CURVES = replace(CONFIG, image_size=SIZE, attention=(), site_curve=True)
AVERAGES = replace(CURVES, site_average=True)


def population(n, seed=0):
    """Two sites of which the second is bent, with older subjects, whose brains are darker."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(['A', 'B'], n)
    ages = rng.uniform(20, 60, 2 * n) + np.where(sites == 'B', 10, 0)
    texture = gaussian_filter(rng.normal(size=(2 * n, 1, SIZE, SIZE)), (0, 0, 1, 1))
    images = 0.6 - ages[:, None, None, None] / 400 + 0.2 * texture
    images = np.clip(images, 0.1, 1) ** np.where(sites == 'B', 2, 1)[:, None, None, None]
    images[:, :, :3] = images[:, :, -3:] = images[..., :3] = images[..., -3:] = 0
    names = tuple(map(str, range(2 * n)))
    return SliceData(images.astype(np.float32), tuple(sites), ages, ('M', 'F') * n, names)


def corrected_for(config, data, rendering):
    """The site appearance, and the residual correction of a rendering that depends on it."""
    rows = np.arange(len(data))
    appearance = fit_site_appearance(config, data, rows)
    render = rendering(appearance)
    residuals, _ = fit_residual_correction(config, appearance, data, rows, render)
    return appearance, residuals


def appearance_at(appearance, condition):
    return appearance(condition.site, condition.position)


SOFT = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.06, -0.03]])


def flawed(sites, calls=None):
    """A rendering that brings every scan to the common appearance, but B softer and darker."""

    def render(x, source, target):
        if calls is not None:
            calls.append((source.site.tolist(), target.site.tolist()))
        common = soften(sites.to_common(x, appearance_at(sites, source)), SOFT[source.site])
        y = common * (1 - 0.05 * (source.site == 1)[:, None, None, None])
        return sites.from_common(y, appearance_at(sites, target), edge_depth(x))

    return render


@pytest.fixture
def measured(monkeypatch, caplog):
    caplog.set_level('INFO', logger='ddae_app')
    monkeypatch.setattr('ddae_app.methods.ddae.residuals.MAX_SLICES', 120)
    data, calls = population(150), []
    appearance, residuals = corrected_for(CURVES, data, lambda sites: flawed(sites, calls))
    # It takes minutes, so it says so.
    assert 'rendering 100 slices' in caplog.text
    return appearance, residuals, data, calls


@pytest.mark.parametrize(('sites', 'rendered'), [(1, 20), (4, 5), (7, 3), (30, 3)])
def test_of_whole_volumes_some_of_each_site_are_rendered(sites, rendered):
    names = tuple(np.repeat([f'{i:02}' for i in range(sites)], 20).tolist())
    images = np.zeros((len(names), 130, 1, 1), np.float32)
    people = tuple(map(str, range(len(names))))
    data = SliceData(images, names, np.full(len(names), 40.0), ('M',) * len(names), people)
    chosen = evenly_by_site(data, np.arange(len(names)))
    assert np.bincount(chosen // 20).tolist() == [rendered] * sites


UPPER = torch.arange(SIZE)[:, None] < SIZE // 2


def flat(sites):
    """A rendering to the common appearance, in which the upper half of B varies less."""

    def render(x, source, target):
        common = sites.to_common(x, appearance_at(sites, source))
        average = appearance_at(sites, source).average
        weak = UPPER & (source.site == 1)[:, None, None, None]
        y = torch.where(weak, average + 0.7 * (common - average), common)
        return sites.from_common(y, appearance_at(sites, target), edge_depth(x))

    return render


def test_the_spread_of_a_site_is_measured_where_its_subjects_differ_less():
    _, residuals = corrected_for(AVERAGES, population(150), flat)
    ratio = (residuals.spread[1] / residuals.spread[0])[0, :, 2:-2]  # 13 knots, 4 pixels apart
    # Shrunk towards 1, by what chance would make of so few.
    assert 0.68 < ratio[2:5].mean() < 0.82
    assert ratio[8:11].mean() == pytest.approx(1, abs=0.04)
    assert (residuals.spread[2] == 1).all()


def test_no_spread_is_measured_where_some_subjects_have_no_brain():
    data = population(40)
    data.images[::5, :, :12] = 0
    _, residuals = corrected_for(AVERAGES, data, flat)
    assert (residuals.spread[:, :, :3] == 1).all()
    assert (residuals.spread[:2, :, 4:6, 2:-2] != 1).all()


def test_no_spread_is_measured_in_whole_volumes():
    data = population(20)
    volumes = replace(data, images=np.repeat(data.images, 3, axis=1))
    _, residuals = corrected_for(replace(AVERAGES, depth=3), volumes, flat)
    assert (residuals.spread == 1).all()
    assert residuals.white.any() and (residuals.rendered[0] != residuals.rendered[1]).any()


def test_a_part_of_the_scans_is_rendered_as_of_an_unknown_site(measured):
    sources, targets = (sum(lists, []) for lists in zip(*measured[3], strict=True))
    assert set(targets) == {-1}
    assert [sources.count(site) for site in (0, 1)] == [50, 50]


def test_the_softness_and_the_contrast_of_each_site_are_measured(measured):
    residuals = measured[1]
    softness = (residuals.softness[1] - residuals.softness[0]).tolist()
    assert softness == pytest.approx([0, 0.06, -0.03], abs=0.01)
    assert not residuals.softness[2].any()
    ratio = (residuals.rendered[1] / residuals.rendered[0])[4:-3]
    assert ratio.tolist() == pytest.approx([0.95] * len(ratio), abs=0.02)
    assert (residuals.rendered.diff(dim=1) > 0).all()


def test_softness_and_contrast_are_corrected(measured):
    sites, residuals, data, _ = measured
    rows = np.arange(150, 160)
    source, target = condition_of(data, rows), condition_of(data, rows - 150)
    x = batch_of(data, rows)
    ideal = sites.to_common(x, appearance_at(sites, source))
    wanted = sites.from_common(ideal, appearance_at(sites, target), edge_depth(x))
    rendered = flawed(sites)(x, source, target)
    common = residuals(
        sites.to_common(rendered, appearance_at(sites, target)),
        sites.average_at(source.position),
        source.position,
        source.site,
        target.site,
    )
    corrected = sites.from_common(common, appearance_at(sites, target), edge_depth(x))
    error = [(y - wanted)[x > 0].square().mean().sqrt().item() for y in (rendered, corrected)]
    assert error[1] < error[0] / 3


def test_contrast_is_mapped_at_the_sharpness_at_which_it_was_measured():
    residuals = ResidualCorrection((1, 16, 16), 2)
    even = torch.linspace(0, 1, KNOTS)
    residuals.rendered.copy_(torch.stack([even, even**2 + 1e-3 * even, even]))
    residuals.softness[0, 1:] = 0.1
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand((1, 1, 16, 16), generator=generator)
    first, second = torch.tensor([0]), torch.tensor([1])
    out = residuals(x, torch.full_like(x, 0.5), first, first, second)
    # The target is as sharp as an unknown site: its curve applies to the sharpened scan.
    sharp = soften(x, -residuals.softness[:1])
    wanted = map_intensities(sharp, residuals.rendered[:1], residuals.rendered[1:2])
    torch.testing.assert_close(out, wanted)
    assert (wanted - map_intensities(x, *residuals.rendered[:2, None])).abs().max() > 0.01


@pytest.mark.parametrize('changes', [{'site_curve': False}, {'condition_dropout': 0.0}])
def test_nothing_is_measured_with_networks_that_cannot_do_without_the_site(changes):
    def never(*_):
        raise AssertionError('nothing is to be rendered')

    config, data = replace(CURVES, **changes), population(5)
    _, residuals = corrected_for(config, data, lambda _: never)
    site = torch.tensor([0, 1])
    assert residuals.changes_nothing(site, site.flip(0)).all()


def test_white_matter_is_found_where_most_subjects_have_it():
    data = population(40)
    bright = np.s_[:, :, 10:36, 10:36]
    data.images[bright] = np.clip(data.images[bright], 0.5, 1) ** 0.3
    _, residuals = corrected_for(CURVES, data, flawed)
    inner, outside = residuals.white[0, 13:33, 13:33], residuals.white[0, 40:, :]
    assert (inner > residuals.white_level).all() and not outside.any()


def test_every_residual_effect_counts_as_a_change():
    source, target = torch.tensor([0, 1]), torch.tensor([1, 1])
    for name in ('spread', 'softness', 'rendered', 'white'):
        residuals = ResidualCorrection((1, SIZE, SIZE), 2)
        assert residuals.changes_nothing(source, target).all()
        getattr(residuals, name)[0] += 0.1
        # White matter shows the shading of each scan, from whatever site it comes.
        same_site = name != 'white'
        assert residuals.changes_nothing(source, target).tolist() == [False, same_site]
