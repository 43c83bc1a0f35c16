"""The charts of the reports: distributions of intensities, and training curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ddae_app.errors import DdaeError
from ddae_app.reports.canvas import (
    AFTER_COLOR,
    BEFORE_COLOR,
    TARGET_COLOR,
    WHITE,
    WIDTH_IN,
    report_style,
    save,
    shortened,
)

Reference = Mapping[str, Sequence[float]]

LONGEST_NAME = 24
"""Letters of a site in a title or a legend."""

BRIGHTEST = 1.5
"""Where the brain is 0 to 1, brighter voxels are drawn as this."""


class Curve(NamedTuple):
    """Brain intensities of one image, shape (V,), and the style of their line."""

    name: str
    values: np.ndarray
    color: str
    line: str


def plot_histogram(
    before: np.ndarray,
    after: np.ndarray,
    reference: Reference | None,
    path: Path,
    target_site: str,
) -> None:
    """Plot the brain intensities before and after harmonization, and those of the target site.

    The left panel shows densities. The right panel shows the difference of each intensity
    quantile to the median scan of the target site, on the band between that site's quartiles.

    Parameters
    ----------
    before, after : np.ndarray, any shape
        Intensities, of which those above 0 are brain.
    reference : mapping or None
        Intensities of the target site: ``levels`` (quantile levels, ascending from 0 to 1) and,
        across its scans, ``p25``, ``median`` and ``p75`` of the intensity at each level. If it is
        None, only the left panel is drawn.
    path : Path
        Ends in ``.png`` or ``.svg``.
    target_site : str
    """
    curves = (
        Curve('before', _brain(before), BEFORE_COLOR, '--'),
        Curve('after', _brain(after), AFTER_COLOR, '-'),
    )
    name = shortened(target_site, LONGEST_NAME)
    with report_style():
        panels = 1 if reference is None else 2
        figure = Figure(figsize=(WIDTH_IN, 3.5), facecolor=WHITE, layout='constrained')
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _draw_densities(axes[0], curves, reference, name)
        if reference is not None:
            _draw_deviations(axes[1], curves, reference, name)
        save(figure, Path(path))


def plot_losses(losses: Path, path: Path) -> None:
    """Plot the training and validation losses over the number of images seen.

    Parameters
    ----------
    losses : Path
        The ``losses.tsv`` of a training run, with columns ``images_seen``, ``train_loss`` and
        ``validation_loss``; ``n/a`` where unknown.
    path : Path
        Ends in ``.png`` or ``.svg``.

    Raises
    ------
    DdaeError
        If the file lacks a column.
    """
    with Path(losses).open(newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    names = (
        ('train_loss', 'training', BEFORE_COLOR, '--'),
        ('validation_loss', 'held out', AFTER_COLOR, '-'),
    )
    missing = {'images_seen', *(n[0] for n in names)} - set(rows[0] if rows else ())
    if rows and missing:
        raise DdaeError(
            f'{losses} lacks the columns {sorted(missing)}; give the losses.tsv of a training run'
        )
    with report_style():
        figure = Figure(figsize=(WIDTH_IN * 0.7, 3.5), facecolor=WHITE, layout='constrained')
        axes = figure.subplots()
        for column, label, color, line in names:
            seen = [
                (float(r['images_seen']), float(r[column])) for r in rows if r[column] != 'n/a'
            ]
            if seen:
                marker = 'o' if len(seen) < 20 else ''
                axes.plot(
                    *zip(*seen, strict=True),
                    line,
                    color=color,
                    label=label,
                    marker=marker,
                    markersize=3,
                )
        axes.set(xlabel='images seen', ylabel='loss', title='Training', yscale='log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
        axes.grid(axis='y', color='#E3E5E8')
        if axes.lines:
            axes.legend()
        save(figure, Path(path))


def _brain(values: np.ndarray) -> np.ndarray:
    """The intensities of the brain, so cut off that no spike stretches the axes."""
    values = np.asarray(values, float).ravel()
    values = values[np.isfinite(values) & (values > 0)]
    return np.minimum(values, BRIGHTEST)


def _draw_densities(
    axes: Axes, curves: Sequence[Curve], reference: Reference | None, target_site: str
) -> None:
    tops = [1.0, *(values.max() for _, values, _, _ in curves if values.size)]
    edges = np.linspace(0, max(tops), 81)
    centers = (edges[1:] + edges[:-1]) / 2
    if reference is not None:
        below = np.interp(edges, reference['median'], reference['levels'], left=0, right=1)
        height = _smooth(np.diff(below) / np.diff(edges))
        label = f'median scan of {target_site}'
        axes.fill_between(
            centers, height, color=TARGET_COLOR, alpha=0.25, linewidth=0, label=label
        )
    for name, values, color, line in curves:
        if values.size:
            height = _smooth(np.histogram(values, edges, density=True)[0])
            axes.plot(centers, height, line, color=color, label=name, linewidth=1.8)
    axes.set(xlabel='intensity', ylabel='density', xlim=(0, edges[-1]), yticks=[])
    axes.set_title('Brain intensities')
    axes.set_ylim(bottom=0)
    axes.legend(loc='upper left')


def _smooth(height: np.ndarray) -> np.ndarray:
    """Smooth with a Gaussian of 1.2 bins, as few pixels give ragged densities."""
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    return np.convolve(np.pad(height, 4, mode='edge'), kernel / kernel.sum(), mode='valid')


def _draw_deviations(
    axes: Axes, curves: Sequence[Curve], reference: Reference, target_site: str
) -> None:
    levels = np.asarray(reference['levels'], float)
    middle = np.asarray(reference['median'], float)
    band = [np.asarray(reference[key], float) - middle for key in ('p25', 'p75')]
    percent = 100 * levels
    axes.fill_between(
        percent,
        *band,
        color=TARGET_COLOR,
        alpha=0.25,
        linewidth=0,
        label=f'quartiles of the scans of {target_site}',
    )
    axes.axhline(0, color=TARGET_COLOR, linewidth=1)
    for name, values, color, line in curves:
        if values.size:
            difference = np.quantile(values, levels) - middle
            axes.plot(percent, difference, line, color=color, label=name, linewidth=1.8)
    axes.set(xlabel='percentile of the brain voxels', ylabel='intensity difference', xlim=(0, 100))
    axes.set_title(f'Difference to the median scan of {target_site}')
    axes.legend(loc='best')
