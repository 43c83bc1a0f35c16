"""What rendering leaves of a site is measured, and undone by the next rendering."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import edge_depth
from ddae_app.methods.ddae.appearance_fit import learn_looks
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.render import _evened
from ddae_app.methods.ddae.residuals import learn_leftovers
from ddae_app.methods.ddae.sharpness import soften

from ..model.toy import CONFIG

SIZE = 48
LOOKS = replace(CONFIG, image_size=SIZE, attention=(), site_curve=True)


def people(n, seed=0):
    """Two sites of which the second is bent, with older people, whose brains are darker."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(['A', 'B'], n)
    ages = rng.uniform(20, 60, 2 * n) + np.where(sites == 'B', 10, 0)
    texture = gaussian_filter(rng.normal(size=(2 * n, 1, SIZE, SIZE)), (0, 0, 1, 1))
    images = 0.6 - ages[:, None, None, None] / 400 + 0.2 * texture
    images = np.clip(images, 0.1, 1) ** np.where(sites == 'B', 2, 1)[:, None, None, None]
    images[:, :, :3] = images[:, :, -3:] = images[..., :3] = images[..., -3:] = 0
    names = tuple(map(str, range(2 * n)))
    return SliceData(images.astype(np.float32), tuple(sites), ages, ('M', 'F') * n, names)


def learnt(data, **changes):
    model = DDAE(replace(LOOKS, **changes), 2).eval()
    learn_looks(model, data, np.arange(len(data)))
    return model


SOFT = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.06, -0.03]])


def flawed(seen):
    """A rendering that brings every scan to the common look, but B softer and darker."""

    def render(model, x, source, target, batch_size=8):
        seen.append((source.site.tolist(), target.site.tolist()))
        common = soften(model.to_common(x, model.look(source)), SOFT[source.site])
        y = common * (1 - 0.05 * (source.site == 1)[:, None, None, None])
        return model.from_common(y, model.look(target), edge_depth(x))

    return render


@pytest.fixture
def measured(monkeypatch, caplog):
    caplog.set_level('INFO', logger='ddae_app')
    data, seen = people(150), []
    model = learnt(data)
    monkeypatch.setattr('ddae_app.methods.ddae.residuals.render', flawed(seen))
    monkeypatch.setattr('ddae_app.methods.ddae.residuals.MAX_SCANS', 120)
    learn_leftovers(model, data, np.arange(300))
    # It takes minutes, so it says so.
    assert 'rendering 100 scans' in caplog.text
    return model, data, seen


UPPER = torch.arange(SIZE)[:, None] < SIZE // 2


def flat(model, x, source, target, batch_size=8):
    """A rendering that brings every scan to the common look, but shows less of B's upper half."""
    common = model.to_common(x, model.look(source))
    average = model.look(source).average
    weak = UPPER & (source.site == 1)[:, None, None, None]
    y = torch.where(weak, average + 0.7 * (common - average), common)
    return model.from_common(y, model.look(target), edge_depth(x))


def test_where_people_of_a_site_differ_less_is_told(monkeypatch):
    data = people(150)
    model = learnt(data, site_average=True)
    monkeypatch.setattr('ddae_app.methods.ddae.residuals.render', flat)
    learn_leftovers(model, data, np.arange(300))
    ratio = (model.spread[1] / model.spread[0])[0, :, 2:-2]  # 13 knots, four pixels apart
    # Shrunk towards 1, by what chance would make of so few.
    assert 0.68 < ratio[2:5].mean() < 0.82
    assert ratio[8:11].mean() == pytest.approx(1, abs=0.04)
    assert (model.spread[2] == 1).all()


def test_nothing_is_told_where_some_people_have_no_brain(monkeypatch):
    data = people(40)
    data.images[::5, :, :12] = 0
    model = learnt(data, site_average=True)
    monkeypatch.setattr('ddae_app.methods.ddae.residuals.render', flat)
    learn_leftovers(model, data, np.arange(80))
    assert (model.spread[:, :, :3] == 1).all()
    assert (model.spread[:2, :, 4:6, 2:-2] != 1).all()


def test_a_part_of_the_scans_is_rendered_as_of_an_unknown_site(measured):
    sources, targets = (sum(lists, []) for lists in zip(*measured[2], strict=True))
    assert set(targets) == {-1}
    assert [sources.count(site) for site in (0, 1)] == [50, 50]


def test_the_softness_and_the_contrast_of_each_site_are_told(measured):
    model = measured[0]
    softness = (model.softness[1] - model.softness[0]).tolist()
    assert softness == pytest.approx([0, 0.06, -0.03], abs=0.01)
    assert not model.softness[2].any()
    ratio = (model.rendered[1] / model.rendered[0])[4:-3]
    assert ratio.tolist() == pytest.approx([0.95] * len(ratio), abs=0.02)
    assert (model.rendered.diff(dim=1) > 0).all()


def test_both_are_undone(measured):
    model, data, _ = measured
    rows = np.arange(150, 160)
    source, target = data.condition(rows), data.condition(rows - 150)
    x = data.batch(rows)
    wanted = model.to_common(x, model.look(source))
    wanted = model.from_common(wanted, model.look(target), edge_depth(x))
    flaw = flawed([])(model, x, source, target)
    error = [
        (y - wanted)[x > 0].square().mean().sqrt().item()
        for y in (flaw, _evened(model, flaw, source, target))
    ]
    assert error[1] < error[0] / 3


@pytest.mark.parametrize('changes', [{'site_curve': False}, {'condition_dropout': 0.0}])
def test_nothing_is_measured_in_a_model_that_cannot_do_without_the_site(changes):
    data = people(5)
    model = learnt(data, **changes)
    before = model.rendered.clone()
    learn_leftovers(model, data, np.arange(10))
    assert torch.equal(model.rendered, before) and not model.softness.any()


def test_white_matter_is_found_where_most_people_have_it(monkeypatch):
    data = people(40)
    bright = np.s_[:, :, 10:36, 10:36]
    data.images[bright] = np.clip(data.images[bright], 0.5, 1) ** 0.3
    model = learnt(data)
    monkeypatch.setattr('ddae_app.methods.ddae.residuals.render', flawed([]))
    learn_leftovers(model, data, np.arange(80))
    inner, outside = model.white[0, 13:33, 13:33], model.white[0, 40:, :]
    assert (inner > model.white_level).all() and not outside.any()
