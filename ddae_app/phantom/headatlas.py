"""What surrounds the brain of all phantoms: skull, face, eyes, cavities and neck."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from ddae_app.phantom.atlas import load_atlas
from ddae_app.phantom.seeds import generator

HEAD_STEP_MM = 2.0
"""Voxel size of the maps, whose structures are larger than those of the brain."""

HEAD_BOX_MM = ((-110.0, 110.0), (-146.0, 126.0), (-170.0, 114.0))
"""Along x, y, z of the template; the neck goes on below it."""

CASE_MM, VAULT_MM = 9.0, 30.0
"""Half the width of the gaps of the brain that the inside and the outside of the skull bridge."""

BASE_MM = -15.0
"""Height below which the skull is a base under the brain, and not a vault around it."""

CORD_MM = ((0, -47, -72), (0, -41, -400))
"""The spinal cord, from the lowest end of the brain stem to far below the maps."""

SPINE_MM = ((0, -26, -84), (0, -24, -400))


@dataclass(frozen=True)
class HeadAtlas:
    """Maps of the head in template space, all float32 and, but for `origin`, of shape (x, y, z).

    Attributes
    ----------
    case : np.ndarray
        Signed distance in mm to the spinal canal and the brain without its gaps; negative inside.
    vault : np.ndarray
        The same for the outside of the skull, which is smoother.
    face : np.ndarray
        Signed distance in mm to the skin of face, ears and neck.
    fluid, soft, fat : np.ndarray
        Fractions of watery tissue, of muscle and of fat below the skin and outside the skull; the
        rest is bone and air, which give no signal.
    cord : np.ndarray
        Fraction of spinal cord.
    origin : np.ndarray, shape (3,)
        Position of the first voxel in mm; voxels of ``HEAD_STEP_MM``, axes RAS.
    """

    case: np.ndarray
    vault: np.ndarray
    face: np.ndarray
    fluid: np.ndarray
    soft: np.ndarray
    fat: np.ndarray
    cord: np.ndarray
    origin: np.ndarray


@cache
def load_head_atlas() -> HeadAtlas:
    """Build the maps around the brain of the atlas, in about 5 s.

    The shapes are ellipsoids and rods at the places that they have around the MNI152 brain; no
    scan of a person is in them. The result is shared, so its arrays are read-only.
    """
    origin = np.array([low for low, _ in HEAD_BOX_MM], dtype=np.float32)
    axes = [np.arange(low, high + 1, HEAD_STEP_MM, dtype=np.float32) for low, high in HEAD_BOX_MM]
    x, y, z = np.meshgrid(*axes, indexing='ij', sparse=True)
    place = np.abs(x), y, z
    canal = _rod(place, *CORD_MM, 9)
    brain = _brain(origin, np.broadcast(x, y, z).shape)
    case = join(_closed(brain, CASE_MM), canal, 6)
    above = 1 / (1 + np.exp((BASE_MM - z) / 6))
    fluid, soft, fat = _tissues(place)
    atlas = HeadAtlas(
        case=case,
        vault=above * _closed(brain, VAULT_MM) + (1 - above) * case,
        face=_skin(place),
        fluid=fluid,
        soft=soft,
        fat=fat,
        cord=_share(_rod(place, *CORD_MM, 5.5)),
        origin=origin,
    )
    for array in vars(atlas).values():
        array.setflags(write=False)
    return atlas


def join(first: np.ndarray, second: np.ndarray, blend_mm: float) -> np.ndarray:
    """Signed distance to the union of two bodies, with a rounded seam between them."""
    overlap = np.maximum(blend_mm - np.abs(first - second), 0) / blend_mm
    return np.minimum(first, second) - overlap**2 * blend_mm / 4


Place = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Distance from the plane of symmetry, y and z of every voxel, in mm, which broadcast."""


