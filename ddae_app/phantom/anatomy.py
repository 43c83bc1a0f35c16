"""The brain of a subject as a function of position, so that single slices are cheap."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ddae_app.phantom.atlas import FIELD_STEP, Atlas, load_atlas

AGE_RANGE = (18.0, 89.0)
"""Ages that can be drawn, in years; BIDS advises against publishing ages above 89."""

BRAIN_CENTER_MM = (0.0, -17.0, 5.0)
"""Center of the brain of the template, which lies at the isocenter of a scanner."""

SHAPE_STEP_MM = 5.0
"""Voxel size of the random displacement, which is too smooth to need a finer one."""

SHAPE_SCALES_MM = ((26.0, 2.6), (10.0, 1.1))
"""Smoothness and standard deviation of the random displacement, first of lobes, then of gyri."""

MAX_VENTRICLE_MM = 5.6
"""A larger displacement would fold in the middle of the ventricles."""

MEAN_HEAD_SCALE = 0.91
"""Scale along each axis from the MNI152 brain (1.9 L) to the average brain (about 1.5 L)."""

SEX_HEAD_SCALE = 0.018
"""Male heads are larger and female heads smaller by this along each axis (11% in volume)."""


@dataclass(frozen=True)
class Anatomy:
    """A brain in template space, as after affine registration.

    Attributes
    ----------
    atlas : Atlas
        The atlas that is warped.
    age : float
        Years.
    sex : {'M', 'F'}
    ventricle_mm, sulcus_mm : float
        Largest distance in mm by which the lateral ventricles and the sulci are enlarged.
    csf_weight, gm_weight : float
        Odds of CSF and of GM against WM in mixed voxels; they change the cortical thickness.
    shape : np.ndarray, shape (3, x, y, z), float32
        Random displacement in mm; voxels of ``SHAPE_STEP_MM``.
    head : np.ndarray, shape (4, 4)
        Template mm to mm of the subject: the size and the proportions of the head.
    """

    atlas: Atlas
    age: float
    sex: str
    ventricle_mm: float
    sulcus_mm: float
    csf_weight: float
    gm_weight: float
    shape: np.ndarray
    head: np.ndarray

    def tissues(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Tissue fractions at any positions.

        Parameters
        ----------
        points : np.ndarray, shape (..., 3)
            Positions in template mm (MNI152NLin2009aSym, RAS).

        Returns
        -------
        csf, gm, wm : np.ndarray, shape (...), float32, range [0, 1]
            Tissue fractions. Their sum is the fraction of brain, 1 inside and 0 outside.
        detail : np.ndarray, shape (...), float32
            Intensity that the fractions do not explain, in units of the contrast between gray and
            white matter.
        """
        out = np.zeros((4, *points.shape[:-1]), dtype=np.float32)
        near = self._near(points)
        source = self._source(points[near].T.astype(np.float32))
        csf, gm, wm, detail = _sample(self.atlas.tissues, source, self.atlas.origin, 1, 'constant')
        share = csf + gm + wm
        csf, gm = csf * self.csf_weight, gm * self.gm_weight
        norm = share / np.maximum(csf + gm + wm, 1e-6)
        out[:, near] = csf * norm, gm * norm, wm * norm, detail
        return out[0], out[1], out[2], out[3]

    def scaled(self, factor: float) -> Anatomy:
        """The same anatomy in a head of another size, for example that of a child."""
        return replace(self, head=np.diag([factor, factor, factor, 1.0]) @ self.head)

    def undeformed(self, x: np.ndarray) -> np.ndarray:
        """Positions, shape (3, N), before the random displacement."""
        return x + _sample(self.shape, x, self.atlas.origin, SHAPE_STEP_MM)

    def _near(self, points: np.ndarray) -> np.ndarray:
        index = np.rint((points - self.atlas.origin) / FIELD_STEP).astype(np.int32)
        # Clipped, because the brain stem leaves the template through its lowest plane.
        limit = np.array(self.atlas.near.shape) - 1
        return self.atlas.near[tuple(np.moveaxis(np.clip(index, 0, limit), -1, 0))]

    def _source(self, x: np.ndarray) -> np.ndarray:
        """Position in the template whose tissue is at each position, shape (3, N)."""
        atlas = self.atlas
        y = self.undeformed(x)
        ventricles = _sample(atlas.ventricles, y, atlas.origin, FIELD_STEP)
        sulci = _sample(atlas.sulci, y, atlas.origin, FIELD_STEP)
        return y + self.ventricle_mm * ventricles + self.sulcus_mm * sulci


def _sample(
    channels: np.ndarray, points: np.ndarray, origin: np.ndarray, step: float, outside='nearest'
) -> np.ndarray:
    index = (points - origin[:, None].astype(np.float32)) / step
    return np.stack(
        [ndimage.map_coordinates(channel, index, order=1, mode=outside) for channel in channels]
    )


def draw_anatomy(age: float, sex: str, rng: np.random.Generator) -> Anatomy:
    """Draw a subject of a given age and sex.

    The means follow the adult lifespan in shape, not in numbers (Coupe et al. 2017,
    doi:10.1002/hbm.23743). Gray matter decreases steadily, from about 57 to 41% of the brain.
    Ventricles and sulci widen slowly before the age of 50 and faster after it. Subjects of the
    same age differ.

    Parameters
    ----------
    age : float
        Years, within ``AGE_RANGE``.
    sex : {'M', 'F'}
    rng : np.random.Generator
        The same state gives the same subject.
    """
    male = 1.0 if sex == 'M' else -1.0
    years = (age - AGE_RANGE[0]) / (AGE_RANGE[1] - AGE_RANGE[0])
    growth = 0.25 * years + 0.75 * years**2.2
    spread = rng.standard_normal(4)
    ventricle = -1.0 + 5.6 * growth + 0.3 * male + (0.5 + 0.8 * years) * spread[0]
    scale = MEAN_HEAD_SCALE * (1 + SEX_HEAD_SCALE * male + 0.022 * rng.standard_normal())
    proportions = np.clip(1 + 0.02 * rng.standard_normal(3), 0.95, 1.05)
    return Anatomy(
        atlas=load_atlas(),
        age=age,
        sex=sex,
        ventricle_mm=float(np.clip(ventricle, -1.5, MAX_VENTRICLE_MM)),
        sulcus_mm=-0.3 + 2.0 * growth + 0.25 * spread[1],
        csf_weight=float(np.exp(-0.2 + 1.1 * growth + 0.12 * spread[2])),
        gm_weight=float(np.exp(0.25 - 0.6 * years - 0.04 * male + 0.06 * spread[3])),
        shape=_draw_shape(rng),
        head=np.diag([*(scale * proportions), 1.0]),
    )


def _draw_shape(rng: np.random.Generator) -> np.ndarray:
    extent = np.array(load_atlas().tissues.shape[1:])
    grid = np.ceil(extent / SHAPE_STEP_MM).astype(int) + 1
    total = np.zeros((3, *grid), dtype=np.float32)
    for smoothness, sd in SHAPE_SCALES_MM:
        noise = rng.standard_normal((3, *grid), dtype=np.float32)
        field = ndimage.gaussian_filter(noise, (0, *[smoothness / SHAPE_STEP_MM] * 3))
        total += field * (sd / field.std())
    return total
