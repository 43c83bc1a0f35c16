"""The figures of the reports: images and arrays in, one file each out."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from nibabel.processing import resample_from_to

from ddae_app.errors import DdaeError
from ddae_app.reports.canvas import (
    AFTER,
    BEFORE,
    DIFFERENCE,
    INK,
    NIGHT,
    PAPER,
    TARGET,
    WIDTH_IN,
    draw_panel,
    house_style,
    save,
    save_flicker,
)
from ddae_app.reports.mosaic import Volume, bounding_box, draw_mosaic

MAX_SLICES = 7
MAX_CELL_IN = 3.3
MIN_DIFFERENCE = 0.05
"""The difference's colours never span less, so that rounding does not look like a change."""

Image = nib.spatialimages.SpatialImage


def plot_registration(volume: Image, template: Image, mask: Image, path: Path) -> None:
    """Scan and template in turn, the template's brain outlined on both.

    Parameters
    ----------
    volume : nibabel image, shape (X, Y, Z)
        Preprocessed scan in template space, with or without skull.
    template : nibabel image
        On any grid in the same space.
    mask : nibabel image, range [0, 1]
        The template's brain, on any grid in the same space.
    path : Path
        Ends in ``.svg``.
    """
    scan = Volume.of(volume)
    grid = (scan.data.shape, scan.affine)
    still, outline = (
        Volume.of(resample_from_to(_single(image), grid, order=1)) for image in (template, mask)
    )
    everything = tuple(slice(0, n) for n in scan.data.shape)
    with house_style():
        figures = [
            draw_mosaic(image, outline.data, everything, title)
            for image, title in (
                (scan, 'Scan, with the outline of the template brain'),
                (still, 'Template, with the outline of its brain'),
            )
        ]
        save_flicker(figures[0], figures[1], Path(path), 'scan and template in turn')


def plot_mask(volume: Image, mask: Image, path: Path) -> None:
    """Cuts in three planes with the outline of the brain mask.

    Parameters
    ----------
    volume : nibabel image, shape (X, Y, Z)
        Preprocessed scan.
    mask : nibabel image, shape (X, Y, Z), 0 or 1
        The brain, on the same grid.
    path : Path
        Ends in ``.png`` or ``.svg``.
    """
    scan, brain = Volume.of(volume), Volume.of(_single(mask))
    if scan.data.shape != brain.data.shape:
        raise ValueError(f'a scan of shape {scan.data.shape}, a mask of {brain.data.shape}')
    box = bounding_box(scan, brain.data >= 0.5, margin_mm=12)
    with house_style():
        save(draw_mosaic(scan, brain.data, box, 'Scan, with the outline of its brain'), Path(path))


