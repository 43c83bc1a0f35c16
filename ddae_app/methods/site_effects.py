"""What a site adds to a measure of its scans, at equal age and sex."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ddae_app.methods.data import SliceData, sex_numbers


def site_effects(
    data: SliceData, rows: np.ndarray, parts: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each site adds to something measured in every image.

    By regression on site, age, age squared and sex, as in ComBat (Johnson et al. 2007; Fortin et
    al. 2018), and shrunk (James and Stein 1961) by the part that chance alone would make.

    Parameters
    ----------
    data : SliceData
    rows : np.ndarray of int, length N
        The images that were measured.
    parts : iterable of np.ndarray, each of shape (n, ...)
        What was measured, N in all and in the order of `rows`; in parts, for not all images may
        fit into memory.

    Returns
    -------
    effects : np.ndarray, shape (S, ...)
        Of each site of ``data.site_names``.
    common : np.ndarray, shape (...)
        The average site, at the average age and sex.
    variance : np.ndarray, shape (...)
        Among subjects, given all these.
    """
    design, subjects = _design(data, rows), _subjects(data, rows)
    cross: np.ndarray | float = 0.0
    square, start, n_sites = np.zeros(()), 0, len(subjects)
    for part in parts:
        values = part.astype(np.float64)
        cross = cross + np.tensordot(design[start : start + len(part)].T, values, axes=1)
        square = square + np.square(values).sum(axis=0)
        start += len(part)
    ridge = 1e-6 * start * np.eye(design.shape[1])  # for columns that say nothing
    beta = np.tensordot(np.linalg.inv(design.T @ design + ridge), cross, axes=1)
    variance = np.maximum(square - (beta * cross).sum(axis=0), 0) / start
    common = beta[:n_sites].mean(axis=0)
    effects = beta[:n_sites] - common
    for effect, n in zip(effects, subjects, strict=True):
        by_chance = variance.sum() / n
        effect *= max(0.0, 1 - by_chance / max(float(np.square(effect).sum()), 1e-12))
    return effects, common, variance


def _design(data: SliceData, rows: np.ndarray) -> np.ndarray:
    """One column per site, then age, age squared and sex, centered; what is unknown is average."""
    sites = np.array(data.sites)[rows]
    member = np.stack([sites == site for site in data.site_names], axis=1)
    ages = data.ages[rows]
    known = ~np.isnan(ages)
    scale = max(float(ages[known].std()), 1.0) if known.any() else 1.0
    age = np.where(known, (ages - (ages[known].mean() if known.any() else 0)) / scale, 0)
    squared = np.where(known, age**2, 0)
    sex = sex_numbers([data.sexes[i] for i in rows])
    known = ~np.isnan(sex)
    sex = np.where(known, sex - (sex[known].mean() if known.any() else 0), 0)
    return np.column_stack([member, age, squared - squared.mean(), sex]).astype(np.float64)


def _subjects(data: SliceData, rows: np.ndarray) -> list[int]:
    pairs = {(data.sites[i], data.subjects[i]) for i in rows}
    return [max(1, sum(site == named for named, _ in pairs)) for site in data.site_names]
