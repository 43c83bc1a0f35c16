"""Quality of harmonisation on phantoms whose truth is known: one command, one table.

    python benchmarks/quality.py WORK_DIR [--seed 0] [--images 64000] [--methods ddae ...]
        [--tissue-contrast] [--resampled]

Seven sites to train on and an eighth never seen; scanners, people and the populations of the sites
are drawn from ``--seed``. Everybody is also rendered by the scanner of the target site: without
noise (truth) and with it (retest). Every method is fitted to the same training slices and judged
on the same test slices. What has been done is found in WORK_DIR and not done again. The table goes
to ``WORK_DIR/seed-<seed>/quality.tsv`` and ``quality.md``; with ``-tissue`` where the scanners
show some tissues otherwise than others, which no intensity curve can undo, ``-resampled`` where
slices are not simulated in template space but brought there from each scanner's own voxels.

Columns. To the truth, source sites but the target: psnr (dB), ssim; of the site never seen:
psnr_unseen, and psnr_adapt where its look is taken from ten other scans of it. To the source:
ssim_source, edges_source (gradient correlation), rank (within-site Spearman of pairwise
distances). Balanced accuracy of the site, seven sites, probes trained on the outputs, other
people: site_cnn (mean of five), site_linear, site_histogram. Age and sex read by probes that see
images alone: age_mae (years), age_r, sex. age_slope: how far the age read follows a false age
given to the method, 0 if nothing is painted in. seconds: per slice.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from literal import Literal
from phantoms import PROTOCOL, TARGET, UNSEEN, Bench, draw
from probes import (
    age_accuracy,
    cnn_accuracy,
    distance_rank_correlation,
    false_age_slope,
    histogram_accuracy,
)
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation import fidelity
from ddae_app.evaluation.probes import linear_accuracy
from ddae_app.methods.base import Harmonizer, cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.ddae.config import Preset
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.train import Progress, train
from ddae_app.methods.find import training_preset
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.methods.slice_network import CVAEHarmonizer, StyleGANHarmonizer

CNN_SEEDS = 5
ADAPTATION_SCANS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train-per-site', type=int, default=430)
    parser.add_argument('--test-per-site', type=int, default=100)
    parser.add_argument('--images', type=int, default=64_000, help='seen in each DDAE training')
    parser.add_argument('--tissue-contrast', action='store_true')
    parser.add_argument('--resampled', action='store_true')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kind = '-tissue' * args.tissue_contrast + '-resampled' * args.resampled
    folder = args.work_dir / f'seed-{args.seed}{kind}'
    folder.mkdir(parents=True, exist_ok=True)
    people = args.train_per_site, args.test_per_site
    bench = draw(folder / 'phantoms.npz', args.seed, *people, args.tissue_contrast, args.resampled)
    for name in args.methods:
        file = folder / f'{name}.json'
        if not file.is_file():
            print(f'{name} ...', flush=True)
            scores = judge(bench, METHODS[name](bench, folder / name, args.images))
            file.write_text(json.dumps(scores))
    rows = {n: json.loads(f.read_text()) for n in METHODS if (f := folder / f'{n}.json').is_file()}
    write_tables(folder, rows)
    print((folder / 'quality.md').read_text())


@dataclass(frozen=True)
class Outputs:
    """What a method made of the test slices.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W)
        NaN where it cannot harmonise.
    permuted : np.ndarray, shape (M, H, W), or None
        Of the slices that :func:`permuted_rows` names, told other ages.
    adapted : np.ndarray, shape (K, H, W), or None
        Of the slices of the unseen site that :func:`adaptation_rows` leaves, adapted to those that
        it takes.
    seconds : float
        Per slice.
    """

    images: np.ndarray
    permuted: np.ndarray | None = None
    adapted: np.ndarray | None = None
    seconds: float = 0.0


Method = Callable[[Bench, Path, int], Outputs]


def fixed(make: Callable[[Bench], np.ndarray]) -> Method:
    """A method without training."""
    return lambda bench, folder, images: Outputs(make(bench))


def fitted(make: Callable[[Bench, Path, int], Harmonizer]) -> Method:
    """A harmoniser, fitted to the training slices."""

    def run(bench: Bench, folder: Path, images: int) -> Outputs:
        harmonizer = make(bench, folder, images)
        rows = np.arange(len(bench.images))
        started = time.perf_counter()
        out = apply(harmonizer, bench, rows, bench.ages)
        seconds = (time.perf_counter() - started) / len(rows)
        some = permuted_rows(bench)
        permuted = apply(harmonizer, bench, some, permuted_ages(bench, some))
        return Outputs(out, permuted, adapt(harmonizer, bench), seconds)

    return run


def table(bench: Bench) -> tuple[np.ndarray, pd.DataFrame]:
    return bench.data.images[:, 0], cohort_of(bench.data)


def apply(harmonizer: Harmonizer, bench: Bench, rows: np.ndarray, ages: np.ndarray) -> np.ndarray:
    """Outputs for some test slices; NaN for the unseen site where a method has no answer to it."""
    out = np.full((len(rows), *bench.images.shape[1:]), np.nan, np.float32)
    answers = isinstance(harmonizer, HistogramMatching | DDAEHarmonizer)
    can = answers | (bench.sites[rows] != UNSEEN)
    out[can] = harmonizer.transform(
        bench.images[rows[can]],
        pd.DataFrame(
            {'site': bench.sites[rows[can]], 'age': ages[can], 'sex': bench.sexes[rows[can]]}
        ),
        TARGET,
    )
    return out


def adapt(harmonizer: Harmonizer, bench: Bench) -> np.ndarray | None:
    """Slices of the unseen site, its look taken from others of its scans; not all methods can."""
    if not isinstance(harmonizer, DDAEHarmonizer):
        return None
    some, rest = adaptation_rows(bench)
    ready = replace(harmonizer, unseen_site='adapt').adapted(
        bench.images[some], UNSEEN, bench.subjects[some].tolist()
    )
    return ready.transform(bench.images[rest], pd.DataFrame({'site': bench.sites[rest]}), TARGET)


def adaptation_rows(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Ten slices of the unseen site, and the others."""
    rows = np.flatnonzero(bench.sites == UNSEEN)
    return rows[:ADAPTATION_SCANS], rows[ADAPTATION_SCANS:]


