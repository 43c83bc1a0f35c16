"""Probes: classifiers and regressions, trained on images like those that they are tested on.

A classifier that was trained on original scans and fails on harmonized ones proves nothing: after
a Gaussian blur it fails as well. Each probe is therefore trained on harmonized images, and tested
on the harmonized images of other subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn

from ddae_app.imaging.similarity import brain_quantiles

Projection = Callable[[np.ndarray], np.ndarray]
"""Takes images, shape (N, ...), to features, shape (N, C)."""

Predictor = Callable[[np.ndarray], np.ndarray]
"""Takes images, shape (N, ...), to one prediction each, shape (N,)."""

MAX_COMPONENTS = 100
INVERSE_PENALTY = 30.0
"""Of the logistic regressions. From 1 to 100 for images, and from 10 to 10,000 for histograms, the
accuracies on seven simulated sites differed by at most .03."""

QUANTILE_LEVELS = np.linspace(0, 1, 33)
IMAGES_AT_ONCE = 256
"""Of which copies are made: more take more memory, and no less time."""

EPOCHS = 24
BATCH = 64
DROPOUT = 0.2
LEAST_STEPS = 100
"""Of the training of a convolutional network: in fewer, few scans teach it next to nothing."""


def folds(
    strata: np.ndarray, subjects: np.ndarray, n_splits: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split scans into training and test rows, stratified, with no subject on both sides.

    Subjects are counted, and not scans: however often a subject was scanned, the others of the
    stratum are spread over all folds.

    Parameters
    ----------
    strata, subjects : np.ndarray, shape (N,)
    n_splits : int
    seed : int

    Returns
    -------
    list of (np.ndarray of int, np.ndarray of int)
        Training and test rows of each fold.
    """
    # A subject stands once in each of its strata, in the order of the scans, on which the folds
    # depend.
    pairs = list(zip(strata.tolist(), subjects.tolist(), strict=True))
    first = {pair: row for row, pair in reversed(list(enumerate(pairs)))}
    once = np.sort(list(first.values()))
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    found = []
    for _, tested in splitter.split(once, strata[once], subjects[once]):
        test = np.isin(subjects, subjects[once[tested]])
        found.append((np.flatnonzero(~test), np.flatnonzero(test)))
    return found


@dataclass(frozen=True)
class Components:
    """Principal components of the images that a probe is trained on.

    Attributes
    ----------
    project : callable
        Takes images, shape (N, ...), to component scores, shape (N, C).
    training_scores : np.ndarray, shape (L, C)
        Component scores of the training images themselves.
    """

    project: Projection
    training_scores: np.ndarray

    @classmethod
    def fit(cls, images: np.ndarray, seed: int = 0, rows: np.ndarray | None = None) -> Components:
        """Fit to training images; the first component has unit variance.

        The components are not whitened, since that would lift the noise of the last components
        to the signal of the first.

        Parameters
        ----------
        images : np.ndarray, shape (N, ...)
        seed : int
            Of the randomized solver.
        rows : np.ndarray of int, shape (L,), optional
            The training images; all of them without it.
        """
        flat = images.reshape(len(images), -1)
        rows = np.arange(len(flat)) if rows is None else rows
        varying = _varying(flat, rows)

        def training() -> np.ndarray:
            # A copy of no more than what is needed; each pixel's values lie together.
            return flat.T[np.ix_(varying, rows)].T

        count = min(MAX_COMPONENTS, len(rows) - 1, len(varying))
        # One copy after the other: the fit overwrites its own.
        pca = PCA(count, copy=False, svd_solver='randomized', random_state=seed)
        with np.errstate(invalid='ignore'):  # the explained share of variance, if that is 0
            pca.fit(training())
        scale = max(float(np.sqrt(pca.explained_variance_[0])), 1e-12)

        def project(images: np.ndarray) -> np.ndarray:
            return pca.transform(images.reshape(len(images), -1)[:, varying]) / scale

        return cls(project, pca.transform(training()) / scale)

    def subset(self, rows: np.ndarray) -> Components:
        """The same components, to train probes on some of the training images only."""
        return replace(self, training_scores=self.training_scores[rows])

    def fit_classifier(self, labels: np.ndarray) -> Predictor:
        """Fit logistic regression to one label for each training image."""
        probe = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000, class_weight='balanced')
        probe.fit(self.training_scores, labels)
        return lambda images: probe.predict(self.project(images))

    def fit_regression(self, values: np.ndarray) -> Predictor:
        """Fit ridge regression to one number for each training image."""
        ridge = RidgeCV(np.logspace(-4, 2, 13)).fit(self.training_scores, values)
        return lambda images: ridge.predict(self.project(images))


