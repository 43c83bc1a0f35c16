"""The average image of each site, at the same age and sex everywhere."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from ddae_app.training.dataset import CHUNK, SEXES, SliceData

SMOOTHING_PIXELS = 2.0
"""What an average knows of a site is smooth; what it has of its few people is not."""


def site_averages(data: SliceData, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Average images of the sites, as if all had scanned people of the same age and sex.

    Each pixel is regressed on site, age, age squared and sex, as ComBat does. What a site adds to
    the average of all is smoothed, and shrunk (James and Stein 1961) by the part of it that chance
    alone would make, so that a site of few people keeps close to the average.

    Parameters
    ----------
    data : SliceData
    rows : np.ndarray of int
        The images to use.

    Returns
    -------
    averages : np.ndarray, shape (S + 1, H, W), float32
        In the order of ``data.site_names``; the last is the mean of all sites.
    deviation : float
        Root mean square distance, in the brain, of an image from the average of its site.
    """
    design, n_sites = _design(data, rows), len(data.site_names)
    shape = data.images.shape[1:]
    # Sums over chunks: the images may lie on disk.
    cross, square = np.zeros((design.shape[1], *shape)), np.zeros(shape)
    for i in range(0, len(rows), CHUNK):
        part = np.clip(data.images[rows[i : i + CHUNK]], 0, 1).astype(np.float64)
        cross += np.tensordot(design[i : i + CHUNK].T, part, axes=1)
        square += np.square(part).sum(axis=0)
    ridge = 1e-6 * len(rows) * np.eye(design.shape[1])  # for columns that say nothing
    beta = np.tensordot(np.linalg.inv(design.T @ design + ridge), cross, axes=1)
    variance = np.maximum(square - (beta * cross).sum(axis=0), 0) / len(rows)
    grand = beta[:n_sites].mean(axis=0)
    people = _people(data, rows)
    effects = []
    for effect, n in zip(beta[:n_sites] - grand, people, strict=True):
        by_chance = variance.sum() / n
        kept = max(0.0, 1 - by_chance / max(float(np.square(effect).sum()), 1e-12))
        effects.append(kept * gaussian_filter(effect, SMOOTHING_PIXELS))
    averages = np.concatenate([grand + np.array(effects), grand[None]])
    brain = grand > 0.05
    deviation = float(np.sqrt(variance[brain].mean())) if brain.any() else 0.0
    return np.maximum(averages, 0).astype(np.float32), max(deviation, 1e-2)


def _design(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """One column per site, then age, age squared and sex, centred; the unknown is average."""
    sites = np.array(data.sites)[rows]
    member = np.stack([sites == site for site in data.site_names], axis=1)
    ages = data.ages[rows]
    known = ~np.isnan(ages)
    scale = max(float(ages[known].std()), 1.0) if known.any() else 1.0
    age = np.where(known, (ages - (ages[known].mean() if known.any() else 0)) / scale, 0)
    squared = np.where(known, age**2, 0)
    sex = np.array([SEXES[data.sexes[i]] for i in rows], dtype=float)
    sex = np.where(sex < 0, 0, sex - (sex[sex >= 0].mean() if (sex >= 0).any() else 0))
    return np.column_stack([member, age, squared - squared.mean(), sex]).astype(np.float64)


def _people(data: SliceData, rows: np.ndarray) -> list[int]:
    pairs = {(data.sites[i], data.subjects[i]) for i in rows}
    return [sum(site == named for named, _ in pairs) for site in data.site_names]
