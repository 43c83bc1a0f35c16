"""The figures of the group page and the sample sheet, read back from their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.legend import Legend

from ddae_app.evaluation.estimates import Estimate
from ddae_app.reports import samples, site_figures
from ddae_app.reports.samples import plot_samples
from ddae_app.reports.site_figures import (
    COLORS,
    MAX_INTENSITY,
    draw_accuracies,
    draw_embeddings,
    draw_site_histograms,
    draw_slices,
    draw_variance_maps,
)
from tests.reports.readback import areas, crowded, is_bright_gray, is_color, pixels_of

SIDE = 24


def squares(levels):
    """Slices with a uniform square brain, and 4 pixels of background around it."""
    images = np.zeros((len(levels), SIDE, SIDE), np.float32)
    images[:, 4:-4, 4:-4] = np.array(levels, np.float32)[:, None, None]
    return images


def inferno(share):
    return tuple(round(255 * c) for c in colormaps['inferno'](share)[:3])


def test_variance_maps_share_one_color_scale():
    maps = {name: squares([share])[0] for name, share in (('a', 0.4), ('b', 0.2), ('c', 0.0))}
    pixels = pixels_of(draw_variance_maps(maps))
    strong, half = (areas(is_color(pixels, inferno(share), 3), 2000) for share in (1.0, 0.502))
    assert len(strong) == len(half) == 1
    assert strong[0].right < half[0].left  # in the order of the methods
    assert strong[0].width == pytest.approx(half[0].width, abs=2)
    # Maps without any site effect are dark: they are not stretched to the full scale.
    faint = pixels_of(draw_variance_maps({'a': squares([0.005])[0]}))
    assert not areas(is_color(faint, inferno(1.0), 3), 2000)
    assert areas(is_color(faint, inferno(0.1), 6), 2000)
    empty = pixels_of(draw_variance_maps({'a': np.zeros((SIDE, SIDE))}))
    assert areas(is_color(empty, inferno(0.0), 3), 2000)


def test_accuracies_have_a_row_for_each_probe_and_a_dot_for_each_method():
    def near(value):
        return Estimate(value, value - 0.1, value + 0.1, 10)

    methods = {'source': {'linear': near(0.9), 'fine': near(0.5)}, 'ours': {'linear': near(0.4)}}
    pixels = pixels_of(draw_accuracies(methods, 0.25))
    plot = pixels[:, : round(0.85 * pixels.shape[1])]
    (high, low), (ours,) = (areas(is_color(plot, color, 12), 40) for color in COLORS[:2])
    assert high.bottom < low.top and high.left > low.left  # rows in order, values to the right
    assert ours.right < high.left and ours.top > high.top and ours.bottom < low.top
    width = {area.width for area in (high, low, ours)}
    assert max(width) - min(width) <= 3  # intervals of the same length
    assert not is_color(plot, COLORS[2], 12).any()


def test_site_histograms_have_a_panel_for_each_method_and_a_line_for_each_site():
    rng = np.random.default_rng(0)
    sites = np.repeat(['A', 'B', 'C'], 4)
    level = np.repeat([0.3, 0.6, 0.9], 4)
    images = (squares(level) * rng.uniform(0.9, 1.1, (12, SIDE, SIDE))).astype(np.float32)
    edges = np.linspace(0, 1.2, 61)
    counts = {
        name: {
            site: np.histogram(some[sites == site][some[sites == site] > 0], edges)[0]
            for site in 'ABC'
        }
        for name, some in {'source': images, 'half': images / 2}.items()
    }
    pixels = pixels_of(draw_site_histograms(counts, edges))
    half, legend = pixels.shape[1] // 2, round(0.93 * pixels.shape[1])
    middles = []
    for panel in (pixels[:, :half], pixels[:, half:legend]):
        columns = [np.nonzero(is_color(panel, color, 12))[1] for color in COLORS[:3]]
        middles.append([(part.min() + part.max()) / 2 for part in columns])
    steps = np.diff(middles, axis=1)
    assert steps[0] == pytest.approx(np.full(2, steps[0].mean()), rel=0.05)
    assert steps[0].mean() > 100  # in the order of .3, .6 and .9
    assert steps[1] == pytest.approx(steps[0] / 2, rel=0.1)
    assert not is_color(pixels, COLORS[3], 12).any()


def test_slices_are_in_rows_of_methods_and_columns_of_sites():
    images = {'source': squares([0.2, 0.4, 0.6]), 'method': squares([0.3, 0.5, 0.5])}
    sites = ['A', 'B', 'C']
    pixels = pixels_of(draw_slices(images, sites))
    brains = areas(is_bright_gray(pixels) & (pixels[..., 0] < 250), 1000)
    levels = [area.center(pixels)[0] / 255 * MAX_INTENSITY for area in brains]
    assert levels == pytest.approx([0.2, 0.4, 0.6, 0.3, 0.5, 0.5], abs=0.01)
    assert brains[0].bottom <= brains[3].top and brains[0].left == brains[3].left

    pixels = pixels_of(draw_slices(images, sites, differences=True))
    red, blue = pixels[..., 0], pixels[..., 2]
    brighter, darker = areas(red - blue > 40, 1000), areas(blue - red > 40, 1000)
    columns = [area.left for area in areas(is_bright_gray(pixels) & (red < 250), 1000)[:3]]
    assert [area.left for area in brighter + darker] == columns  # in the third row alone
    assert brighter[0].top == darker[0].top > brains[3].bottom


def test_embeddings_show_the_points_of_each_site_in_its_color():
    rng = np.random.default_rng(0)
    sites = np.repeat(['A', 'B'], 30)
    points = rng.normal(0, 0.1, (60, 2)) + np.where(sites == 'A', -1, 1)[:, None]
    pixels = pixels_of(draw_embeddings({'one': points, 'other': -points}, sites))
    width = pixels.shape[1]
    middle, legend = 0.475 * width, 0.95 * width
    a, b = (np.argwhere(_is_blend(pixels, color)) for color in COLORS[:2])
    one = [part[part[:, 1] < middle] for part in (a, b)]
    other = [part[(part[:, 1] > middle) & (part[:, 1] < legend)] for part in (a, b)]
    assert all(len(part) > 200 for part in one + other)
    assert np.median(one[0][:, 1]) < np.median(one[1][:, 1])
    assert np.median(one[0][:, 0]) > np.median(one[1][:, 0])  # lower, so farther down
    assert np.median(other[0][:, 1]) > np.median(other[1][:, 1])


def _is_blend(pixels, color):
    """Which pixels have a color at the opacity of a single dot, or of dots upon each other."""
    solid = np.array(tuple(bytes.fromhex(color.removeprefix('#'))))
    blends = [255 + (solid - 255) * share for share in (0.7, 0.91, 0.97, 1)]
    return np.any([is_color(pixels, tuple(blend), 8) for blend in blends], axis=0)


def test_samples_are_in_rows_of_sites_and_columns_of_targets(tmp_path):
    levels = np.array([[0.2, 0.25, 0.3, 0.4], [0.5, 0.55, 0.6, 0.7]])
    images = np.stack([squares(row) for row in levels])
    plot_samples(images, ['A', 'B'], tmp_path / 'a.png', 'samples')
    pixels = pixels_of(tmp_path / 'a.png')
    brains = areas(is_bright_gray(pixels) & (pixels[..., 0] < 250), 2000)
    shown = [area.center(pixels)[0] / 255 for area in brains]
    assert shown == pytest.approx(levels.ravel(), abs=0.01)


LONG_METHODS = ('source', 'DDAE (a-long-name-that-a-consortium-gave-its-model-in-2026)',
                'cVAE (cvae)', 'Style-Encoding GAN (style-gan)', 'combat', 'blur')  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, not yet as bytes."""
    figures = []
    monkeypatch.setattr(site_figures, 'render', lambda figure, kind: figures.append(figure))
    return figures


