"""Slices of a volume in three planes, with the outline of a region."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from ddae_app.reports.canvas import (
    BLACK,
    LIGHT_GRAY,
    OUTLINE_COLOR,
    WIDTH_IN,
    label_slice,
)

PLANES = (('z', 2, 0, 1, 'LR'), ('y', 1, 0, 2, 'LR'), ('x', 0, 1, 2, 'PA'))
"""Axial, coronal, sagittal: name, sliced axis, horizontal and vertical axis, side labels."""

SLICES = 7
TITLE_IN = 0.32


@dataclass(frozen=True)
class Volume:
    """An image whose axes run to the right, to the front and up.

    Attributes
    ----------
    data : np.ndarray, shape (X, Y, Z), float32
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm, RAS, without rotation.
    """

    data: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, image: nib.spatialimages.SpatialImage) -> Volume:
        """Read an image in the closest RAS orientation; values that are not finite become 0."""
        image = nib.as_closest_canonical(image)
        data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), posinf=0, neginf=0)
        return cls(data.reshape(data.shape[:3]), image.affine)

    def center(self, axis: int, index: float) -> float:
        """Position, in mm, of the center of a voxel along an axis."""
        return float(self.affine[axis, 3] + self.affine[axis, axis] * index)


def bounding_box(volume: Volume, mask: np.ndarray, margin_mm: float) -> tuple[slice, ...]:
    """The voxels around a mask, with a margin; all voxels if the mask is empty."""
    box = []
    for axis, n in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not inside.size:
            return tuple(slice(0, m) for m in mask.shape)
        pad = round(margin_mm / abs(volume.affine[axis, axis]))
        box.append(slice(max(int(inside[0]) - pad, 0), min(int(inside[-1]) + pad + 1, n)))
    return tuple(box)


def brain_window(data: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """The intensity window that gives the brain contrast; fat, vessels and spikes may saturate.

    The 99.5th percentile of tissue is about 1.05 times the 95th, which vessels do not reach.
    """
    values = data[mask] if mask.any() else data
    return 0.0, max(float(np.percentile(values, 95)) * 1.16, 1e-6)


def draw_mosaic(volume: Volume, outline: np.ndarray, box: tuple[slice, ...], title: str) -> Figure:
    """Draw seven axial, coronal and sagittal slices through an outlined region.

    Parameters
    ----------
    volume : Volume
    outline : np.ndarray, shape (X, Y, Z), range [0, 1]
        The region: its contour at .5 is drawn, and the slices are spread over it.
    box : tuple of slice
        The part of the volume that is shown.
    title : str
    """
    inside = outline >= 0.5
    low, high = brain_window(volume.data, inside)
    around = bounding_box(volume, inside, 0)
    sizes = [b.stop - b.start for b in box]
    steps = [abs(volume.affine[axis, axis]) for axis in range(3)]
    cell = max(sizes[0] * steps[0], sizes[1] * steps[1])  # width of a slice in mm, with margins
    inch = WIDTH_IN / SLICES / cell
    heights = [sizes[up] * steps[up] * inch for _, _, _, up, _ in PLANES]
    total = TITLE_IN + sum(heights)
    figure = Figure(figsize=(WIDTH_IN, total), facecolor=BLACK)
    figure.text(
        0.008, 1 - TITLE_IN / 2 / total, title, color=LIGHT_GRAY, va='center', weight='bold'
    )
    top = total - TITLE_IN
    for (name, cut, right, _, letters), height in zip(PLANES, heights, strict=True):
        top -= height
        fractions = np.linspace(0, 1, SLICES + 2)[1:-1]
        first, last = around[cut].start, around[cut].stop - 1
        chosen = np.rint(first + fractions * (last - first)).astype(int)
        pad = round((cell / steps[right] - sizes[right]) / 2)
        windows = [tuple(int(i) if a == cut else b for a, b in enumerate(box)) for i in chosen]
        # One image per row, since 21 small ones take four times as long to draw.
        image, line = (
            np.concatenate([np.pad(data[w], ((pad, pad), (0, 0))) for w in windows])
            for data in (volume.data, outline)
        )
        axes = figure.add_axes((0, top / total, 1, height / total))
        axes.set_axis_off()
        axes.imshow(
            image.T,
            origin='lower',
            aspect='auto',
            interpolation='nearest',
            cmap='gray',
            vmin=low,
            vmax=high,
        )
        if (line >= 0.5).any() and (line < 0.5).any():
            axes.contour(line.T, levels=[0.5], colors=OUTLINE_COLOR, linewidths=0.9)
        for column, index in enumerate(chosen):
            note = f'{name} = {volume.center(cut, index):.0f} mm'
            label_slice(axes, letters, note, column / SLICES, 1 / SLICES)
    return figure
