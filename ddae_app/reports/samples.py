"""The sample sheet of a training run: one scan of each site, harmonized to every site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddae_app.reports.canvas import (
    LETTERS_PER_IN,
    WHITE,
    WIDTH_IN,
    report_style,
    save,
    shortened,
)

MARGIN_IN = 0.45
LONGEST_NAME = 18


def plot_samples(images: np.ndarray, sites: Sequence[str], path: Path, title: str) -> None:
    """Draw a row per site: its scan, the reconstruction, and the scan harmonized to each site.

    Parameters
    ----------
    images : np.ndarray, shape (S, 2 + S, H, W), range [0, 1]
        Slices whose axes run to the right and to the front.
    sites : sequence of str, length S
    path : Path
        Ends in ``.png`` or ``.svg``.
    title : str
    """
    n_rows, n_columns, height, width = images.shape
    names = [shortened(site, LONGEST_NAME) for site in sites]
    titles = ('scan', 'reconstruction', *(f'as {name}' for name in names))
    longest = max(map(len, (*titles, *names)))
    # Of many sites, the panels are too small for names beside each other: they are turned.
    turned = (WIDTH_IN - MARGIN_IN) / n_columns * LETTERS_PER_IN < longest
    room = longest / LETTERS_PER_IN if turned else 0
    margin = MARGIN_IN + room
    side = (WIDTH_IN - margin) / n_columns
    size = (WIDTH_IN, n_rows * side * width / height + 2 * MARGIN_IN + room)
    with report_style():
        figure = Figure(figsize=size, facecolor=WHITE)
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for row, name in enumerate(names):
            for column, axes in enumerate(panels[row]):
                axes.imshow(images[row, column].T, cmap='gray', vmin=0, vmax=1, origin='lower')
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if row == 0:
                    axes.set_title(titles[column], fontsize=8, rotation=90 if turned else 0)
            side_by_side = {'rotation': 0, 'ha': 'right', 'va': 'center'} if turned else {}
            panels[row][0].set_ylabel(name, fontsize=8, **side_by_side)
        figure.suptitle(title, x=0.01, ha='left', fontsize=10)
        figure.subplots_adjust(
            left=margin / WIDTH_IN, right=1, bottom=0,
            top=1 - (1.6 * MARGIN_IN + room) / size[1], wspace=0.02, hspace=0.02,
        )  # fmt: skip
        save(figure, path)
