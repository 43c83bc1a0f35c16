"""Memory of training on a dataset of 100,000 slices.

    python -m benchmarks.memory WORK_DIR [--slices 100000] [--steps 20]

Simulated slices of 64 KiB each are repeated in one file, which training maps into memory. It runs
a few steps of preset tiny and writes the model. The table gives the peak of anonymous memory
(RssAnon) for 1000 and for 100,000 slices, and the size of the file. Mapped pages of the file do
not count, because the system frees them whenever it needs memory. Aim: 4 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--slices', type=int, default=100_000)
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--alone', action='store_true', help='measure this number of slices only')
    args = parser.parse_args()
    if args.alone:
        print(f'{args.slices}\t{measure(args.work_dir, args.slices, args.steps)}', flush=True)
        return
    print('slices\tfile, GB\tpeak anonymous memory, GB\tseconds', flush=True)
    for n in (1000, args.slices):
        # Each size runs in a new process, because memory is not always freed.
        command = [
            sys.executable,
            '-m',
            'benchmarks.memory',
            str(args.work_dir),
            '--alone',
            f'--slices={n}',
        ]
        subprocess.run([*command, f'--steps={args.steps}'], check=True)


def measure(work_dir: Path, n: int, steps: int) -> str:
    """Train on `n` slices; the size of the file and the memory in GB, and the seconds."""
    from benchmarks.phantom_slices import draw_slices
    from benchmarks.phantoms import PROTOCOL, SEEN, axial_points, scaled
    from ddae_app.methods.data import SliceData
    from ddae_app.methods.ddae.presets import PRESETS
    from ddae_app.methods.ddae.train import train
    from ddae_app.methods.modelfile import ModelIdentity

    store = work_dir / f'{n}.f32'
    work_dir.mkdir(parents=True, exist_ok=True)
    drawn = draw_slices(10, SEEN, 0, axial_points())
    stack = scaled(drawn.images, drawn.images, drawn.mask)
    with store.open('wb') as file:
        for i in range(0, n, len(stack)):
            file.write(stack[: n - i].tobytes())
    each = np.arange(n) % len(stack)
    images = np.memmap(store, dtype=np.float32, mode='r', shape=(n, 1, *stack.shape[1:]))
    data = SliceData(
        images,
        tuple(drawn.site[each]),
        drawn.age[each].astype(float),
        tuple(drawn.sex[each]),
        tuple(f'{i}' for i in range(n)),
    )
    preset = PRESETS['tiny']
    config = replace(preset.train, images=steps * preset.train.batch_size)
    peak, stop = [0.0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, stop))
    watcher.start()
    started = time.perf_counter()
    identity = ModelIdentity('model', phantom=True)
    train(data, preset.model, config, PROTOCOL, work_dir / f'train-{n}', identity=identity)
    stop.set()
    watcher.join()
    store.unlink()
    size = images.nbytes / 1e9
    return f'{size:.2f}\t{peak[0]:.2f}\t{time.perf_counter() - started:.0f}'


def watch(peak: list[float], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        status = Path('/proc/self/status').read_text()
        anonymous = next(line for line in status.splitlines() if line.startswith('RssAnon'))
        peak[0] = max(peak[0], int(anonymous.split()[1]) / 1e6)


if __name__ == '__main__':
    main()
