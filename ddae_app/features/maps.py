"""Maps on the cortex of all people: a row for each person and session, a column a vertex."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddae_app.bids.surface_files import MESHES, NATIVE, WHERE, MapFile, find_maps
from ddae_app.errors import UsageError
from ddae_app.features.checks import times, unit_factor, usual_sizes
from ddae_app.features.matrix import FeatureMatrix, folders_left_out, listed, row_name
from ddae_app.imaging.surfaces import HEMISPHERES, read_maps

ZERO_IS_MISSING = {'thickness', 'area', 'volume'}
"""Measures that are above 0 wherever there is cortex."""

RESAMPLE = (
    'resample them to one mesh with mri_surf2surf --trgsubject fsaverage5 '
    '(lh.{0}.fsaverage5.mgh), or have sMRIPrep or fMRIPrep write --cifti-output'
)

Row = tuple[str, str | None]


@dataclass(frozen=True)
class SurfaceMaps(FeatureMatrix):
    """Maps of one measure on one mesh, without the medial wall.

    Attributes
    ----------
    path, participants, sessions, features, values
        As in :class:`FeatureMatrix`: the first folder; a vertex is called ``L0`` or ``R0``; the
        values are float32.
    measure, mesh : str
        The mesh is a key of :data:`~ddae_app.bids.surface_files.MESHES`, another name, or empty.
    files : tuple of mapping of str to MapFile, length N
        Of each row, by hemisphere.
    vertices : np.ndarray of int, shape (F,)
        The place of each feature among all vertices, the left hemisphere first.
    sizes : tuple of int
        Vertices of the left and the right hemisphere, with the medial wall.
    left_out : tuple of str
        Which folders of FreeSurfer are not taken and why, in sentences.
    """

    measure: str
    mesh: str
    files: tuple[Mapping[str, MapFile], ...]
    vertices: np.ndarray
    sizes: tuple[int, int]
    left_out: tuple[str, ...] = ()

    @property
    def maps(self) -> str:
        """What is mapped on which mesh."""
        sizes = ' and '.join(f'{n:,}' for n in self.sizes)
        mesh = f'{self.mesh or "a mesh"} of {sizes} vertices'
        return f'{self.measure} on {self.mesh if self.mesh in MESHES else mesh}'

    def told(self, names: Sequence[str]) -> str:
        """How many vertices; their numbers say nothing."""
        return '1 vertex' if len(names) == 1 else f'{len(names):,} vertices'

    def in_one_unit(self) -> dict[str, np.ndarray]:
        """The median size of the values of each row, shape (N,): one unit holds for all."""
        return {self.maps: _sizes_of(self.values)}

    def rows(self, rows: np.ndarray) -> SurfaceMaps:
        """The maps of some rows only."""
        files = tuple(self.files[i] for i in rows.tolist())
        return replace(super().rows(rows), files=files)

    def on_mesh(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values of all vertices of both hemispheres, NaN on the medial wall.

        Parameters
        ----------
        values : np.ndarray, shape (F,)

        Returns
        -------
        dict of str to np.ndarray, shape (V,)
            By hemisphere.
        """
        full = np.full(sum(self.sizes), np.nan, dtype=np.float32)
        full[self.vertices] = values
        return dict(zip(HEMISPHERES, np.split(full, [self.sizes[0]]), strict=True))


