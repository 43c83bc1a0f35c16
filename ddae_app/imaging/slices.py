"""Axial slices for the network, and their place in template space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ddae_app.errors import ImageError
from ddae_app.imaging.grid import Grid
from ddae_app.imaging.intensities import brain_scale
from ddae_app.settings import Protocol

MIN_BRAIN_FRACTION = 0.02
"""Least share of brain in the crop for a neighbor of the medial slice to be used in training."""

TRAINING_NEIGHBORS = 4
"""Number of slices above and below the medial one that are used in training as well."""


@dataclass(frozen=True)
class SliceStack:
    """Slices of one scan, ready for the network.

    Attributes
    ----------
    data : np.ndarray, shape (N, H, W), float32
        0 outside the brain. The percentile of the protocol is 1, which a few voxels exceed.
        The axes are (slice, left to right, back to front).
    indices : tuple of int
        Slice positions along the grid's z axis, ascending and contiguous.
    affine : np.ndarray, shape (4, 4)
        From (left to right, back to front, slice) indices to mm.
    scale : float
        ``data * scale`` is in the intensity units of the preprocessed image.
    bright_share : float
        Share of the brain that outshines all tissue, such as vessels after contrast agent, and
        plays no part in the scale; 0 for ordinary scans.
    """

    data: np.ndarray
    indices: tuple[int, ...]
    affine: np.ndarray
    scale: float
    bright_share: float


def crop_start(grid_shape: tuple[int, ...], slice_shape: tuple[int, int]) -> tuple[int, int]:
    """First voxel, along x and y, of the center crop of an axial slice."""
    x, y = ((n - m) // 2 for n, m in zip(grid_shape[:2], slice_shape, strict=True))
    return x, y


def slice_indices(protocol: Protocol) -> tuple[int, ...]:
    """Positions along z of the slices that the protocol selects.

    ``medial`` is the middle slice of the grid, a fixed position in template space (z = 19 mm in
    MNI152NLin2009cAsym, through the lateral ventricles). ``all`` is every slice of the grid. The
    positions are the same for every scan, because the position of a slice is an input of the
    network.
    """
    depth = protocol.grid[2]
    return (depth // 2,) if protocol.slices == 'medial' else tuple(range(depth))


def extract_slices(
    volume: np.ndarray, mask: np.ndarray, grid: Grid, protocol: Protocol
) -> SliceStack:
    """Extract the slices of the protocol from a preprocessed volume, and scale them.

    Parameters
    ----------
    volume : np.ndarray, shape (X, Y, Z)
        Bias-corrected image on the grid of the model.
    mask : np.ndarray, shape (X, Y, Z), bool
        The brain.
    grid : Grid
        The grid of the volume.
    protocol : Protocol
        Which slices are extracted, and how intensities are scaled.

    Raises
    ------
    ImageError
        The slices contain no brain.
    """
    scale, bright_share = brain_scale(volume[mask], protocol.intensity_percentile)
    indices = slice_indices(protocol)
    if scale <= 0 or not mask[:, :, list(indices)].any():
        raise ImageError('the slices to harmonize contain no brain; inspect the brain mask')
    x, y = crop_start(volume.shape, protocol.slice_shape)
    height, width = protocol.slice_shape
    box = (slice(x, x + height), slice(y, y + width), slice(indices[0], indices[-1] + 1))
    cut = np.where(mask[box], np.maximum(volume[box], 0), 0) / scale
    affine = grid.affine.copy()
    affine[:3, 3] = (grid.affine @ [x, y, indices[0], 1])[:3]
    return SliceStack(
        data=np.ascontiguousarray(np.moveaxis(cut, 2, 0), dtype=np.float32),
        indices=indices,
        affine=affine,
        scale=scale,
        bright_share=bright_share,
    )


def training_stacks(
    volume: np.ndarray, mask: np.ndarray, grid: Grid, protocol: Protocol
) -> np.ndarray:
    """The slices of one scan that are used in training.

    With ``medial``, these include the neighbors of the medial slice. They show the same scanner on
    slightly different anatomy, of which a small dataset has little.

    Returns
    -------
    np.ndarray, shape (N, D, H, W), float32
        With ``all`` one stack of all slices, with ``medial`` stacks of one slice each, scaled as
        by :func:`extract_slices`.

    Raises
    ------
    ImageError
        The slices contain no brain.
    """
    everything = extract_slices(volume, mask, grid, replace(protocol, slices='all')).data
    if protocol.slices == 'all':
        return everything[None]
    enough = (everything > 0).mean(axis=(1, 2)) >= MIN_BRAIN_FRACTION
    (medial,) = slice_indices(protocol)
    near = np.flatnonzero(enough)
    near = near[abs(near - medial) <= TRAINING_NEIGHBORS]
    if not near.size:
        raise ImageError('there is no brain near the medial slice; inspect the brain mask')
    return everything[near][:, None]
