"""Simulated maps of cortical thickness: seconds and memory of a run, and the distance to truth.

    python -m benchmarks.surfaces WORK --people 1000 --sites 5 --mesh fsaverage5

Anatomy is that of fsaverage5 as nilearn brings it along, interpolated on finer meshes; fsLR needs
its spheres in TEMPLATEFLOW_HOME. People differ by age, sex, smooth fields of their own and noise;
sites by smooth shifts and scales, and every second one by a curve as well, which no location and
scale can undo. The three levels run in WORK by the command line, each in a process of its own, and
what is printed is their time, the peak of their memory, and the error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nilearn.datasets import fetch_surf_fsaverage
from nilearn.surface import load_surf_data, load_surf_mesh

from benchmarks.preprocessing import measure
from ddae_app.bids.surface_files import MESHES
from ddae_app.features.people import RowLabels
from ddae_app.features.places import read_places
from ddae_app.imaging.icosahedron import interpolation, sphere
from ddae_app.imaging.icosahedron import mesh as icosahedral_mesh
from ddae_app.imaging.surfaces import GIFTI, gifti_of

VERTICES = 10242
SIDES = {'lh': 'left', 'rh': 'right'}


@dataclass(frozen=True)
class Simulated:
    """Maps of people at several sites.

    Attributes
    ----------
    labels : RowLabels, N rows
    truth, source : np.ndarray, shape (N, 2 V), float32
        Thickness, mm, without and with what the sites do to it; 0 on the medial wall.
    cortex : np.ndarray, shape (2 V,), bool
    functions : np.ndarray, shape (2 V, 39)
        What a site adds is a sum of these.
    """

    labels: RowLabels
    truth: np.ndarray
    source: np.ndarray
    cortex: np.ndarray
    functions: np.ndarray


def simulate(
    people: int,
    sites: int,
    *,
    vertices: int = VERTICES,
    places: np.ndarray | None = None,
    strange: bool = True,
    scaled: bool = True,
    smooth_in: str = 'mm',
    seed: int = 0,
) -> Simulated:
    """People of each of some sites, one map each.

    Parameters
    ----------
    people : int
        Of each site.
    sites : int
    vertices : int
        Of a hemisphere: the first ones of fsaverage5, which are those of the coarser meshes.
    places : np.ndarray, shape (2, V, 3), optional
        Of the vertices of both hemispheres of another mesh, on the unit sphere.
    strange : bool
        Whether every second site bends the values as well.
    scaled : bool
        Whether a site scales what age and sex do as well, and not only what they leave, as in
        the model of ComBat.
    smooth_in : {'mm', 'deviations', 'mean'}
        In which unit what a site adds is smooth: mm, standard deviations of people at each
        vertex, or as a share of the mean there.
    seed : int
    """
    rng = np.random.default_rng(seed)
    n = people * sites
    labels = RowLabels(
        sites=np.repeat([f'S{i}' for i in range(sites)], people),
        subjects=np.array([f'{i:04d}' for i in range(n)]),
        ages=rng.uniform(20, 80, n),
        sexes=rng.choice(np.array(['F', 'M'], dtype=object), n),
    )
    thickness, sulci, where = _anatomy(vertices) if places is None else _anatomy_at(places)
    cortex = thickness > 0.5
    waves = _waves(where)

    def fields(count: int) -> np.ndarray:
        """Smooth fields over the cortex of mean 0 and SD 1, shape (count, 2 V)."""
        found = rng.normal(size=(count, waves.shape[1])) @ waves.T
        return (found - found.mean(axis=1, keepdims=True)) / found.std(axis=1, keepdims=True)

    slope = -0.004 * (1 + 0.3 * fields(1)[0] + 0.3 * np.sign(sulci))  # mm a year
    aging = labels.ages - 50 + 8 * rng.normal(size=n)  # years; nobody's cortex knows the birthday
    sex = np.outer(labels.sexes == 'F', 0.04 * fields(1)[0])
    truth = thickness + np.outer(aging, slope)
    truth += sex
    truth += 0.1 * rng.normal(size=(n, 12)) @ fields(12) / np.sqrt(12)
    truth += 0.12 * rng.normal(size=truth.shape)
    shift, scale = 0.15 * fields(sites), np.exp(0.2 * fields(sites))
    unit = {'mm': 1 + 0 * thickness, 'deviations': truth.std(axis=0), 'mean': thickness}[smooth_in]
    shift *= unit / np.median(unit[cortex])
    number = labels.persons // people
    unscaled = 0 if scaled else np.outer(labels.ages - 50, slope) + sex
    away = unscaled + (truth - thickness - unscaled) * scale[number]
    if strange:
        bent = (number % 2 == 1)[:, None]
        away = np.where(bent, 0.5 * np.tanh(away / 0.5), away)
    source = thickness + away + shift[number]
    maps = (np.where(cortex, values, 0).astype(np.float32) for values in (truth, source))
    functions = np.column_stack([np.ones(len(waves)), waves]) * unit[:, None]
    return Simulated(labels, *maps, cortex, functions)


def write(folder: Path, simulated: Simulated, mesh: str = 'fsaverage5') -> tuple[Path, Path]:
    """A dataset without scans, and a folder of maps: FreeSurfer's on fsaverage, GIFTI on fsLR."""
    bids, maps = folder / 'bids', folder / 'maps'
    bids.mkdir(parents=True)
    (bids / 'dataset_description.json').write_text('{"Name": "maps", "BIDSVersion": "1.10.0"}')
    labels = simulated.labels
    rows = zip(labels.subjects, labels.sites, labels.ages, labels.sexes, strict=True)
    lines = ['participant_id\tsite\tage\tsex']
    lines += [f'sub-{person}\t{site}\t{age:.2f}\t{sex}' for person, site, age, sex in rows]
    (bids / 'participants.tsv').write_text('\n'.join(lines) + '\n')
    for person, values in zip(labels.subjects, simulated.source, strict=True):
        surf, anat = (maps / f'sub-{person}' / part for part in ('surf', 'anat'))
        for side, half in zip(SIDES, np.split(values, 2), strict=True):
            if mesh.startswith('fsaverage'):
                surf.mkdir(parents=True, exist_ok=True)
                image = nib.MGHImage(half[:, None, None], np.eye(4))
                nib.save(image, surf / f'{side}.thickness.{mesh}.mgh')
            else:
                anat.mkdir(parents=True, exist_ok=True)
                hemi = side[0].upper()
                name = f'sub-{person}_hemi-{hemi}_space-{mesh}_thickness{GIFTI}'
                (anat / name).write_bytes(gifti_of(half, hemi))
    return bids, maps