def _brain(origin: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    atlas = load_atlas()
    grid = np.indices(shape, dtype=np.float32).reshape(3, -1)
    index = grid * HEAD_STEP_MM + (origin - atlas.origin.astype(np.float32))[:, None]
    share = ndimage.map_coordinates(atlas.tissues[:3].sum(axis=0), index, order=1)
    return share.reshape(shape) > 0.5


def _closed(mask: np.ndarray, radius_mm: float) -> np.ndarray:
    """Signed distance in mm to a body whose narrow gaps are closed, negative inside."""
    # Beyond the ends of the maps, too, the outside has to be as far away as the radius.
    margin = int(radius_mm / HEAD_STEP_MM) + 2
    body = _distance(_distance(~np.pad(mask, margin)) <= radius_mm) >= radius_mm
    body = body[(slice(margin, -margin),) * 3]
    signed = _distance(~body) - _distance(body)
    return ndimage.gaussian_filter(signed.astype(np.float32), 1.0)


def _distance(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(mask, sampling=HEAD_STEP_MM)


def _skin(place: Place) -> np.ndarray:
    face = _ellipsoid(place, (0, 22, -72), (67, 66, 78))
    neck = _rod(place, (0, -34, -78), (0, -44, -400), 57)
    temples = _ellipsoid(place, (0, 14, -22), (76, 62, 50))
    nose = _ellipsoid(place, (0, 90, -66), (15, 19, 20))
    brow = _ellipsoid(place, (0, 74, -30), (46, 14, 12))
    base = _ellipsoid(place, (0, -34, -46), (76, 78, 46))
    ears = _ellipsoid(place, (80, -30, -44), (7, 17, 29))
    skin = join(join(face, neck, 20), join(join(temples, base, 12), brow, 12), 12)
    return join(join(skin, nose, 12), ears, 4)


def _tissues(place: Place) -> np.ndarray:
    """Fractions of fluid, soft tissue and fat, shape (3, x, y, z), around the skull."""
    x, y, z = place
    shape = np.broadcast(x, y, z).shape
    texture = ndimage.gaussian_filter(
        generator(0, 'head texture').standard_normal(shape, dtype=np.float32), 1.6
    )
    out = np.zeros((3, *shape), dtype=np.float32)
    out[1] = np.clip(0.8 + 0.35 * texture / texture.std(), 0, 1)
    out[2] = 1 - out[1]
    fluid, soft, fat, dark = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)
    marrow = (0, 0.35, 0.3)
    bodies = (
        (soft, _ellipsoid(place, (0, 36, -114), (26, 34, 26))),  # tongue
        (soft, _ellipsoid(place, (62, 16, -28), (12, 30, 34))),  # temporal muscle
        (soft, _ellipsoid(place, (50, 16, -95), (9, 20, 34))),  # masseter
        (marrow, _ellipsoid(place, (0, 40, -80), (44, 40, 22))),  # upper jaw
        (dark, _jaw(place, 6)),
        (marrow, _jaw(place, 3)),
        (marrow, _ellipsoid(place, (0, 4, -48), (20, 20, 9))),  # clivus
        (dark, _ellipsoid(place, (32, 50, -42), (22, 28, 21))),  # walls of the orbit
        (fat, _ellipsoid(place, (32, 54, -42), (19, 28, 18))),
        (soft, _rod(place, (32, 52, -42), (12, 14, -34), 3)),  # optic nerve
        (soft, _ellipsoid(place, (33, 62, -42), (14.5, 14.5, 14.5))),
        (fluid, _ellipsoid(place, (33, 62, -42), (12.5, 12.5, 12.5))),  # eye
        (soft, _ellipsoid(place, (33, 71, -42), (5, 2.5, 5))),  # lens
        (dark, _ellipsoid(place, (0, 55, -64), (15, 36, 22))),  # nasal cavity
        (soft, _ellipsoid(place, (7, 50, -68), (3, 26, 9))),  # conchae
        (soft, _ellipsoid(place, (0, 55, -64), (1.5, 36, 22))),  # septum
        (dark, _ellipsoid(place, (30, 40, -72), (14, 17, 17))),  # maxillary sinus
        (dark, _ellipsoid(place, (8, 42, -38), (7, 22, 9))),  # ethmoid cells
        (dark, _ellipsoid(place, (0, 8, -34), (13, 11, 10))),  # sphenoid sinus
        (dark, _rod(place, (0, 6, -74), (0, -8, -400), 9)),  # pharynx and trachea
        (dark, _ellipsoid(place, (50, -44, -52), (13, 15, 17))),  # air cells of the mastoid
        (dark, _rod(place, (50, -28, -48), (90, -28, -46), 4)),  # ear canal
        (dark, _rod(place, *SPINE_MM, 14)),
        (marrow, np.maximum(_rod(place, *SPINE_MM, 11), 3 - np.abs(z % 20 - 10))),  # vertebrae
    )
    for tissue, distance in bodies:
        share = _share(distance)
        out = out * (1 - share) + share * np.array(tissue, np.float32)[:, None, None, None]
    return out


def _jaw(place: Place, half_mm: float) -> np.ndarray:
    """Signed distance to the lower jaw, a horseshoe that is twice `half_mm` thick."""
    _, y, z = place
    arch = np.abs(_ellipsoid(place, (0, 10, -110), (46, 56, 56))) - half_mm
    return np.maximum(arch, np.maximum(z + 92 + half_mm, 6 - y + half_mm))


def _ellipsoid(place: Place, center: tuple, radii: tuple) -> np.ndarray:
    """Signed distance to an ellipsoid, accurate near its surface."""
    p = [(axis - c) / r for axis, c, r in zip(place, center, radii, strict=True)]
    near = np.sqrt(sum(np.square(a) for a in p))
    slope = np.sqrt(sum(np.square(a / r) for a, r in zip(p, radii, strict=True)))
    return (near * (near - 1) / np.maximum(slope, 1e-3)).astype(np.float32)


def _rod(place: Place, start: tuple, end: tuple, radius: float) -> np.ndarray:
    """Signed distance to a rod with round ends."""
    along = np.subtract(end, start)
    p = [axis - s for axis, s in zip(place, start, strict=True)]
    share = np.clip(sum(a * d for a, d in zip(p, along, strict=True)) / (along @ along), 0, 1)
    apart = sum(np.square(a - share * d) for a, d in zip(p, along, strict=True))
    return (np.sqrt(apart) - radius).astype(np.float32)


def _share(distance: np.ndarray) -> np.ndarray:
    """Share of each voxel that lies inside a body."""
    return np.clip(0.5 - distance / HEAD_STEP_MM, 0, 1)