def read_surface_maps(
    folders: Sequence[Path],
    measure: str,
    people: Collection[str] = (),
    cortex: Collection[str] = (),
) -> tuple[SurfaceMaps, list[str]]:
    """Find and read the maps of a measure.

    A value that is NaN is missing; of thickness, area and volume, so is one that is exactly 0. A
    vertex at which all values of all people are NaN or 0 is medial wall.

    Parameters
    ----------
    folders : sequence of Path
        Derivatives of the dataset: BIDS, or FreeSurfer's folder of subjects.
    measure : str
        As in the names of files, ``thickness``.
    people : collection of str
        Labels without ``sub-``, of whom the maps are read; of all where none is given. The mesh is
        that of all.
    cortex : collection of str
        Vertices that are no medial wall, whatever these maps have there: those of a model, so that
        no map depends on who else is read.

    Returns
    -------
    maps : SurfaceMaps
    said : list of str
        What was taken, a sentence each.

    Raises
    ------
    UsageError
        There are none, or the maps of people do not go together.
    """
    files, not_taken = find_maps(folders, measure)
    left_out = folders_left_out('maps', not_taken)
    if not files:
        where = ', '.join(pattern.format(measure) for pattern in WHERE)
        raise UsageError(
            f'--features {measure}: no maps in {", ".join(map(str, folders))}; looked for {where}'
            + ''.join(f'; {line}' for line in left_out)
        )
    mesh, chosen, said = _choose(files, measure)
    if people:
        of_what = f'{measure}{mesh and f" on {mesh}"}'
        chosen = _of_people(chosen, people, of_what, ', '.join(map(str, folders)))
    found = _by_row(chosen, measure)
    values, sizes = _read(found, measure, mesh)
    if mesh == NATIVE:  # what is on one mesh by its numbers bears no name
        mesh = next((m for m, n in MESHES.items() if sizes == (n, n)), NATIVE)
    labels = [f'{h}{i}' for h, n in zip(HEMISPHERES, sizes, strict=True) for i in range(n)]
    vertices = _outside_medial_wall(values, labels, cortex)
    values = values[:, vertices]
    if measure in ZERO_IS_MISSING:
        values[values == 0] = np.nan
    left = int(np.searchsorted(vertices, sizes[0]))
    _check_values(values, left, [row_name(*row) for row in found], folders[0], measure)
    participants, sessions = zip(*found, strict=True)
    maps = SurfaceMaps(
        path=folders[0],
        participants=participants,
        sessions=sessions,
        features=tuple(labels[i] for i in vertices),
        values=values,
        measure=measure,
        mesh=mesh,
        files=tuple(found.values()),
        vertices=vertices,
        sizes=sizes,
        left_out=tuple(left_out),
    )
    return maps, [*said, f'{maps.maps}: {len(vertices):,} vertices outside the medial wall']


def _of_people(
    files: Sequence[MapFile], people: Collection[str], of_what: str, folders: str
) -> list[MapFile]:
    """The files of some people, each of whom has one."""
    files = [file for file in files if file.participant in people]
    if without := sorted(set(people) - {file.participant for file in files}):
        raise UsageError(
            f'--participant-label: no map of {of_what} of '
            f'{listed([row_name(person, None) for person in without])} in {folders}; leave these '
            'people out, or make their maps'
        )
    return files


def _by_row(files: Sequence[MapFile], measure: str) -> dict[Row, dict[str, MapFile]]:
    """One file of each hemisphere of each person and session, in the order of these."""
    found: dict[Row, dict[str, MapFile]] = {}
    for file in files:
        hemispheres = found.setdefault((file.participant, file.session), {})
        for hemisphere in file.hemispheres:
            if other := hemispheres.get(hemisphere):
                raise UsageError(
                    f'{row_name(file.participant, file.session)} has two maps of {measure} of the '
                    f'{HEMISPHERES[hemisphere]} hemisphere, {other.path} and {file.path}; leave '
                    'one of them out'
                )
            hemispheres[hemisphere] = file
    found = {row: found[row] for row in sorted(found, key=lambda row: (row[0], row[1] or ''))}
    for row, hemispheres in found.items():
        for hemisphere in set(HEMISPHERES) - set(hemispheres):
            there = next(iter(hemispheres.values())).path
            raise UsageError(
                f'{row_name(*row)} has no map of {measure} of the {HEMISPHERES[hemisphere]} '
                f'hemisphere beside {there}; add it, or leave {row_name(*row)} out'
            )
    return found


def _outside_medial_wall(
    values: np.ndarray, labels: Sequence[str], cortex: Collection[str]
) -> np.ndarray:
    """Which vertices have a value in any row, or are of the cortex of a model, by number."""
    known = frozenset(cortex)
    takes_part = np.array([label in known for label in labels])
    for row in values:
        takes_part |= (row != 0) & ~np.isnan(row)
    return np.flatnonzero(takes_part)


def _choose(files: Sequence[MapFile], measure: str) -> tuple[str, list[MapFile], list[str]]:
    """The mesh that most people have maps on, and among these the smallest; its files."""
    by_mesh: dict[tuple[str, bool], list[MapFile]] = {}
    for file in files:
        by_mesh.setdefault((file.mesh, file.is_cifti), []).append(file)

    def order(key: tuple[str, bool]) -> tuple[bool, int, float, str, bool]:
        people = len({(file.participant, file.session) for file in by_mesh[key]})
        return key[0] == NATIVE, -people, MESHES.get(key[0], np.inf), *key

    best, *others = sorted(by_mesh, key=order)
    said = []
    if left := [_in_words(key) for key in others if key[0] != NATIVE]:
        said.append(f'{measure} on {_in_words(best)} is taken, and not that on {listed(left)}')
    return best[0], by_mesh[best], said


