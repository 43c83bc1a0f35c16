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
from ddae_app.reports.canvas import AFTER, BEFORE, PAPER, TARGET, WIDTH_IN, house_style, save

Reference = Mapping[str, Sequence[float]]


class Curve(NamedTuple):
    """Brain intensities of one image, shape (V,), and how they are drawn."""

    name: str
    values: np.ndarray
    colour: str
    line: str


def plot_histogram(
    before: np.ndarray,
    after: np.ndarray,
    reference: Reference | None,
    path: Path,
    target_site: str,
) -> None:
    """Brain intensities before and after, and those of the target site's scans.

    Left: densities. Right: how far each intensity quantile is from the target site's median
    scan, on the band between that site's quartiles.

    Parameters
    ----------
    before, after : np.ndarray, any shape
        Intensities; those above 0 are brain.
    reference : mapping or None
        Of the target site: ``levels`` (quantile levels, ascending from 0 to 1) and, across its
        scans, ``p25``, ``median`` and ``p75`` of the intensity at each level. None draws the
        densities alone.
    path : Path
        Ends in ``.png`` or ``.svg``.
    target_site : str
    """
    curves = (
        Curve('before', _brain(before), BEFORE, '--'),
        Curve('after', _brain(after), AFTER, '-'),
    )
    with house_style():
        panels = 1 if reference is None else 2
        figure = Figure(figsize=(WIDTH_IN, 3.5), facecolor=PAPER, layout='constrained')
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _draw_densities(axes[0], curves, reference, target_site)
        if reference is not None:
            _draw_deviations(axes[1], curves, reference, target_site)
        save(figure, Path(path))


def plot_losses(losses: Path, path: Path) -> None:
    """Training and validation loss over the images seen.

    Parameters
    ----------
    losses : Path
        ``losses.tsv`` of a training run: ``images_seen``, ``train_loss``, ``validation_loss``;
        ``n/a`` where unknown.
    path : Path
        Ends in ``.png`` or ``.svg``.

    Raises
    ------
    DdaeError
        The file lacks a column.
    """
    with Path(losses).open(newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    names = (('train_loss', 'training', BEFORE, '--'), ('validation_loss', 'held out', AFTER, '-'))
    missing = {'images_seen', *(n[0] for n in names)} - set(rows[0] if rows else ())
    if rows and missing:
        raise DdaeError(f'{losses} lacks the columns {sorted(missing)}; give a losses.tsv')
    with house_style():
        figure = Figure(figsize=(WIDTH_IN * 0.7, 3.5), facecolor=PAPER, layout='constrained')
        axes = figure.subplots()
        for column, label, colour, line in names:
            seen = [
                (float(r['images_seen']), float(r[column])) for r in rows if r[column] != 'n/a'
            ]
            if seen:
                marker = 'o' if len(seen) < 20 else ''
                axes.plot(
                    *zip(*seen, strict=True),
                    line,
                    color=colour,
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
    values = np.asarray(values, float).ravel()
    return values[np.isfinite(values) & (values > 0)]


def _draw_densities(
    axes: Axes, curves: Sequence[Curve], reference: Reference | None, target_site: str
) -> None:
    tops = [1.0, *(values.max() for _, values, _, _ in curves if values.size)]
    edges = np.linspace(0, max(tops), 81)
    centres = (edges[1:] + edges[:-1]) / 2
    if reference is not None:
        below = np.interp(edges, reference['median'], reference['levels'], left=0, right=1)
        height = _smooth(np.diff(below) / np.diff(edges))
        label = f'median scan of {target_site}'
        axes.fill_between(centres, height, color=TARGET, alpha=0.25, linewidth=0, label=label)
    for name, values, colour, line in curves:
        if values.size:
            height = _smooth(np.histogram(values, edges, density=True)[0])
            axes.plot(centres, height, line, color=colour, label=name, linewidth=1.8)
    axes.set(xlabel='intensity', ylabel='density', xlim=(0, edges[-1]), yticks=[])
    axes.set_title('Brain intensities')
    axes.set_ylim(bottom=0)
    axes.legend(loc='upper left')


def _smooth(height: np.ndarray) -> np.ndarray:
    """Gaussian of 1.2 bins: quantiles 1 % apart, and few pixels, make ragged densities."""
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
        color=TARGET,
        alpha=0.25,
        linewidth=0,
        label=f'half of the scans of {target_site}',
    )
    axes.axhline(0, color=TARGET, linewidth=1)
    for name, values, colour, line in curves:
        if values.size:
            gap = np.quantile(values, levels) - middle
            axes.plot(percent, gap, line, color=colour, label=name, linewidth=1.8)
    axes.set(xlabel='percentile of the brain', ylabel='intensity difference', xlim=(0, 100))
    axes.set_title(f'Distance from the median scan of {target_site}')
    axes.legend(loc='best')
