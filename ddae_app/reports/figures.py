"""The figures of the participant pages: each function draws arrays or images into one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ddae_app.reports.canvas import (
    BLACK,
    DIFFERENCE_COLORS,
    LETTERS_PER_IN,
    LIGHT_GRAY,
    WIDTH_IN,
    draw_outline,
    draw_panel,
    label_slice,
    report_style,
    save,
    save_flicker,
    shortened,
)
from ddae_app.reports.mosaic import Volume, bounding_box, draw_mosaic

__all__ = [
    'plot_flicker',
    'plot_harmonization',
    'plot_mask',
    'plot_planes',
    'plot_registration',
]

MAX_SLICES = 7
CELL_IN = {1: 3.4, 2: 2.2}
"""Maximum width of a panel, for one slice and for more."""

MAX_FLICKER_IN = 5.0

MARGIN = 4
MIN_DIFFERENCE = 0.05
"""The smallest limit of the difference's colors, so that rounding does not look like a change."""

Image = nib.spatialimages.SpatialImage


def plot_registration(volume: Image, template: Image, mask: Image, path: Path) -> None:
    """Alternate between scan and template, with the outline of the template's brain on both.

    Parameters
    ----------
    volume : nibabel image, shape (X, Y, Z)
        Preprocessed scan in template space, with or without the skull.
    template : nibabel image, shape (X, Y, Z)
        On the same grid.
    mask : nibabel image, shape (X, Y, Z), range [0, 1]
        The template's brain, on the same grid.
    path : Path
        Ends in ``.svg``.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    scan, expected, outline = (Volume.of(image) for image in (volume, template, mask))
    _check_shapes(scan, expected, 'template')
    _check_shapes(scan, outline, 'mask')
    whole = tuple(slice(0, n) for n in scan.data.shape)
    with report_style():
        figures = [
            draw_mosaic(image, outline.data, whole, title)
            for image, title in (
                (scan, 'Scan, with the outline of the template brain'),
                (expected, 'Template, with the outline of its brain'),
            )
        ]
        save_flicker(figures[0], figures[1], Path(path), 'scan and template, alternating')


def plot_mask(volume: Image, mask: Image, path: Path) -> None:
    """Draw slices in three planes with the outline of the brain mask.

    Parameters
    ----------
    volume : nibabel image, shape (X, Y, Z)
        Preprocessed scan.
    mask : nibabel image, shape (X, Y, Z), 0 or 1
        The brain, on the same grid.
    path : Path
        Ends in ``.png`` or ``.svg``.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    scan, brain = Volume.of(volume), Volume.of(mask)
    _check_shapes(scan, brain, 'mask')
    box = bounding_box(scan, brain.data >= 0.5, margin_mm=12)
    with report_style():
        save(draw_mosaic(scan, brain.data, box, 'Scan, with the outline of its brain'), Path(path))


def plot_harmonization(
    before: np.ndarray,
    after: np.ndarray,
    path: Path,
    source_site: str,
    target_site: str,
    affine: np.ndarray | None = None,
) -> None:
    """Draw slices before and after harmonization, and their difference with the brain outline.

    Parameters
    ----------
    before, after : np.ndarray, shape (N, H, W), range [0, 1]
        Axes (slice, left to right, back to front). An intensity of 0 is shown black and 1 white.
        If there are more than 7 slices with brain, 7 evenly spaced ones are shown.
    path : Path
        Ends in ``.png`` or ``.svg``.
    source_site, target_site : str
    affine : np.ndarray, shape (4, 4), optional
        From (left to right, back to front, slice) indices to mm, RAS. It gives pixels their true
        shape and labels each slice with its height. Without it pixels are square.

    Raises
    ------
    ValueError
        If the shapes differ, or are not of three dimensions.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    if before.shape != after.shape or before.ndim != 3:
        raise ValueError(
            f'before has shape {before.shape} and after {after.shape}; give two of shape (N, H, W)'
        )
    inside = (before > 0) | (after > 0)
    box = _crop_to_brain(inside)
    stacks = before[box], after[box], (after - before)[box]
    limit = _difference_limit(stacks[2])
    gray = {'cmap': 'gray', 'vmin': 0, 'vmax': 1}
    chosen, extent = _slices_to_show(inside), _extent(stacks[0].shape, affine)
    with report_style():
        figure, grid = _slice_grid(len(chosen), extent)
        rows = (
            *((title, gray) for title in _titles(figure, grid[0], source_site, target_site)),
            (
                'Difference: after \N{MINUS SIGN} before',
                {'cmap': DIFFERENCE_COLORS, 'vmin': -limit, 'vmax': limit},
            ),
        )
        for panels, stack, (title, colors) in zip(grid, stacks, rows, strict=True):
            panels[0].set_title(f' {title}', color=LIGHT_GRAY)
            for axes, i in zip(panels, chosen, strict=True):
                draw_panel(axes, stack[i], extent, colors)
                label_slice(axes, 'LR', _height(affine, i))
        for axes, i in zip(grid[-1], chosen, strict=True):
            draw_outline(axes, inside[box][i], extent)
        _color_bar(figure, grid[-1][-1], limit)
        save(figure, Path(path))


def plot_flicker(
    before: np.ndarray,
    after: np.ndarray,
    path: Path,
    source_site: str,
    target_site: str,
    affine: np.ndarray | None = None,
) -> None:
    """Alternate between slices before and after harmonization, in one fixed intensity window.

    Parameters
    ----------
    before, after : np.ndarray, shape (N, H, W), range [0, 1]
        As for :func:`plot_harmonization`.
    path : Path
        Ends in ``.svg``.
    source_site, target_site : str
    affine : np.ndarray, shape (4, 4), optional
        As for :func:`plot_harmonization`.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    inside = (before > 0) | (after > 0)
    box = _crop_to_brain(inside)
    chosen, extent = _slices_to_show(inside), _extent(before[box].shape, affine)
    with report_style():
        figures = []
        for number, stack in enumerate((before[box], after[box])):
            figure, panels = _one_row(len(chosen), extent)
            title = _titles(figure, panels, source_site, target_site)[number]
            panels[0].set_title(f' {title}', color=LIGHT_GRAY)
            for axes, i in zip(panels, chosen, strict=True):
                draw_panel(axes, stack[i], extent, {'cmap': 'gray', 'vmin': 0, 'vmax': 1})
                label_slice(axes, 'LR', _height(affine, i))
            figures.append(figure)
        save_flicker(figures[0], figures[1], Path(path), 'before and after, alternating')


