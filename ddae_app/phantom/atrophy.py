"""Known loss of gray matter between the sessions of a subject, and the volumes that remain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ddae_app.phantom.anatomy import MAX_VENTRICLE_MM, Anatomy

MAX_LOSS_PERCENT = 10.0
"""A larger loss would fold the sulci of the oldest subjects."""

GRID_MM = 2.0
"""Step at which volumes are summed; a finer one changes them by less than 0.1%."""


def tissue_volumes(anatomy: Anatomy) -> dict[str, float]:
    """Volumes of CSF, GM and WM in mL, independent of any scanner."""
    atlas = anatomy.atlas
    axes = [
        low + np.arange(0, n, GRID_MM)
        for low, n in zip(atlas.origin, atlas.tissues.shape[1:], strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
    milliliters = GRID_MM**3 * float(np.linalg.det(anatomy.head)) / 1000
    fractions = anatomy.tissues(points)[:3]
    return {
        name: float(fraction.sum(dtype=np.float64)) * milliliters
        for name, fraction in zip(('csf', 'gm', 'wm'), fractions, strict=True)
    }


def atrophied(anatomy: Anatomy, percent: float) -> Anatomy:
    """The same subject after a loss of gray matter, which becomes CSF.

    Ventricles and sulci widen and the cortex becomes thinner, in the proportions in which they do
    so with age.

    Parameters
    ----------
    anatomy : Anatomy
    percent : float
        Share of the volume of gray matter that is lost, 0 to ``MAX_LOSS_PERCENT``.
    """
    if percent == 0:
        return anatomy
    from scipy.optimize import root_scalar

    wanted = tissue_volumes(anatomy)['gm'] * (1 - percent / 100)
    # Almost a straight line, so that a few volumes suffice.
    course = root_scalar(
        lambda course: tissue_volumes(_after(anatomy, course))['gm'] / wanted - 1,
        method='secant',
        x0=0.0,
        x1=percent / 20,
        xtol=1e-3,
    )
    return _after(anatomy, course.root)


def _after(anatomy: Anatomy, course: float) -> Anatomy:
    """The subject after a share of the widening of a whole adult life."""
    ventricle = min(anatomy.ventricle_mm + 5.6 * course, MAX_VENTRICLE_MM)
    return replace(
        anatomy,
        ventricle_mm=max(anatomy.ventricle_mm, ventricle),
        sulcus_mm=anatomy.sulcus_mm + 2.0 * course,
        csf_weight=anatomy.csf_weight * float(np.exp(1.1 * course)),
    )
