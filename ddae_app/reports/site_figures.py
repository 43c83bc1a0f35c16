"""Figures of the site effects on all scans, before and after harmonization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddae_app.reports.canvas import (
    BLACK,
    DIFFERENCE_COLORS,
    LETTERS_PER_IN,
    WHITE,
    WIDTH_IN,
    render,
    report_style,
    shortened,
)
from ddae_app.reports.evaluation import Estimate

COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#5A5A5A')
"""The palette of Okabe and Ito, which is safe with all common types of color blindness."""

LINES = ('-', '--', ':', '-.')
MIN_SCALE = 0.05
"""The smallest share of variance that the brightest color may stand for."""

COLUMNS = 4
"""Panels in a row."""

MIN_COLUMNS = 4
LABEL_WIDTH, TITLE_WIDTH = 18, 24
"""Letters of a line of the label of a row, and of the title of a panel."""
MARKERS = ('o', 's', '^', 'D')
MAX_INTENSITY, MAX_DIFFERENCE = 1.1, 0.3
"""The intensity that is shown white, and the difference of the strongest colors."""

MAX_IN_LEGEND = 14
"""Sites in a legend."""

LONGEST_NAME = 24
"""Letters of a site in a legend."""

LONGEST_METHOD = 44
"""Letters of a method: with the name of its model, it may be long."""


def draw_variance_maps(maps: Mapping[str, np.ndarray]) -> bytes:
    """Draw the share of the variance at each pixel that the site explains, for each method.

    Parameters
    ----------
    maps : mapping of str to np.ndarray, shape (H, W), 0 to 1
        The axes are (left to right, back to front).

    Returns
    -------
    bytes
        A PNG image.
    """
    shares = np.stack([*maps.values()])
    brain = shares.max(axis=0) > 0
    limit = max(float(np.quantile(shares[:, brain], 0.999)) if brain.any() else 0, MIN_SCALE)
    with report_style():
        figure, axes = _panels(len(maps), WIDTH_IN / COLUMNS + 0.3)
        for panel, (name, share) in zip(axes, maps.items(), strict=True):
            mapped = panel.imshow(
                share.T,
                origin='lower',
                cmap='inferno',
                vmin=0,
                vmax=limit,
                interpolation='nearest',
            )
            mean = share[brain].mean() if brain.any() else 0
            panel.set_title(f'{_method(name)}\nmean {mean:.3f}', fontsize=9)
            panel.set_facecolor(BLACK)
            panel.set_axis_off()
        bar = figure.colorbar(mapped, ax=axes, shrink=0.8)
        bar.set_label('variance explained by the site')
        return render(figure, 'png')


def draw_accuracies(accuracies: Mapping[str, Mapping[str, Estimate]], chance: float) -> bytes:
    """Draw how well the site is told, a row for each probe and a dot with its interval a method.

    Parameters
    ----------
    accuracies : mapping of str to mapping of str to Estimate
        By method, then by what the probe sees.
    chance : float
        Drawn as a line.

    Returns
    -------
    bytes
        A PNG image.
    """
    rows = list(dict.fromkeys(label for seen in accuracies.values() for label in seen))
    offsets = np.linspace(-0.3, 0.3, len(accuracies)) if len(accuracies) > 1 else np.zeros(1)
    with report_style():
        size = WIDTH_IN, 0.8 + len(rows) * max(0.4, 0.11 * len(accuracies))
        figure = Figure(figsize=size, facecolor=WHITE, layout='constrained')
        axes = figure.subplots()
        for i, (name, seen) in enumerate(accuracies.items()):
            places = [rows.index(label) + offsets[i] for label in seen]
            values = np.array([estimate.value for estimate in seen.values()])
            ends = [(estimate.low, estimate.high) for estimate in seen.values()]
            axes.errorbar(
                values, places, xerr=np.abs(np.array(ends).T - values),
                label=shortened(name, LONGEST_METHOD),
                color=COLORS[i % len(COLORS)], fmt=MARKERS[i // len(COLORS) % len(MARKERS)],
                markersize=4, linewidth=1, linestyle='none',
            )  # fmt: skip
        axes.axvline(chance, color=BLACK, linestyle='--', linewidth=0.8)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel='balanced accuracy')
        axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
        return render(figure, 'png')


def draw_site_histograms(
    counts: Mapping[str, Mapping[str, np.ndarray]], edges: np.ndarray
) -> bytes:
    """Draw the distribution of brain intensities of each site, one panel for each method.

    Parameters
    ----------
    counts : mapping of str to mapping of str to np.ndarray, shape (B,)
        By method and site: how many pixels have an intensity in each bin.
    edges : np.ndarray, shape (B + 1,)
        Of the bins.

    Returns
    -------
    bytes
        A PNG image.
    """
    middles = (edges[1:] + edges[:-1]) / 2
    densities = {
        name: {site: n / np.diff(edges) / n.sum() for site, n in sorted(by_site.items())}
        for name, by_site in counts.items()
    }
    top = 1.05 * max(float(np.max(list(lines.values()))) for lines in densities.values())
    with report_style():
        figure, axes = _panels(len(counts), 3.0)
        for panel, (name, lines) in zip(axes, densities.items(), strict=True):
            for i, (site, density) in enumerate(lines.items()):
                panel.plot(
                    middles, density, LINES[i // len(COLORS) % len(LINES)],
                    color=COLORS[i % len(COLORS)], linewidth=1.2,
                    label=_in_legend(site, i, len(lines)),
                )  # fmt: skip
            panel.set_title(_method(name), fontsize=9)
            panel.set(xlabel='brain intensity', ylabel='density', ylim=(0, top))
        figure.legend(
            *axes[-1].get_legend_handles_labels(), fontsize=8, loc='outside right center'
        )
        return render(figure, 'png')


def draw_slices(
    images: Mapping[str, np.ndarray], sites: Sequence[str], *, differences: bool = False
) -> bytes:
    """Draw slices, in a row for each method and a column for each site.

    Parameters
    ----------
    images : mapping of str to np.ndarray, shape (S, H, W), brain about 0 to 1
        The axes are (left to right, back to front). The first row shows the original scans.
    sites : sequence of str, length S
    differences : bool
        Whether each other row is followed by its difference to the first.

    Returns
    -------
    bytes
        A PNG image.
    """
    scans = next(iter(images.values()))
    rows: list[tuple[str, np.ndarray, bool]] = []
    for name, slices in images.items():
        rows.append((name, slices, False))
        if differences and slices is not scans:
            rows.append((f'{name} \N{MINUS SIGN} scan', slices - scans, True))
    inside = np.flatnonzero((scans > 0).any(axis=(0, 2))), np.flatnonzero((scans > 0).any((0, 1)))
    box = tuple(slice(i[0], i[-1] + 1) if len(i) else slice(None) for i in inside)
    _, across, along = scans[(slice(None), *box)].shape
    side = (WIDTH_IN - 0.4) / max(len(sites), MIN_COLUMNS)
    with report_style():
        size = side * len(sites) + 0.4, len(rows) * (side * along / across + 0.04) + 0.3
        figure = Figure(figsize=size, facecolor=WHITE, layout='constrained')
        axes = figure.subplots(len(rows), len(sites), squeeze=False)
        for number, (name, slices, is_difference) in enumerate(rows):
            line = axes[number]
            for panel, slice_, site in zip(line, slices, sites, strict=True):
                low, high = (
                    (-MAX_DIFFERENCE, MAX_DIFFERENCE) if is_difference else (0, MAX_INTENSITY)
                )
                panel.imshow(
                    slice_[box].T, origin='lower', vmin=low, vmax=high,
                    cmap=DIFFERENCE_COLORS if is_difference else 'gray', interpolation='nearest',
                )  # fmt: skip
                panel.set(xticks=[], yticks=[], facecolor=BLACK)
                panel.spines[:].set_visible(False)
                if number == 0:
                    panel.set_title(shortened(site, int(side * LETTERS_PER_IN)))
            line[0].set_ylabel(fill(shortened(name, LONGEST_METHOD), LABEL_WIDTH), fontsize=8)
        return render(figure, 'png')


def draw_embeddings(embeddings: Mapping[str, np.ndarray], sites: np.ndarray) -> bytes:
    """Draw embedded codes in the color of their site, one panel for each embedding.

    Parameters
    ----------
    embeddings : mapping of str to np.ndarray, shape (N, 2)
    sites : np.ndarray, shape (N,)

    Returns
    -------
    bytes
        A PNG image.
    """
    names = np.unique(sites)
    with report_style():
        figure = Figure(figsize=(WIDTH_IN, 4.6), facecolor=WHITE, layout='constrained')
        axes = figure.subplots(1, len(embeddings), squeeze=False)[0]
        for panel, (title, points) in zip(axes, embeddings.items(), strict=True):
            for i, site in enumerate(names):
                in_site = points[sites == site]
                panel.scatter(
                    in_site[:, 0], in_site[:, 1], s=10, alpha=0.7, linewidths=0,
                    color=COLORS[i % len(COLORS)], marker=MARKERS[i // len(COLORS) % 4],
                    label=_in_legend(str(site), i, len(names)),
                )  # fmt: skip
            panel.set(title=shortened(title, LONGEST_METHOD), xticks=[], yticks=[])
        axes[-1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
        return render(figure, 'png')


def _method(name: str) -> str:
    """The name of a method as the title of a panel."""
    return fill(shortened(name, LONGEST_METHOD), TITLE_WIDTH, break_on_hyphens=False)


def _in_legend(site: str, number: int, sites: int) -> str | None:
    """The label of a site in a legend, of which the last says how many others there are."""
    if number >= MAX_IN_LEGEND:
        return None
    others = sites - MAX_IN_LEGEND if number == MAX_IN_LEGEND - 1 else 0
    # A legend leaves out what begins with an underscore.
    name = f'{" " * site.startswith("_")}{shortened(site, LONGEST_NAME)}'
    return f'{name}, and {others} more' if others > 0 else name


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of some panels, in rows of at most ``COLUMNS``, of a height in inches."""
    rows = math.ceil(count / COLUMNS)
    figure = Figure(figsize=(WIDTH_IN, rows * height), facecolor=WHITE, layout='constrained')
    axes = figure.subplots(rows, min(count, COLUMNS), squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]