def plot_planes(
    before: np.ndarray,
    after: np.ndarray,
    affine: np.ndarray,
    position: Sequence[float],
    path: Path,
) -> None:
    """Draw slices of a volume before and after harmonization, and their difference.

    Two slices lie in the middle of the brain (coronal, sagittal). Three slices, one in each
    plane, go through a given position.

    Parameters
    ----------
    before, after : np.ndarray, shape (X, Y, Z), range [0, 1]
        Axes left to right, back to front, bottom to top. An intensity of 0 is shown black and 1
        white.
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm, RAS, without rotation.
    position : sequence of float, length 3
        mm, in the space of the affine.
    path : Path
        Ends in ``.png`` or ``.svg``.
    """
    box = tuple(
        slice(max(int(i.min()) - MARGIN, 0), int(i.max()) + 1 + MARGIN) if i.size else slice(0, 9)
        for i in np.nonzero(before > 0)
    )
    volumes = before[box], after[box], (after - before)[box]
    shape = volumes[0].shape
    planes = _plane_slices(
        shape, [part.start for part in box], np.linalg.inv(affine) @ [*position, 1]
    )
    edges = np.abs(np.diag(affine)[:3])
    sizes = [[shape[i] * edges[i] for i in range(3) if i != axis] for axis, _ in planes]
    limit = _difference_limit(volumes[2])
    gray = {'cmap': 'gray', 'vmin': 0, 'vmax': 1}
    colors = gray, gray, {'cmap': DIFFERENCE_COLORS, 'vmin': -limit, 'vmax': limit}
    titles = 'Before', 'After', 'Difference: after \N{MINUS SIGN} before'
    with report_style():
        figure, grid = _planes_grid(sizes)
        for panels, volume, style, title in zip(grid, volumes, colors, titles, strict=True):
            _row_title(figure, panels, 0, title)
            is_difference = volume is volumes[2]
            for axes, (axis, index), size in zip(panels, planes, sizes, strict=True):
                extent = 0.0, size[0], 0.0, size[1]
                draw_panel(axes, volume.take(index, axis), extent, style)
                if is_difference:
                    draw_outline(axes, volumes[0].take(index, axis) > 0, extent)
                at = affine[axis, 3] + (index + box[axis].start) * affine[axis, axis]
                label_slice(axes, 'LR' if axis else 'PA', f'{"xyz"[axis]} = {at:.0f} mm')
        _row_title(figure, grid[0], 2, 'Where contrast and shading explain the change least')
        _color_bar(figure, grid[-1][-1], limit)
        save(figure, Path(path))


def _titles(
    figure: Figure, row: Sequence[Axes], source_site: str, target_site: str
) -> tuple[str, str]:
    """Titles of a scan before and after harmonization, as long as their row of panels is wide."""
    width = figure.get_size_inches()[0] * (row[-1].get_position().x1 - row[0].get_position().x0)
    room = int(width * LETTERS_PER_IN)
    before, after = 'Before: as acquired at ', 'After: rendered as '
    return (
        before + shortened(source_site, room - len(before)),
        after + shortened(target_site, room - len(after)),
    )


