"""Boxes and arrows on a page that is measured in pixels, and how all pictures are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

BEFORE, AFTER, NEUTRAL = '#D55E00', '#0072B2', '#5A5A5A'
"""Okabe and Ito's palette, as in the reports of the program."""

INK, PAPER = '#1F2328', '#FFFFFF'
GRAY, BLUE, ORANGE, GREEN, PURPLE = '#F1F3F5', '#E3F0F8', '#FBEADF', '#E2F3EC', '#F3E6EF'
PIXELS_PER_INCH = 96
SMALLEST = 10
"""Size in pixels below which text could not be read where a page shows 700 pixels."""

STYLE = {
    'font.family': 'DejaVu Sans',  # ships with matplotlib, so looks the same everywhere
    'mathtext.fontset': 'dejavusans',
    'svg.fonttype': 'path',
    'svg.hashsalt': 'ddae-app',
}


@contextmanager
def style() -> Iterator[None]:
    """Draw the same, whatever the ``matplotlibrc`` of the user says."""
    with matplotlib.style.context(STYLE, after_reset=True):
        yield


@dataclass(frozen=True)
class Box:
    """A rectangle by its left upper corner; y grows downwards, as on a screen."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        """Middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        """Middle of the right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        """Middle of the upper side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """Middle of the lower side."""
        return self.x + self.width / 2, self.y + self.height


class Drawing:
    """A page of boxes, arrows and text.

    Parameters
    ----------
    width, height : float
        Of the page, in pixels.
    """

    def __init__(self, width: float, height: float) -> None:
        size = width / PIXELS_PER_INCH, height / PIXELS_PER_INCH
        self.figure = Figure(figsize=size, facecolor=PAPER)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def box(
        self, place: tuple[float, float, float, float], title: str = '', text: str = '',
        color: str = GRAY, edge: str = NEUTRAL, size: float = 12,
    ) -> Box:  # fmt: skip
        """A rounded box with a bold title and text below it; `place` is x, y, width, height."""
        box = Box(*place)
        self.axes.add_patch(
            FancyBboxPatch(
                (box.x + 4, box.y + 4), box.width - 8, box.height - 8,
                boxstyle='round,pad=4,rounding_size=6', facecolor=color, edgecolor=edge,
                linewidth=0.9, zorder=2,
            )
        )  # fmt: skip
        center = box.x + box.width / 2
        middle = box.y + box.height / 2
        lines = text.count('\n') + 1 if text else 0
        below = lines * (size - 1.5) * 1.3
        if title:
            self.text((center, middle - below / 2), title, size=size, bold=True)
        if text:
            shift = size * 0.62 * (title.count('\n') + 1) if title else 0
            self.text((center, middle + shift), text, size=max(SMALLEST, size - 1.5))
        return box

    def panel(self, place: tuple[float, float, float, float], color: str = '#FAFBFC') -> None:
        """A large box behind others, and behind the arrows; `place` is x, y, width, height."""
        x, y, width, height = place
        self.axes.add_patch(
            FancyBboxPatch(
                (x + 4, y + 4), width - 8, height - 8, boxstyle='round,pad=4,rounding_size=6',
                facecolor=color, edgecolor='#C9CED4', linewidth=0.9, zorder=0.5,
            )
        )  # fmt: skip

    def text(
        self, at: tuple[float, float], text: str, size: float = 11, color: str = INK,
        align: str = 'center', bold: bool = False, mono: bool = False, vertical: str = 'center',
    ) -> None:  # fmt: skip
        """Text around or beside a point; `size` in pixels."""
        assert size >= SMALLEST
        self.axes.text(
            *at, text, fontsize=size * 72 / PIXELS_PER_INCH, color=color, ha=align, va=vertical,
            fontweight='bold' if bold else 'normal', linespacing=1.25,
            fontfamily='DejaVu Sans Mono' if mono else 'DejaVu Sans', zorder=3,
        )  # fmt: skip

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], color: str = NEUTRAL,
        bend: float = 0, dashed: bool = False,
    ) -> None:  # fmt: skip
        """An arrow from point to point, straight or bent by a share of its length."""
        self.axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle='-|>', mutation_scale=9, color=color, linewidth=1.1,
                connectionstyle=f'arc3,rad={bend}', shrinkA=1, shrinkB=1,
                linestyle='--' if dashed else '-',
            )
        )  # fmt: skip

    def elbow(self, *points: tuple[float, float], color: str = NEUTRAL) -> None:
        """An arrow along straight lines through several points."""
        x, y = zip(*points[:-1], strict=True)
        self.axes.plot(x, y, color=color, linewidth=1.1, solid_joinstyle='round')
        self.arrow(points[-2], points[-1], color)

    def stripe(self, y: float, height: float) -> None:
        """A band across the page, behind all else."""
        self.axes.axhspan(y, y + height, color=GRAY, linewidth=0, zorder=0)

    def dot(self, at: tuple[float, float], *, filled: bool) -> None:
        """A small circle."""
        face = AFTER if filled else PAPER
        self.axes.plot(*at, 'o', markersize=6.5, markerfacecolor=face, markeredgecolor=AFTER)

    def picture(self, image: np.ndarray, box: Box) -> None:
        """A gray image with values from 0 to 1, on black."""
        place = box.x, box.y, box.width, box.height
        inset = self.axes.inset_axes(place, transform=self.axes.transData, zorder=4)
        inset.imshow(image, cmap='gray', vmin=0, vmax=1, interpolation='bilinear')
        inset.set_axis_off()

    def save(self, path: Path) -> None:
        """Write an SVG file without a date, so that the same drawing gives the same bytes."""
        self.figure.savefig(path, format='svg', metadata={'Date': None, 'Creator': None})


def shrink(path: Path) -> None:
    """Rewrite a PNG file with a palette of 256 colors, which takes about a third of the bytes."""
    with Image.open(path) as image:
        picture = image.convert('RGB')
    # Thin colored lines keep their color with this method, and lose it with the usual one.
    palette = picture.quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
