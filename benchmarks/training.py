"""Images that training sees in a second, and the memory that it takes, for each preset.

    python -m benchmarks.training [--presets tiny base paper] [--device cuda] [--steps 40]

On random slices that are full of brain, with the preset's own batches; the first tenth of the
steps is not counted. On a GPU in bf16, as `train` does; there the memory is what PyTorch takes.
Prints one table, with the hours that the preset's images take at this pace.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time

import numpy as np
import torch

from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.config import PRESETS, Preset
from ddae_app.methods.ddae.parallel import start_fabric
from ddae_app.methods.ddae.train import Progress, train
from ddae_app.methods.device import resolve_device
from ddae_app.settings import Protocol

PEOPLE = 40


class EnoughError(Exception):
    """What was to be measured has been."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--presets', nargs='+', choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument('--device', default='auto')
    parser.add_argument('--steps', type=int, default=40)
    args = parser.parse_args()
    device = resolve_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    print(f'{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}')
    print('preset\tbatch\timages per second\tpeak memory, GB\thours in all')
    for preset in args.presets:
        print(preset, *measured(PRESETS[preset], device, args.steps), sep='\t', flush=True)


def measured(preset: Preset, device: torch.device, steps: int) -> tuple[str, ...]:
    """The columns of a row."""
    batch, times = preset.train.batch_size, list[float]()

    def tell(progress: Progress) -> None:
        times.append(time.perf_counter())
        if len(times) > steps:
            raise EnoughError

    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EnoughError):
        train(
            slices(preset.model.image_size), preset.model, preset.train, Protocol(), folder,
            fabric=start_fabric(device), progress=tell,
        )  # fmt: skip
    first = max(1, steps // 10)
    pace = batch * (len(times) - 1 - first) / (times[-1] - times[first])
    peak = torch.cuda.max_memory_allocated() / 1e9
    peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    hours = preset.train.images / pace / 3600
    return str(batch), f'{pace:.1f}', f'{peak:.2f}', f'{hours:.1f}'


def slices(size: int) -> SliceData:
    """People of two sites."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 1, (PEOPLE, 1, size, size)).astype(np.float32)
    sexes = tuple('FM'[i % 2] for i in range(PEOPLE))
    sites = tuple('AB'[i // 2 % 2] for i in range(PEOPLE))
    people = tuple(f'p{i}' for i in range(PEOPLE))
    return SliceData(images, sites, rng.uniform(20, 80, PEOPLE), sexes, people)


if __name__ == '__main__':
    main()
