"""Probes of the benchmarks: one number for a whole set of images, without intervals.

They are built of the parts of :mod:`ddae_app.evaluation.probes`, and like those they are trained
on the images of some subjects and tested on the images of others.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import balanced_accuracy_score

from ddae_app.evaluation.fidelity import block_means
from ddae_app.evaluation.probes import (
    Components,
    cnn_predict,
    folds,
    intensity_quantiles,
    linear_accuracy,
)


def histogram_accuracy(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> float:
    """Balanced accuracy of the linear probe on the intensity quantiles of each brain alone."""
    return linear_accuracy(intensity_quantiles(images), labels, subjects, seed=seed)


def cnn_accuracy(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> float:
    """Balanced accuracy of a small convolutional network, trained on three fifths of the subjects.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    labels, subjects : np.ndarray, shape (N,)
    seed : int
        Of the split, the initial weights and the order of the images.
    """
    parts = [test for _, test in folds(labels, subjects, 5, seed)]
    train, test = np.concatenate(parts[:3]), np.concatenate(parts[3:])
    predicted = cnn_predict(images, labels, train, test, seed=seed)
    return float(balanced_accuracy_score(labels[test], predicted))


def age_accuracy(
    images: np.ndarray, ages: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """Mean absolute error, years, and Pearson's r of ages predicted by five-fold ridge regression.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W) or (N, F)
    ages : np.ndarray, shape (N,)
        Years.
    subjects : np.ndarray, shape (N,)
    seed : int
        Of the folds and of the principal components.
    """
    predicted = np.empty(len(images))
    for train, test in folds(_deciles(ages), subjects, 5, seed):
        regress = Components.fit(images[train], seed).fit_regression(ages[train])
        predicted[test] = regress(images[test])
    return float(np.abs(predicted - ages).mean()), float(pearsonr(predicted, ages).statistic)


def false_age_slope(
    images: np.ndarray,
    permuted: np.ndarray,
    ages: np.ndarray,
    permuted_ages: np.ndarray,
    subjects: np.ndarray,
    *,
    seed: int = 0,
) -> float:
    """Slope of the predicted age on a false age that the harmonizer was given.

    The change of the predicted age, from `images` to `permuted`, is regressed on the change of
    the given age. The slope is 0 if the method writes no age into the image, and 1 if the image
    shows whatever age was given.

    Parameters
    ----------
    images, permuted : np.ndarray, shape (N, H, W)
        Outputs for the true and for the permuted ages.
    ages, permuted_ages : np.ndarray, shape (N,)
        Years.
    subjects : np.ndarray, shape (N,)
    seed : int
        Of the folds and of the principal components.
    """
    change = np.empty(len(images))
    for train, test in folds(_deciles(ages), subjects, 5, seed):
        regress = Components.fit(images[train], seed).fit_regression(ages[train])
        change[test] = regress(permuted[test]) - regress(images[test])
    given = permuted_ages - ages
    return float((change * given).sum() / np.square(given).sum())


def distance_rank_correlation(
    images: np.ndarray, reference: np.ndarray, sites: np.ndarray
) -> float:
    """Spearman correlation of between-subject distances in images and reference, mean over sites.

    The Euclidean distances of all pairs of images of one site are compared. Means of blocks of
    4 x 4 pixels are taken first, so that noise has little influence.

    Parameters
    ----------
    images, reference : np.ndarray, shape (N, H, W)
    sites : np.ndarray, shape (N,), str

    Raises
    ------
    ValueError
        If no site has three images.
    """
    correlations = []
    for site in np.unique(sites):
        rows = sites == site
        if rows.sum() >= 3:
            distances = [pdist(block_means(x[rows])) for x in (images, reference)]
            correlations.append(spearmanr(*distances).statistic)
    if not correlations:
        raise ValueError('no site has three images; rank correlation needs several distances')
    return float(np.mean(correlations))


def _deciles(values: np.ndarray) -> np.ndarray:
    """Which tenth of all values each value is in, 0 to 9."""
    return np.searchsorted(np.quantile(values, np.linspace(0.1, 0.9, 9)), values)
