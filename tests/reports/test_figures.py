"""The figures of a scan show what they are given: read back from their pixels and texts."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib
import nibabel as nib
import numpy as np
import pytest

from ddae_app.reports import charts, figures
from ddae_app.reports.canvas import OUTLINE_COLOR
from ddae_app.reports.mosaic import brain_window
from tests.reports.readback import (
    alternating,
    areas,
    crowded,
    is_bright_gray,
    is_color,
    pixels_of,
    texts,
)

AFFINE = np.diag([6.0, 7.0, 6.0, 1.0])
SIDE = 32


def brain_square(levels, size=16, side=SIDE):
    """A stack of slices, each with a uniform square brain in its middle."""
    stack = np.zeros((len(levels), side, side), np.float32)
    start = (side - size) // 2
    inside = slice(start, start + size)
    stack[:, inside, inside] = np.array(levels, np.float32)[:, None, None]
    return stack


def ball(radius, level=1.0):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing='ij')
    return nib.Nifti1Image(level * (np.sqrt(x**2 + y**2 + z**2) < radius).astype('f4'), AFFINE)


def harmonization(tmp_path, before, after, affine=None):
    """Pixels of the figure of a harmonization, and its texts."""
    for name in ('a.png', 'a.svg'):
        figures.plot_harmonization(before, after, tmp_path / name, 'A & B', '<C>', affine)
    return pixels_of(tmp_path / 'a.png'), texts(tmp_path / 'a.svg')


def brains(pixels):
    """Areas of the brains in a figure, row by row; frames of color bars are hollow."""
    gray = is_bright_gray(pixels)
    found = areas(gray, 400)
    return [a for a in found if gray[(a.top + a.bottom) // 2, (a.left + a.right) // 2]]


def gray_levels(pixels):
    """Gray levels of the brains in a figure, 0 to 1, row by row."""
    return [area.center(pixels)[0] / 255 for area in brains(pixels)]


def test_harmonization_shows_slices_before_and_after_in_one_window(tmp_path):
    before, after = brain_square([0.5, 0.3]), brain_square([0.6, 0.4])
    pixels, words = harmonization(tmp_path, before, after)
    assert gray_levels(pixels)[:4] == pytest.approx([0.5, 0.3, 0.6, 0.4], abs=0.01)
    titles = 'Before: as acquired at A & B', 'After: rendered as <C>'
    assert words[:2] == list(titles) and words[2].startswith('Difference: after')


@pytest.mark.parametrize('change', [0.2, -0.2, 0.0])
def test_the_difference_is_orange_above_and_blue_below_zero(tmp_path, change):
    before, after = brain_square([0.5, 0.5]), brain_square([0.5 + change, 0.5])
    pixels, _ = harmonization(tmp_path, before, after)
    first, second, below, _ = brains(pixels)
    down = 2 * (below.top - first.top)  # to the third row
    for area, colored in ((first, change), (second, 0)):
        inside = pixels[down:][area.top + 9 : area.bottom - 9, area.left + 9 : area.right - 9]
        assert np.ptp(inside, axis=(0, 1)).max() == 0  # a uniform change has one color
        red, _, blue = inside[0, 0]
        assert np.sign(red - blue) == np.sign(colored)
        assert max(red, blue) > 150 if colored else max(red, blue) == 0


def test_there_is_no_outline_without_brain(tmp_path):
    pixels, _ = harmonization(tmp_path, brain_square([0.5]), brain_square([0.5]))
    assert is_color(pixels, OUTLINE_COLOR, 30).any()
    pixels, _ = harmonization(tmp_path, brain_square([0.0]), brain_square([0.0]))
    assert not is_color(pixels, OUTLINE_COLOR, 30).any()


@pytest.mark.parametrize(('change', 'limit'), [(0.0, '0.05'), (0.003, '0.05'), (-0.31, '0.35')])
def test_the_color_bar_ends_at_the_change_and_not_below_five_percent(tmp_path, change, limit):
    _, words = harmonization(tmp_path, brain_square([0.5] * 2), brain_square([0.5 + change] * 2))
    assert words[-3:] == [f'\N{MINUS SIGN}{limit}', '0', f'+{limit}']


@pytest.mark.parametrize('n', [1, 2, 7, 90])
def test_at_most_seven_slices_with_brain_are_shown_in_order(tmp_path, n):
    levels = np.linspace(0.2, 0.9, n)
    empty = np.zeros((10, SIDE, SIDE), np.float32)
    stack = np.concatenate([empty, brain_square(levels), empty])
    shown = gray_levels(harmonization(tmp_path, stack, stack)[0])
    assert len(shown) == 2 * min(n, 7)  # before and after
    before = np.array(shown[: min(n, 7)])
    assert before == pytest.approx(shown[min(n, 7) :])
    if n <= 7:
        assert before == pytest.approx(levels, abs=0.01)
    else:  # evenly spaced, and without the outermost slices
        assert np.diff(before) == pytest.approx(np.full(6, 0.7 / 8), abs=0.012)
        assert levels[0] + 0.05 < before[0] and before[-1] < levels[-1] - 0.05


def test_pixels_have_the_shape_of_voxels(tmp_path):
    stack = brain_square([0.5, 0.5])
    for affine, ratio in ((AFFINE, 6 / 7), (None, 1)):
        pixels, _ = harmonization(tmp_path, stack, stack, affine)
        square = brains(pixels)[0]
        assert square.width / square.height == pytest.approx(ratio, abs=0.02)


def test_slices_are_cropped_to_the_brain(tmp_path):
    narrow, wide = (brain_square([0.5, 0.5], side=side) for side in (SIDE, 3 * SIDE))
    pixels, _ = harmonization(tmp_path, narrow, narrow)
    assert (harmonization(tmp_path, wide, wide)[0] == pixels).all()
    one, other = brains(pixels)[:2]
    assert one.width / (other.left - one.left) == pytest.approx(16 / 24, abs=0.02)  # 4 each side


def test_the_flicker_shows_before_and_then_after_in_one_window(tmp_path):
    path = tmp_path / 'a.svg'
    figures.plot_flicker(brain_square([0.5, 0.3]), brain_square([0.6, 0.4]), path, 'A', 'B')
    before, after = alternating(path)
    assert before.shape == after.shape
    assert gray_levels(before) == pytest.approx([0.5, 0.3], abs=0.01)
    assert gray_levels(after) == pytest.approx([0.6, 0.4], abs=0.01)
    assert brains(before) == brains(after)
    assert 'svg:hover .front { animation-play-state: paused; }' in path.read_text()


def test_the_mask_figure_outlines_the_mask_in_21_slices(tmp_path):
    figures.plot_mask(ball(0.8, 0.5), ball(0.4), tmp_path / 'a.png')
    pixels = pixels_of(tmp_path / 'a.png')
    outlines = areas(is_color(pixels, OUTLINE_COLOR, 70), 20)
    assert len(outlines) == 21
    figures.plot_mask(ball(0.4, 0.5), ball(0.4), tmp_path / 'b.png')
    same = areas(is_color(pixels_of(tmp_path / 'b.png'), OUTLINE_COLOR, 70), 20)
    # The outline follows the mask, whatever the size of the head.
    assert np.abs(np.subtract(same, outlines)).max() <= 3
    figures.plot_mask(ball(0.8, 0.5), ball(0.0), tmp_path / 'c.png')
    assert not is_color(pixels_of(tmp_path / 'c.png'), OUTLINE_COLOR, 30).any()


def test_the_registration_alternates_between_scan_and_template(tmp_path):
    probability = np.maximum(ball(0.7, 0.3).dataobj, ball(0.5, 0.7).dataobj)
    mask = nib.Nifti1Image(probability, AFFINE)
    figures.plot_registration(ball(0.8, 0.5), ball(0.5), mask, tmp_path / 'a.svg')
    scan, template = alternating(tmp_path / 'a.svg')
    outlines = [areas(is_color(p, OUTLINE_COLOR, 70), 20) for p in (scan, template)]
    assert len(outlines[0]) == len(outlines[1]) == 21
    assert np.abs(np.subtract(*outlines)).max() <= 3
    # The scan is larger than the outline of the template, which the template fills.
    outside = [is_bright_gray(pixels).sum() for pixels in (scan, template)]
    assert outside[0] > 1.5 * outside[1]
    filled = areas(is_bright_gray(template), 400)[3]
    assert np.abs(np.subtract(outlines[0][3], filled)).max() <= 8  # where the mask exceeds .5


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_planes_go_through_the_middle_and_through_the_position(tmp_path, axis):
    """The intensity encodes the index along one axis, so that slices across it are uniform."""
    size, start = (20, 30, 24), (6, 8, 7)
    index = np.moveaxis(np.broadcast_to(np.arange(size[axis]), [*np.delete(size, axis),
                                                                size[axis]]), 2, axis)  # fmt: skip
    volume = np.zeros((32, 46, 38))
    volume[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = 0.3 + index / 50
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -30, -40, -20
    voxel = np.array([9, 31, 21])
    path = tmp_path / 'a.png'
    figures.plot_planes(volume, volume, affine, (affine @ [*voxel, 1])[:3], path)
    pixels = pixels_of(path)
    top = sorted(brains(pixels[: pixels.shape[0] // 3]), key=lambda area: area.left)
    assert len(top) == 5
    levels = [area.center(pixels)[0] / 255 for area in top]
    middle = start[axis] - 4 + (size[axis] + 8) // 2
    panels = {0: (1, 4), 1: (0, 3), 2: (None, 2)}[axis]
    for panel, at in zip(panels, (middle, voxel[axis]), strict=True):
        if panel is not None:
            assert levels[panel] == pytest.approx(0.3 + (at - start[axis]) / 50, abs=0.008)


def test_planes_of_a_position_outside_the_brain_are_empty(tmp_path):
    volume = np.zeros((32, 32, 32))
    volume[8:24, 8:24, 8:24] = 0.5
    figures.plot_planes(volume, volume, AFFINE, (-900, 900, 900), tmp_path / 'a.png')
    assert len(gray_levels(pixels_of(tmp_path / 'a.png'))) == 2 * 2  # the middle ones
    figures.plot_planes(0 * volume, 0 * volume, AFFINE, (0, 0, 0), tmp_path / 'b.png')
    assert gray_levels(pixels_of(tmp_path / 'b.png')) == []


def draw_all(folder):
    """Every figure of a scan as an SVG."""
    folder.mkdir()
    before, after = brain_square([0.5, 0.3]), brain_square([0.6, 0.4])
    volume = ball(0.8, 0.5).get_fdata()
    figures.plot_registration(ball(0.8, 0.5), ball(0.5), ball(0.5), folder / 'registration.svg')
    figures.plot_mask(ball(0.8), ball(0.5), folder / 'mask.svg')
    figures.plot_planes(volume, volume**2, AFFINE, (90, 100, 80), folder / 'planes.svg')
    figures.plot_harmonization(before, after, folder / 'difference.svg', 'A', 'B', AFFINE)
    figures.plot_flicker(before, after, folder / 'flicker.svg', 'A', 'B', AFFINE)
    charts.plot_histogram(before, after, None, folder / 'histogram.svg', 'B')
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_inputs_give_equal_files_of_well_formed_xml(tmp_path):
    """Whoever compares two runs with checksums finds what differs and nothing else."""
    drawn = draw_all(tmp_path / 'one')
    assert len(drawn) == 6  # and no temporary file is left
    assert draw_all(tmp_path / 'two') == drawn
    for content in drawn.values():
        assert ElementTree.fromstring(content).tag.endswith('svg')


def test_the_style_of_the_user_changes_nothing(tmp_path):
    stack = brain_square([0.5, 0.3])
    pixels, _ = harmonization(tmp_path, stack, stack)
    with matplotlib.rc_context({'font.size': 30, 'savefig.dpi': 10, 'savefig.bbox': 'tight'}):
        assert (harmonization(tmp_path, stack, stack)[0] == pixels).all()
        assert matplotlib.rcParams['font.size'] == 30


def test_shapes_must_agree(tmp_path):
    stack = brain_square([0.5, 0.3])
    with pytest.raises(ValueError, match='before has shape'):
        figures.plot_harmonization(stack, stack[:1], tmp_path / 'a.svg', 'A', 'B')
    small = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), AFFINE)
    with pytest.raises(ValueError, match='give a mask'):
        figures.plot_mask(ball(0.8), small, tmp_path / 'a.svg')


@pytest.mark.parametrize('brightness', [2.2, 60])
def test_vessels_and_spikes_do_not_darken_the_brain(brightness):
    data = np.random.default_rng(0).uniform(0.3, 1, (20, 20, 20))
    mask = np.ones(data.shape, bool)
    _, high = brain_window(data, mask)
    assert high == pytest.approx(1.1 * np.percentile(data, 99.5), rel=0.03)
    data.flat[:120] = brightness
    assert brain_window(data, mask)[1] == pytest.approx(high, rel=0.02)


@pytest.mark.parametrize('slices', [1, 2, 7])
def test_long_names_of_sites_neither_overlap_nor_leave_the_figure(monkeypatch, tmp_path, slices):
    drawn = []
    monkeypatch.setattr(figures, 'save', lambda figure, path: drawn.append(figure))
    monkeypatch.setattr(charts, 'save', lambda figure, path: drawn.append(figure))
    monkeypatch.setattr(figures, 'save_flicker', lambda *given: drawn.extend(given[:2]))
    sites = 'University Hospital of the Northern District', 'Universal Scanner 2 of Main Street 5'
    before, after = brain_square([0.5] * slices), brain_square([0.6] * slices)
    figures.plot_harmonization(before, after, tmp_path / 'a.png', *sites)
    figures.plot_flicker(before, after, tmp_path / 'a.svg', *(site * 4 for site in sites))
    levels = np.linspace(0, 1, 11)
    reference = dict.fromkeys(('levels', 'p25', 'median', 'p75'), levels)
    charts.plot_histogram(before, after, reference, tmp_path / 'b.svg', sites[0])
    assert [crowded(figure, legends_in_panels=True) for figure in drawn] == [[]] * 4