def _in_words(key: tuple[str, bool]) -> str:
    return f'{key[0] or "the mesh of each person"}{" (CIFTI)" if key[1] else ""}'


def _read(
    found: Mapping[Row, Mapping[str, MapFile]], measure: str, mesh: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """All values as the files have them, shape (N, V), and the sizes of the hemispheres."""
    values, expected = np.empty((0, 0), dtype=np.float32), (MESHES.get(mesh, 0),) * 2
    for i, (row, files) in enumerate(found.items()):
        parts: list[np.ndarray] = []
        for file in dict.fromkeys(files[h] for h in HEMISPHERES):  # one, if it is CIFTI
            parts += read_maps(file.path, file.hemispheres).values()
        sizes = (len(parts[0]), len(parts[1]))
        path = files['L'].path
        if i == 0:
            expected = expected if all(expected) else sizes
            values = np.empty((len(found), sum(expected)), dtype=np.float32)
        if sizes != expected:
            other = mesh or row_name(*next(iter(found)))
            raise UsageError(
                f'{path}: the hemispheres of {row_name(*row)} have {sizes[0]:,} and {sizes[1]:,} '
                f'vertices, and {other} has {expected[0]:,} and {expected[1]:,}; '
                + RESAMPLE.format(measure)
            )
        values[i] = np.concatenate(parts)
    return values, expected


def _check_values(
    values: np.ndarray, left: int, names: Sequence[str], folder: Path, measure: str
) -> None:
    """Refuse infinite values, a hemisphere without any, and other units than those of most people.

    The first `left` values of a row are of the left hemisphere.
    """
    for row, name in zip(values, names, strict=True):
        if n := int(np.isinf(row).sum()):
            raise UsageError(
                f'{folder}: {measure} of {name} is infinite at {n} '
                f'{"vertex" if n == 1 else "vertices"}; expected finite numbers, or NaN where it '
                'is not known: make it again'
            )
    sides = {'left': values[:, :left], 'right': values[:, left:]}
    sides = {side: part for side, part in sides.items() if part.shape[1]}
    sizes = np.column_stack([_sizes_of(part) for part in sides.values()])
    _refuse_empty(np.isnan(sizes), tuple(sides), names, f'{folder}: {measure}')
    usual, narrow = usual_sizes(sizes)
    # Where people differ by orders of magnitude, as of lesions, a hemisphere of zeros is a value.
    zeros = np.column_stack([_sizes_of(part, np.max) == 0 for part in sides.values()])
    _refuse_empty(zeros & narrow & (usual > 0), tuple(sides), names, f'{folder}: {measure}')
    high, low = np.maximum(sizes, usual).ravel(), np.minimum(sizes, usual).ravel()
    factors = np.array(list(map(unit_factor, high, low))).reshape(sizes.shape)
    other = narrow & (factors > 1)
    others = [names[i] for i in np.flatnonzero(other.any(axis=1))]
    if 0 < len(others) < len(names) / 2:  # else nobody is most people; the fit looks at sites
        first, side = np.argwhere(other)[0]
        than = 'larger' if sizes[first, side] > usual[side] else 'smaller'
        raise UsageError(
            f'{folder}: {measure} of {listed(others)} is about {times(factors[first, side])} '
            f'{than} than that of most people, as if in other units; convert their maps'
        )


def _refuse_empty(
    empty: np.ndarray, sides: Sequence[str], names: Sequence[str], what: str
) -> None:
    """Refuse the first person of whom a hemisphere is empty, by a mask of people and sides."""
    for row, name in zip(empty, names, strict=True):
        if row.any():
            where = '' if row.all() else f' in the {sides[row.argmax()]} hemisphere'
            raise UsageError(f'{what} of {name} has no values{where}; make it again')


def _sizes_of(
    values: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = np.median
) -> np.ndarray:
    """Median size of the known values of each row, shape (N,), float64; NaN if there is none."""
    known = (np.abs(row[~np.isnan(row)]) for row in values)
    return np.array([of(sizes) if sizes.size else np.nan for sizes in known], dtype=float)
