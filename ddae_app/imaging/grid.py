"""The grid of the model: a fixed number of voxels over the field of view of the template."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddae_app.errors import TemplateError

FIELD_OF_VIEW_MM = {
    'MNI152NLin2009cAsym': ((-96.5, 96.5), (-132.5, 96.5), (-78.5, 114.5)),
    'MNI152NLin2009aSym': ((-98.5, 98.5), (-134.5, 98.5), (-72.5, 116.5)),
}
"""Edges of the field of view of the 1 mm template, in mm along x (right), y (front), z (up)."""


@dataclass(frozen=True)
class Grid:
    """A box of voxels in template space.

    Attributes
    ----------
    shape : tuple of int
        Voxels along x, y, z.
    affine : np.ndarray, shape (4, 4)
        Voxel index to mm, RAS.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        x, y, z = np.diag(self.affine)[:3]
        return float(x), float(y), float(z)

    def points(self, index: tuple[slice, slice, slice | int]) -> np.ndarray:
        """Centers of the indexed voxels in mm, shape (..., 3)."""
        axes = [
            origin + step * np.arange(n)
            for origin, step, n in zip(self.affine[:3, 3], self.spacing, self.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)[index]


def model_grid(template: str, shape: tuple[int, int, int]) -> Grid:
    """Divide the field of view of a template into voxels.

    The paper resamples to 130 x 130 x 130 voxels after registration to MNI152. The field of view
    is not a cube, and so neither are the voxels (1.48 x 1.76 x 1.48 mm). The grid does not depend
    on the resolution of the template's files.

    Parameters
    ----------
    template : str
        A key of ``FIELD_OF_VIEW_MM``.
    shape : tuple of int
        Voxels along x, y, z.

    Raises
    ------
    TemplateError
        The template is unknown.
    """
    if template not in FIELD_OF_VIEW_MM:
        raise TemplateError(
            f'template {template!r} is unknown; expected one of {", ".join(FIELD_OF_VIEW_MM)}'
        )
    edges = np.array(FIELD_OF_VIEW_MM[template])
    step = (edges[:, 1] - edges[:, 0]) / shape
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = edges[:, 0] + step / 2
    return Grid(shape=shape, affine=affine)
