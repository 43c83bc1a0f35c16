"""The head of a subject around the brain, as a function of position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ddae_app.phantom.anatomy import Anatomy
from ddae_app.phantom.headatlas import HEAD_STEP_MM, HeadAtlas, join, load_head_atlas

SKIN_MM = 1.8
"""Thickness of the skin, which is darker than the fat under it."""

TABLE_MM = 2.2
"""Thickness of the hard bone on both sides of the marrow of the skull."""

EDGE_MM = 1.2
"""Width over which one tissue goes over into the next."""

BLOCK = 500_000
"""Positions that are computed at once, which limits the memory."""


class Surroundings(NamedTuple):
    """What is in each voxel besides the brain: fractions, float32; the rest is bone or air."""

    fluid: np.ndarray
    soft: np.ndarray
    fat: np.ndarray
    cord: np.ndarray


@dataclass(frozen=True)
class Head:
    """Thickness of the layers around the brain, in template mm.

    Attributes
    ----------
    atlas : HeadAtlas
    fluid_mm : float
        Between brain and skull.
    skull_mm, scalp_mm : float
    """

    atlas: HeadAtlas
    fluid_mm: float
    skull_mm: float
    scalp_mm: float

    def around(self, anatomy: Anatomy, points: np.ndarray, brain: np.ndarray) -> Surroundings:
        """Tissue fractions around a brain at any positions.

        Parameters
        ----------
        anatomy : Anatomy
            Its deformation is that of the head, too.
        points : np.ndarray, shape (..., 3)
            Positions in template mm.
        brain : np.ndarray, shape (...)
            Fraction of brain at the positions: the sum of the fractions of its tissues.
        """
        out = np.zeros((4, brain.size), dtype=np.float32)
        flat = points.reshape(-1, 3)
        for start in range(0, brain.size, BLOCK):
            part = slice(start, start + BLOCK)
            source = anatomy.undeformed(flat[part].T.astype(np.float32))
            index = (source - self.atlas.origin[:, None]) / np.float32(HEAD_STEP_MM)
            case = _at(self.atlas.case, index) - self.fluid_mm
            skull = _at(self.atlas.vault, index) - self.fluid_mm - self.skull_mm
            skin = join(skull - self.scalp_mm, _at(self.atlas.face, index), 10)
            head = np.flatnonzero((skin < EDGE_MM) & (brain.flat[part] < 1))
            rest = 1 - brain.flat[part][head]
            out[:, start + head] = rest * self._layers(
                index[:, head], case[head], skull[head], skin[head]
            )
        return Surroundings(*out.reshape(4, *brain.shape))

    def _layers(
        self, index: np.ndarray, case: np.ndarray, skull: np.ndarray, skin: np.ndarray
    ) -> np.ndarray:
        """Fractions from the signed distances to both sides of the skull and to the skin."""
        maps = self.atlas.fluid, self.atlas.soft, self.atlas.fat
        out = np.stack([*(_at(channel, index) for channel in maps), np.zeros_like(case)])
        # From the depth to the skin, then from outside to inside; each replaces what was there.
        # The nose, the ears and the throat stay open.
        signal = np.minimum(1, out.sum(axis=0) * 4)
        _replace(out, _below(-skin - self.scalp_mm) * signal, (0, 0, 1, 0))
        _replace(out, _below(-skin - SKIN_MM) * signal, (0, 1, 0, 0))
        _replace(out, _below(skull), (0, 0, 0, 0))
        marrow = np.maximum(TABLE_MM - case, skull + TABLE_MM)
        _replace(out, _below(marrow), (0, 0.25, 0.3, 0))
        _replace(out, _below(case), (1, 0, 0, 0))
        _replace(out, _at(self.atlas.cord, index), (0, 0, 0, 1))
        return out * _below(skin)


def draw_head(age: float, rng: np.random.Generator) -> Head:
    """Draw the layers around a brain; fluid widens with age."""
    spread = rng.standard_normal(3)
    return Head(
        atlas=load_head_atlas(),
        fluid_mm=float(np.clip(1.2 + 0.012 * age + 0.3 * spread[0], 0.8, 3.2)),
        skull_mm=float(np.clip(6.5 + 0.9 * spread[1], 4.5, 9)),
        scalp_mm=float(np.clip(6.0 + 1.1 * spread[2], 3.5, 9.5)),
    )


def _at(channel: np.ndarray, index: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(channel, index, order=1, mode='nearest')


def _below(distance: np.ndarray) -> np.ndarray:
    """Share that lies on the negative side of a surface."""
    return np.clip(0.5 - distance / EDGE_MM, 0, 1)


def _replace(fractions: np.ndarray, share: np.ndarray, tissue: tuple[float, ...]) -> None:
    fractions *= 1 - share
    for fraction, part in zip(fractions, tissue, strict=True):
        if part:
            fraction += part * share
