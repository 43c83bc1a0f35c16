"""Train the packaged network in whose features the Fréchet and kernel distances are computed.

    python -m benchmarks.features WORK_DIR

The network learns to predict scanner, age and sex from images of simulated subjects in eighty
simulated scanners, which neither the demo nor other benchmarks use. Its features therefore
represent differences between scanners and between subjects. Its accuracy on unseen subjects and
scanners is written to ``WORK_DIR/features.md`` and the weights to
``WORK_DIR/mri-features.safetensors``, from where they are copied to ``ddae_app/data``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as nnf

from benchmarks.phantom_slices import draw_slices
from benchmarks.phantoms import SITES, axial_points, scaled
from ddae_app.evaluation import distribution
from ddae_app.evaluation.features import MRI_FEATURES, MRI_WEIGHTS, MriFeatureNetwork

TRAINING_SEEDS, TEST_SEED = range(100, 110), 110
SUBJECTS = 48
"""Number of subjects of each scanner."""

STEPS, BATCH = 1500, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    folder = parser.parse_args().work_dir
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_drawn(folder / f'{seed}.npz', seed) for seed in (*TRAINING_SEEDS, TEST_SEED)]
    training = {key: np.concatenate([part[key] for part in parts[:-1]]) for key in parts[0]}
    torch.manual_seed(0)
    network = MriFeatureNetwork()
    scanners = {name: i for i, name in enumerate(np.unique(training['scanner']))}
    heads = nn.Linear(MRI_FEATURES, len(scanners) + 2)
    _train(network, heads, training, np.array([scanners[name] for name in training['scanner']]))
    network.eval()
    save_file(network.state_dict(), folder / MRI_WEIGHTS)
    (folder / 'features.md').write_text(_evaluated(network, heads, parts[-1]))
    print((folder / 'features.md').read_text())


def _drawn(file: Path, seed: int) -> dict[str, np.ndarray]:
    if not file.is_file():
        drawn = draw_slices(SUBJECTS, SITES, 3000 + seed, axial_points(), scanner_seed=seed)
        np.savez_compressed(
            file,
            images=scaled(drawn.images, drawn.images, drawn.mask),
            scanner=np.char.add(f'{seed}', drawn.site),
            age=drawn.age,
            female=(drawn.sex == 'F').astype(np.float32),
        )
        print(f'{file.name} drawn', flush=True)
    with np.load(file) as arrays:
        return dict(arrays)


def _train(
    network: MriFeatureNetwork,
    heads: nn.Linear,
    training: dict[str, np.ndarray],
    scanner: np.ndarray,
) -> None:
    rng = np.random.default_rng(0)
    parameters = [*network.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    network.train()
    for step in range(STEPS):
        rows = rng.integers(len(scanner), size=BATCH)
        x = torch.from_numpy(training['images'][rows])[:, None]
        out = heads(network(x.roll(tuple(map(int, rng.integers(-2, 3, 2))), (2, 3))))
        age = torch.from_numpy(_unit(training['age'][rows]))
        loss = nnf.cross_entropy(out[:, 2:], torch.from_numpy(scanner[rows]))
        loss = loss + nnf.mse_loss(out[:, 0], age)
        loss = loss + nnf.binary_cross_entropy_with_logits(
            out[:, 1], torch.from_numpy(training['female'][rows])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f'{step + 1} of {STEPS}: loss {loss.item():.3f}', flush=True)


def _unit(age: np.ndarray) -> np.ndarray:
    return ((age - 50) / 20).astype(np.float32)


@torch.inference_mode()
def _evaluated(network: MriFeatureNetwork, heads: nn.Linear, test: dict[str, np.ndarray]) -> str:
    """Age and sex of unseen subjects; distances between and within unseen scanners."""
    features = network(torch.from_numpy(test['images'])[:, None])
    out = heads(features).numpy()
    age = np.corrcoef(out[:, 0], test['age'])[0, 1]
    accuracy = float(((out[:, 1] > 0) == (test['female'] > 0)).mean())
    seen = features.numpy().astype(np.float64)
    names = np.unique(test['scanner'])
    rows = {name: np.flatnonzero(test['scanner'] == name) for name in names}
    between, within = [], []
    for i, one in enumerate(names):
        halves = rows[one][::2], rows[one][1::2]
        within.append(distribution.frechet(seen[halves[0]], seen[halves[1]]))
        for other in names[i + 1 :]:
            between.append(distribution.frechet(seen[halves[0]], seen[rows[other][1::2]]))
    return (
        '| on unseen scanners and subjects | |\n| --- | --- |\n'
        f'| age, r | {age:.3f} |\n| sex, accuracy | {accuracy:.3f} |\n'
        f'| Fréchet distance between halves of a scanner | {np.mean(within):.2f} |\n'
        f'| between scanners, least | {np.min(between):.2f} |\n'
        f'| between scanners, mean | {np.mean(between):.2f} |\n'
    )


if __name__ == '__main__':
    main()
