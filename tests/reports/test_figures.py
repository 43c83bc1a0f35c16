"""Figures are written, well-formed, the same every time, and refuse what does not fit."""

from __future__ import annotations

from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest

from ddae_app.reports import figures

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
    elif name == 'harmonization':
        figures.plot_harmonization(before, after, path, 'A & B', '<C>', AFFINE)
    else:
        figures.plot_histogram(before, after, reference, path, '$C')


@pytest.mark.parametrize('name', ['registration', 'mask', 'harmonization', 'histogram'])
def test_figure_is_well_formed_and_repeatable(name, scan, stacks, tmp_path):
    first, second = tmp_path / 'a.svg', tmp_path / 'b.svg'
    draw(name, first, scan, stacks)
    draw(name, second, scan, stacks)
    assert ElementTree.parse(first).getroot().tag.endswith('svg')
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.svg', 'b.svg']


def test_difference_shows(stacks, tmp_path):
    before, after = stacks
    figures.plot_harmonization(before, after, tmp_path / 'a.svg', 'A', 'B')
    figures.plot_harmonization(before, before, tmp_path / 'b.svg', 'A', 'B')
    assert (tmp_path / 'a.svg').read_bytes() != (tmp_path / 'b.svg').read_bytes()


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
