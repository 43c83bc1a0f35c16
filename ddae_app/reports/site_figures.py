"""Pictures of what the site does to all scans, before and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ddae_app.reports.canvas import NIGHT, PAPER, WIDTH_IN, house_style, render

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#5A5A5A')
"""Okabe and Ito's, which are told apart with any common colour blindness."""

LINES = ('-', '--', ':', '-.')
BINS = np.linspace(0, 1.2, 61)
LEAST_SCALE = 0.05
"""The brightest colour stands for no less."""

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
        figure = Figure(
            figsize=(WIDTH_IN, WIDTH_IN / len(maps) + 0.5), facecolor=PAPER, layout='constrained'
        )
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        for panel, (name, share) in zip(axes, maps.items(), strict=True):
            picture = panel.imshow(
                share.T, origin='lower', cmap='inferno', vmin=0, vmax=most, interpolation='nearest'
            )
            panel.set_title(f'{name}: mean {share[brain].mean() if brain.any() else 0:.3f}')
            panel.set_facecolor(NIGHT)
            panel.set_axis_off()
        bar = figure.colorbar(picture, ax=list(axes), shrink=0.8)
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
    with house_style():
        figure = Figure(figsize=(WIDTH_IN, 3.4), facecolor=PAPER, layout='constrained')
        axes = figure.subplots(1, len(images), sharey=True, squeeze=False)[0]
        for panel, (name, own) in zip(axes, images.items(), strict=True):
            for i, site in enumerate(names):
                brain = own[sites == site]
                density = np.histogram(brain[brain > 0], BINS, density=True)[0]
                panel.plot(
                    middles, density, LINES[i // len(COLOURS) % len(LINES)],
                    color=COLOURS[i % len(COLOURS)], linewidth=1.2,
                    label=str(site) if i < MOST_LISTED else None,
                )  # fmt: skip
            panel.set_title(name)
            panel.set_xlabel('brain intensity')
        axes[0].set_ylabel('density')
        axes[-1].legend(fontsize=8)
        return render(figure, 'png')
