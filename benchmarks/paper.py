"""The experiment of the DDAE paper (arXiv 2408.15890) on simulated slices.

    python -m benchmarks.paper WORK_DIR [--inception-weights FILE]

As many medial slices as in the paper, 4120 of seven sites, are simulated, since its data are not
public. Its four methods are compared: the DDAE of preset ``paper``, ComBat, cVAE and a style
encoding GAN. Each is fitted to one half of the people and judged on the other, then the halves
change roles, by the measures of ``ddae-app ... group``: distances of the outputs to the scans of
the target site (FID with the published weights of Inception, and distances in the features of the
packaged network), site, age and sex as predicted from the outputs, and within-site variability.

The DDAE sees ``--images`` slices in each of its two trainings, 3 million by default, which takes
hours on a GPU; its training resumes. Methods that are finished are kept in WORK_DIR and not
repeated. The table, with intervals, is written to ``WORK_DIR/paper.md``. Try it first with
``--scans 210 --preset tiny --images 640 --baseline-images 640``, ten minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.phantom_slices import draw_slices
from benchmarks.phantoms import PROTOCOL, SEEN, TARGET, axial_points, scaled
from benchmarks.quality import say
from ddae_app.evaluation.candidates import Candidate, Render, cross_fitted, unharmonized
from ddae_app.evaluation.data import EvaluationData
from ddae_app.evaluation.inception import inception_features
from ddae_app.evaluation.protocol import evaluate
from ddae_app.methods.combat import ComBat
from ddae_app.methods.cvae import CVAEHarmonizer
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.presets import PRESETS, preset_of
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.device import resolve_device
from ddae_app.methods.modelfile import ModelIdentity
from ddae_app.methods.style_gan import StyleGANHarmonizer

SCANS, SEED = 4120, 0
BASELINE_IMAGES = 64_000
COLUMNS = {
    'fid': 'FID', 'kid': 'KID', 'frechet': 'Fréchet, packaged network', 'site_cnn': 'site, CNN',
    'site_linear': 'site, linear', 'age_mae': 'age MAE', 'age_r': 'age r', 'sex': 'sex',
    'age_r_within_site': 'age r within site', 'variance_ratio': 'within-site variance',
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--scans', type=int, default=SCANS)
    parser.add_argument('--preset', default='paper', choices=list(PRESETS))
    parser.add_argument('--images', type=int, help='shown to the DDAE; by default the preset says')
    parser.add_argument('--baseline-images', type=int, default=BASELINE_IMAGES)
    parser.add_argument('--inception-weights', type=Path)
    parser.add_argument('--device', default='auto')
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    images, cohort = draw(args.work_dir / f'slices-{args.scans}.npz', args.scans)
    inception = inception_features(args.inception_weights) if args.inception_weights else None
    baselines = {
        'combat': ComBat(),
        'cvae': CVAEHarmonizer(images=args.baseline_images, device=args.device),
        'style-gan': StyleGANHarmonizer(images=args.baseline_images, device=args.device),
    }
    candidates = [
        unharmonized(images),
        ddae(images, cohort, args),
        *(
            cross_fitted(name, method, images, cohort, TARGET)
            for name, method in baselines.items()
        ),
    ]
    data, rows = EvaluationData.from_cohort(images, cohort), {}
    for candidate in candidates:
        file = args.work_dir / f'{candidate.name}.json'
        if not file.is_file():
            result = evaluate(
                data, [candidate], TARGET, seed=SEED, inception=inception, progress=print
            )
            estimates = result[candidate.name].estimates
            file.write_text(json.dumps({name: vars(value) for name, value in estimates.items()}))
        rows[candidate.name] = json.loads(file.read_text())
    (args.work_dir / 'paper.md').write_text(table(rows))
    print(table(rows))


def draw(file: Path, scans: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Slices of as many people, and their site, age and sex; stored when they are drawn first."""
    if not file.is_file():
        drawn = draw_slices(-(-scans // len(SEEN)), SEEN, SEED, axial_points())
        rows = np.sort(np.random.default_rng(SEED).permutation(len(drawn.site))[:scans])
        np.savez_compressed(
            file,
            images=scaled(drawn.images, drawn.images, drawn.mask)[rows],
            **{name: getattr(drawn, name)[rows] for name in ('subject', 'site', 'age', 'sex')},
        )
    with np.load(file) as stored:
        columns = {name: stored[name] for name in ('subject', 'site', 'age', 'sex')}
        return stored['images'], pd.DataFrame(columns)


def ddae(images: np.ndarray, cohort: pd.DataFrame, args: argparse.Namespace) -> Candidate:
    """A DDAE that is trained on each half of the people; its trainings resume."""
    preset = preset_of(args.preset, args.images)

    def fit(rows: np.ndarray) -> Render:
        of = cohort.iloc[rows]
        data = SliceData(
            images[rows][:, None], tuple(of.site), of.age.to_numpy(float), tuple(of.sex),
            tuple(of.subject),
        )  # fmt: skip
        path = train(
            data, preset.model, preset.train, PROTOCOL, args.work_dir / f'half-from-{rows[0]}',
            identity=ModelIdentity('paper', 'benchmarks/paper.py', phantom=True),
            control=TrainingControl(progress=say), device=resolve_device(args.device),
        )  # fmt: skip
        assert path is not None  # None only after a deadline
        # The preset is given age and sex, as the paper's method is.
        method = replace(
            DDAEHarmonizer.load(path, device=args.device),
            use_covariates=preset.model.condition_dropout == 0,
        )

        def render(rows: np.ndarray, ages: np.ndarray) -> np.ndarray:
            return method.transform(images[rows], cohort.iloc[rows].assign(age=ages), TARGET)

        return render

    return Candidate('ddae', 'to the other half', fit, takes_age=True, refitted=True)


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Values with their intervals, in Markdown."""
    shown = {
        name: label for name, label in COLUMNS.items() if any(name in r for r in rows.values())
    }
    lines = ['| | ' + ' | '.join(shown.values()) + ' |', '| --- ' * (1 + len(shown)) + '|']
    for method, estimates in rows.items():
        cells = [method]
        for name in shown:
            e = estimates.get(name)
            cells.append(f'{e["value"]:.2f} ({e["low"]:.2f} to {e["high"]:.2f})' if e else 'n/a')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
