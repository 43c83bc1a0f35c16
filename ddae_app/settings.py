"""Settings: frozen dataclasses, passed as arguments, saved as TOML; never global."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How a scan becomes model input; every model bundle carries the one it was trained with.

    Attributes
    ----------
    template : str
        TemplateFlow identifier of the space.
    grid : tuple of int
        Voxels along x, y, z over the template's field of view (paper: 130, 130, 130).
    slices : {'medial', 'all'}
        Which axial slices are taken; ``medial`` is the paper's.
    slice_shape : tuple of int
        Centre crop of each slice (paper: 128, 128).
    intensity_percentile : float
        Percentile of the brain's intensities that becomes 1 (0 stays 0); 100 is the maximum.
    """

    template: str = 'MNI152NLin2009cAsym'
    grid: tuple[int, int, int] = (130, 130, 130)
    slices: str = 'medial'
    slice_shape: tuple[int, int] = (128, 128)
    intensity_percentile: float = 99.9
