"""Pictures of what the site does to all scans, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddae_app.reports.canvas import DIFFERENCE, NIGHT, PAPER, WIDTH_IN, house_style, render

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#5A5A5A')
"""Okabe and Ito's, which are told apart with any common colour blindness."""

LINES = ('-', '--', ':', '-.')
BINS = np.linspace(0, 1.2, 61)
LEAST_SCALE = 0.05
"""The brightest colour stands for no less."""

ABREAST = 4
"""Panels in a row."""

FEWEST_COLUMNS = 4
LABEL_LETTERS = 18
MARKERS = ('o', 's', '^', 'D')
BRIGHTEST, MOST_DIFFERENCE = 1.1, 0.3
"""What is shown white, and in the strongest colours."""

MOST_LISTED = 14
"""Sites in a legend."""


def draw_explained(maps: Mapping[str, np.ndarray]) -> bytes:
    """How much of the variance at each pixel the site explains, one map for each method.

    Parameters
    ----------
    maps : mapping of str to np.ndarray, shape (H, W), 0 to 1
        The axes are (left to right, back to front).

    Returns
    -------
    bytes
        A PNG image.
    """
    everywhere = np.stack([*maps.values()])
    brain = everywhere.max(axis=0) > 0
    most = max(float(np.quantile(everywhere[:, brain], 0.999)) if brain.any() else 0, LEAST_SCALE)
    with house_style():
        figure, axes = _panels(len(maps), WIDTH_IN / ABREAST + 0.3)
        for panel, (name, share) in zip(axes, maps.items(), strict=True):
            picture = panel.imshow(
                share.T, origin='lower', cmap='inferno', vmin=0, vmax=most, interpolation='nearest'
            )
            panel.set_title(
                f'{name}\nmean {share[brain].mean() if brain.any() else 0:.3f}', fontsize=9
            )
            panel.set_facecolor(NIGHT)
            panel.set_axis_off()
        bar = figure.colorbar(picture, ax=axes, shrink=0.8)
        bar.set_label('variance explained by the site')
        return render(figure, 'png')


def draw_site_histograms(images: Mapping[str, np.ndarray], sites: np.ndarray) -> bytes:
    """The brain intensities of each site, one panel for each method.

    Parameters
    ----------
    images : mapping of str to np.ndarray, shape (N, H, W)
        0 outside the brain.
    sites : np.ndarray, shape (N,)

    Returns
    -------
    bytes
        A PNG image.
    """
    names, middles = np.unique(sites), (BINS[1:] + BINS[:-1]) / 2
    densities = {
        name: [_density(own[sites == site]) for site in names] for name, own in images.items()
    }
    most = 1.05 * max(float(np.max(lines)) for lines in densities.values())
    with house_style():
        figure, axes = _panels(len(images), 3.0)
        for panel, (name, lines) in zip(axes, densities.items(), strict=True):
            for i, (site, density) in enumerate(zip(names, lines, strict=True)):
                panel.plot(
                    middles, density, LINES[i // len(COLOURS) % len(LINES)],
                    color=COLOURS[i % len(COLOURS)], linewidth=1.2,
                    label=str(site) if i < MOST_LISTED else None,
                )  # fmt: skip
            panel.set_title(name, fontsize=9)
            panel.set(xlabel='brain intensity', ylabel='density', ylim=(0, most))
        axes[-1].legend(fontsize=8)
        return render(figure, 'png')


def _density(scans: np.ndarray) -> np.ndarray:
    """Of the brain's intensities, by the bins."""
    return np.histogram(scans[scans > 0], BINS, density=True)[0]


def draw_slices(
    images: Mapping[str, np.ndarray], sites: Sequence[str], *, differences: bool = False
) -> bytes:
    """A row of slices for each method, a column for each site.

    Parameters
    ----------
    images : mapping of str to np.ndarray, shape (S, H, W), brain about 0 to 1
        The axes are (left to right, back to front). The first row is what the others come from.
    sites : sequence of str, length S
    differences : bool
        Whether each row but the first is followed by its difference to that.

    Returns
    -------
    bytes
        A PNG image.
    """
    scans = next(iter(images.values()))
    rows: list[tuple[str, np.ndarray, bool]] = []
    for name, own in images.items():
        rows.append((name, own, False))
        if differences and own is not scans:
            rows.append((f'{name} less scan', own - scans, True))
    inside = np.flatnonzero((scans > 0).any(axis=(0, 2))), np.flatnonzero((scans > 0).any((0, 1)))
    box = tuple(slice(i[0], i[-1] + 1) if len(i) else slice(None) for i in inside)
    _, across, along = scans[(slice(None), *box)].shape
    side = (WIDTH_IN - 0.4) / max(len(sites), FEWEST_COLUMNS)
    with house_style():
        size = side * len(sites) + 0.4, len(rows) * (side * along / across + 0.04) + 0.3
        figure = Figure(figsize=size, facecolor=PAPER, layout='constrained')
        axes = figure.subplots(len(rows), len(sites), squeeze=False)
        for number, (name, own, difference) in enumerate(rows):
            line = axes[number]
            for panel, slice_, site in zip(line, own, sites, strict=True):
                low, high = (-MOST_DIFFERENCE, MOST_DIFFERENCE) if difference else (0, BRIGHTEST)
                panel.imshow(
                    slice_[box].T, origin='lower', vmin=low, vmax=high,
                    cmap=DIFFERENCE if difference else 'gray', interpolation='nearest',
                )  # fmt: skip
                panel.set(xticks=[], yticks=[], facecolor=NIGHT)
                panel.spines[:].set_visible(False)
                if number == 0:
                    panel.set_title(site)
            line[0].set_ylabel(fill(name, LABEL_LETTERS), fontsize=8)
        return render(figure, 'png')


def draw_codes(planes: Mapping[str, np.ndarray], sites: np.ndarray) -> bytes:
    """Points by site, one panel for each plane.

    Parameters
    ----------
    planes : mapping of str to np.ndarray, shape (N, 2)
    sites : np.ndarray, shape (N,)

    Returns
    -------
    bytes
        A PNG image.
    """
    names = np.unique(sites)
    with house_style():
        figure = Figure(figsize=(WIDTH_IN, 4.6), facecolor=PAPER, layout='constrained')
        axes = figure.subplots(1, len(planes), squeeze=False)[0]
        for panel, (title, points) in zip(axes, planes.items(), strict=True):
            for i, site in enumerate(names):
                own = points[sites == site]
                panel.scatter(
                    own[:, 0], own[:, 1], s=10, alpha=0.7, linewidths=0,
                    color=COLOURS[i % len(COLOURS)], marker=MARKERS[i // len(COLOURS) % 4],
                    label=str(site) if i < MOST_LISTED else None,
                )  # fmt: skip
            panel.set(title=title, xticks=[], yticks=[])
        axes[-1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
        return render(figure, 'png')


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with some panels, at most ``ABREAST`` in a row of this height in inches."""
    rows = math.ceil(count / ABREAST)
    figure = Figure(figsize=(WIDTH_IN, rows * height), facecolor=PAPER, layout='constrained')
    axes = figure.subplots(rows, min(count, ABREAST), squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]
