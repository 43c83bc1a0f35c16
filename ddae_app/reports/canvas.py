"""The style that all figures share, and how they are saved: atomically and reproducibly."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ddae_app.files import write_atomically

# From the palette of Okabe and Ito, which is safe with all common types of color blindness.
BEFORE_COLOR, AFTER_COLOR, TARGET_COLOR = '#D55E00', '#0072B2', '#5A5A5A'
OUTLINE_COLOR = '#FFB000'
BLACK, WHITE, LIGHT_GRAY = '#000000', '#FFFFFF', '#E8EAED'
DIFFERENCE_COLORS = LinearSegmentedColormap.from_list(
    'difference',
    ['#9BE1FF', '#2F8FD0', '#12324A', BLACK, '#54300B', '#DE7F1B', '#FFD9A0'],
)
"""Blue below zero, black like the background at zero, orange above; safe for color-blind eyes."""

WIDTH_IN = 11.0
DPI = 130

LETTERS_PER_IN = 11
"""Of a title."""

STYLE = {
    'font.family': 'DejaVu Sans',  # ships with matplotlib, so it is available everywhere
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.titley': 1.0,  # to look for a place with room makes all ticks, which takes long
    'axes.spines.top': False,
    'axes.spines.right': False,
    'legend.frameon': False,
    'svg.fonttype': 'path',
    'svg.hashsalt': 'ddae-app',
    'text.parse_math': False,  # a site may have dollar signs in its name
}
FLICKER = """<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.3f}in" height="{high:.3f}in"
 viewBox="0 0 {wide:.3f} {high:.3f}">
<title>{title}</title>
<style>
svg {{ max-width: 100%; height: auto; }}
.front {{ animation: flicker 3s infinite; }}
svg:hover .front {{ animation-play-state: paused; }}
@keyframes flicker {{
  0%, 46% {{ opacity: 1; }}
  50%, 96% {{ opacity: 0; }}
  100% {{ opacity: 1; }}
}}
@media (prefers-reduced-motion: reduce) {{
  .front {{ animation: none; }}
  svg:hover .front {{ opacity: 0; }}
}}
</style>
<image width="100%" height="100%" href="data:image/png;base64,{back}"/>
<image class="front" width="100%" height="100%" href="data:image/png;base64,{front}"/>
</svg>
"""


@contextmanager
def report_style() -> Iterator[None]:
    """Draw and save in the style of the reports, whatever the user's ``matplotlibrc`` says."""
    with matplotlib.style.context(STYLE, after_reset=True):
        yield


def render(figure: Figure, kind: str) -> bytes:
    """Encode a figure as the bytes of a ``png`` or ``svg`` file, without date or version."""
    dateless = {'svg': {'Date': None, 'Creator': None}, 'png': {'Software': None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=dateless[kind])
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the suffix, ``.png`` or ``.svg``, names."""
    write_atomically(path, render(figure, path.suffix.removeprefix('.').lower()))


def save_flicker(front: Figure, back: Figure, path: Path, title: str) -> None:
    """Write two figures of one size as an SVG that alternates between them; hover to pause.

    Parameters
    ----------
    front, back : Figure
        The figures that are shown first and second.
    path : Path
        Ends in ``.svg``.
    title : str
        Read by screen readers; plain text without markup.
    """
    wide, high = front.get_size_inches()
    encoded = {
        name: base64.b64encode(render(figure, 'png')).decode()
        for name, figure in (('front', front), ('back', back))
    }
    text = FLICKER.format(wide=wide, high=high, title=title, **encoded)
    write_atomically(path, text.encode())


def shortened(name: str, longest: int) -> str:
    """A name that a user gave, in at most so many letters: its beginning and its end are kept."""
    if len(name) <= longest:
        return name
    end = max(longest - 1, 0) // 2
    return f'{name[: longest - 1 - end]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - end :]}'


def draw_panel(
    axes: Axes,
    image: np.ndarray,
    extent: tuple[float, float, float, float],
    colors: Mapping[str, Any],
) -> None:
    """Draw one slice without ticks.

    Parameters
    ----------
    axes : Axes
    image : np.ndarray, shape (A, B)
        First axis left to right, second axis bottom to top.
    extent : tuple of float
        Left, right, bottom, top in mm, so that voxels have their true shape.
    colors : mapping
        Intensity window and color map, as ``imshow`` takes them.
    """
    axes.set_axis_off()
    axes.imshow(
        image.T, origin='lower', extent=extent, aspect='equal', interpolation='nearest', **colors
    )


def draw_outline(
    axes: Axes, inside: np.ndarray, extent: tuple[float, float, float, float]
) -> None:
    """Draw the boundary of a region on a slice.

    Parameters
    ----------
    axes : Axes
    inside : np.ndarray, shape (A, B), bool
        Axes and extent as of :func:`draw_panel`.
    extent : tuple of float
        Left, right, bottom, top in mm.
    """
    if inside.any() and not inside.all():
        axes.contour(
            inside.T,
            levels=[0.5],
            colors=OUTLINE_COLOR,
            linewidths=0.6,
            origin='lower',
            extent=extent,
        )


def label_slice(
    axes: Axes, letters: str, note: str, start: float = 0.0, width: float = 1.0
) -> None:
    """Label the two sides of a slice, and its position.

    Parameters
    ----------
    axes : Axes
    letters : str
        Two letters, for the left and the right side.
    note : str
        The position of the slice; may be empty.
    start, width : float
        The part of the axes that the slice takes, in fractions of their width.
    """
    labels = (
        (0.03, 0.97, letters[0], 'left', 'top'),
        (0.97, 0.97, letters[1], 'right', 'top'),
        (0.03, 0.03, note, 'left', 'bottom'),
    )
    for x, y, label, ha, va in labels:
        text = axes.text(
            start + x * width, y, label, ha=ha, va=va, color=LIGHT_GRAY, transform=axes.transAxes
        )
        # A dark rim keeps the labels legible on bright tissue.
        text.set(fontsize=7.5, path_effects=[withStroke(linewidth=2, foreground=BLACK)])