def permuted_rows(bench: Bench) -> np.ndarray:
    """Every fifth test slice of the sites seen in training."""
    return np.flatnonzero(bench.sites != UNSEEN)[::5]


def permuted_ages(bench: Bench, rows: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(bench.ages[rows])


def judge(bench: Bench, outputs: Outputs) -> dict[str, float | None]:
    """One row of the table."""
    seen = bench.sites != UNSEEN
    others = seen & (bench.sites != TARGET)
    out, sites, subjects = outputs.images[seen], bench.sites[seen], bench.subjects[seen]
    source = bench.images[seen]
    age_mae, age_r = age_accuracy(out, bench.ages[seen], subjects)
    cnn = [cnn_accuracy(out, sites, subjects, seed=s) for s in range(CNN_SEEDS)]
    unseen = fidelity.psnr(outputs.images[~seen], bench.truth[~seen]).mean()
    scores: dict[str, float | None] = {
        'psnr': fidelity.psnr(outputs.images[others], bench.truth[others]).mean(),
        'ssim': fidelity.ssim(outputs.images[others], bench.truth[others]).mean(),
        'psnr_unseen': None if np.isnan(unseen) else unseen,
        'psnr_adapt': None,
        'ssim_source': fidelity.ssim(out, source).mean(),
        'edges_source': fidelity.gradient_correlation(out, source).mean(),
        'rank': distance_rank_correlation(out, source, sites),
        'site_cnn': np.mean(cnn),
        'site_linear': linear_accuracy(out, sites, subjects),
        'site_histogram': histogram_accuracy(out, sites, subjects),
        'age_mae': age_mae,
        'age_r': age_r,
        'sex': linear_accuracy(out, bench.sexes[seen], subjects),
        'age_slope': None,
        'seconds': outputs.seconds,
    }
    if outputs.adapted is not None:
        rest = adaptation_rows(bench)[1]
        scores['psnr_adapt'] = fidelity.psnr(outputs.adapted, bench.truth[rest]).mean()
    if outputs.permuted is not None:
        rows = permuted_rows(bench)
        told = bench.ages[rows], permuted_ages(bench, rows), bench.subjects[rows]
        scores['age_slope'] = false_age_slope(outputs.images[rows], outputs.permuted, *told)
    return {k: None if v is None or not np.isfinite(v) else float(v) for k, v in scores.items()}


def write_tables(
    folder: Path, rows: dict[str, dict[str, float | None]], name: str = 'quality'
) -> None:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [['method', *columns]]
    for method, row in rows.items():
        lines.append(
            [method, *('n/a' if row.get(n) is None else f'{row[n]:.4g}' for n in columns)]
        )
    (folder / f'{name}.tsv').write_text('\n'.join('\t'.join(line) for line in lines) + '\n')
    lines.insert(1, ['---'] * len(lines[0]))
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    (folder / f'{name}.md').write_text(table + '\n')


BATCH = 16


def trained(folder: Path, bench: Bench, preset: Preset, **changes: object) -> DDAEHarmonizer:
    """A DDAE with some settings changed; a training that was stopped goes on."""
    model = replace(preset.model, **changes)  # type: ignore[arg-type]
    path = train(
        bench.data, model, preset.train, PROTOCOL, folder, name='phantom-tiny',
        dataset='simulated slices of benchmarks/quality.py', phantom=True, progress=say,
    )  # fmt: skip
    assert path is not None  # there is no deadline
    return replace(DDAEHarmonizer.load(path, 'cpu'), unseen_site='agnostic', batch_size=BATCH)


def say(progress: Progress) -> None:
    if progress.images_seen % 3200 == 0:
        print(
            f'  {progress.images_seen} of {progress.images} images, loss {progress.loss:.3f}, '
            f'{progress.seconds_left / 60:.0f} min left',
            flush=True,
        )


def ddae(**changes: object) -> Method:
    return fitted(
        lambda bench, folder, images: trained(
            folder, bench, training_preset('tiny', images), **changes
        )
    )


def without_leftovers() -> Method:
    """The same trained model, its renderings not evened."""

    def plain(harmonizer: DDAEHarmonizer) -> DDAEHarmonizer:
        assert harmonizer.bundle is not None
        model = copy.deepcopy(harmonizer.bundle.model)
        model.softness.zero_()
        model.rendered.copy_(model.rendered[-1:].expand_as(model.rendered))
        return replace(harmonizer, bundle=replace(harmonizer.bundle, model=model))

    return fitted(
        lambda bench, folder, images: plain(
            trained(folder.parent / 'ddae', bench, training_preset('tiny', images))
        )
    )


def literal(random: bool) -> Method:
    """Everything off that is not in the paper; the network is of preset tiny's size."""
    off = {
        'site_curve': False, 'site_edge': False, 'site_average': False, 'coordinates': False,
        'noise_corrected': False, 'encoder_augment': False, 'z_u_noise': 0.0, 'z_u_dim': 512,
        'condition_dropout': 0.0, 'schedule': 'linear', 'prediction': 'epsilon',
        'times': 'uniform',
    }  # fmt: skip
    return fitted(
        lambda bench, folder, images: Literal(
            trained(folder.parent / 'literal', bench, training_preset('tiny', images), **off),
            random,
        )
    )


METHODS: dict[str, Method] = {
    'truth': fixed(lambda bench: bench.truth),
    'retest': fixed(lambda bench: bench.retest),
    'source': fixed(lambda bench: bench.images),
    'mask': fixed(lambda bench: (bench.images > 0).astype(np.float32)),
    'blur': fixed(lambda bench: gaussian_filter(bench.images, (0, 1, 1))),
    'histogram': fitted(lambda bench, folder, images: HistogramMatching().fit(*table(bench))),
    'combat': fitted(lambda bench, folder, images: ComBat().fit(*table(bench))),
    'cvae': fitted(
        lambda bench, folder, images: CVAEHarmonizer(images=images, device='cpu').fit(
            *table(bench)
        )
    ),
    'style-gan': fitted(
        lambda bench, folder, images: StyleGANHarmonizer(images=images, device='cpu').fit(
            *table(bench)
        )
    ),
    'literal-inversion': literal(random=False),
    'literal-random': literal(random=True),
    'ddae': ddae(),
    'ddae-without-leftovers': without_leftovers(),
    'ddae-without-site-curve': ddae(site_curve=False),
    'ddae-without-site-edge': ddae(site_edge=False),
    'ddae-without-site-average': ddae(site_average=False),
    'ddae-without-noise-correction': ddae(noise_corrected=False),
    'ddae-without-coordinates': ddae(coordinates=False),
    'ddae-without-encoder-augmentation': ddae(encoder_augment=False),
    'ddae-without-noise-on-z_u': ddae(z_u_noise=0.0),
}


if __name__ == '__main__':
    main()
