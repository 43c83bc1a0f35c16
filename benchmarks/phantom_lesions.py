"""Lesions in phantom brains, which no training scan contains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddae_app.phantom.scanner import Tissues

RIM_MM = 0.8
"""Width of the rim over which a lesion fades into the surrounding tissue."""


@dataclass(frozen=True)
class Lesion:
    """A spherical lesion.

    Attributes
    ----------
    center_mm : tuple of float
        Template mm.
    radius_mm : float
    kind : {'dark', 'bright'}
        Dark as half gray matter and half CSF, like a white-matter lesion in a T1-weighted image,
        or brighter than white matter by the contrast of gray and white matter.
    """

    center_mm: tuple[float, float, float]
    radius_mm: float
    kind: str

    def share(self, points: np.ndarray) -> np.ndarray:
        """Fraction of the lesion at positions in template mm, shape (..., 3); range [0, 1]."""
        distance = np.linalg.norm(points - np.array(self.center_mm), axis=-1)
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
