"""Quality of harmonization methods on phantoms whose truth is known: one command, one table.

    python -m benchmarks.quality WORK_DIR [--seed 0] [--images 64000] [--methods ddae ...]
        [--tissue-contrast] [--resampled]

There are seven training sites and an eighth site that is unseen. Scanners, subjects and
populations are drawn from ``--seed``. All subjects are also rendered by the scanner of the target
site: without noise (truth) and with noise (retest). All methods are fitted to the same training
slices and evaluated on the same test slices. Finished methods are kept in WORK_DIR and not
repeated. The table is written to ``WORK_DIR/seed-<seed>/quality.tsv`` and ``quality.md``. With
``--tissue-contrast``, the contrast of the scanners differs by tissue, which no intensity curve can
correct. With ``--resampled``, slices are not simulated in template space but resampled from the
voxels of each scanner. The folder then ends in ``-tissue`` or ``-resampled``. ``ddae-calibrated``
has the packaged networks, which saw none of these scanners and people.

Columns. Similarity to the truth at the source sites: psnr (dB) and ssim; at the unseen site:
psnr_unseen, and psnr_adapt if its appearance is estimated from ten other scans of it. Similarity
to the source scan: ssim_source, edges_source (gradient correlation), rank (within-site Spearman
correlation of pairwise distances). Balanced accuracy of the site, of probes trained on the outputs
of other subjects of seven sites: site_cnn (mean of five), site_linear, site_histogram. Age and
sex, predicted by probes from the images alone: age_mae (years), age_r, sex. age_slope: how much
the predicted age follows a false age given to the method, 0 if the method does not paint it in.
seconds: per slice.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.literal import Literal
from benchmarks.phantoms import PROTOCOL, TARGET, UNSEEN, Bench, draw
from benchmarks.probes import (
    age_accuracy,
    cnn_accuracy,
    distance_rank_correlation,
    false_age_slope,
    histogram_accuracy,
)
from ddae_app.evaluation import fidelity
from ddae_app.evaluation.probes import linear_accuracy
from ddae_app.methods.base import Harmonizer, Progress, cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.cvae import CVAEHarmonizer
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.presets import Preset, preset_of
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.find import packaged_model
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.methods.modelfile import ModelIdentity
from ddae_app.methods.style_gan import StyleGANHarmonizer

CNN_SEEDS = 5
ADAPTATION_SCANS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train-per-site', type=int, default=430)
    parser.add_argument('--test-per-site', type=int, default=100)
    parser.add_argument(
        '--images', type=int, default=64_000, help='shown in each training of a network'
    )
    parser.add_argument('--tissue-contrast', action='store_true')
    parser.add_argument('--resampled', action='store_true')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kind = '-tissue' * args.tissue_contrast + '-resampled' * args.resampled
    folder = args.work_dir / f'seed-{args.seed}{kind}'
    folder.mkdir(parents=True, exist_ok=True)
    sizes = args.train_per_site, args.test_per_site
    bench = draw(folder / 'slices.npz', args.seed, *sizes, args.tissue_contrast, args.resampled)
    for name in args.methods:
        file = folder / f'{name}.json'
        if not file.is_file():
            print(f'{name} ...', flush=True)
            scores = evaluate(bench, METHODS[name](bench, folder / name, args.images))
            file.write_text(json.dumps(scores))
    rows = {n: json.loads(f.read_text()) for n in METHODS if (f := folder / f'{n}.json').is_file()}
    write_tables(folder, rows)
    print((folder / 'quality.md').read_text())


@dataclass(frozen=True)
class Outputs:
    """The outputs of a method for the test slices.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W)
        NaN where the method cannot harmonize.
    permuted : np.ndarray, shape (M, H, W), or None
        Of the slices of :func:`permuted_rows`, with permuted ages given to the method.
    adapted : np.ndarray, shape (K, H, W), or None
        Of the second part of :func:`adaptation_rows`, with the model adapted to the first part.
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
    """A method that is fitted to the training slices."""

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
    """Outputs for some test slices; NaN for the unseen site if a method does not support it."""
    out = np.full((len(rows), *bench.images.shape[1:]), np.nan, np.float32)
    supports_unseen = isinstance(harmonizer, HistogramMatching | DDAEHarmonizer)
    can = supports_unseen | (bench.sites[rows] != UNSEEN)
    out[can] = harmonizer.transform(
        bench.images[rows[can]],
        pd.DataFrame(
            {'site': bench.sites[rows[can]], 'age': ages[can], 'sex': bench.sexes[rows[can]]}
        ),
        TARGET,
    )
    return out