def _plane_slices(
    shape: Sequence[int], start: Sequence[int], voxel: Sequence[float] | np.ndarray
) -> list[tuple[int, int]]:
    """Axis and index, within a box, of two slices in its middle and of three through a voxel.

    The voxel is given in indices of the whole volume, in which the box begins at `start`.
    """
    inside = [int(np.clip(round(voxel[i]) - start[i], 0, shape[i] - 1)) for i in range(3)]
    return [(1, shape[1] // 2), (0, shape[0] // 2), (2, inside[2]), (1, inside[1]), (0, inside[0])]


def _row_title(figure: Figure, panels: Sequence[Axes], first: int, title: str) -> None:
    """Write a title above the tallest of the panels, left-aligned with one of them."""
    boxes = [axes.get_position() for axes in panels]
    top, left = max(box.y1 for box in boxes) + 0.008, boxes[first].x0 + 0.004
    figure.text(left, top, title, color=LIGHT_GRAY, fontweight='bold', fontsize=10)


def _planes_grid(sizes: Sequence[Sequence[float]]) -> tuple[Figure, list[list[Axes]]]:
    """Make axes of three rows of slices in one scale; `sizes` are widths and heights in mm."""
    bar, title = 0.75, 0.32  # inches
    scale = (WIDTH_IN - bar) / sum(width for width, _ in sizes)
    tall = scale * max(height for _, height in sizes)
    height = 3 * (tall + title) + 0.06
    figure = Figure(figsize=(WIDTH_IN, height), facecolor=BLACK)
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


def _check_shapes(scan: Volume, other: Volume, name: str) -> None:
    if scan.data.shape != other.data.shape:
        raise ValueError(
            f'the scan has shape {scan.data.shape} and the {name} {other.data.shape}; give a '
            f'{name} on the grid of the scan'
        )


def _slices_to_show(inside: np.ndarray) -> list[int]:
    """Indices of the slices to show, of those with brain, or of all if none has brain."""
    held = np.flatnonzero(inside.any(axis=(1, 2)))
    return held[_evenly_spaced(len(held))].tolist() if held.size else _evenly_spaced(len(inside))


def _evenly_spaced(n: int) -> list[int]:
    """Indices of all slices, or of 7 evenly spaced ones without the outermost."""
    if n <= MAX_SLICES:
        return list(range(n))
    return np.rint(np.linspace(0, n - 1, MAX_SLICES + 2)[1:-1]).astype(int).tolist()


def _crop_to_brain(brain: np.ndarray) -> tuple[slice, ...]:
    """Crop all slices alike to the brain and a margin; they stay whole if there is no brain."""
    box = [slice(None)]
    for axis in (1, 2):
        inside = np.flatnonzero(brain.any(axis=(0, 3 - axis)))
        low, high = (inside[0], inside[-1] + 1) if inside.size else (0, brain.shape[axis])
        box.append(slice(max(int(low) - MARGIN, 0), int(high) + MARGIN))
    return tuple(box)


def _difference_limit(change: np.ndarray) -> float:
    """The limit of the difference's colors: its 99.5th percentile, rounded up to .05."""
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
    """Make axes of three rows of n slices, or of three columns for one slice."""
    columns, lines = (3, 1) if n == 1 else (n, 3)
    bar, title = 0.75, 0.32  # inches
    cell = min((WIDTH_IN - bar) / columns, CELL_IN[min(n, 2)])
    tall = cell * extent[3] / extent[1]
    width, height = columns * cell + bar, lines * (tall + title) + 0.06
    figure = Figure(figsize=(width, height), facecolor=BLACK)
    flat = []
    for row in range(lines):
        bottom = 1 - (row + 1) * (tall + title) / height
        for column in range(columns):
            box = (column * cell / width, bottom, cell / width, tall / height)
            flat.append(figure.add_axes(box))
    return figure, [flat[i * n : (i + 1) * n] for i in range(3)]


def _one_row(n: int, extent: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Make axes of one row of n slices."""
    title = 0.32  # inches
    cell = min(WIDTH_IN / n, MAX_FLICKER_IN)
    tall = cell * extent[3] / extent[1]
    figure = Figure(figsize=(n * cell, tall + title), facecolor=BLACK)
    high = tall / (tall + title)
    return figure, [figure.add_axes((i / n, 0, 1 / n, high)) for i in range(n)]


def _height(affine: np.ndarray | None, index: int) -> str:
    """The height of a slice, as a label."""
    return '' if affine is None else f'z = {(affine @ [0, 0, index, 1])[2]:.0f} mm'


def _color_bar(figure: Figure, beside: Axes, limit: float) -> None:
    box = beside.get_position()
    inch = 1 / figure.get_size_inches()[0]
    axes = figure.add_axes(
        (box.x1 + 0.1 * inch, box.y0 + 0.1 * box.height, 0.12 * inch, 0.8 * box.height)
    )
    colors = ScalarMappable(Normalize(-limit, limit), DIFFERENCE_COLORS)
    bar = figure.colorbar(colors, cax=axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f'\N{MINUS SIGN}{limit:g}', '0', f'+{limit:g}'])
    bar.ax.tick_params(colors=LIGHT_GRAY, labelsize=8)
    bar.outline.set_edgecolor(LIGHT_GRAY)
