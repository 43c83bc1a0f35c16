"""The DDAE of maps on meshes that are finer than that of its networks, fsaverage6 and fsLR."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ddae_app.cli.main import main
from ddae_app.errors import ModelError, UsageError
from ddae_app.features import ddae
from ddae_app.features.maps import read_surface_maps
from ddae_app.features.model import FeatureModel
from ddae_app.features.places import read_places, shown_vertices
from ddae_app.imaging.icosahedron import sphere
from ddae_app.imaging.surfaces import gifti_of, read_maps
from ddae_app.methods.feature_ddae import geometry
from ddae_app.reports import features
from ddae_app.reports.cortex import draw_cortex
from tests.features.simulated import labels_of, write_dataset
from tests.imaging.made_spheres import even_places, sphere_path, write_sphere, write_spheres

V = 32492
CORTEX = 16
"""One vertex in so many; all others are medial wall, so that files are read sooner."""

POINTS = 642
"""Of a hemisphere that networks see of fsLR here, instead of those of fsaverage5."""


@pytest.fixture(scope='module', autouse=True)
def quick(short_training):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, 'SEEN', POINTS)
        patch.setattr(features, 'draw_cortex', drawn)
        yield


def drawn(maps) -> bytes:
    """How many maps at how many vertices, in place of a picture, which takes a second."""
    sizes = {values.shape for m in maps for values in m.values.values()}
    return f'{len(maps)} maps of {sizes}'.encode()


@pytest.fixture(scope='module')
def labels():
    labels = labels_of(10)
    return labels.rows(np.flatnonzero(labels.sites != 'C'))


@pytest.fixture(scope='module')
def bids_dir(labels, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('maps') / 'bids', labels)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('templateflow')
    write_spheres(home)
    return home


def is_wall(vertices: int) -> np.ndarray:
    """Which vertices of a hemisphere are medial wall."""
    return np.arange(vertices) % CORTEX > 0


def truth_at(places: np.ndarray, labels) -> np.ndarray:
    """Thickness, shape (N, 2 V), smooth and with noise; `places` are those of both hemispheres."""
    x, _, z = np.concatenate(places).T
    rng = np.random.default_rng(3)
    values = 2.5 + 0.3 * z - 0.004 * np.outer(labels.ages - 50, 1 + 0.5 * x)
    return values + 0.1 * rng.normal(size=values.shape)


def with_sites(truth: np.ndarray, places: np.ndarray, labels) -> np.ndarray:
    """Site B thickens one side, and scales what differs from the mean; 0 on the wall."""
    x, y, _ = np.concatenate(places).T
    values = truth + (labels.sites == 'B')[:, None] * (0.3 * x + 0.1 * (truth - 2.5) * (1 + y))
    values[:, np.tile(is_wall(places.shape[1]), 2)] = 0
    return values.astype(np.float32)


@pytest.fixture(scope='module')
def places(home):
    return np.stack([even_places(V, turn) for turn in (0.0, 1.0)])


@pytest.fixture(scope='module')
def truth(labels, places):
    return truth_at(places, labels)


@pytest.fixture(scope='module')
def values(truth, labels, places):
    values = with_sites(truth, places, labels)
    values[4, CORTEX] = 0  # missing
    return values


@pytest.fixture(scope='module')
def gifti(values, labels, tmp_path_factory):
    """The same as sMRIPrep writes it."""
    folder = tmp_path_factory.mktemp('derivatives') / 'smriprep'
    for person, row in zip(labels.subjects, values, strict=True):
        (anat := folder / f'sub-{person}' / 'anat').mkdir(parents=True)
        for h, half in zip('LR', np.split(row, 2), strict=True):
            name = f'sub-{person}_hemi-{h}_space-fsLR_den-32k_thickness.shape.gii'
            (anat / name).write_bytes(gifti_of(half, h))
    return folder


@pytest.fixture(scope='module')
def cifti(values, labels, tmp_path_factory):
    """CIFTI, as fMRIPrep writes it."""
    folder = tmp_path_factory.mktemp('derivatives') / 'fmriprep'
    there = ~is_wall(V)
    models = [
        nib.cifti2.BrainModelAxis.from_mask(there, name=f'cortex_{side}')
        for side in ('left', 'right')
    ]
    axes = nib.cifti2.ScalarAxis(['thickness']), models[0] + models[1]
    for person, row in zip(labels.subjects, values, strict=True):
        (anat := folder / f'sub-{person}' / 'anat').mkdir(parents=True)
        image = nib.Cifti2Image(row[np.tile(there, 2)][None], header=axes)
        nib.save(image, anat / f'sub-{person}_space-fsLR_den-91k_thickness.dscalar.nii')
    return folder


def run(home: Path, bids_dir: Path, out: Path, level: str, folder: Path, *flags: str) -> int:
    arguments = [str(bids_dir), str(out), level, '--features', 'thickness', '-d', f'm={folder}']
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TEMPLATEFLOW_HOME', str(home))
        return main([*arguments, '-w', str(out.parent / 'work'), '--nprocs', '1', *flags])


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope='module')
def out(home, bids_dir, cifti, tmp_path_factory):
    """All levels; after training, there is no TemplateFlow."""
    out = tmp_path_factory.mktemp('run') / 'out'
    nowhere = out.parent / 'nowhere'
    named = '--model-name', 'own'
    assert run(home, bids_dir, out, 'train', cifti, '--method', 'ddae', *named) == 0
    assert run(nowhere, bids_dir, out, 'participant', cifti, *named) == 0
    assert run(nowhere, bids_dir, out, 'group', cifti) == 0
    return out


@pytest.fixture(scope='module')
def harmonized(out, labels):
    """The harmonized maps, shape (N, 2 V)."""
    name = '{0}/anat/{0}_space-fsLR_den-91k_desc-harmonized_thickness.dscalar.nii'
    return np.array(
        [
            np.concatenate([*read_maps(out / name.format(f'sub-{p}'), 'LR').values()])
            for p in labels.subjects
        ]
    )


def test_what_is_written(out, harmonized, gifti, labels, truth, values):
    maps, _ = read_surface_maps([gifti], 'thickness')
    assert maps.mesh == 'fsLR_den-32k'
    model = FeatureModel.load(out / 'models' / 'own_features.safetensors')
    for row, alone in zip(harmonized, model.harmonized(maps, labels), strict=True):
        on_mesh = np.concatenate([*maps.on_mesh(alone).values()])
        there = ~np.isnan(on_mesh)
        assert (row[there] == on_mesh[there]).all()
    away = [v[:, maps.vertices] - truth[:, maps.vertices] for v in (harmonized, values)]
    error, before = (np.sqrt(np.nanmean(np.square(a - np.nanmean(a, axis=0)))) for a in away)
    assert error < 0.5 * before
    assert harmonized[4, CORTEX] == 0


def test_the_model_knows_where_the_vertices_lie(out, places):
    path = out / 'models' / 'own_features.safetensors'
    model = FeatureModel.load(path)
    assert np.abs(model.given_places - places).max() < 1e-6
    assert (load_file(path)['ddae.places'] == model.given_places).all()
    model.save(again := out / 'models' / 'again.safetensors')
    assert again.read_bytes() == path.read_bytes()
    again.unlink()


def test_the_cortex_is_drawn(out):
    for name in ('thickness_features.html', 'group_thickness_features.html'):
        page = (out / name).read_text()
        assert 'On the cortex' in page and 'there is no picture' not in page
        assert b64encode(b'4 maps of {(10242,)}').decode() in page


def test_each_vertex_of_the_picture_shows_its_nearest(places):
    shown = shown_vertices('fsLR_den-32k', places)
    for side, vertices in zip(places, shown, strict=True):
        away = np.linalg.norm(side[vertices] - sphere(10242), axis=1)
        assert away.max() < 0.025  # vertices of fsLR at 32k are 0.02 apart
    assert (shown_vertices('fsaverage', None) == np.arange(10242)).all()
    assert shown_vertices('fsaverage4', None) is None
    assert shown_vertices('fsLR_den-32k', None) is None and shown_vertices('', None) is None


def test_combat_needs_no_spheres_and_draws_nothing(bids_dir, gifti, tmp_path):
    out = tmp_path / 'out'
    assert run(tmp_path / 'nowhere', bids_dir, out, 'participant', gifti) == 0
    page = (out / 'thickness_features.html').read_text()
    assert 'there is no picture of maps on fsLR_den-32k' in page


def test_gifti_by_the_model_of_cifti(
    out, harmonized, home, bids_dir, gifti, labels, tmp_path, capsys
):
    """Without spheres; only the group level, which finds no model, needs them."""
    own, there = str(out / 'models' / 'own_features.safetensors'), tmp_path / 'out'
    nowhere = tmp_path / 'nowhere'
    assert run(nowhere, bids_dir, there, 'participant', gifti, '--model', own) == 0
    name = '{0}/anat/{0}_hemi-R_space-fsLR_den-32k_desc-harmonized_thickness.shape.gii'
    cortex = ~is_wall(V)
    for person, row in zip(labels.subjects, harmonized, strict=True):
        right = read_maps(there / name.format(f'sub-{person}'), 'R')['R']
        assert (right[cortex] == row[V:][cortex]).all()
    line = refused(capsys, nowhere, bids_dir, there, 'group', gifti)
    assert sphere_path(nowhere, 'L').name in line and 'TEMPLATEFLOW_HOME' in line
    assert run(home, bids_dir, there, 'group', gifti) == 0


def _other_size(home: Path) -> None:
    write_sphere(sphere_path(home, 'R'), even_places(10242))


def _left_only(home: Path) -> None:
    sphere_path(home, 'R').unlink()


def _none(home: Path) -> None:
    for hemisphere in 'LR':
        sphere_path(home, hemisphere).unlink()


def _exchanged(home: Path) -> None:
    left, right = (sphere_path(home, hemisphere).read_bytes() for hemisphere in 'LR')
    sphere_path(home, 'L').write_bytes(right)
    sphere_path(home, 'R').write_bytes(left)


@pytest.mark.parametrize('size', [0.3, 0.0])
@pytest.mark.parametrize('exchanged', [False, True])
def test_spheres_of_the_other_hemisphere_show_in_the_medial_wall(tmp_path, size, exchanged):
    """Where files do not tell: as on fsaverage, it is at the right of the left hemisphere."""
    for hemisphere, side in zip('LR', (1, -1), strict=True):
        write_sphere(sphere_path(tmp_path, hemisphere), even_places(V) * [side, 1, 1])
    wall = np.tile(even_places(V)[:, 0] > 1 - size, 2)
    if exchanged:
        _exchanged(tmp_path)
    found = partial(read_places, 'thickness on fsLR_den-32k', tmp_path, np.flatnonzero(~wall))
    if exchanged and size:
        with pytest.raises(UsageError, match='outer side .* left and right are exchanged.*; down'):
            found()
    else:
        assert found().shape == (2, V, 3)


@pytest.mark.parametrize('level', ['train', 'participant'])
@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (_none, r'hemi-L_den-32k.*no such file.*ddae-app-fetch spheres.*_HOME.*with ComBat'),
        (_left_only, r'hemi-R_den-32k.*no such file.*ddae-app-fetch spheres'),
        (_exchanged, r'hemi-L.*of CortexRight, as the file says, and not of the left'),
        (_other_size, r'hemi-R.*shape \(10242, 3\); expected those of 32,492 vertices'),
    ],
)
def test_without_the_right_spheres_nothing_is_trained(
    bids_dir, gifti, tmp_path, capsys, level, spoil, message
):
    write_spheres(home := tmp_path / 'home')
    spoil(home)
    out = tmp_path / 'out'
    line = refused(capsys, home, bids_dir, out, level, gifti, '--method', 'ddae')
    assert re.search(message, line)
    assert not [*out.rglob('*.safetensors')] and not [*out.rglob('*harmonized*')]


@pytest.mark.parametrize(
    'broken',
    [
        lambda arrays: arrays.pop('ddae.places'),
        lambda arrays: arrays.update({'ddae.places': arrays['ddae.places'][:, :-1].copy()}),
        lambda arrays: arrays.update({'ddae.places': arrays['ddae.places'][:1].copy()}),
        lambda arrays: arrays.update({'ddae.places': 2 * arrays['ddae.places']}),
        lambda arrays: arrays.update({'ddae.places': arrays['ddae.places'] * np.nan}),
    ],
)
def test_damaged_places_are_refused(out, tmp_path, broken):
    path = out / 'models' / 'own_features.safetensors'
    arrays = load_file(path)
    broken(arrays)
    with safe_open(path, 'np') as file:
        metadata = file.metadata()
    save_file(arrays, tmp_path / 'm.safetensors', metadata)
    with pytest.raises(ModelError, match='fit it again'):
        FeatureModel.load(tmp_path / 'm.safetensors')


@pytest.mark.parametrize('name', ['R32492', 'B0', ''])
def test_vertices_that_the_mesh_has_not_are_refused(places, name):
    given = {'places': places}
    with pytest.raises(ModelError, match='fit it again'):
        ddae.stored_ddae(Path('m'), 'thickness on fsLR_den-32k', ['L0', name], ['A'], 2, given)


def test_freesurfers_own_format_on_fsaverage6_needs_nothing(
    labels, bids_dir, tmp_path, monkeypatch
):
    """Known by its number of vertices; drawn, too, since fsaverage5 is a part of it."""
    monkeypatch.setattr(geometry, 'SEEN', 10242)
    monkeypatch.setattr(features, 'draw_cortex', draw_cortex)
    places = np.stack([sphere(40962)] * 2)
    truth = truth_at(places, labels)
    values = with_sites(truth, places, labels)
    for person, row in zip(labels.subjects, values, strict=True):
        (surf := tmp_path / 'fs' / f'sub-{person}' / 'surf').mkdir(parents=True)
        for side, half in zip(('lh', 'rh'), np.split(row, 2), strict=True):
            nib.freesurfer.write_morph_data(surf / f'{side}.thickness', half)
    out, flags = tmp_path / 'out', ('--method', 'ddae')
    assert run(tmp_path / 'x', bids_dir, out, 'participant', tmp_path / 'fs', *flags) == 0
    model = FeatureModel.load(out / 'models' / 'thickness_features.safetensors')
    assert model.info.maps == 'thickness on fsaverage6' and model.given_places is None
    assert 'On the cortex' in (out / 'thickness_features.html').read_text()
    name = '{0}/anat/{0}_hemi-L_space-fsaverage6_desc-harmonized_thickness.shape.gii'
    files = [out / name.format(f'sub-{p}') for p in labels.subjects]
    left = np.array([read_maps(file, 'L')['L'] for file in files])
    there = values[0, :40962] != 0
    away = [v[:, :40962][:, there] - truth[:, :40962][:, there] for v in (left, values)]
    error, before = (np.sqrt(np.square(a - a.mean(axis=0)).mean()) for a in away)
    assert error < 0.5 * before
