"""The atlas of all phantom brains: tissue maps and directions of aging, from MNI152."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

FIELD_STEP = 2
"""Voxels of the template (1 mm) per voxel of the aging fields."""

LATERAL_VENTRICLE_MM = (16.0, -34.0, 16.0)
"""A point inside the lateral ventricles, which separates them from other deep CSF."""

VENTRICLE_DEPTH_MM = 18.0
"""Distance from the brain surface that separates ventricles from sulci and cisterns."""

SULCUS_DEPTH_MM = 25.0
"""Depth below the brain surface that sulci, fissures and cisterns reach."""

NEAR_MM = 14.0
"""The brain of no subject reaches further than this beyond that of the template."""

MAX_DETAIL = 0.1
"""Largest residual that is kept, in template intensities; larger ones are masking artifacts."""


@dataclass(frozen=True)
class Atlas:
    """The template in a form that can be sampled; tissues and fields are float32.

    Attributes
    ----------
    tissues : np.ndarray, shape (4, X, Y, Z)
        CSF, GM and WM fractions in [0, 1], whose sum is the fraction of brain in the voxel, and
        the detail: the template intensity that the fractions do not explain, in units of the
        contrast between gray and white matter.
    origin : np.ndarray, shape (3,)
        Position of the first voxel in mm; voxels of `tissues` are 1 mm, axes RAS.
    ventricles : np.ndarray, shape (3, x, y, z)
        Field that points into the lateral ventricles, peak 1; voxels of ``FIELD_STEP`` mm.
    sulci : np.ndarray, shape (3, x, y, z)
        Field that points into sulci, fissures and cisterns, peak 1.
    near : np.ndarray, shape (x, y, z), bool
        Where brain is possible; elsewhere all tissues are 0 in all subjects.
    """

    tissues: np.ndarray
    origin: np.ndarray
    ventricles: np.ndarray
    sulci: np.ndarray
    near: np.ndarray


@cache
def load_atlas() -> Atlas:
    """Build the atlas from the MNI152NLin2009aSym images that nilearn packages, in about 2 s.

    The template is skull-stripped and left-right symmetric (Fonov et al. 2011,
    doi:10.1016/j.neuroimage.2010.07.033). CSF is the part of the brain that is neither gray nor
    white matter. The result is shared, so its arrays are read-only.
    """
    from nilearn import datasets

    t1 = datasets.load_mni152_template(resolution=1)
    gm = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    wm = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    intensity = t1.get_fdata(dtype=np.float32)
    brain = ndimage.binary_fill_holes(intensity > 0)
    # A binary mask would show steps when it is sampled between voxels.
    share = ndimage.gaussian_filter(brain.astype(np.float32), 0.8)
    fill = np.minimum(1, share / np.maximum(gm + wm, 1e-6))
    gm, wm = gm * fill, wm * fill
    csf = np.maximum(share - gm - wm, 0)
    detail = _detail(intensity, np.stack([csf, gm, wm]), brain)

    coarse = (slice(None, None, FIELD_STEP),) * 3
    depth = ndimage.distance_transform_edt(brain[coarse], sampling=FIELD_STEP)
    fluid = csf[coarse]
    origin = t1.affine[:3, 3]
    ventricle = _component((fluid > 0.3) & (depth > VENTRICLE_DEPTH_MM), origin)
    sulcus = fluid * ~ndimage.binary_dilation(ventricle, iterations=3) * (depth < SULCUS_DEPTH_MM)
    atlas = Atlas(
        tissues=np.stack([csf, gm, wm, detail]),
        origin=origin,
        ventricles=_attraction(ventricle, sigma_mm=8),
        sulci=_attraction(sulcus, sigma_mm=3),
        near=ndimage.distance_transform_edt(~brain[coarse], sampling=FIELD_STEP) < NEAR_MM,
    )
    for array in vars(atlas).values():
        array.setflags(write=False)
    return atlas


def _detail(t1: np.ndarray, fractions: np.ndarray, brain: np.ndarray) -> np.ndarray:
    means = np.linalg.lstsq(fractions[:, brain].T, t1[brain], rcond=None)[0].astype(np.float32)
    residual = t1 - np.tensordot(means, fractions, axes=1)
    # It fades out towards the surface, where the mask of the template cuts partial volume.
    core = ndimage.binary_erosion(brain, iterations=2)
    inside = ndimage.gaussian_filter(core.astype(np.float32), 1.0)
    detail = np.clip(residual, -MAX_DETAIL, MAX_DETAIL) * inside / (means[2] - means[1])
    return detail.astype(np.float32)


def _component(mask: np.ndarray, origin: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    seed = np.round((np.array(LATERAL_VENTRICLE_MM) - origin) / FIELD_STEP).astype(int)
    return labels == labels[tuple(seed)]


def _attraction(structure: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Gradient of the smoothed structure, scaled so that its longest vector is 1 mm."""
    potential = ndimage.gaussian_filter(structure.astype(np.float32), sigma_mm / FIELD_STEP)
    field = np.stack(np.gradient(potential))
    return field / np.linalg.norm(field, axis=0).max()
