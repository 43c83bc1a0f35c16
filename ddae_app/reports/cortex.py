"""Maps drawn on the cortex of fsaverage5, the mesh that nilearn brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ddae_app.reports.canvas import WHITE, WIDTH_IN, render, report_style

MESH = 'fsaverage5'
"""The one that is at hand without a download (Fischl et al. 1999)."""

VIEWS = (('L', 'lateral'), ('L', 'medial'), ('R', 'medial'), ('R', 'lateral'))
SIDES = {'L': 'left', 'R': 'right'}


@dataclass(frozen=True)
class CortexMap:
    """A map of both hemispheres, which is drawn as a row.

    Attributes
    ----------
    title : str
    values : mapping of str to np.ndarray, shape (V,)
        By hemisphere, ``L`` and ``R``; NaN where there is none.
    scale : str
        Maps of one scale share their colors.
    colors : str
        A color map of matplotlib.
    ends : tuple of float, optional
        The values of the first and the last color of its scale.
    """

    title: str
    values: Mapping[str, np.ndarray]
    scale: str
    colors: str = 'viridis'
    ends: tuple[float, float] | None = None


def draw_cortex(maps: Sequence[CortexMap]) -> bytes:
    """Draw maps on the inflated cortex of fsaverage5, a row each, with sulci below.

    Unless a map says otherwise, colors go from the 2nd to the 98th percentile of all maps of its
    scale.

    Parameters
    ----------
    maps : sequence of CortexMap

    Returns
    -------
    bytes
        A PNG image.
    """
    # Imported here, since nilearn takes seconds.
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.plotting import plot_surf
    from nilearn.surface import load_surf_data

    mesh = fetch_surf_fsaverage(MESH)
    ends = {}
    for scale, given in {m.scale: m.ends for m in maps}.items():
        if given:
            ends[scale] = given
            continue
        shown = np.concatenate([v for m in maps if m.scale == scale for v in m.values.values()])
        low, high = np.nanquantile(shown, (0.02, 0.98))
        ends[scale] = float(low), float(max(high, low + 1e-6))
    with report_style():
        figure = Figure(figsize=(WIDTH_IN, 2.1 * len(maps)), facecolor=WHITE)
        rows = figure.subfigures(len(maps), 1, squeeze=False).ravel()
        for row, drawn in zip(rows, maps, strict=True):
            low, high = ends[drawn.scale]
            row.suptitle(drawn.title, x=0.01, ha='left', fontsize=10, fontweight='bold')
            for i, (hemisphere, view) in enumerate(VIEWS):
                side = SIDES[hemisphere]
                axes = row.add_axes((0.225 * i - 0.01, -0.14, 0.245, 1.15), projection='3d')
                plot_surf(
                    mesh[f'infl_{side}'],
                    drawn.values[hemisphere],
                    bg_map=load_surf_data(mesh[f'sulc_{side}']),
                    hemi=side,
                    view=view,
                    engine='matplotlib',
                    cmap=drawn.colors,
                    vmin=low,
                    vmax=high,
                    colorbar=False,
                    axes=axes,
                    figure=figure,
                )
            bar = row.add_axes((0.92, 0.15, 0.012, 0.65))
            bar.imshow(
                np.linspace(0, 1, 256)[:, None], aspect='auto', origin='lower',
                cmap=drawn.colors, extent=(0, 1, low, high),
            )  # fmt: skip
            bar.set_xticks([])
            bar.yaxis.tick_right()
        return render(figure, 'png')
