"""The sample sheet of a training run: one scan of each site, harmonized to every site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddae_app.reports.canvas import WHITE, WIDTH_IN, report_style, save

MARGIN_IN = 0.45


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
    side = (WIDTH_IN - MARGIN_IN) / n_columns
    size = (WIDTH_IN, n_rows * side * width / height + 2 * MARGIN_IN)
    titles = ('scan', 'reconstruction', *(f'as {site}' for site in sites))
    with report_style():
        figure = Figure(figsize=size, facecolor=WHITE)
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for row, site in enumerate(sites):
            for column, axes in enumerate(panels[row]):
                axes.imshow(images[row, column].T, cmap='gray', vmin=0, vmax=1, origin='lower')
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if row == 0:
                    axes.set_title(titles[column], fontsize=8)
            panels[row][0].set_ylabel(site, fontsize=8)
        figure.suptitle(title, x=0.01, ha='left', fontsize=10)
        figure.subplots_adjust(
            left=MARGIN_IN / WIDTH_IN, right=1, bottom=0, top=1 - 1.6 * MARGIN_IN / size[1],
            wspace=0.02, hspace=0.02,
        )  # fmt: skip
        save(figure, path)
