"""Read figures back: the texts and lines of an SVG, and the areas of one color of a picture."""

from __future__ import annotations

import html
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from scipy import ndimage

SVG = '{http://www.w3.org/2000/svg}'


class Area(NamedTuple):
    """A connected area of one color, in pixels from the top left, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def center(self, pixels: np.ndarray) -> np.ndarray:
        """The color of its middle, shape (3,)."""
        return pixels[(self.top + self.bottom) // 2, (self.left + self.right) // 2]


def pixels_of(png: Path | bytes) -> np.ndarray:
    """Red, green and blue of each pixel, shape (H, W, 3), 0 to 255."""
    file = BytesIO(png) if isinstance(png, bytes) else png
    return np.rint(image.imread(file, format='png')[..., :3] * 255).astype(int)


def areas(mask: np.ndarray, least: int = 100) -> list[Area]:
    """Connected areas of at least so many pixels, in rows from the top and then from the left."""
    numbers, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(numbers.ravel())
    found = [
        Area(rows.start, columns.start, rows.stop, columns.stop)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), 1)
        if sizes[number] >= least
    ]
    return sorted(found, key=lambda area: (round(area.top / 20), area.left))


def is_color(pixels: np.ndarray, color: str | tuple[int, ...], tolerance: int = 4) -> np.ndarray:
    """Which pixels have a color, ``#rrggbb`` or numbers, shape (H, W), bool."""
    if isinstance(color, str):
        color = tuple(bytes.fromhex(color.removeprefix('#')))
    return (np.abs(pixels - np.array(color)) <= tolerance).all(axis=-1)


def is_bright_gray(pixels: np.ndarray) -> np.ndarray:
    """Which pixels are gray and not nearly black, shape (H, W), bool."""
    return (np.ptp(pixels, axis=-1) <= 2) & (pixels[..., 0] > 20)


def texts(svg: Path) -> list[str]:
    """Texts without a rim, which matplotlib repeats as comments beside their outlines."""
    comments = re.findall('<!--(.*?)-->', svg.read_text(encoding='utf-8'), re.DOTALL)
    return [html.unescape(text).strip() for text in comments]


def lines(svg: Path, color: str) -> list[np.ndarray]:
    """Points of each line of a color, shape (N, 2): to the right and down; legends excluded."""
    root = ElementTree.parse(svg).getroot()
    legends = [g for g in root.iter(f'{SVG}g') if g.get('id', '').startswith('legend')]
    in_legend = {id(path) for legend in legends for path in legend.iter(f'{SVG}path')}
    drawn = []
    for path in root.iter(f'{SVG}path'):
        style = path.get('style', '')
        if f'stroke: {color.lower()}' in style and 'fill: none' in style:
            points = re.findall(r'[ML] ([\d.-]+) ([\d.-]+)', path.get('d', ''))
            if id(path) not in in_legend and points:
                drawn.append(np.array(points, float))
    return drawn


def alternating(svg: Path) -> list[np.ndarray]:
    """Pixels of the pictures of an animated SVG, in the order in which they are seen."""
    images = ElementTree.parse(svg).getroot().findall(f'{SVG}image')
    assert [image.get('class') for image in images] == [None, 'front']  # the last is on top
    data = [image.get('href', '').removeprefix('data:image/png;base64,') for image in images]
    return [pixels_of(b64decode(text)) for text in reversed(data)]


def crowded(figure: Figure, *, legends_in_panels: bool = False) -> list[str]:
    """Titles and legends that leave their figure, that others cover, or that cover panels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    titles = {axes.get_title('left') for axes in figure.axes}
    named = {text for legend in figure.findobj(Legend) for text in legend.get_texts()}
    texts = [
        text for text in figure.findobj(Text)
        if text.get_text() and (text.get_text() in titles or text in named)
    ]  # fmt: skip
    boxes = [text.get_window_extent(renderer).padded(-1) for text in texts]
    panels = [axes.get_window_extent(renderer) for axes in figure.axes]
    whole = figure.bbox
    found = []
    for text, box in zip(texts, boxes, strict=True):
        if box.x0 < whole.x0 or box.y0 < whole.y0 or box.x1 > whole.x1 or box.y1 > whole.y1:
            found.append(f'{text.get_text()} leaves the figure')
        if box.count_overlaps(boxes) > 1:
            found.append(f'{text.get_text()} and another cover each other')
        if text in named and box.count_overlaps(panels) > legends_in_panels:
            found.append(f'{text.get_text()} covers a panel')
    return found
