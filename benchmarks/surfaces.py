"""Simulated maps of cortical thickness: seconds and memory of a run, and the distance to truth.

    python -m benchmarks.surfaces WORK --people 1000 --sites 5

Anatomy is that of fsaverage5 as nilearn brings it along. People differ by age, sex, smooth fields
of their own and noise; sites by smooth shifts and scales, and every second one by a curve as well,
which no location and scale can undo. The three levels run in WORK by the command line, each in a
process of its own, and what is printed is their time, the peak of their memory, and the error.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nilearn.datasets import fetch_surf_fsaverage
from nilearn.surface import load_surf_data, load_surf_mesh

from ddae_app.features.people import RowLabels

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
    """

    labels: RowLabels
    truth: np.ndarray
    source: np.ndarray
    cortex: np.ndarray


def simulate(
    people: int,
    sites: int,
    *,
    vertices: int = VERTICES,
    strange: bool = True,
    scaled: bool = True,
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
    strange : bool
        Whether every second site bends the values as well.
    scaled : bool
        Whether a site scales what age and sex do as well, and not only what they leave, as in
        the model of ComBat.
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
    thickness, sulci, places = _anatomy(vertices)
    cortex = thickness > 0.5
    waves = _waves(places)

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
    number = labels.persons // people
    unscaled = 0 if scaled else np.outer(labels.ages - 50, slope) + sex
    away = unscaled + (truth - thickness - unscaled) * scale[number]
    if strange:
        bent = (number % 2 == 1)[:, None]
        away = np.where(bent, 0.5 * np.tanh(away / 0.5), away)
    source = thickness + away + shift[number]
    maps = (np.where(cortex, values, 0).astype(np.float32) for values in (truth, source))
    return Simulated(labels, *maps, cortex)


def write(folder: Path, simulated: Simulated) -> tuple[Path, Path]:
    """A dataset without scans, and FreeSurfer's folder of subjects with maps on fsaverage5."""
    bids, subjects = folder / 'bids', folder / 'freesurfer'
    bids.mkdir(parents=True)
    (bids / 'dataset_description.json').write_text('{"Name": "maps", "BIDSVersion": "1.10.0"}')
    labels = simulated.labels
    rows = zip(labels.subjects, labels.sites, labels.ages, labels.sexes, strict=True)
    lines = ['participant_id\tsite\tage\tsex']
    lines += [f'sub-{person}\t{site}\t{age:.2f}\t{sex}' for person, site, age, sex in rows]
    (bids / 'participants.tsv').write_text('\n'.join(lines) + '\n')
    for person, values in zip(labels.subjects, simulated.source, strict=True):
        surf = subjects / f'sub-{person}' / 'surf'
        surf.mkdir(parents=True)
        for side, half in zip(SIDES, np.split(values, 2), strict=True):
            image = nib.MGHImage(half[:, None, None], np.eye(4))
            nib.save(image, surf / f'{side}.thickness.fsaverage5.mgh')
    return bids, subjects


def written(out: Path, simulated: Simulated) -> np.ndarray:
    """The harmonized maps, shape (N, 2 V)."""
    name = '{0}/anat/{0}_hemi-{1}_space-fsaverage5_desc-harmonized_thickness.shape.gii'
    return np.array(
        [
            np.concatenate(
                [nib.load(out / name.format(f'sub-{p}', h)).darrays[0].data for h in 'LR']
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


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work', type=Path)
    parser.add_argument('--people', type=int, default=1000, help='in all')
    parser.add_argument('--sites', type=int, default=5)
    parser.add_argument('--method', choices=('combat', 'ddae'), default='combat')
    parser.add_argument('--levels', nargs='+', default=['train', 'participant', 'group'])
    asked = parser.parse_args()
    simulated = simulate(asked.people // asked.sites, asked.sites)
    bids, subjects = write(asked.work, simulated)
    out = asked.work / 'out'
    found: dict[str, float] = {}
    for level in asked.levels:
        flags = ['--features', 'thickness', '-d', f'freesurfer={subjects}']
        flags += ['--method', asked.method]
        command = [sys.executable, '-m', 'ddae_app', str(bids), str(out), level, *flags]
        start = time.perf_counter()
        subprocess.run([*command, '-w', str(asked.work / 'work')], check=True)
        found[f'{level}, s'] = round(time.perf_counter() - start, 1)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        found[f'{level} or before, peak GB'] = round(peak, 2)
    found['error of source, mm'] = error(simulated.source, simulated)
    found['error of harmonized, mm'] = error(written(out, simulated), simulated)
    print(json.dumps(found, indent=2))


if __name__ == '__main__':
    main()
