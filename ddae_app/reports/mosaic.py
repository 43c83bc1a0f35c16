"""Cuts through a volume in three planes, with an outline."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from ddae_app.reports.canvas import INK, NIGHT, OUTLINE, WIDTH_IN, draw_panel

PLANES = (('z', 2, 0, 1, 'LR'), ('y', 1, 0, 2, 'LR'), ('x', 0, 1, 2, 'PA'))
"""Axial, coronal, sagittal: name, axis cut, axes shown left to right and upwards, ends."""

CUTS = 7
TITLE_IN = 0.32


@dataclass(frozen=True)
class Volume:
    """An image along right, front and up.

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
        """Read an image, turned to the closest RAS orientation; what is not finite becomes 0."""
        image = nib.as_closest_canonical(image)
        data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), posinf=0, neginf=0)
        return cls(data.reshape(data.shape[:3]), image.affine)

    def centre(self, axis: int, index: float) -> float:
        """Position in mm of a voxel's centre along an axis."""
        return float(self.affine[axis, 3] + self.affine[axis, axis] * index)

    def edges(self, axis: int, low: int, high: int) -> tuple[float, float]:
        """Outer edges in mm of voxels `low` to `high` - 1."""
        return self.centre(axis, low - 0.5), self.centre(axis, high - 0.5)


def bounding_box(volume: Volume, mask: np.ndarray, margin_mm: float) -> tuple[slice, ...]:
    """The voxels around a mask; all of them where the mask is empty."""
    box = []
    for axis, n in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not inside.size:
            return tuple(slice(0, m) for m in mask.shape)
        pad = round(margin_mm / abs(volume.affine[axis, axis]))
        box.append(slice(max(int(inside[0]) - pad, 0), min(int(inside[-1]) + pad + 1, n)))
    return tuple(box)


def brain_window(data: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Black and white such that the brain has contrast; fat may saturate."""
    values = data[mask] if mask.any() else data
    return 0.0, max(float(np.percentile(values, 99.5)) * 1.1, 1e-6)


def draw_mosaic(volume: Volume, outline: np.ndarray, box: tuple[slice, ...], title: str) -> Figure:
    """Seven axial, coronal and sagittal cuts through the outlined region.

    Parameters
    ----------
    volume : Volume
    outline : np.ndarray, shape (X, Y, Z), range [0, 1]
        Its contour at .5 is drawn; the cuts spread over it.
    box : tuple of slice
        What is shown.
    title : str
    """
    inside = outline >= 0.5
    low, high = brain_window(volume.data, inside)
    around = bounding_box(volume, inside, 0)
    spans = [volume.edges(axis, b.start, b.stop) for axis, b in enumerate(box)]
    size = [stop - start for start, stop in spans]
    inch = WIDTH_IN / CUTS / max(size[0], size[1])  # per mm
    heights = [size[up] * inch for _, _, _, up, _ in PLANES]
    total = TITLE_IN + sum(heights)
    figure = Figure(figsize=(WIDTH_IN, total), facecolor=NIGHT)
    figure.text(0.008, 1 - TITLE_IN / 2 / total, title, color=INK, va='center', weight='bold')
    top = total - TITLE_IN
    for (name, cut, right, up, letters), height in zip(PLANES, heights, strict=True):
        top -= height
        fractions = np.linspace(0, 1, CUTS + 2)[1:-1]
        first, last = around[cut].start, around[cut].stop - 1
        for column, index in enumerate(np.rint(first + fractions * (last - first)).astype(int)):
            axes = figure.add_axes((column / CUTS, top / total, 1 / CUTS, height / total))
            window = tuple(int(index) if a == cut else b for a, b in enumerate(box))
            note = f'{name} = {volume.centre(cut, index):.0f} mm'
            extent = (*spans[right], *spans[up])
            colours = {'cmap': 'gray', 'vmin': low, 'vmax': high}
            draw_panel(axes, volume.data[window], extent, letters, note, **colours)
            _draw_outline(axes, volume, outline[window], box, (right, up))
    return figure


def _draw_outline(axes, volume: Volume, cut: np.ndarray, box, shown) -> None:  # noqa: ANN001
    if (cut >= 0.5).any() and (cut < 0.5).any():
        x, y = ([volume.centre(a, i) for i in range(box[a].start, box[a].stop)] for a in shown)
        axes.contour(x, y, cut.T, levels=[0.5], colors=OUTLINE, linewidths=0.9)
