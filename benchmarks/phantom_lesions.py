"""Lesions in phantom brains, which no scan that a model is trained on shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddae_app.phantom.scanner import Tissues

RIM_MM = 0.8
"""Over which a lesion fades into what surrounds it."""


@dataclass(frozen=True)
class Lesion:
    """A ball of other tissue.

    Attributes
    ----------
    centre_mm : tuple of float
        Template mm.
    radius_mm : float
    kind : {'dark', 'bright'}
        Dark as half grey matter, half CSF, like a white-matter lesion in a T1-weighted image; or
        brighter than white matter by the step from grey to white.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    kind: str

    def share(self, points: np.ndarray) -> np.ndarray:
        """How much of it there is at positions in template mm, shape (..., 3); range [0, 1]."""
        distance = np.linalg.norm(points - np.array(self.centre_mm), axis=-1)
        return np.clip((self.radius_mm - distance) / RIM_MM + 0.5, 0, 1).astype(np.float32)

    def put_into(self, tissues: Tissues, points: np.ndarray) -> Tissues:
        """Tissues, as :meth:`Anatomy.tissues` returns them at these points, with the lesion."""
        csf, gm, wm, detail = tissues
        share = self.share(points)
        brain, rest = csf + gm + wm, 1 - share
        if self.kind == 'dark':
            half = share * brain / 2
            return csf * rest + half, gm * rest + half, wm * rest, detail * rest
        return csf * rest, gm * rest, wm * rest + share * brain, detail * rest + share
