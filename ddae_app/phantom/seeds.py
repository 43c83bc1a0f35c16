"""Named random streams, so that a scanner does not depend on the subjects that are drawn."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator that depends only on the seed and the names, not on earlier draws.

    Parameters
    ----------
    seed : int
        0 or more.
    *names : str
        The purpose of the numbers, e.g. ``'scanner', 'PhantomA'``.
    """
    return np.random.default_rng([seed, zlib.crc32('/'.join(names).encode())])
