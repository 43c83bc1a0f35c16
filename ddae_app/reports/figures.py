"""The figures of the reports: images and arrays in, one file each out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from nibabel.processing import resample_from_to

from ddae_app.reports.canvas import (
    DIFFERENCE,
    INK,
    NIGHT,
    WIDTH_IN,
    draw_outline,
    draw_panel,
    house_style,
    label_cut,
    save,
    save_flicker,
)
from ddae_app.reports.charts import plot_histogram, plot_losses
from ddae_app.reports.mosaic import Volume, bounding_box, draw_mosaic

__all__ = [
    'plot_flicker',
    'plot_harmonization',
    'plot_histogram',
    'plot_losses',
    'plot_mask',
    'plot_planes',
    'plot_registration',
]

MAX_SLICES = 7
CELL_IN = {1: 3.4, 2: 2.2}
"""Widest panel, for one slice and for more."""

WIDEST_FLICKER_IN = 5.0

MARGIN = 4
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
    """Slices before, after, and what changed, inside the outline of the brain.

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
    inside = (before > 0) | (after > 0)
    box = _around_brain(inside)
    stacks = before[box], after[box], (after - before)[box]
    limit = _difference_limit(stacks[2])
    grey = {'cmap': 'gray', 'vmin': 0, 'vmax': 1}
    rows = (
        (f'Before: as acquired at {source_site}', grey),
        (f'After: rendered as {target_site}', grey),
        (
            'Difference: after \N{MINUS SIGN} before',
            {'cmap': DIFFERENCE, 'vmin': -limit, 'vmax': limit},
        ),
    )
    chosen, extent = _shown(inside), _extent(stacks[0].shape, affine)
    with house_style():
        figure, grid = _slice_grid(len(chosen), extent)
        for panels, stack, (title, colours) in zip(grid, stacks, rows, strict=True):
            panels[0].set_title(f' {title}', color=INK)
            for axes, i in zip(panels, chosen, strict=True):
                draw_panel(axes, stack[i], extent, colours)
                label_cut(axes, 'LR', _height(affine, i))
        for axes, i in zip(grid[-1], chosen, strict=True):
            draw_outline(axes, inside[box][i], extent)
        _side_bar(figure, grid[-1][-1], limit)
        save(figure, Path(path))


def plot_flicker(
    before: np.ndarray,
    after: np.ndarray,
    path: Path,
    source_site: str,
    target_site: str,
    affine: np.ndarray | None = None,
) -> None:
    """The same slices before and after in turn, in one fixed window; arguments as above.

    Parameters
    ----------
    path : Path
        Ends in ``.svg``.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    inside = (before > 0) | (after > 0)
    box = _around_brain(inside)
    titles = f'Before: as acquired at {source_site}', f'After: rendered as {target_site}'
    chosen, extent = _shown(inside), _extent(before[box].shape, affine)
    with house_style():
        figures = []
        for stack, title in zip((before[box], after[box]), titles, strict=True):
            figure, panels = _one_row(len(chosen), extent)
            panels[0].set_title(f' {title}', color=INK)
            for axes, i in zip(panels, chosen, strict=True):
                draw_panel(axes, stack[i], extent, {'cmap': 'gray', 'vmin': 0, 'vmax': 1})
                label_cut(axes, 'LR', _height(affine, i))
            figures.append(figure)
        save_flicker(figures[0], figures[1], Path(path), 'before and after in turn')


def plot_planes(
    before: np.ndarray, after: np.ndarray, affine: np.ndarray, place: Sequence[float], path: Path
) -> None:
    """Cuts before, after, and what changed, through the middle of the brain and at a place.

    Parameters
    ----------
    before, after : np.ndarray, shape (X, Y, Z), range [0, 1]
        Axes left to right, back to front, bottom to top; both shown black at 0 and white at 1.
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm, RAS, without rotation.
    place : sequence of float
        mm.
    path : Path
        Ends in ``.png`` or ``.svg``.
    """
    box = tuple(
        slice(max(int(i.min()) - MARGIN, 0), int(i.max()) + 1 + MARGIN) if i.size else slice(0, 9)
        for i in np.nonzero(before > 0)
    )
    volumes = before[box], after[box], (after - before)[box]
    shape = volumes[0].shape
    cuts = _cuts(shape, [part.start for part in box], np.linalg.inv(affine) @ [*place, 1])
    edges = np.abs(np.diag(affine)[:3])
    sizes = [[shape[i] * edges[i] for i in range(3) if i != axis] for axis, _ in cuts]
    limit = _difference_limit(volumes[2])
    grey = {'cmap': 'gray', 'vmin': 0, 'vmax': 1}
    colours = grey, grey, {'cmap': DIFFERENCE, 'vmin': -limit, 'vmax': limit}
    titles = 'Before', 'After', 'Difference: after \N{MINUS SIGN} before'
    with house_style():
        figure, grid = _planes_grid(sizes)
        for panels, volume, look, title in zip(grid, volumes, colours, titles, strict=True):
            _row_title(figure, panels, 0, title)
            changed = volume is volumes[2]
            for axes, (axis, index), size in zip(panels, cuts, sizes, strict=True):
                extent = 0.0, size[0], 0.0, size[1]
                draw_panel(axes, volume.take(index, axis), extent, look)
                if changed:
                    draw_outline(axes, volumes[0].take(index, axis) > 0, extent)
                at = affine[axis, 3] + (index + box[axis].start) * affine[axis, axis]
                label_cut(axes, 'LR' if axis else 'PA', f'{"xyz"[axis]} = {at:.0f} mm')
        _row_title(figure, grid[0], 2, 'Where contrast and shading explain least')
        _side_bar(figure, grid[-1][-1], limit)
        save(figure, Path(path))


def _cuts(
    shape: Sequence[int], start: Sequence[int], place: Sequence[float] | np.ndarray
) -> list[tuple[int, int]]:
    """Axis and index, in a box: through its middle, then through a voxel of the whole volume."""
    there = [int(np.clip(round(place[i]) - start[i], 0, shape[i] - 1)) for i in range(3)]
    return [(1, shape[1] // 2), (0, shape[0] // 2), (2, there[2]), (1, there[1]), (0, there[0])]


def _row_title(figure: Figure, panels: Sequence[Axes], first: int, title: str) -> None:
    """Above the tallest of the panels, from one of them on."""
    boxes = [axes.get_position() for axes in panels]
    top, left = max(box.y1 for box in boxes) + 0.008, boxes[first].x0 + 0.004
    figure.text(left, top, title, color=INK, fontweight='bold', fontsize=10)


def _planes_grid(sizes: Sequence[Sequence[float]]) -> tuple[Figure, list[list[Axes]]]:
    """Three rows of cuts, all to one scale; `sizes` are widths and heights in mm."""
    bar, title = 0.75, 0.32  # inches
    scale = (WIDTH_IN - bar) / sum(width for width, _ in sizes)
    tall = scale * max(height for _, height in sizes)
    height = 3 * (tall + title) + 0.06
    figure = Figure(figsize=(WIDTH_IN, height), facecolor=NIGHT)
    grid = []
    for row in range(3):
        left, panels = 0.0, []
        bottom = 1 - (row + 1) * (tall + title) / height
        for wide, high in sizes:
            width = scale * wide / WIDTH_IN
            panels.append(figure.add_axes((left, bottom, width, scale * high / height)))
            left += width
        grid.append(panels)
    return figure, grid


def _single(image: Image) -> nib.Nifti1Image:
    """Three dimensions, and numbers that can be interpolated."""
    volume = Volume.of(image)
    return nib.Nifti1Image(volume.data, volume.affine)


def _shown(inside: np.ndarray) -> list[int]:
    """The slices to show, of those that hold brain; of all of them where none does."""
    held = np.flatnonzero(inside.any(axis=(1, 2)))
    return held[_spread(len(held))].tolist() if held.size else _spread(len(inside))


def _spread(n: int) -> list[int]:
    """All slices, or 7 evenly spaced; the outermost hold little brain and are left out."""
    if n <= MAX_SLICES:
        return list(range(n))
    return np.rint(np.linspace(0, n - 1, MAX_SLICES + 2)[1:-1]).astype(int).tolist()


def _around_brain(brain: np.ndarray) -> tuple[slice, ...]:
    """All slices, cropped alike to the brain and a margin; whole where there is no brain."""
    box = [slice(None)]
    for axis in (1, 2):
        inside = np.flatnonzero(brain.any(axis=(0, 3 - axis)))
        low, high = (inside[0], inside[-1] + 1) if inside.size else (0, brain.shape[axis])
        box.append(slice(max(int(low) - MARGIN, 0), int(high) + MARGIN))
    return tuple(box)


def _difference_limit(change: np.ndarray) -> float:
    """Where the difference's colours end: about its largest value, rounded up to .05."""
    changed = np.abs(change[change != 0])
    largest = float(np.percentile(changed, 99.5)) if changed.size else 0.0
    return max(float(np.ceil(largest * 20) / 20), MIN_DIFFERENCE)


