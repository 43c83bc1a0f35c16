"""The spheres of fsLR from TemplateFlow: both hemispheres, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddae_app.errors import TemplateError
from ddae_app.imaging.spheres import read_spheres
from tests.imaging.made_spheres import even_places, sphere_path, write_sphere, write_spheres

N = 500


@pytest.mark.parametrize('den', ['32k', '164k'])
def test_each_hemisphere_has_its_own_places(tmp_path, den):
    places = write_spheres(tmp_path, N, den)
    found = read_spheres(den, N, tmp_path)
    assert found.shape == (2, N, 3) and found.dtype == np.float32
    assert np.abs(found - places).max() < 1e-6 < np.abs(found[0] - found[1]).max()


def _unlink(path: Path) -> None:
    path.unlink()


def _skeleton(path: Path) -> None:
    path.write_bytes(b'')


def _annexed(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / '.git' / 'annex' / 'objects' / 'x')


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def _fewer(path: Path) -> None:
    write_sphere(path, even_places(N - 1))


def _pial(path: Path) -> None:
    write_sphere(path, even_places(N) * [1, 1.2, 1])


def _infinite(path: Path) -> None:
    write_sphere(path, np.where(np.arange(N)[:, None] == 3, np.nan, even_places(N)))


def _one_point(path: Path) -> None:
    write_sphere(path, np.tile([0.0, 0.0, 1.0], (N, 1)))


def _of_the_other(path: Path) -> None:
    other = 'CortexRight' if 'hemi-L' in path.name else 'CortexLeft'
    write_sphere(path, even_places(N, 2.0), other)


def _like_the_other(path: Path) -> None:
    write_sphere(path, even_places(N, 1.0 if 'hemi-L' in path.name else 0.0))


def _nowhere(path: Path) -> None:
    write_sphere(path, np.zeros((N, 3)))


@pytest.mark.parametrize('hemisphere', 'LR')
@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (_unlink, 'no such file, .*ddae-app-fetch spheres.*TEMPLATEFLOW_HOME.*ComBat'),
        (_skeleton, 'no such file, .*ddae-app-fetch spheres'),
        (_annexed, 'the content is not on this machine; run "datalad get'),
        (_truncate, 'not readable as a sphere .*; download it again'),
        (_fewer, r'places of shape \(499, 3\); expected those of 500 vertices; download'),
        (_pial, 'no sphere around 0, radius .*; download it again'),
        (_infinite, 'no sphere around 0'),
        (_one_point, 'no sphere around 0'),
        (_nowhere, 'no sphere around 0, radius 0 to 0'),
        (_of_the_other, r'of Cortex(Left|Right), as the file says, and not of the (left|right) '),
        (_like_the_other, r'hemi-R.*: the same sphere as .*hemi-L.*; download both again'),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path, hemisphere: str, spoil: Callable[[Path], None], message: str
):
    write_spheres(tmp_path, N)
    spoil(path := sphere_path(tmp_path, hemisphere))
    with pytest.raises(TemplateError, match=message) as told:
        read_spheres('32k', N, tmp_path)
    assert '\n' not in str(told.value) and path.name in str(told.value)


def test_files_that_do_not_tell_their_hemisphere_are_taken(tmp_path):
    for hemisphere, turn in (('L', 0.0), ('R', 1.0)):
        write_sphere(sphere_path(tmp_path, hemisphere), even_places(N, turn))
    assert read_spheres('32k', N, tmp_path).shape == (2, N, 3)


def test_without_a_folder():
    with pytest.raises(TemplateError, match='set TEMPLATEFLOW_HOME'):
        read_spheres('32k', N, None)
