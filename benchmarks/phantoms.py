"""Training and test slices of the quality benchmark and others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.phantom_correction import measure_correction
from benchmarks.phantom_resampling import resampled_visit
from benchmarks.phantom_slices import DrawVisit, PhantomSlices, draw_scanners, draw_slices
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import crop_start
from ddae_app.methods.data import SliceData
from ddae_app.phantom.population import site_names
from ddae_app.settings import Protocol

PROTOCOL = Protocol(template='MNI152NLin2009aSym')
SITES = site_names(8)
SEEN, UNSEEN, TARGET = SITES[:7], SITES[7], SITES[0]
CORRECTION_SUBJECTS = 6
"""Number of subjects of each site on whom the residual bias field is measured."""


@dataclass(frozen=True)
class Bench:
    """Training slices, and test slices with truth and retest on the scale of the target."""

    data: SliceData
    images: np.ndarray
    truth: np.ndarray
    retest: np.ndarray
    sites: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray
    subjects: np.ndarray


def draw(
    file: Path,
    seed: int,
    train_per_site: int,
    test_per_site: int,
    tissue_contrast: bool = False,
    resampled: bool = False,
) -> Bench:
    """The phantoms of a seed, which are stored in a file when they are drawn first."""
    if not file.is_file():
        points, scale = axial_points(), scaled
        physics: dict[str, Any] = {'scanner_seed': seed, 'tissue_contrast': tissue_contrast}
        if resampled:
            physics['draw'] = through_the_pipeline(points, **physics)
            scale = unchanged
        training = draw_slices(train_per_site, SEEN, 1000 + seed, points, **physics)
        test = draw_slices(test_per_site, SITES, 2000 + seed, points, target=TARGET, **physics)
        assert test.truth is not None and test.retest is not None
        arrays = {f'train_{k}': v for k, v in labels(training).items()}
        arrays |= {f'test_{k}': v for k, v in labels(test).items()}
        arrays['train'] = scale(training.images, training.images, training.mask)
        arrays['test'] = scale(test.images, test.images, test.mask)
        # Noise raises the percentile that becomes 1, so the truth has the scale of the retest.
        arrays['truth'] = scale(test.truth, test.retest, test.mask)
        arrays['retest'] = scale(test.retest, test.retest, test.mask)
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    with np.load(file) as a:
        covariates = (
            a['train_age'].astype(float),
            tuple(a['train_sex']),
            tuple(a['train_subject']),
        )
        return Bench(
            SliceData(a['train'][:, None], tuple(a['train_site']), *covariates),
            *(a[k] for k in ('test', 'truth', 'retest', 'test_site')),
            a['test_age'].astype(float),
            *(a[k] for k in ('test_sex', 'test_subject')),
        )


def labels(slices: PhantomSlices) -> dict[str, np.ndarray]:
    return {k: getattr(slices, k) for k in ('site', 'age', 'sex', 'subject')}


def axial_points() -> np.ndarray:
    """Positions of the pixels of the medial slice, template mm, shape (128, 128, 3)."""
    grid = model_grid(PROTOCOL.template, PROTOCOL.grid)
    x, y = crop_start(grid.shape, PROTOCOL.slice_shape)
    height, width = PROTOCOL.slice_shape
    index = np.meshgrid(
        np.arange(x, x + height), np.arange(y, y + width), grid.shape[2] // 2, 1, indexing='ij'
    )
    return (np.stack(index, axis=-1)[:, :, 0, 0] @ grid.affine.T)[..., :3]


def scaled(images: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scale as the pipeline does: the percentile of the brain of the reference becomes 1."""
    percentile = PROTOCOL.intensity_percentile
    tops = [np.percentile(r[m], percentile) for r, m in zip(reference, mask, strict=True)]
    return (images / np.array(tops)[:, None, None]).astype(np.float32)


def unchanged(images: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return images


def through_the_pipeline(
    points: np.ndarray, scanner_seed: int, tissue_contrast: bool
) -> DrawVisit:
    """A function that draws slices as the pipeline extracts them; setup takes three minutes."""
    grid = model_grid(PROTOCOL.template, PROTOCOL.grid)
    scanners = draw_scanners(SITES, scanner_seed, tissue_contrast=tissue_contrast)
    corrections = {
        site: measure_correction(
            scanner, CORRECTION_SUBJECTS, grid, PROTOCOL, points, scanner_seed
        )
        for site, scanner in scanners.items()
    }
    return partial(
        resampled_visit, corrections=corrections, percentile=PROTOCOL.intensity_percentile
    )
