"""Distances between the distribution of the outputs and that of the target site's scans.

Scans are compared in the features of a network (Fréchet distance: Heusel et al. 2017, arXiv
1706.08500; kernel distance: Binkowski et al. 2018, arXiv 1801.01401) or in principal components
(maximum mean discrepancy: Gretton et al. 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist

from ddae_app.evaluation.data import EvaluationData
from ddae_app.evaluation.estimates import Estimate, centered_interval
from ddae_app.evaluation.features import Features, mri_features
from ddae_app.evaluation.probes import Components

MAX_SCANS = 500
"""Of each sample set: a network takes a while to compute the features of more."""

BOOTSTRAP_SAMPLES = 100

WeightedDistance = Callable[[np.ndarray, np.ndarray], float]
"""Takes how often each scan of two sets counts, shapes (N,) and (M,), int, to a distance."""

Distance = Callable[[np.ndarray, np.ndarray], WeightedDistance]
"""Takes the features of two sets, shapes (N, F) and (M, F), to their weighted distance."""

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes features, shapes (N, F) and (M, F), to similarities, shape (N, M)."""


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two normal distributions with the means and covariances of two sets.

    The distance decreases with the number of scans, so only distances of equally many scans
    can be compared.

    Parameters
    ----------
    a, b : np.ndarray, shape (N, F) and (M, F)
        N and M are at least 2, and may be smaller than F.
    """
    parts = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    # The trace of the square root of the product of covariances is the sum of the singular
    # values of the product of their roots, and these roots are triangular factors.
    roots = [np.asarray(np.linalg.qr(x, mode='r')) for x in parts]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.square(x).sum() for x in parts)
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + spread - 2 * shared)


def polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cubic kernel of the kernel inception distance, shape (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian(width: float) -> Kernel:
    """A Gaussian kernel of some width, in the units of the features."""
    return lambda a, b: np.exp(-cdist(a, b, 'sqeuclidean') / (2 * width**2))


def median_distance(features: np.ndarray) -> float:
    """The median distance between scans, a customary width of a Gaussian kernel."""
    return max(float(np.median(pdist(features))), 1e-12)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> WeightedDistance:
    """:func:`frechet` of two sets in which scans may count more than once."""
    return lambda n, m: frechet(np.repeat(a, n, axis=0), np.repeat(b, m, axis=0))


def kernel_distance(kernel: Kernel) -> Distance:
    """Squared maximum mean discrepancy, unbiased: about 0 for sets of one distribution.

    A scan that counts twice is not compared with itself. The distance is NaN where all that
    counts of a set is one scan.
    """

    def distance(a: np.ndarray, b: np.ndarray) -> WeightedDistance:
        first, second, across = kernel(a, a), kernel(b, b), kernel(a, b)

        def weighted(n: np.ndarray, m: np.ndarray) -> float:
            if min(np.count_nonzero(n), np.count_nonzero(m)) < 2:
                return np.nan
            inner = [
                (w @ values @ w - w**2 @ values.diagonal()) / (w.sum() ** 2 - (w**2).sum())
                for values, w in ((first, n), (second, m))
            ]
            return float(inner[0] + inner[1] - 2 * (n @ across @ m) / (n.sum() * m.sum()))

        return weighted

    return distance


@dataclass(frozen=True)
class FeatureSpace:
    """Features, those of the target's original scans, and the distances taken in them.

    Attributes
    ----------
    features : callable
        Takes images, shape (N, H, W), to features, shape (N, F).
    target : np.ndarray, shape (M, F)
    distances : dict of str to callable
        By measure.
    """

    features: Features
    target: np.ndarray
    distances: dict[str, Distance]


@dataclass(frozen=True)
class SampleSets:
    """Equally many scans of the other sites and of the target site, and how they are compared.

    Attributes
    ----------
    others : np.ndarray of int, shape (M,)
        Rows of the scans of other sites whose outputs are compared.
    spaces : tuple of FeatureSpace
        Empty, as `others`, where there are no scans of the target site.
    seed : int
    """

    others: np.ndarray
    spaces: tuple[FeatureSpace, ...]
    seed: int

    @classmethod
    def draw(
        cls, data: EvaluationData, target: str, seed: int = 0, inception: Features | None = None
    ) -> SampleSets:
        """Draw both sets, as :func:`balanced_rows` does, and compute the target's features.

        Parameters
        ----------
        data : EvaluationData
        target : str
            Without scans of this site, nothing is compared.
        seed : int
        inception : callable, optional
            Features in which FID and KID are measured; these measures are left out without it.
        """
        if target not in data.sites:
            return cls(np.array([], dtype=int), (), seed)
        others, at_target = balanced_rows(data.sites, data.subjects, target, seed)
        scans = data.images[at_target]
        components = Components.fit(np.concatenate([data.images[others], scans]), seed)
        mmd = kernel_distance(gaussian(median_distance(components.training_scores)))
        kernel = kernel_distance(polynomial)
        measures: list[tuple[Features, dict[str, Distance]]] = [
            (mri_features(), {'frechet': frechet_distance, 'kernel': kernel}),
            (components.project, {'mmd': mmd}),
        ]
        if inception is not None:
            measures.append((inception, {'fid': frechet_distance, 'kid': kernel}))
        spaces = tuple(
            FeatureSpace(features, features(scans), distances) for features, distances in measures
        )
        return cls(others, spaces, seed)

    def no_features(self) -> list[np.ndarray]:
        """Room for the features of the outputs of ``others``, NaN, shape (M, F) in each space."""
        return [np.full_like(space.target, np.nan) for space in self.spaces]

    def store(self, features: list[np.ndarray], rows: np.ndarray, outputs: np.ndarray) -> None:
        """Compute the features of the outputs of some scans, as far as they are compared.

        Parameters
        ----------
        features : list of np.ndarray
            As :meth:`no_features` makes them; changed in place.
        rows : np.ndarray of int, shape (N,)
        outputs : np.ndarray, shape (N, H, W)
        """
        _, place, of = np.intersect1d(self.others, rows, return_indices=True)
        if len(of):
            for space, known in zip(self.spaces, features, strict=True):
                known[place] = space.features(outputs[of])

    def distances(self, features: list[np.ndarray]) -> dict[str, Estimate]:
        """Distances of the outputs to the target's scans, by measure.

        Parameters
        ----------
        features : list of np.ndarray
            Of the outputs of all ``others``; see :meth:`store`.
        """
        return {
            name: estimate_distance(distance, known, space.target, self.seed)
            for space, known in zip(self.spaces, features, strict=True)
            for name, distance in space.distances.items()
        }


def balanced_rows(
    sites: np.ndarray, subjects: np.ndarray, target: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw equally many scans of the other sites, evenly from each, and of the target site.

    No subject is in both sets: of the subjects who were scanned at the target and elsewhere, one
    half goes to either set.

    Parameters
    ----------
    sites, subjects : np.ndarray, shape (N,)
    target : str
    seed : int

    Returns
    -------
    tuple of two np.ndarray of int, shape (M,)
        Rows of other sites, and rows of the target site; M is at most ``MAX_SCANS``.
    """
    rng = np.random.default_rng(seed)
    is_target = sites == target
    both = rng.permutation(np.intersect1d(subjects[is_target], subjects[~is_target]))
    middle = len(both) // 2
    at_target = np.flatnonzero(is_target & ~np.isin(subjects, both[middle:]))
    elsewhere = ~is_target & ~np.isin(subjects, both[:middle])
    queues = [rng.permutation(np.flatnonzero(elsewhere & (sites == s))) for s in np.unique(sites)]
    # One scan of each site in turn.
    turns = [(place, row) for queue in queues for place, row in enumerate(queue)]
    others = np.array([row for _, row in sorted(turns)], dtype=int)
    n = min(len(at_target), len(others), MAX_SCANS)
    return others[:n], np.sort(rng.permutation(at_target)[:n])


def estimate_distance(
    distance: Distance, others: np.ndarray, target: np.ndarray, seed: int
) -> Estimate:
    """A distance of two sets, with its interval over bootstrap samples of both.

    Bootstrap samples hold some scans twice, which increases their distance. The interval is
    therefore shifted so that the distance of the sets themselves is its median.

    Parameters
    ----------
    distance : callable
    others, target : np.ndarray, shape (N, F) and (M, F)
    seed : int
    """
    rng, sizes = np.random.default_rng(seed), (len(others), len(target))
    weighted = distance(others, target)
    resampled = [
        weighted(*(rng.multinomial(n, np.full(n, 1 / n)) for n in sizes))
        for _ in range(BOOTSTRAP_SAMPLES)
    ]
    value = weighted(*(np.ones(n, dtype=int) for n in sizes))
    return centered_interval(value, np.array(resampled), sum(sizes))