def _varying(flat: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where some images differ: what all share, as the background, is part of no component."""
    differs = np.zeros(flat.shape[1], bool)
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        differs |= (flat[rows[start : start + IMAGES_AT_ONCE]] != flat[rows[0]]).any(axis=0)
    return np.flatnonzero(differs) if differs.any() else np.arange(1)


def cross_val_predict(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Classify each image with logistic regression that is trained on other subjects.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W) or (N, F)
    labels, subjects : np.ndarray, shape (N,)
    seed : int
        Of the five folds and of the principal components.

    Returns
    -------
    np.ndarray, shape (N,)
        The predicted labels.
    """
    predicted = np.empty_like(labels)
    for train, test in folds(labels, subjects, 5, seed):
        classify = Components.fit(images, seed, train).fit_classifier(labels[train])
        predicted[test] = classify(images[test])
    return predicted


def linear_accuracy(
    images: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> float:
    """Balanced accuracy of :func:`cross_val_predict`, which takes the same arguments."""
    predicted = cross_val_predict(images, labels, subjects, seed=seed)
    return float(balanced_accuracy_score(labels, predicted))


def intensity_quantiles(images: np.ndarray) -> np.ndarray:
    """33 evenly spaced quantiles of the brain's intensities in each image, shape (N, 33)."""
    return np.stack([brain_quantiles(image, QUANTILE_LEVELS) for image in images])


def cnn_predict(
    images: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Classify test images with a small convolutional network trained on the training images.

    The network is sensitive to texture, noise and sharpness; principal components are not.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    labels : np.ndarray, shape (N,)
    train, test : np.ndarray of int
        Rows.
    seed : int
        Of the initial weights and the order of the images.

    Returns
    -------
    np.ndarray, shape (len(test),)
        The predicted labels.
    """
    names, numbers = np.unique(labels, return_inverse=True)

    mean, sd = _mean_and_sd(images, train)

    def standardized(rows: np.ndarray) -> torch.Tensor:
        return _as_tensor(images, rows).sub_(mean).div_(sd)[:, None]

    y = torch.from_numpy(numbers[train])
    weight = len(train) / (len(names) * torch.bincount(y, minlength=len(names)))
    # A generator of its own, so that networks which are trained side by side draw the same.
    generator = torch.Generator().manual_seed(seed)
    network = _SmallCNN(len(names), generator)
    # This order in memory takes a quarter less time on a CPU.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = -(-len(train) // BATCH)
    epochs = max(EPOCHS, -(-LEAST_STEPS // batches))
    steps = epochs * batches
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(train), generator=generator)
        for rows in order.split(BATCH):
            x = standardized(train[rows.numpy()])
            loss = nn.functional.cross_entropy(network(x), y[rows], weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        parts = np.split(test, range(BATCH, len(test), BATCH))
        predicted = torch.cat([network(standardized(part)).argmax(1) for part in parts])
    return names[predicted.numpy()]


def _as_tensor(images: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images[rows].astype(np.float32, copy=False))


def _mean_and_sd(images: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    x = _as_tensor(images, rows)
    return x.mean(), x.std()


class _SmallCNN(nn.Module):
    """Four convolutions with a stride of 2; it draws its weights and dropout from a generator."""

    def __init__(self, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator
        layers: list[nn.Module] = []
        with torch.device('meta'):  # nothing is drawn from the generator that all share
            for before, after, kernel in ((1, 8, 5), (8, 16, 3), (16, 32, 3), (32, 64, 3)):
                layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)]
                layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
            self.head = nn.Linear(256, n_classes)
        self.to_empty(device='cpu')
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
            elif isinstance(layer, (nn.Conv2d, nn.Linear)):
                # As PyTorch initializes these layers.
                nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
                bound = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.features(x)
        if self.training:
            kept = torch.empty_like(h).bernoulli_(1 - DROPOUT, generator=self.generator)
            h = h * kept.div_(1 - DROPOUT)
        return self.head(h)
