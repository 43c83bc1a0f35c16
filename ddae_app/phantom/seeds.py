"""Named random streams, so that a scanner does not change with the people who lie in it."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the names, and on nothing drawn before.

    Parameters
    ----------
    seed : int
        Not negative.
    *names : str
        What the numbers are for, e.g. ``'scanner', 'PhantomA'``.
    """
    return np.random.default_rng([seed, zlib.crc32('/'.join(names).encode())])
