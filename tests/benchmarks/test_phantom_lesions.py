"""Lesions show where they were put, dark or bright, in every scanner."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.phantom_lesions import Lesion
from benchmarks.phantom_slices import draw_scanners, draw_visit
from ddae_app.phantom.population import draw_subjects

CENTER = (26.0, -10.0, 28.0)  # in white matter


def points():
    axes = [c + np.arange(-12, 13, 1.5) for c in CENTER]
    return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)


@pytest.mark.parametrize(('kind', 'sign'), [('dark', -1), ('bright', 1)])
@pytest.mark.parametrize('site', ['PhantomA', 'PhantomC'])
def test_a_lesion_shows(kind, sign, site):
    (subject,) = draw_subjects(site, 1, 3)
    scanners = draw_scanners((site, 'PhantomB'), 0)
    lesion = Lesion(CENTER, 4.0, kind)
    without, with_lesion = (
        draw_visit(subject, scanners[site], 3, points(), scanners['PhantomB'], lesions=each)
        for each in ((), (lesion,))
    )
    share = lesion.share(points())
    for name in ('image', 'truth'):
        before, after = getattr(without, name), getattr(with_lesion, name)
        change = sign * (after - before) / before[share == 0].mean()
        assert change[share == 1].mean() > 0.1
        far = np.linalg.norm(points() - CENTER, axis=-1) > 9
        assert np.abs(change[far]).max() < 1e-3
    assert np.array_equal(without.mask, with_lesion.mask)


def test_its_size_is_what_was_asked_for():
    lesion = Lesion(CENTER, 4.0, 'dark')
    volume = lesion.share(points()).sum() * 1.5**3
    assert volume == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.08)
