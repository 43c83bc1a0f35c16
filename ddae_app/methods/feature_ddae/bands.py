"""Spatial frequencies on the cortex, by which what is measured of sites is shrunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import sph_harm_y

DEGREES = 8
"""Highest degree of the spherical harmonics: waves of about 80 mm on the inflated cortex."""


@dataclass(frozen=True)
class Bands:
    """An orthonormal basis of smooth functions of P features, in bands of alike ones.

    What the basis does not hold is a band of its own, the last one.

    Attributes
    ----------
    basis : np.ndarray, shape (P, M)
    band : np.ndarray of int, shape (M,)
        Which band each function is in, 0 to K - 2.
    """

    basis: np.ndarray
    band: np.ndarray

    @classmethod
    def of_table(cls, features: int) -> Bands:
        """The mean of all features, and what each differs by: features have no neighbors."""
        return cls(np.full((features, 1), features**-0.5), np.zeros(1, dtype=int))

    @classmethod
    def of_sphere(cls, places: np.ndarray, hemispheres: np.ndarray) -> Bands:
        """Spherical harmonics of each hemisphere; a band holds those of one degree.

        Parameters
        ----------
        places : np.ndarray, shape (P, 3)
            Of each vertex, on the unit sphere.
        hemispheres : np.ndarray of int, shape (P,)
        """
        bases, degrees = [], []
        for hemisphere in np.unique(hemispheres):
            here = hemispheres == hemisphere
            waves, degree = _waves(places[here])
            # Without the medial wall they are not orthogonal; each degree keeps what it adds. Of
            # a few vertices, the first functions say all.
            bases.append((here, np.linalg.qr(waves)[0]))
            degrees.append(degree[: bases[-1][1].shape[1]])
        basis = np.zeros((len(places), sum(map(len, degrees))))
        start = 0
        for here, part in bases:
            basis[here, start : start + part.shape[1]] = part
            start += part.shape[1]
        return cls(basis, np.concatenate(degrees))

    @property
    def count(self) -> int:
        """K, how many bands there are."""
        return int(self.band.max()) + 2

    @property
    def smooth(self) -> bool:
        """Whether features have neighbors that say something of them."""
        return self.basis.shape[1] > 1

    def power(self, values: np.ndarray) -> np.ndarray:
        """Mean square of each band, shape (K,), over rows of `values`, shape (S, P)."""
        coefficients = values @ self.basis
        return self.variances(coefficients, float(np.square(values).sum())) / len(values)

    def variances(self, coefficients: np.ndarray, squares: float) -> np.ndarray:
        """Sum over rows of the mean square of each band, shape (K,).

        Parameters
        ----------
        coefficients : np.ndarray, shape (N, M)
            Of rows in this basis.
        squares : float
            All values of these rows, squared and summed.
        """
        others = max(self.basis.shape[0] - self.basis.shape[1], 1)
        functions = np.append(np.bincount(self.band), others)
        return self.sums(np.square(coefficients).sum(axis=0), squares) / functions

    def sums(self, of_functions: np.ndarray, total: float) -> np.ndarray:
        """Sum of each band, shape (K,), of something of each function, shape (M,).

        What of the `total` is none of the functions', if any, is that of the last band.
        """
        rest = max(total - float(of_functions.sum()), 0.0)
        return np.append(np.bincount(self.band, of_functions), rest)

    def factors(self, between: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """What of each band is kept, shape (S, K), 0 to 1; parameters as of :meth:`shrunk`."""
        total = between + noise
        return np.divide(between, total, out=np.zeros_like(total), where=total > 0)

    def shrunk(self, values: np.ndarray, between: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The expected truth of measured values.

        Parameters
        ----------
        values : np.ndarray, shape (S, P)
        between : np.ndarray, shape (K,)
            Variance of the truth in each band.
        noise : np.ndarray, shape (S, K)
            Variance of the error of measurement.
        """
        factor = self.factors(between, noise)
        coefficients = values @ self.basis
        rest = values - coefficients @ self.basis.T
        smooth = (coefficients * factor[:, self.band]) @ self.basis.T
        return smooth + rest * factor[:, -1:]


def _waves(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spherical harmonics at places, shape (P, M), and the degree of each."""
    waves: list[np.ndarray] = []
    degrees: list[int] = []
    polar = np.arccos(np.clip(places[:, 2], -1, 1))
    around = np.arctan2(places[:, 1], places[:, 0])
    for degree in range(DEGREES + 1):
        for order in range(degree + 1):
            wave = sph_harm_y(degree, order, polar, around)
            parts = (wave.real, wave.imag) if order else (wave.real,)
            waves += parts
            degrees += [degree] * len(parts)
    return np.column_stack(waves), np.array(degrees)