@pytest.mark.parametrize('number', [1, 2, 20, 40])
def test_long_names_and_many_sites_neither_overlap_nor_leave_the_figure(drawn, number):
    sites = [f'University Hospital of the Northern District {i}' for i in range(number)]
    rng = np.random.default_rng(0)
    maps = dict.fromkeys(LONG_METHODS, squares([0.3])[0])
    draw_variance_maps(maps)
    counts = {site: rng.integers(1, 9, 60) for site in sites}
    draw_site_histograms(dict.fromkeys(LONG_METHODS, counts), np.linspace(0, 1.2, 61))
    title = f'encoded with {sites[0]}'
    draw_embeddings({'encoded': rng.normal(size=(80, 2)), title: rng.normal(size=(80, 2))},
                    np.array(sites * 80)[:80])  # fmt: skip
    near = {label: Estimate(0.5, 0.4, 0.6, 9) for label in ('linear', 'fine')}
    draw_accuracies(dict.fromkeys(LONG_METHODS, near), 0.5)
    shown = sites[:7]
    draw_slices(dict.fromkeys(LONG_METHODS, squares([0.5] * len(shown))), shown)
    assert len(drawn) == 5
    assert [crowded(figure) for figure in drawn] == [[]] * 5


def test_the_legend_says_how_many_sites_it_does_not_name(drawn):
    counts = {f'S{i:02}': np.ones(60) for i in range(20)}
    draw_site_histograms({'source': counts}, np.linspace(0, 1.2, 61))
    (figure,) = drawn
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(f'S{i:02}' for i in range(13)), 'S13, and 6 more']


@pytest.mark.parametrize('number', [2, 7, 15])
def test_names_of_many_sites_do_not_cover_each_other_in_the_samples(monkeypatch, number):
    figures = []
    monkeypatch.setattr(samples, 'save', lambda figure, path: figures.append(figure))
    names = [f'University Hospital of the Northern District {i}' for i in range(number)]
    plot_samples(np.ones((number, 2 + number, 4, 4)), names, Path('a.png'), 'samples')
    (figure,) = figures
    assert crowded(figure) == []
    labels = [axes.yaxis.label for axes in figure.axes if axes.get_ylabel()]
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) == number and all(box.count_overlaps(boxes) == 1 for box in boxes)
    assert all(box.x0 > 0 for box in boxes)


def test_a_site_whose_name_begins_with_an_underscore_is_in_the_legends(drawn):
    draw_site_histograms(
        {'source': {'_A': np.ones(60), 'B': np.ones(60)}}, np.linspace(0, 1.2, 61)
    )
    draw_embeddings({'one': np.ones((4, 2))}, np.array(['_A', 'B', '_A', 'B']))
    legends = [figure.findobj(Legend)[0] for figure in drawn]
    names = [[text.get_text().strip() for text in legend.get_texts()] for legend in legends]
    assert [sorted(each) for each in names] == [['B', '_A']] * 2
