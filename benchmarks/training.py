"""Speed of training in images a second, and its memory, for each preset.

    python -m benchmarks.training [--presets tiny base paper] [--device cuda] [--steps 40]
        [--profile]

It trains on random slices that are full of brain, with the batch size of the preset, and does not
count the first tenth of the steps. On a GPU it trains in bf16, as ``train`` does, and memory is
what PyTorch allocates there. It prints one table, with the hours that the whole training would
take. ``--profile`` is for a GPU: it lists the operations of the last ten steps that take most of
its time, and for what part of these steps it computes at all.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from ddae_app.methods.base import Progress, ProgressCallback
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.presets import PRESETS, Preset
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.device import resolve_device
from ddae_app.methods.parallel import start_fabric
from ddae_app.settings import Protocol

SUBJECTS = 40
PROFILED = 10


class EnoughError(Exception):
    """The measurement is complete."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--presets', nargs='+', choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument('--device', default='auto')
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--profile', action='store_true')
    args = parser.parse_args()
    device = resolve_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    print(f'{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}')
    print('preset\tbatch\timages per second\tpeak memory, GB\thours in total')
    for preset in args.presets:
        print(preset, *measured(PRESETS[preset], device, args.steps), sep='\t', flush=True)
        if args.profile:
            print(profile_of(PRESETS[preset], device, args.steps), flush=True)


def measured(preset: Preset, device: torch.device, steps: int) -> tuple[str, ...]:
    """The columns of one row of the table."""
    batch, times = preset.train.batch_size, list[float]()

    def stop_when_done(progress: Progress) -> None:
        times.append(time.perf_counter())
        if len(times) > steps:
            raise EnoughError

    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    run(preset, device, stop_when_done)
    first = max(1, steps // 10)
    pace = batch * (len(times) - 1 - first) / (times[-1] - times[first])
    peak = torch.cuda.max_memory_allocated() / 1e9
    peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    hours = preset.train.images / pace / 3600
    return str(batch), f'{pace:.1f}', f'{peak:.2f}', f'{hours:.1f}'


def profile_of(preset: Preset, device: torch.device, steps: int) -> str:
    """What a GPU does in the last steps, and for how long."""
    profiler = profile(activities=[ProfilerActivity.CUDA])
    done, started, wall = 0, 0.0, 0.0

    def observe(progress: Progress) -> None:
        nonlocal done, started, wall
        done += 1
        if done == steps - PROFILED:
            torch.cuda.synchronize()
            profiler.start()
            started = time.perf_counter()
        if done == steps:
            torch.cuda.synchronize()
            wall = time.perf_counter() - started
            profiler.stop()
            raise EnoughError

    run(preset, device, observe)
    table = profiler.key_averages()
    busy = sum(event.self_device_time_total for event in table) / 1e6
    longest = table.table(sort_by='self_device_time_total', row_limit=12)
    return f'{longest}\nbusy for {busy / wall:.0%} of {wall / PROFILED * 1e3:.1f} ms a step'


def run(preset: Preset, device: torch.device, progress: ProgressCallback) -> None:
    """Train until the callback has enough."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EnoughError):
        train(
            slices(preset.model.image_size), preset.model, preset.train, Protocol(), folder,
            fabric=start_fabric(device), control=TrainingControl(progress=progress),
        )  # fmt: skip


def slices(size: int) -> SliceData:
    """Random slices of subjects of two sites."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 1, (SUBJECTS, 1, size, size)).astype(np.float32)
    sexes = tuple('FM'[i % 2] for i in range(SUBJECTS))
    sites = tuple('AB'[i // 2 % 2] for i in range(SUBJECTS))
    subjects = tuple(f'p{i}' for i in range(SUBJECTS))
    return SliceData(images, sites, rng.uniform(20, 80, SUBJECTS), sexes, subjects)


if __name__ == '__main__':
    main()
