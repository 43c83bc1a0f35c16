"""How far what was made of the other sites' scans is, as a crowd, from the target's scans.

Distances of distributions, by features of a network (Fréchet: Heusel et al. 2017, arXiv
1706.08500; kernel: Binkowski et al. 2018, arXiv 1801.01401) or by principal components (maximum
mean discrepancy: Gretton et al. 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist

from ddae_app.evaluation.data import People
from ddae_app.evaluation.estimates import Estimate, centred
from ddae_app.evaluation.features import Features, mri_features
from ddae_app.evaluation.probes import Components

MOST_SCANS = 500
"""On each side: every one is seen by a network, which takes a while."""

DRAWS = 100
"""Of scans, for an interval."""

Weighted = Callable[[np.ndarray, np.ndarray], float]
"""From how often each scan of two crowds counts, shapes (N,) and (M,), int, to a distance."""

Distance = Callable[[np.ndarray, np.ndarray], Weighted]
"""From the features of two crowds, shapes (N, F) and (M, F), to their distances."""


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two normal distributions with the means and covariances of two crowds.

    It falls with the number of scans, so only distances of equal numbers compare.

    Parameters
    ----------
    a, b : np.ndarray, shape (N, F) and (M, F)
        N and M at least 2; fewer than F will do.
    """
    parts = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    # The trace of the root of the product of covariances is the sum of the singular values of
    # the product of their roots, and these are triangular factors.
    roots = [np.asarray(np.linalg.qr(x, mode='r')) for x in parts]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.square(x).sum() for x in parts)
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + spread - 2 * shared)


def polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cubic kernel of the kernel inception distance, shape (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian(width: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A Gaussian kernel."""
    return lambda a, b: np.exp(-cdist(a, b, 'sqeuclidean') / (2 * width**2))


def typical_width(features: np.ndarray) -> float:
    """The median distance between scans."""
    return max(float(np.median(pdist(features))), 1e-12)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> Weighted:
    """:func:`frechet` of two crowds, where scans may count more than once."""
    return lambda n, m: frechet(np.repeat(a, n, axis=0), np.repeat(b, m, axis=0))


def kernel_distance(kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Distance:
    """Squared maximum mean discrepancy, without bias: about 0 for crowds that are alike.

    A scan that counts twice is not compared with itself.
    """

    def distance(a: np.ndarray, b: np.ndarray) -> Weighted:
        first, second, across = kernel(a, a), kernel(b, b), kernel(a, b)

        def weighted(n: np.ndarray, m: np.ndarray) -> float:
            inner = [
                (w @ values @ w - w**2 @ values.diagonal()) / (w.sum() ** 2 - (w**2).sum())
                for values, w in ((first, n), (second, m))
            ]
            return float(inner[0] + inner[1] - 2 * (n @ across @ m) / (n.sum() * m.sum()))

        return weighted

    return distance


@dataclass(frozen=True)
class Space:
    """Features, those of the target's scans as they are, and distances by measure."""

    see: Features
    target: np.ndarray
    distances: dict[str, Distance]


@dataclass(frozen=True)
class Crowds:
    """Scans of the other sites and of the target, as many of each, and what they are compared by.

    Attributes
    ----------
    others : np.ndarray of int
        Rows whose outputs are compared.
    spaces : tuple of Space
    seed : int
    """

    others: np.ndarray
    spaces: tuple[Space, ...]
    seed: int

    @classmethod
    def of(
        cls, people: People, target: str, seed: int = 0, inception: Features | None = None
    ) -> Crowds:
        """Equal numbers, the others evenly from all sites; nobody is on both sides."""
        others, own = equal_numbers(people.sites, people.subjects, target, seed)
        scans = people.images[own]
        components = Components.of(np.concatenate([people.images[others], scans]), seed)
        mmd = kernel_distance(gaussian(typical_width(components.learnt)))
        kernel = kernel_distance(polynomial)
        ways: list[tuple[Features, dict[str, Distance]]] = [
            (mri_features(), {'frechet': frechet_distance, 'kernel': kernel}),
            (components.project, {'mmd': mmd}),
        ]
        if inception is not None:
            ways.append((inception, {'fid': frechet_distance, 'kid': kernel}))
        spaces = tuple(Space(see, see(scans), distances) for see, distances in ways)
        return cls(others, spaces, seed)

    def distances(self, outputs: np.ndarray) -> dict[str, Estimate]:
        """Of the outputs of everybody, shape (N, H, W), by measure."""
        found = {}
        for space in self.spaces:
            seen = space.see(outputs[self.others])
            for name, distance in space.distances.items():
                found[name] = estimated(distance, seen, space.target, self.seed)
        return found


def equal_numbers(
    sites: np.ndarray, subjects: np.ndarray, target: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of others and of the target, as many of each, the others evenly from all sites.

    Nobody is on both sides: of those who were scanned at the target and elsewhere, one half
    stands on either.

    Parameters
    ----------
    sites, subjects : np.ndarray, shape (N,)
    target : str
    seed : int
    """
    rng = np.random.default_rng(seed)
    at_target = sites == target
    both = rng.permutation(np.intersect1d(subjects[at_target], subjects[~at_target]))
    middle = len(both) // 2
    own = np.flatnonzero(at_target & ~np.isin(subjects, both[middle:]))
    elsewhere = ~at_target & ~np.isin(subjects, both[:middle])
    queues = [rng.permutation(np.flatnonzero(elsewhere & (sites == s))) for s in np.unique(sites)]
    # One of each site in turn.
    turns = [(place, row) for queue in queues for place, row in enumerate(queue)]
    others = np.array([row for _, row in sorted(turns)], dtype=int)
    n = min(len(own), len(others), MOST_SCANS)
    return others[:n], np.sort(rng.permutation(own)[:n])


def estimated(distance: Distance, others: np.ndarray, target: np.ndarray, seed: int) -> Estimate:
    """A distance of two crowds, with its interval over scans drawn anew on both sides.

    Drawn crowds hold scans twice, and are farther apart for that: the interval is moved to where
    the distance of the crowds themselves is its middle.

    Parameters
    ----------
    distance : callable
    others, target : np.ndarray, shape (N, F)
    seed : int
    """
    rng, sizes = np.random.default_rng(seed), (len(others), len(target))
    weighted = distance(others, target)
    drawn = [
        weighted(*(rng.multinomial(n, np.full(n, 1 / n)) for n in sizes)) for _ in range(DRAWS)
    ]
    value = weighted(*(np.ones(n, dtype=int) for n in sizes))
    return centred(value, np.array(drawn), sum(sizes))