def adapt(harmonizer: Harmonizer, bench: Bench) -> np.ndarray | None:
    """Outputs for the unseen site with its appearance from other scans; None if unsupported."""
    if not isinstance(harmonizer, DDAEHarmonizer):
        return None
    some, rest = adaptation_rows(bench)
    ready = replace(harmonizer, unseen_site='adapt').adapted(
        bench.images[some], UNSEEN, bench.subjects[some].tolist()
    )
    return ready.transform(bench.images[rest], pd.DataFrame({'site': bench.sites[rest]}), TARGET)


def adaptation_rows(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Ten slices of the unseen site to adapt to, and the remaining ones."""
    rows = np.flatnonzero(bench.sites == UNSEEN)
    return rows[:ADAPTATION_SCANS], rows[ADAPTATION_SCANS:]


def permuted_rows(bench: Bench) -> np.ndarray:
    """Every fifth test slice of the sites seen in training."""
    return np.flatnonzero(bench.sites != UNSEEN)[::5]


def permuted_ages(bench: Bench, rows: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(bench.ages[rows])


def evaluate(bench: Bench, outputs: Outputs) -> dict[str, float | None]:
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
        ages = bench.ages[rows], permuted_ages(bench, rows), bench.subjects[rows]
        scores['age_slope'] = false_age_slope(outputs.images[rows], outputs.permuted, *ages)
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
    """A DDAE with some settings changed; an interrupted training is resumed."""
    model = replace(preset.model, **changes)  # type: ignore[arg-type]
    path = train(
        bench.data, model, preset.train, PROTOCOL, folder, control=TrainingControl(progress=say),
        identity=ModelIdentity(
            'phantom-tiny', 'simulated slices of benchmarks/quality.py', phantom=True
        ),
    )  # fmt: skip
    assert path is not None  # None only after a deadline
    return DDAEHarmonizer.load(path, device='cpu', unseen_site='agnostic', batch_size=BATCH)


def say(progress: Progress) -> None:
    if progress.images_seen % 3200 == 0:
        print(
            f'  {progress.images_seen} of {progress.images} images, loss {progress.loss:.3f}, '
            f'{progress.seconds_left / 60:.0f} min left',
            flush=True,
        )


def ddae(**changes: object) -> Method:
    return fitted(
        lambda bench, folder, images: trained(folder, bench, preset_of('tiny', images), **changes)
    )


def calibrated(*, keep_noise: bool = False) -> Method:
    """The packaged networks, of which nothing is trained here, for the sites of the bench."""

    def make(bench: Bench, folder: Path, images: int) -> DDAEHarmonizer:
        bundle = calibrate(load_bundle(packaged_model('medial').path), bench.data)
        return DDAEHarmonizer(
            bundle=bundle, device='cpu', unseen_site='agnostic', batch_size=BATCH,
            keep_noise=keep_noise,
        )  # fmt: skip

    return fitted(make)


def without_residual_correction() -> Method:
    """The same trained model without residual correction."""

    def plain(harmonizer: DDAEHarmonizer) -> DDAEHarmonizer:
        assert harmonizer.bundle is not None
        trained = harmonizer.bundle.model
        model = DDAE(trained.networks, trained.appearance).eval()
        return replace(harmonizer, bundle=replace(harmonizer.bundle, model=model))

    return fitted(
        lambda bench, folder, images: plain(
            trained(folder.parent / 'ddae', bench, preset_of('tiny', images))
        )
    )


def literal(random: bool) -> Method:
    """All that is not in the paper turned off, with a network of the size of preset tiny."""
    off = {
        'site_curve': False, 'site_edge': False, 'site_average': False, 'coordinates': False,
        'noise_corrected': False, 'encoder_augment': False, 'z_u_noise': 0.0, 'z_u_dim': 512,
        'condition_dropout': 0.0, 'schedule': 'linear', 'prediction': 'epsilon',
        'times': 'uniform',
    }  # fmt: skip
    return fitted(
        lambda bench, folder, images: Literal(
            trained(folder.parent / 'literal', bench, preset_of('tiny', images), **off),
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
    'ddae-calibrated': calibrated(),
    'ddae-noise-kept': calibrated(keep_noise=True),
    'ddae-without-residual-correction': without_residual_correction(),
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
