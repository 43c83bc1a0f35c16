"""The mesh of fsaverage: levels, rings of neighbors, and between whom new vertices lie."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from nilearn.datasets import fetch_surf_fsaverage
from nilearn.surface import load_surf_mesh

from ddae_app.errors import UsageError
from ddae_app.imaging.icosahedron import (
    divided,
    interpolation,
    level_of,
    mesh,
    mesh_levels,
    sphere,
)

SIZES = {10242: 5, 2562: 4, 642: 3}
FINER = {40962: 6, 163842: 7}


@pytest.fixture(scope='module')
def levels():
    """Of the finest mesh, down to that of 42 vertices."""
    return mesh_levels(10242, 5)


def of_ring(ring: np.ndarray) -> np.ndarray:
    """The neighbors of a ring, without the one that stands in for a sixth."""
    return ring[1:][ring[1:] != ring[0]]


def test_the_meshes_of_maps_are_known():
    known = SIZES | FINER
    assert {vertices: level_of(vertices) for vertices in known} == known
    for vertices in known:
        smaller = min(vertices, 10242)
        assert sphere(vertices).shape == (vertices, 3)
        assert (sphere(vertices)[:smaller] == sphere(10242)[:smaller]).all()
        assert np.linalg.norm(sphere(vertices), axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ('vertices', 'told'), [(32492, '32,492'), (655362, '655,362'), (162, '162'), (12, '12')]
)
def test_another_number_of_vertices_is_refused(vertices, told):
    expected = (
        f'a mesh of {told} vertices .* fsaverage, or fsaverage6 to 3 '
        r'\(163,842, 40,962, 10,242, 2,562, 642\): resample the maps, or harmonize them with'
        ' ComBat'
    )
    for function in (level_of, sphere, lambda n: mesh_levels(n, 3)):
        with pytest.raises(UsageError, match=expected):
            function(vertices)


def test_the_packaged_mesh_is_the_coarser_one_divided():
    """Down to the numbers of its vertices, and the order of its triangles."""
    packaged = load_surf_mesh(fetch_surf_fsaverage('fsaverage5')['sphere_left'])
    places, faces = mesh(642)
    for _ in range(2):
        places, faces = divided(places, faces)
    assert (faces == packaged.faces).all()
    assert np.abs(places - packaged.coordinates / 100).max() < 1e-3


@pytest.mark.parametrize(
    ('vertices', 'digest', 'last'),
    [
        (40962, 'aedeee238a28dc7fdb5d1d226373d985fdcd3f306257766bd4bca8c252d6094c',
         [[-0.30929, 0.85197, 0.42248], [0.028, 0.0, -0.99961]]),
        (163842, 'e4d1c5eff37285c6ca1e220f48b0346285d74259b8aa0d629e81463e762394aa',
         [[0.76827, -0.1157, 0.62958], [0.014, 0.0, -0.9999]]),
    ],
)  # fmt: skip
def test_finer_meshes_are_those_of_freesurfer(vertices, digest, last):
    """SHA-256 of the triangles, and two places, of its own fsaverage6 and fsaverage."""
    places, faces = mesh(vertices)
    assert sha256(faces.astype('<i4').tobytes()).hexdigest() == digest
    assert np.abs(places[[vertices // 2, vertices - 1]] - last).max() < 2e-4


def test_places_lie_between_the_corners_of_their_triangle():
    corners, faces = mesh(642)
    places = np.random.default_rng(0).normal(size=(3000, 3))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    vertices, weights = interpolation(places, corners, faces)
    assert {*map(tuple, np.sort(vertices, axis=1).tolist())} <= {
        *map(tuple, np.sort(faces, axis=1).tolist())
    }
    assert (weights >= 0).all() and weights.sum(axis=1) == pytest.approx(1)
    back = (corners[vertices] * weights[..., None]).sum(axis=1)
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    assert np.abs(back - places).max() < 1e-6
    own, of_vertices = interpolation(corners, corners, faces)
    assert own[np.arange(642), of_vertices.argmax(axis=1)].tolist() == [*range(642)]
    assert of_vertices.max(axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('vertices', SIZES)
def test_the_finest_level_comes_first(vertices):
    sizes = [vertices, (vertices + 6) // 4, (vertices + 30) // 16]
    levels = mesh_levels(vertices, 3)
    assert [len(level.rings) for level in levels] == sizes
    new = [size - (size + 6) // 4 for size in sizes]
    assert [level.parents.shape for level in levels] == [(count, 2) for count in new]


def test_coarser_levels_are_those_of_a_coarser_mesh(levels):
    for again, level in zip(mesh_levels(642, 3), levels[2:], strict=True):
        assert (again.rings == level.rings).all() and (again.parents == level.parents).all()


def test_a_ring_holds_a_vertex_and_its_neighbors_alone(levels):
    faces = load_surf_mesh(fetch_surf_fsaverage('fsaverage5')['sphere_left']).faces
    neighbors: list[set[int]] = [set() for _ in range(10242)]
    for face in faces.tolist():
        for vertex in face:
            neighbors[vertex] |= {*face} - {vertex}
    assert (levels[0].rings[:, 0] == np.arange(10242)).all()
    for ring, expected in zip(levels[0].rings, neighbors, strict=True):
        assert sorted(of_ring(ring)) == sorted(expected)


def test_rings_of_coarser_levels_hold_the_nearest_vertices(levels):
    for level in levels[2:]:
        places = sphere(10242)[: len(level.rings)]
        nearest = np.argsort(-places @ places.T, axis=1, kind='stable')
        assert (level.rings[:, 0] == np.arange(len(places))).all()
        for ring, near in zip(level.rings, nearest, strict=True):
            neighbors = of_ring(ring)
            assert {*neighbors} == {*near[1 : len(neighbors) + 1]}


def test_twelve_vertices_have_five_neighbors(levels):
    for level in levels:
        counts = np.array([len({*ring}) - 1 for ring in level.rings.tolist()])
        assert (counts[:12] == 5).all() and (counts[12:] == 6).all()
        assert (level.rings[:12, 6] == np.arange(12)).all()


def test_rings_go_counterclockwise_from_west(levels):
    for level in levels[1:]:
        places = sphere(10242)[: len(level.rings)]
        latitude = np.arcsin(places[:, 2])
        for ring in level.rings:
            center, neighbors = places[ring[0]], of_ring(ring)
            step = places[neighbors] - center
            turn = np.cross(step, np.roll(step, -1, axis=0)) @ center
            assert (turn > 0).all()
            east = np.array([-center[1], center[0], 0])
            angle = np.arctan2(latitude[neighbors] - latitude[ring[0]], step @ east)
            if np.abs(center[2]) < 0.5 and np.pi - np.abs(angle).max() > 0.2:
                assert angle[0] == angle.min()


def test_a_new_vertex_lies_between_its_parents(levels):
    for level in levels:
        places, old = sphere(10242)[: len(level.rings)], len(level.rings) - len(level.parents)
        assert level.parents.max() < old
        middle = places[level.parents].sum(axis=1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        assert np.abs(middle - places[old:]).max() < 1e-3
        for ring, pair in zip(level.rings[old:], level.parents, strict=True):
            assert {*pair} < {*ring}
