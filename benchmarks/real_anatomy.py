"""Quality of harmonization methods on real brains under simulated scanners, whose truth is known.

    python -m benchmarks.real_anatomy BIDS_DIR PREPROC_DIR WORK_DIR [--seed 0] [--methods ...]

Medial slices of the people of ``BIDS_DIR`` from whom the packaged networks did not learn
(``benchmarks.universal``), taken to the common scale of their real sites and scanned anew by
simulated scanners. These have another physics than those of the training: a saturating contrast
curve, a quadratic bias field, a resolution cut in k-space, and noise that is stronger where
the field is weak. Two thirds of the people are for fitting, and every scanner sees
``--train-per-site`` of them, drawn at random; the other third is for the test, and every scanner
sees all. The methods and the columns are those of ``benchmarks.quality``, without those that mean
nothing where the same people are at all sites; the table is written to
``WORK_DIR/real-<seed>-<train per site>/quality.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from benchmarks.phantoms import SEEN, SITES, TARGET, Bench
from benchmarks.quality import METHODS, evaluate, write_tables
from benchmarks.universal import VOLUMES, networks, real_data
from ddae_app.imaging.intensities import CEILING, brain_scale
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.phantom.seeds import generator

MIDDLE = VOLUMES.depth // 2
NEAR = 4
LEAST = 1e-3
OF_PEOPLE = 'age_mae', 'age_r', 'sex', 'age_slope', 'rank'
"""Columns that mean nothing where the same people are at all sites."""


@dataclass(frozen=True)
class Scanner:
    """Contrast ``(1 + half) x^power / (x^power + half)``, bias, resolution and noise.

    Attributes
    ----------
    power, half : float
    bias : np.ndarray, shape (T,)
        Of the terms of a quadratic polynomial, 5 for slices and 9 for volumes.
    kept : tuple of float
        Share of the frequencies along each axis.
    noise : float
        Standard deviation of each channel.
    """

    power: float
    half: float
    bias: np.ndarray
    kept: tuple[float, ...]
    noise: float


def draw_scanner(site: str, seed: int, axes: int = 2) -> Scanner:
    """A scanner of slices, or of volumes with three axes."""
    rng = generator(seed, 'saturating scanner', site)
    kept = rng.uniform(0.6, 1.0, axes)
    return Scanner(
        power=float(np.exp(rng.normal(0, 0.25))),
        half=float(np.exp(rng.normal(1.0, 0.7))),
        bias=rng.normal(0, 0.08, axes * (axes + 3) // 2),
        kept=tuple(kept.tolist()),
        noise=float(rng.uniform(0.01, 0.035)),
    )


def scan(
    brain: np.ndarray, scanner: Scanner, rng: np.random.Generator | None
) -> tuple[np.ndarray, float]:
    """A slice, shape (H, W), or a volume, and the scale by which it was divided.

    Without `rng`, there is no noise, and no shading of its own.
    """
    inside = brain > 0
    x = np.clip(brain, 0, CEILING) ** scanner.power
    x = (1 + scanner.half) * x / (x + scanner.half)
    bias = scanner.bias
    if rng is not None:
        bias = bias + rng.normal(0, 0.02, len(bias))
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in x.shape), indexing='ij', sparse=True)
    mixed = [a * b for a, b in combinations(axes, 2)]
    terms = [*axes, *mixed, *(axis**2 for axis in axes)]
    field = np.exp(sum(b * term for b, term in zip(bias, terms, strict=True)))
    x = _truncated(np.where(inside, x, 0) * field, scanner.kept)
    if rng is not None:
        real, imaginary = scanner.noise / field * rng.standard_normal((2, *x.shape))
        x = np.hypot(np.maximum(x, 0) + real, imaginary)
    x = np.where(inside, np.maximum(x, LEAST), 0)
    scale, _ = brain_scale(x[inside], VOLUMES.intensity_percentile)
    return (x / scale).astype(np.float32), scale


def _truncated(x: np.ndarray, kept: tuple[float, ...]) -> np.ndarray:
    """Without the highest frequencies along each axis, whose end is tapered."""
    spectrum = np.fft.fftn(x)
    for axis, share in enumerate(kept):
        frequency = np.abs(np.fft.fftfreq(x.shape[axis])) / 0.5
        window = np.clip((share - frequency) / 0.2 + 1, 0, 1)
        others = tuple(other for other in range(x.ndim) if other != axis)
        spectrum *= np.expand_dims(window, others)
    return np.fft.ifftn(spectrum).real


def common_brains(
    bids_dir: Path, preproc_dir: Path, folder: Path
) -> tuple[SliceData, Iterator[np.ndarray]]:
    """Scans of the people whom the packaged networks did not learn from, and their brains.

    The brains, shape (D, H, W) each, are without what the scanners do to all scans alike.
    """
    data = real_data(bids_dir, preproc_dir, folder / 'real.npy', learnt=False)
    config, _ = networks(1)
    rows = np.arange(len(data))
    appearance = fit_site_appearance(config, data, rows)
    return data, (brain for i in rows for brain in appearance.common_scans(data, rows[i : i + 1]))


def near_medial(brain: np.ndarray) -> np.ndarray:
    """The medial slice of a brain and those around it, shape (9, H, W)."""
    return brain[MIDDLE - NEAR : MIDDLE + NEAR + 1]


def draw(bids_dir: Path, preproc_dir: Path, folder: Path, seed: int, per_site: int) -> Bench:
    """The slices for fitting, and those for the test with their truth."""
    data, people = common_brains(bids_dir, preproc_dir, folder)
    brains = np.stack([near_medial(brain) for brain in people])
    order = generator(seed, 'people').permutation(len(data))
    test, fitting = order[: len(order) // 3], order[len(order) // 3 :]
    scanners = {site: draw_scanner(site, seed) for site in SITES}
    images, sites, who = [], [], []
    for site in SEEN:
        rng = generator(seed, 'fitting', site)
        for person in rng.permutation(fitting)[:per_site]:
            for depth in range(brains.shape[1]):
                images.append(scan(brains[person, depth], scanners[site], rng)[0])
                sites.append(site)
                who.append(person)
    training = SliceData(
        np.stack(images)[:, None],
        tuple(sites),
        data.ages[who],
        tuple(data.sexes[i] for i in who),
        tuple(data.subjects[i] for i in who),
    )
    of_test: list[tuple[np.ndarray, np.ndarray, np.ndarray, str, int]] = []
    for site in SITES:
        for person in test:
            rng = generator(seed, 'test', site, str(person))
            again = generator(seed, 'retest', site, str(person))
            brain = brains[person, NEAR]
            retest, scale = scan(brain, scanners[TARGET], again)
            truth, own = scan(brain, scanners[TARGET], None)
            image, _ = scan(brain, scanners[site], rng)
            of_test.append((image, truth * np.float32(own / scale), retest, site, person))
    image, truth, retest, site_of, person_of = zip(*of_test, strict=True)
    rows = np.array(person_of)
    return Bench(
        training,
        np.stack(image),
        np.stack(truth),
        np.stack(retest),
        np.array(site_of),
        data.ages[rows],
        np.array([data.sexes[i] for i in rows]),
        # Everybody is at every site: a probe of the site must not take that for one person.
        np.array([f'{data.subjects[i]}-{site}' for i, site in zip(rows, site_of, strict=True)]),
    )


def parser_of_folders(description: str | None) -> argparse.ArgumentParser:
    """For the benchmarks of real people under simulated scanners."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('preproc_dir', type=Path)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    return parser


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument('--train-per-site', type=int, default=20)
    parser.add_argument('--images', type=int, default=12_800)
    parser.add_argument('--threads', type=int, default=1)
    usual = ['truth', 'source', 'histogram', 'combat', 'ddae-calibrated']
    parser.add_argument('--methods', nargs='+', default=usual, choices=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work_dir / f'real-{args.seed}-{args.train_per_site}'
    folder.mkdir(parents=True, exist_ok=True)
    bench = draw(args.bids_dir, args.preproc_dir, folder, args.seed, args.train_per_site)
    for name in args.methods:
        file = folder / f'{name}.json'
        if not file.is_file():
            print(f'{name} ...', flush=True)
            outputs = METHODS[name](bench, folder / name, args.images)
            scores = evaluate(bench, replace(outputs, permuted=None))
            kept = {name: value for name, value in scores.items() if name not in OF_PEOPLE}
            file.write_text(json.dumps(kept))
    rows = {n: json.loads(f.read_text()) for n in METHODS if (f := folder / f'{n}.json').is_file()}
    write_tables(folder, rows)
    print((folder / 'quality.md').read_text())


if __name__ == '__main__':
    main()
