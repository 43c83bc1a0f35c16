"""The picture of the README: a slice before and after, and how well its site is classified."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from canvas import AFTER, BEFORE, INK, NEUTRAL, PAPER, shrink
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

CLASSIFIERS = {
    'site_cnn': 'convolutional\nnetwork',
    'site_linear': 'principal\ncomponents',
    'site_histogram': 'intensity\nhistogram',
}
DIFFERENCE = LinearSegmentedColormap.from_list(
    'difference', ['#9BE1FF', '#2F8FD0', '#12324A', '#000000', '#54300B', '#DE7F1B', '#FFD9A0']
)
"""Blue below zero, black at zero, orange above, as in the reports of the program."""


@dataclass(frozen=True)
class Example:
    """One scan of a run.

    Attributes
    ----------
    participant, site, target : str
    images : dict of str to np.ndarray, shape (H, W), range [0, 1]
        ``raw``, ``preproc``, ``slices`` and ``harmonized``, with the front of the head on top.
    """

    participant: str
    site: str
    target: str
    images: dict[str, np.ndarray]


def find_example(bids: Path, out: Path) -> Example:
    """The scan that was farthest from the target site before harmonization.

    Parameters
    ----------
    bids, out : Path
        Input and output dataset of a run.
    """
    rows = []
    for path in sorted(out.glob('sub-*/sub-*_scans.tsv')):
        with path.open(newline='', encoding='utf-8') as file:
            rows += [(path.parent.name, row) for row in csv.DictReader(file, delimiter='\t')]
    name, row = max(rows, key=lambda item: float(item[1]['target_distance_before']))
    folder = out / name / 'anat'
    paths = {
        'raw': next((bids / name).rglob('*_T1w.nii.gz')),
        **{
            desc: next(folder.glob(f'*_desc-{desc}_T1w.nii.gz'))
            for desc in ('preproc', 'slices', 'harmonized')
        },
    }
    images = {key: _middle(path) for key, path in paths.items()}
    for key in ('raw', 'preproc'):
        images[key] = np.clip(images[key] / np.quantile(images[key], 0.995), 0, 1)
    return Example(name, row['source_site'], row['target_site'], images)


def _middle(path: Path) -> np.ndarray:
    """The middle axial slice of an image, the front on top and the left side on the left."""
    image = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj, dtype=np.float32)
    return np.rot90(values[:, :, values.shape[2] // 2])


def draw_results(example: Example, metrics: Mapping, path: Path) -> None:
    """Write the picture of the README, a PNG file.

    Parameters
    ----------
    example : Example
    metrics : mapping
        Content of ``group_metrics.json``.
    path : Path
        PNG file to write.
    """
    figure = Figure(figsize=(10, 2.9), facecolor=PAPER, dpi=140)
    before, after = example.images['slices'], example.images['harmonized']
    change = after - before
    limit = float(np.quantile(np.abs(change[before > 0]), 0.99))
    panels = (
        (before, f'before ({example.site})', {'cmap': 'gray', 'vmin': 0, 'vmax': 1}),
        (after, f'after (as at {example.target})', {'cmap': 'gray', 'vmin': 0, 'vmax': 1}),
        (change, 'difference', {'cmap': DIFFERENCE, 'vmin': -limit, 'vmax': limit}),
    )
    rows, columns = np.nonzero(before > 0)
    crop = np.s_[rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3]
    for i, (image, title, look) in enumerate(panels):
        axes = figure.add_axes((0.006 + i * 0.19, 0.04, 0.184, 0.82), anchor='N')
        drawn = axes.imshow(image[crop], interpolation='lanczos', **look)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_axis_off()
    bar = figure.add_axes((0.578, 0.17, 0.007, 0.66))
    figure.colorbar(drawn, cax=bar, ticks=(-limit, 0, limit))
    bar.set_yticklabels((f'−{limit:.2f}', '0', f'+{limit:.2f}'))
    bar.tick_params(labelsize=7, length=2)
    _draw_accuracies(figure.add_axes((0.685, 0.17, 0.31, 0.69)), metrics)
    figure.savefig(path, metadata={'Software': None})
    shrink(path)


def _draw_accuracies(axes: Axes, metrics: Mapping) -> None:
    """Balanced accuracy of each classifier before and after, with 95 % intervals, and chance."""
    method = next(name for name in metrics['Methods'] if name.startswith('DDAE'))
    width = 0.36
    shown = ((-0.5, 'source', BEFORE, 'before'), (0.5, method, AFTER, 'after'))
    for side, name, color, label in shown:
        estimates = [metrics['Methods'][name]['Estimates'][key] for key in CLASSIFIERS]
        values = np.array([estimate['value'] for estimate in estimates])
        ends = np.array([[e['low'], e['high']] for e in estimates]).T
        x = np.arange(len(values)) + side * width
        axes.bar(
            x, values, width * 0.94, color=color, label=label,
            yerr=np.abs(ends - values), error_kw={'elinewidth': 1, 'ecolor': INK, 'capsize': 2},
        )  # fmt: skip
        for at, value, top in zip(x, values, ends[1], strict=True):
            axes.text(at, top + 0.02, f'{value:.2f}', ha='center', fontsize=8, color=INK)
    chance = metrics['Chance']
    axes.axhline(chance, color=NEUTRAL, linestyle='--', linewidth=1)
    axes.text(
        2.95, chance + 0.02, f'chance\n{chance:.2f}', fontsize=7.5, color=NEUTRAL, ha='right'
    )
    axes.set_xticks(range(len(CLASSIFIERS)), CLASSIFIERS.values(), fontsize=7.5)
    axes.set(ylim=(0, 1.3), yticks=(0, 0.5, 1), xlim=(-0.5, 2.95))
    axes.tick_params(axis='y', labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_title('Accuracy of classifiers of the site', fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc='upper left')
    axes.set_ylabel('balanced accuracy', fontsize=8)


def read_metrics(out: Path) -> Mapping:
    """Content of ``group_metrics.json`` of an output dataset."""
    return json.loads((out / 'group_metrics.json').read_text(encoding='utf-8'))
