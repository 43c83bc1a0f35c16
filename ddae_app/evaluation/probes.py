"""Classifiers and regressions that are trained on the images they judge.

A classifier that was trained on raw images and fails on harmonised ones shows nothing: a Gaussian
blur makes it fail as well. So each probe learns from the very images that it then judges, on other
people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn

Reader = Callable[[np.ndarray], np.ndarray]
"""Takes images, or what was made of them, to what is read from each."""

COMPONENTS = 100
INVERSE_PENALTY = 30.0
"""Of the logistic regressions; from 1 to 100 for images and 10 to 10,000 for histograms the
accuracies on seven simulated sites differed by .03 at most."""

QUANTILES = np.linspace(0, 1, 33)
EPOCHS = 24
BATCH = 64


def folds(
    strata: np.ndarray, subjects: np.ndarray, n_splits: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to judge; nobody is on both sides, strata are spread evenly.

    Parameters
    ----------
    strata, subjects : np.ndarray, shape (N,)
    n_splits : int
    seed : int
    """
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return list(splitter.split(strata, strata, subjects))


@dataclass(frozen=True)
class Components:
    """Principal components of the images that a probe learns from.

    Attributes
    ----------
    project : callable
        From images, shape (N, ...), to components, shape (N, C).
    learnt : np.ndarray, shape (L, C)
        Those of the images that they come from.
    """

    project: Reader
    learnt: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, seed: int = 0) -> Components:
        """The first has unit variance, the others less.

        They are not whitened: that would lift the noise of the last ones to the signal of the
        first.
        """
        flat = images.reshape(len(images), -1)
        count = min(COMPONENTS, len(flat) - 1, flat.shape[1])
        with np.errstate(invalid='ignore'):  # the share of variance, where there is none
            pca = PCA(count, svd_solver='randomized', random_state=seed).fit(flat)
        scale = max(float(np.sqrt(pca.explained_variance_[0])), 1e-12)

        def project(images: np.ndarray) -> np.ndarray:
            return pca.transform(images.reshape(len(images), -1)) / scale

        return cls(project, project(images))

    def of_rows(self, rows: np.ndarray) -> Components:
        """The same, to learn from some of those images only."""
        return replace(self, learnt=self.learnt[rows])

    def classifier(self, labels: np.ndarray) -> Reader:
        """Logistic regression of the labels of the images that they come from."""
        probe = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000, class_weight='balanced')
        probe.fit(self.learnt, labels)
        return lambda images: probe.predict(self.project(images))

    def regression(self, values: np.ndarray) -> Reader:
        """Ridge regression of numbers, one to each of those images."""
        ridge = RidgeCV(np.logspace(-4, 2, 13)).fit(self.learnt, values)
        return lambda images: ridge.predict(self.project(images))


def linear_accuracy(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> float:
    """Cross-validated balanced accuracy of logistic regression on principal components.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W) or (N, F)
    labels, subjects : np.ndarray, shape (N,)
    seed : int
        Of the five folds.
    """
    return float(balanced_accuracy_score(labels, told(images, labels, subjects, seed=seed)))


def told(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """What logistic regression that learnt from other people takes each image for, shape (N,)."""
    guess = np.empty_like(labels)
    for learn, judge in folds(labels, subjects, 5, seed):
        read = Components.of(images[learn], seed).classifier(labels[learn])
        guess[judge] = read(images[judge])
    return guess


def histogram_accuracy(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> float:
    """As :func:`linear_accuracy`, from the quantiles of each image's brain alone."""
    return linear_accuracy(brain_quantiles(images), labels, subjects, seed=seed)


def brain_quantiles(images: np.ndarray) -> np.ndarray:
    """Intensity quantiles of each image where it is not 0, shape (N, Q)."""
    return np.stack([np.quantile(image[image != 0], QUANTILES) for image in images])


def age_agreement(
    images: np.ndarray, ages: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """Mean absolute error, years, and correlation of the age read from images of other people.

    Ridge regression on principal components, five folds.
    """
    guess = predicted_ages(images, ages, subjects, seed=seed)
    return float(np.abs(guess - ages).mean()), float(pearsonr(guess, ages).statistic)


def predicted_ages(
    images: np.ndarray, ages: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Age read from each image by a regression on the others, years, shape (N,)."""
    guess = np.empty(len(images))
    for learn, judge in folds(deciles(ages), subjects, 5, seed):
        guess[judge] = Components.of(images[learn], seed).regression(ages[learn])(images[judge])
    return guess


def injected_age_slope(
    images: np.ndarray,
    permuted: np.ndarray,
    ages: np.ndarray,
    permuted_ages: np.ndarray,
    subjects: np.ndarray,
    *,
    seed: int = 0,
) -> float:
    """How far the age read from an image follows a false age given to the harmoniser.

    Slope of (age read from `permuted` - age read from `images`) on (permuted - true age): 0 if
    nothing is painted in, 1 if the image shows whatever age was given.

    Parameters
    ----------
    images, permuted : np.ndarray, shape (N, H, W)
        Outputs for the true and for the permuted ages.
    ages, permuted_ages : np.ndarray, shape (N,)
        Years.
    subjects : np.ndarray, shape (N,)
    """
    shift = np.empty(len(images))
    for learn, judge in folds(deciles(ages), subjects, 5, seed):
        read = Components.of(images[learn], seed).regression(ages[learn])
        shift[judge] = read(permuted[judge]) - read(images[judge])
    given = permuted_ages - ages
    return float((shift * given).sum() / np.square(given).sum())


def cnn_accuracy(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> float:
    """Balanced accuracy of a small convolutional network, learnt from three fifths of the people.

    It sees texture, noise and sharpness, which principal components do not.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    labels, subjects : np.ndarray, shape (N,)
    seed : int
        Of the split, the first weights and the order of the images.
    """
    parts = [judge for _, judge in folds(labels, subjects, 5, seed)]
    learn, judge = np.concatenate(parts[:3]), np.concatenate(parts[3:])
    guess = cnn_classes(images, labels, learn, judge, seed=seed)
    return float(balanced_accuracy_score(labels[judge], guess))


def cnn_classes(
    images: np.ndarray, labels: np.ndarray, learn: np.ndarray, judge: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """What a small convolutional network, trained on some images, takes others for.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    labels : np.ndarray, shape (N,)
    learn, judge : np.ndarray of int
        Rows.
    seed : int
        Of the first weights and the order of the images.
    """
    names, numbers = np.unique(labels, return_inverse=True)
    x = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))[:, None]
    x = (x - x[learn].mean()) / x[learn].std()
    y = torch.from_numpy(numbers)
    weight = len(learn) / (len(names) * torch.bincount(y[learn], minlength=len(names)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _small_cnn(len(names))
        steps = EPOCHS * -(-len(learn) // BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(EPOCHS):
            for rows in torch.from_numpy(learn)[torch.randperm(len(learn))].split(BATCH):
                loss = nn.functional.cross_entropy(network(x[rows]), y[rows], weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval()
    with torch.inference_mode():
        guess = torch.cat([network(part) for part in x[judge].split(BATCH)]).argmax(1)
    return names[guess.numpy()]


def _small_cnn(n_classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, kernel in ((1, 8, 5), (8, 16, 3), (16, 32, 3), (32, 64, 3)):
        layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, n_classes)
    )


def deciles(values: np.ndarray) -> np.ndarray:
    """Which tenth of all values each is in, 0 to 9."""
    return np.searchsorted(np.quantile(values, np.linspace(0.1, 0.9, 9)), values)
