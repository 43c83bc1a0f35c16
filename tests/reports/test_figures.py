"""Figures are written, well-formed, the same every time, and refuse what does not fit."""

from __future__ import annotations

from base64 import b64decode
from xml.etree import ElementTree

import matplotlib
import nibabel as nib
import numpy as np
import pytest

from ddae_app.errors import DdaeError
from ddae_app.reports import figures
from ddae_app.reports.canvas import OUTLINE
from ddae_app.reports.site_figures import draw_explained, draw_site_histograms

AFFINE = np.diag([6.0, 7.0, 6.0, 1.0])


@pytest.fixture(scope='module')
def scan():
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing='ij')
    ball = (x**2 + y**2 + z**2 < 0.5).astype(np.float32)
    noise = np.random.default_rng(0).uniform(0.8, 1, ball.shape)
    return nib.Nifti1Image((ball * noise).astype(np.float32), AFFINE), nib.Nifti1Image(
        ball, AFFINE
    )


@pytest.fixture(scope='module')
def stacks():
    rng = np.random.default_rng(0)
    before = np.zeros((2, 32, 32), dtype=np.float32)
    before[:, 8:24, 8:24] = rng.uniform(0.2, 0.9, (2, 16, 16))
    return before, np.where(before > 0, before**1.5, 0)


def draw(name, path, scan, stacks):
    image, mask = scan
    before, after = stacks
    levels = list(np.linspace(0, 1, 11))
    reference = {'levels': levels, 'p25': levels, 'median': levels, 'p75': levels}
    if name == 'registration':
        figures.plot_registration(image, image, mask, path)
    elif name == 'mask':
        figures.plot_mask(image, mask, path)
    elif name == 'planes':
        volume = image.get_fdata()
        figures.plot_planes(volume, volume**1.5, AFFINE, (90, 100, 80), path)
    elif name == 'harmonization':
        figures.plot_harmonization(before, after, path, 'A & B', '<C>', AFFINE)
    elif name == 'flicker':
        figures.plot_flicker(before, after, path, 'A & B', '<C>', AFFINE)
    else:
        figures.plot_histogram(before, after, reference, path, '$C')


NAMES = 'registration', 'mask', 'planes', 'harmonization', 'flicker', 'histogram'


@pytest.mark.parametrize('name', NAMES)
def test_figure_is_well_formed_and_repeatable(name, scan, stacks, tmp_path):
    first, second = tmp_path / 'a.svg', tmp_path / 'b.svg'
    draw(name, first, scan, stacks)
    draw(name, second, scan, stacks)
    assert ElementTree.parse(first).getroot().tag.endswith('svg')
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.svg', 'b.svg']


def shown_in_turn(path):
    """The pictures of a flicker, the first one last, since it lies on top."""
    images = ElementTree.parse(path).getroot().findall('{http://www.w3.org/2000/svg}image')
    return [image.get('href').removeprefix('data:image/png;base64,') for image in images]


def test_a_flicker_holds_both_pictures_in_one_window(stacks, tmp_path):
    before, after = stacks
    figures.plot_flicker(before, after, tmp_path / 'a.svg', 'A', 'B')
    figures.plot_flicker(before, before, tmp_path / 'b.svg', 'A', 'A')
    back, front = shown_in_turn(tmp_path / 'a.svg')
    assert back != front
    # The same slices as before have the same picture, whatever they are compared with.
    assert shown_in_turn(tmp_path / 'b.svg')[1] == front
    sizes = [b64decode(image)[16:24] for image in (back, front)]
    assert sizes[0] == sizes[1]


def test_only_slices_with_brain_are_shown():
    inside = np.zeros((90, 4, 4), bool)
    inside[10:41, 1, 1] = True
    chosen = figures._shown(inside)
    assert len(chosen) == 7 and chosen[0] > 10 and chosen[-1] < 40
    assert figures._shown(np.zeros((3, 4, 4), bool)) == [0, 1, 2]


def test_the_difference_is_outlined(stacks, tmp_path):
    before, after = stacks
    figures.plot_harmonization(before, after, tmp_path / 'a.svg', 'A', 'B')
    figures.plot_harmonization(before * 0, after * 0, tmp_path / 'b.svg', 'A', 'B')
    lines = [(tmp_path / name).read_text().count(OUTLINE.lower()) for name in ('a.svg', 'b.svg')]
    assert lines == [2, 0]


def test_difference_shows(stacks, tmp_path):
    before, after = stacks
    figures.plot_harmonization(before, after, tmp_path / 'a.svg', 'A', 'B')
    figures.plot_harmonization(before, before, tmp_path / 'b.svg', 'A', 'B')
    assert (tmp_path / 'a.svg').read_bytes() != (tmp_path / 'b.svg').read_bytes()