def plot_harmonization(
    before: np.ndarray,
    after: np.ndarray,
    path: Path,
    source_site: str,
    target_site: str,
    affine: np.ndarray | None = None,
) -> None:
    """Slices before, after, and what changed.

    Parameters
    ----------
    before, after : np.ndarray, shape (N, H, W), range [0, 1]
        Axes (slice, left to right, back to front). Both are shown black at 0 and white at 1. Of
        more than 7 slices, 7 are shown, evenly spaced.
    path : Path
        Ends in ``.png`` or ``.svg``.
    source_site, target_site : str
    affine : np.ndarray, shape (4, 4), optional
        From (left to right, back to front, slice) indices to mm: gives pixels their true shape
        and names each slice's height. Without it pixels are square.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    if before.shape != after.shape or before.ndim != 3:
        raise ValueError(f'before is {before.shape}, after is {after.shape}; give two (N, H, W)')
    chosen = _spread(len(before))
    change = after - before
    limit = _round_up(max(float(np.percentile(np.abs(change[change != 0]), 99.5)), MIN_DIFFERENCE)
                      if change.any() else MIN_DIFFERENCE)  # fmt: skip
    grey = {'cmap': 'gray', 'vmin': 0, 'vmax': 1}
    rows = (
        (f'Before: as acquired at {source_site}', before, grey),
        (f'After: rendered as {target_site}', after, grey),
        ('Difference: after \N{MINUS SIGN} before', change,
         {'cmap': DIFFERENCE, 'vmin': -limit, 'vmax': limit}),
    )  # fmt: skip
    with house_style():
        figure, grid = _slice_grid(len(chosen), before.shape[1:], affine)
        for panels, (title, stack, colours) in zip(grid, rows, strict=True):
            panels[0].set_title(title, color=INK)
            for axes, i in zip(panels, chosen, strict=True):
                note = '' if affine is None else f'z = {(affine @ [0, 0, i, 1])[2]:.0f} mm'
                extent = _extent(before.shape[1:], affine)
                draw_panel(axes, stack[i], extent, 'LR', note, **colours)
        _side_bar(figure, grid[-1][-1], limit)
        save(figure, Path(path))


def plot_histogram(
    before: np.ndarray,
    after: np.ndarray,
    reference: Mapping[str, Sequence[float]] | None,
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
        ('before', _brain(before), BEFORE, '--'),
        ('after', _brain(after), AFTER, '-'),
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
                axes.plot(*zip(*seen, strict=True), line, color=colour, label=label,
                          marker=marker, markersize=3)  # fmt: skip
        axes.set(xlabel='images seen', ylabel='loss', title='Training', yscale='log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
        axes.grid(axis='y', color='#E3E5E8')
        if axes.lines:
            axes.legend()
        save(figure, Path(path))


def _single(image: Image) -> nib.Nifti1Image:
    """Three dimensions, and numbers that can be interpolated."""
    volume = Volume.of(image)
    return nib.Nifti1Image(volume.data, volume.affine)


def _spread(n: int) -> list[int]:
    """All slices, or 7 evenly spaced; the outermost hold little brain and are left out."""
    if n <= MAX_SLICES:
        return list(range(n))
    return np.rint(np.linspace(0, n - 1, MAX_SLICES + 2)[1:-1]).astype(int).tolist()


def _round_up(value: float) -> float:
    return float(np.ceil(value * 20) / 20)


def _extent(shape: tuple[int, ...], affine: np.ndarray | None) -> tuple[float, ...]:
    edges = np.ones(2) if affine is None else np.linalg.norm(affine[:3, :2], axis=0)
    return 0, float(shape[0] * edges[0]), 0, float(shape[1] * edges[1])


def _slice_grid(
    n: int, shape: tuple[int, ...], affine: np.ndarray | None
) -> tuple[Figure, list[list[Axes]]]:
    """Axes of three rows of n slices; of three columns for one slice."""
    _, width, _, height = _extent(shape, affine)
    columns, lines = (3, 1) if n == 1 else (n, 3)
    bar, title = 0.75, 0.32  # inches
    cell = min((WIDTH_IN - bar) / columns, MAX_CELL_IN)
    tall = cell * height / width
    size = (columns * cell + bar, lines * (tall + title) + 0.06)
    figure = Figure(figsize=size, facecolor=NIGHT)
    boxes = [
        (
            c * cell / size[0],
            1 - (r + 1) * (tall + title) / size[1],
            cell / size[0],
            tall / size[1],
        )
        for r in range(lines)
        for c in range(columns)
    ]
    flat = [figure.add_axes(box) for box in boxes]
    return figure, [flat[i * n : (i + 1) * n] for i in range(3)]


def _side_bar(figure: Figure, beside: Axes, limit: float) -> None:
    box = beside.get_position()
    inch = 1 / figure.get_size_inches()[0]
    axes = figure.add_axes((box.x1 + 0.1 * inch, box.y0 + 0.1 * box.height,
                            0.12 * inch, 0.8 * box.height))  # fmt: skip
    colours = ScalarMappable(Normalize(-limit, limit), DIFFERENCE)
    bar = figure.colorbar(colours, cax=axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f'\N{MINUS SIGN}{limit:g}', '0', f'+{limit:g}'])
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_edgecolor(INK)


def _brain(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float).ravel()
    return values[np.isfinite(values) & (values > 0)]


def _draw_densities(axes: Axes, curves, reference, target_site: str) -> None:  # noqa: ANN001
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


def _draw_deviations(axes: Axes, curves, reference, target_site: str) -> None:  # noqa: ANN001
    levels = np.asarray(reference['levels'], float)
    middle = np.asarray(reference['median'], float)
    band = [np.asarray(reference[key], float) - middle for key in ('p25', 'p75')]
    percent = 100 * levels
    axes.fill_between(percent, *band, color=TARGET, alpha=0.25, linewidth=0,
                      label=f'half of the scans of {target_site}')  # fmt: skip
    axes.axhline(0, color=TARGET, linewidth=1)
    for name, values, colour, line in curves:
        if values.size:
            gap = np.quantile(values, levels) - middle
            axes.plot(percent, gap, line, color=colour, label=name, linewidth=1.8)
    axes.set(xlabel='percentile of the brain', ylabel='intensity difference', xlim=(0, 100))
    axes.set_title(f'Distance from the median scan of {target_site}')
    axes.legend(loc='best')