def _extent(
    shape: tuple[int, ...], affine: np.ndarray | None
) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in mm of the slices of a stack."""
    edges = np.ones(2) if affine is None else np.linalg.norm(affine[:3, :2], axis=0)
    return 0.0, float(shape[1] * edges[0]), 0.0, float(shape[2] * edges[1])


def _slice_grid(n: int, extent: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """Axes of three rows of n slices; of three columns for one slice."""
    columns, lines = (3, 1) if n == 1 else (n, 3)
    bar, title = 0.75, 0.32  # inches
    cell = min((WIDTH_IN - bar) / columns, CELL_IN[min(n, 2)])
    tall = cell * extent[3] / extent[1]
    width, height = columns * cell + bar, lines * (tall + title) + 0.06
    figure = Figure(figsize=(width, height), facecolor=NIGHT)
    flat = []
    for row in range(lines):
        bottom = 1 - (row + 1) * (tall + title) / height
        for column in range(columns):
            box = (column * cell / width, bottom, cell / width, tall / height)
            flat.append(figure.add_axes(box))
    return figure, [flat[i * n : (i + 1) * n] for i in range(3)]


def _one_row(n: int, extent: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Axes of one row of n slices."""
    title = 0.32  # inches
    cell = min(WIDTH_IN / n, WIDEST_FLICKER_IN)
    tall = cell * extent[3] / extent[1]
    figure = Figure(figsize=(n * cell, tall + title), facecolor=NIGHT)
    high = tall / (tall + title)
    return figure, [figure.add_axes((i / n, 0, 1 / n, high)) for i in range(n)]


def _height(affine: np.ndarray | None, index: int) -> str:
    """Where a slice lies."""
    return '' if affine is None else f'z = {(affine @ [0, 0, index, 1])[2]:.0f} mm'


def _side_bar(figure: Figure, beside: Axes, limit: float) -> None:
    box = beside.get_position()
    inch = 1 / figure.get_size_inches()[0]
    axes = figure.add_axes(
        (box.x1 + 0.1 * inch, box.y0 + 0.1 * box.height, 0.12 * inch, 0.8 * box.height)
    )
    colours = ScalarMappable(Normalize(-limit, limit), DIFFERENCE)
    bar = figure.colorbar(colours, cax=axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f'\N{MINUS SIGN}{limit:g}', '0', f'+{limit:g}'])
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_edgecolor(INK)