def test_planes_are_cut_through_the_middle_and_where_they_are_asked_for():
    cuts = figures._cuts((20, 30, 24), (4, 2, 3), (11.2, 28.9, 20.0, 1))
    assert cuts == [(1, 15), (0, 10), (2, 17), (1, 27), (0, 7)]
    # A place outside of the box shows its nearest cuts.
    assert figures._cuts((20, 30, 24), (4, 2, 3), (0, 99, 5))[2:] == [(2, 2), (1, 29), (0, 0)]


def test_planes_of_a_scan_without_brain(tmp_path):
    nothing = np.zeros((12, 12, 12))
    figures.plot_planes(nothing, nothing, AFFINE, (0, 0, 0), tmp_path / 'a.svg')
    assert ElementTree.parse(tmp_path / 'a.svg').getroot().tag.endswith('svg')


def test_difference_limit_is_of_the_change_and_never_tiny():
    change = np.zeros((1, 8, 8))
    assert figures._difference_limit(change) == 0.05
    change[0, :4] = -0.31
    assert figures._difference_limit(change) == pytest.approx(0.35)


@pytest.mark.parametrize('n', [1, 2, 7, 90])
def test_at_most_seven_slices_are_shown_in_order(n):
    chosen = figures._spread(n)
    assert len(chosen) == min(n, 7)
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < n


def test_pixels_keep_their_shape_and_slices_are_cropped_to_the_brain():
    brain = np.zeros((2, 32, 40), dtype=bool)
    brain[1, 10:20, 12:30] = True
    box = figures._around_brain(brain)
    assert brain[box].shape == (2, 10 + 8, 18 + 8)
    assert figures._extent(brain[box].shape, AFFINE) == (0, 18 * 6, 0, 26 * 7)


def test_user_style_changes_nothing(stacks, tmp_path):
    before, after = stacks
    figures.plot_harmonization(before, after, tmp_path / 'a.png', 'A', 'B')
    with matplotlib.rc_context({'font.size': 30, 'savefig.dpi': 10}):
        figures.plot_harmonization(before, after, tmp_path / 'b.png', 'A', 'B')
        assert matplotlib.rcParams['font.size'] == 30
    content = (tmp_path / 'a.png').read_bytes()
    assert content.startswith(b'\x89PNG')
    assert content == (tmp_path / 'b.png').read_bytes()


def test_shapes_must_agree(scan, stacks, tmp_path):
    before, after = stacks
    with pytest.raises(ValueError, match='before is'):
        figures.plot_harmonization(before, after[:1], tmp_path / 'a.svg', 'A', 'B')
    small = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), AFFINE)
    with pytest.raises(ValueError, match='a mask of'):
        figures.plot_mask(scan[0], small, tmp_path / 'a.svg')


def test_losses(tmp_path):
    table = tmp_path / 'losses.tsv'
    table.write_text('images_seen\ttrain_loss\tvalidation_loss\n100\t0.9\t0.95\n200\t0.5\tn/a\n')
    figures.plot_losses(table, tmp_path / 'losses.svg')
    assert ElementTree.parse(tmp_path / 'losses.svg').getroot().tag.endswith('svg')


def test_losses_before_the_first_row_are_an_empty_plot(tmp_path):
    table = tmp_path / 'losses.tsv'
    table.write_text('images_seen\ttrain_loss\tvalidation_loss\n')
    figures.plot_losses(table, tmp_path / 'losses.png')
    assert (tmp_path / 'losses.png').read_bytes().startswith(b'\x89PNG')


def test_losses_of_another_table_are_refused(tmp_path):
    table = tmp_path / 'losses.tsv'
    table.write_text('epoch\tloss\n1\t0.5\n')
    with pytest.raises(DdaeError, match='images_seen'):
        figures.plot_losses(table, tmp_path / 'losses.svg')


def test_the_site_figures_show_every_method_and_site():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 1, (6, 16, 16)).astype(np.float32)
    sites = np.array(['A', 'A', 'A', 'B', 'B', 'B'])
    maps = {'source': rng.uniform(0, 0.4, (16, 16)), 'nothing': np.zeros((16, 16))}
    for draw, arguments in (
        (draw_explained, (maps,)),
        (draw_explained, ({'nothing': np.zeros((16, 16))},)),
        (draw_site_histograms, ({'source': images, 'after': images * 0.5}, sites)),
    ):
        first, again = draw(*arguments), draw(*arguments)
        assert first.startswith(b'\x89PNG') and first == again
    brighter = draw_explained(maps | {'source': maps['source'] + 0.3})
    assert brighter != draw_explained(maps)
