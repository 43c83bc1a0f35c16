"""Where the vertices of fsLR lie on the sphere of fsaverage, by files of TemplateFlow.

Ciric et al. 2022 (doi 10.1038/s41592-022-01681-2); the mesh: Van Essen et al. 2012 (doi
10.1093/cercor/bhr291). Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ddae_app.errors import TemplateError
from ddae_app.imaging.surfaces import HEMISPHERES, other_structure
from ddae_app.imaging.templates import first_fetched

NAME = 'tpl-fsLR_space-fsaverage_hemi-{hemi}_den-{den}_sphere.surf.gii'

OVAL = 0.01
"""By which part the radius of a sphere may vary; those of templates are rounded to 1e-4."""


def read_spheres(den: str, vertices: int, templateflow_home: Path | None) -> np.ndarray:
    """The places of the vertices of both hemispheres, each by its own file.

    Parameters
    ----------
    den : {'32k', '59k', '164k'}
        The density of the mesh.
    vertices : int
        Of a hemisphere.
    templateflow_home : Path or None

    Returns
    -------
    np.ndarray, shape (2, V, 3), float32
        On the unit sphere of fsaverage, the left hemisphere first.

    Raises
    ------
    TemplateError
        A file is missing, damaged, no sphere of so many vertices, or of the other hemisphere.
    """
    if templateflow_home is None:
        raise TemplateError(
            f'no TemplateFlow folder for the spheres of fsLR at {den}; set TEMPLATEFLOW_HOME'
        )
    folder = templateflow_home / 'tpl-fsLR'
    paths = {h: folder / NAME.format(hemi=h, den=den) for h in HEMISPHERES}
    left, right = (_read(path, vertices, hemisphere) for hemisphere, path in paths.items())
    if np.array_equal(left, right):
        raise TemplateError(
            f'{paths["R"]}: the same sphere as {paths["L"].name}, which lies elsewhere; download '
            'both again with "ddae-app-fetch spheres"'
        )
    return np.stack([left, right])


def _read(path: Path, vertices: int, hemisphere: str) -> np.ndarray:
    if first_fetched([path]) is None:
        raise TemplateError(
            f'{path}: no such file, which says where the vertices lie; run "ddae-app-fetch '
            'spheres" on a machine with network access, set TEMPLATEFLOW_HOME to a folder that '
            'contains it, or harmonize the maps with ComBat (without --method)'
        )
    again = 'download it again with "ddae-app-fetch spheres"'
    try:
        image: Any = nib.load(path)
        places = np.asarray(image.agg_data('pointset'), dtype=np.float64)
        other = other_structure(image, hemisphere)
    except Exception as e:  # nibabel raises many kinds for what is damaged
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise TemplateError(f'{path}: not readable as a sphere ({reason}); {again}') from e
    if other:
        raise TemplateError(
            f'{path}: of {other}, as the file says, and not of the '
            f'{HEMISPHERES[hemisphere]} hemisphere; {again}'
        )
    if places.shape != (vertices, 3):
        raise TemplateError(
            f'{path}: places of shape {places.shape}; expected those of {vertices:,} vertices; '
            f'{again}'
        )
    radius = np.linalg.norm(places, axis=1, keepdims=True)
    # False of what is no number, too; and of one point alone, be it 0.
    around = (places.min(axis=0) < 0).all() and (places.max(axis=0) > 0).all()
    if not around or np.ptp(radius) > OVAL * radius.min():
        raise TemplateError(
            f'{path}: no sphere around 0, radius {radius.min():.4g} to {radius.max():.4g}; {again}'
        )
    return (places / radius).astype(np.float32)