def written(out: Path, simulated: Simulated, mesh: str = 'fsaverage5') -> np.ndarray:
    """The harmonized maps, shape (N, 2 V)."""
    name = '{0}/anat/{0}_hemi-{1}_space-{2}_desc-harmonized_thickness.shape.gii'
    return np.array(
        [
            np.concatenate(
                [nib.load(out / name.format(f'sub-{p}', h, mesh)).darrays[0].data for h in 'LR']
            )
            for p in simulated.labels.subjects
        ]
    )


def error(values: np.ndarray, simulated: Simulated) -> float:
    """Root mean square distance to the truth on the cortex, without the mean of all people, mm.

    Harmonization brings the sites together, and does not tell where the truth is.
    """
    away = (values - simulated.truth)[:, simulated.cortex].astype(float)
    return float(np.sqrt(np.square(away - away.mean(axis=0)).mean()))


def _anatomy(vertices: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thickness, mm, depth of sulci, and places on the unit sphere, left and right in turn."""
    mesh = fetch_surf_fsaverage('fsaverage5')
    thickness, sulci = (
        np.concatenate([load_surf_data(mesh[f'{w}_{side}'])[:vertices] for side in SIDES.values()])
        for w in ('thick', 'sulc')
    )
    places = [
        load_surf_mesh(mesh[f'sphere_{side}']).coordinates[:vertices] for side in SIDES.values()
    ]
    unit = [p / np.linalg.norm(p, axis=1, keepdims=True) for p in places]
    return (
        thickness,
        sulci,
        np.concatenate([np.column_stack([p, p[:, 0] * 0 + h]) for h, p in enumerate(unit)]),
    )


def _anatomy_at(places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same at other places, shape (2, V, 3)."""
    thickness, sulci, _ = (np.split(values, 2) for values in _anatomy(VERTICES))
    found = []
    for h, side in enumerate(places):
        corners, weights = interpolation(side, *icosahedral_mesh(VERTICES))
        thick, deep = ((part[h][corners] * weights).sum(axis=1) for part in (thickness, sulci))
        wall = (thickness[h][corners] <= 0.5).any(axis=1)
        found.append((np.where(wall, 0, thick), deep, np.column_stack([side, side[:, 0] * 0 + h])))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def _waves(places: np.ndarray) -> np.ndarray:
    """Polynomials of the third degree on each sphere, shape (2 V, 40)."""
    x, y, z, side = places.T
    powers = [
        x**i * y**j * z**k
        for i in range(4)
        for j in range(4)
        for k in range(4)
        if 0 < i + j + k <= 3
    ]
    waves = np.column_stack(powers)
    return np.hstack([waves * (side == h)[:, None] for h in (0, 1)])


def _lies(mesh: str) -> dict[str, Any]:
    """Where a mesh lies, for :func:`simulate`."""
    if MESHES[mesh] <= VERTICES:
        return {'vertices': MESHES[mesh]}
    given = read_places(
        f'thickness on {mesh}',
        Path(os.environ.get('TEMPLATEFLOW_HOME') or Path.home() / '.cache' / 'templateflow'),
    )
    return {'places': np.stack([sphere(MESHES[mesh])] * 2) if given is None else given}


@contextmanager
def measuring() -> Iterator[Callable[[list[str]], tuple[float, float, float]]]:
    """Measure commands (:func:`benchmarks.preprocessing.measure`) from a process of its own.

    A command reports at least as much memory as the process that starts it holds. So that process
    is started here, before there are maps to hold.
    """
    with ProcessPoolExecutor(1) as small:
        small.submit(int).result()  # the first task starts it
        yield lambda command: small.submit(measure, command).result()


def main() -> None:
    """Print seconds, memory and errors as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work', type=Path)
    parser.add_argument('--people', type=int, default=1000, help='in all')
    parser.add_argument('--sites', type=int, default=5)
    parser.add_argument('--method', choices=('combat', 'ddae'), default='combat')
    parser.add_argument('--mesh', choices=MESHES, default='fsaverage5')
    parser.add_argument('--levels', nargs='+', default=['train', 'participant', 'group'])
    asked = parser.parse_args()
    with measuring() as measured:
        simulated = simulate(asked.people // asked.sites, asked.sites, **_lies(asked.mesh))
        bids, maps = write(asked.work, simulated, asked.mesh)
        out = asked.work / 'out'
        found: dict[str, float] = {}
        for level in asked.levels:
            flags = ['--features', 'thickness', '-d', f'maps={maps}', '--method', asked.method]
            command = [sys.executable, '-m', 'ddae_app', str(bids), str(out), level, *flags]
            seconds, _, peak = measured([*command, '-w', str(asked.work / 'work')])
            found[f'{level}, s'] = round(seconds, 1)
            found[f'{level}, peak GB'] = round(peak, 2)
    found['error of source, mm'] = error(simulated.source, simulated)
    found['error of harmonized, mm'] = error(written(out, simulated, asked.mesh), simulated)
    print(json.dumps(found, indent=2))


if __name__ == '__main__':
    main()
