"""Histograms and loss curves: the lines of their SVG files lie where the data are."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.errors import DdaeError
from ddae_app.reports.canvas import AFTER_COLOR, BEFORE_COLOR, TARGET_COLOR
from ddae_app.reports.charts import plot_histogram, plot_losses
from tests.reports.readback import lines, texts

LEVELS = np.linspace(0, 1, 11)


def intensities(low, high):
    """Uniform intensities of a brain, and zeros around it."""
    return np.concatenate([np.zeros(500), np.linspace(low, high, 2000)])


def test_densities_lie_at_the_intensities_of_the_brain(tmp_path):
    path = tmp_path / 'a.svg'
    plot_histogram(intensities(0.2, 0.4), intensities(0.6, 0.8), None, path, '$C')
    (before,), (after,) = lines(path, BEFORE_COLOR), lines(path, AFTER_COLOR)
    left, right = before[:, 0].min(), before[:, 0].max()  # intensities of about 0 and 1
    for line, middle in ((before, 0.3), (after, 0.7)):
        height = line[:, 1].max() - line[:, 1]
        place = np.average((line[:, 0] - left) / (right - left), weights=height)
        assert place == pytest.approx(middle, abs=0.02)
    words = texts(path)
    assert {'Brain intensities', 'before', 'after', 'intensity', 'density'} <= set(words)
    assert not any('$C' in text for text in words)


def test_deviations_are_those_of_the_quantiles_from_the_target_site(tmp_path):
    path, reference = tmp_path / 'a.svg', {'levels': LEVELS.tolist()}
    quantiles = 0.2 + 0.2 * LEVELS
    reference |= {'median': quantiles, 'p25': quantiles - 0.02, 'p75': quantiles + 0.02}
    plot_histogram(intensities(0.3, 0.5), intensities(0.2, 0.4), reference, path, '$C')
    zero = next(line for line in lines(path, TARGET_COLOR) if len(line) == 2)[0, 1]
    before, after = (lines(path, color)[1] for color in (BEFORE_COLOR, AFTER_COLOR))
    assert after[:, 1] == pytest.approx(np.full(11, zero), abs=1)
    assert (before[:, 1] < zero - 20).all() and np.ptp(before[:, 1]) < 1  # .1 above, everywhere
    words = texts(path)
    assert 'Difference to the median scan of $C' in words
    assert {'median scan of $C', 'quartiles of the scans of $C'} <= set(words)


def test_a_spike_does_not_stretch_the_axes(tmp_path):
    path, spiked = tmp_path / 'a.svg', intensities(0.2, 0.4)
    spiked[-3:] = 30
    plot_histogram(spiked, intensities(0.6, 0.8), None, path, 'C')
    assert not {'10', '20', '30'} & set(texts(path))


def test_an_image_without_brain_has_no_line(tmp_path):
    path = tmp_path / 'a.svg'
    plot_histogram(np.zeros(9), intensities(0.2, 0.4), None, path, 'C')
    assert not lines(path, BEFORE_COLOR) and len(lines(path, AFTER_COLOR)) == 1


def write_losses(path, *rows):
    path.write_text('\n'.join(['images_seen\ttrain_loss\tvalidation_loss', *rows]) + '\n')
    return path


def test_losses_are_drawn_over_the_images_seen(tmp_path):
    table = write_losses(
        tmp_path / 'losses.tsv', '100\t0.9\t0.95', '200\t0.5\tn/a', '300\t0.25\t0.3'
    )
    plot_losses(table, tmp_path / 'losses.svg')
    (training,) = lines(tmp_path / 'losses.svg', BEFORE_COLOR)
    (held_out,) = lines(tmp_path / 'losses.svg', AFTER_COLOR)
    assert np.diff(training[:, 0]) == pytest.approx(np.full(2, np.diff(training[:2, 0])[0]))
    fall = np.diff(training[:, 1])
    assert fall[1] / fall[0] == pytest.approx(np.log(2) / np.log(0.9 / 0.5), rel=0.01)
    assert held_out[:, 0] == pytest.approx(training[[0, 2], 0])  # n/a is left out
    assert (held_out[:, 1] < training[[0, 2], 1]).all()  # higher losses
    assert {'training', 'held out', 'images seen', 'loss'} <= set(texts(tmp_path / 'losses.svg'))


def test_losses_before_the_first_row_are_an_empty_plot(tmp_path):
    path = tmp_path / 'losses.svg'
    plot_losses(write_losses(tmp_path / 'losses.tsv'), path)
    assert not lines(path, BEFORE_COLOR) and not lines(path, AFTER_COLOR)
    assert 'images seen' in texts(path) and 'training' not in texts(path)


def test_losses_of_another_table_are_refused(tmp_path):
    table = tmp_path / 'losses.tsv'
    table.write_text('epoch\tloss\n1\t0.5\n')
    with pytest.raises(DdaeError, match='images_seen'):
        plot_losses(table, tmp_path / 'losses.svg')
