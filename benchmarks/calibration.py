"""Time and memory of a calibration: the packaged networks on many scans of several sites.

    python -m benchmarks.calibration WORK_DIR [--slices all medial] [--threads 2] [--per-site 50]

Simulated scans of seven sites are repeated in one file, which calibration maps into memory. Each
line of the table is measured in a new process: wall-clock and CPU seconds, the latter of all
threads together, the load of the machine at the end (processes that run or wait, mean of the last
minute), and the peak of anonymous memory (RssAnon), without mapped pages of the file. Where the
load exceeds the number of threads, others used the machine too, and only CPU seconds can be
compared. Aims for 7 x 50 scans on two cores: 10 minutes and 3 GB for whole volumes, 2 minutes for
medial slices. With ``--profile``, the slowest functions are listed, too.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

DRAWN_PER_SITE = 4
"""Different scans; the others repeat them under other names."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    kinds = ['medial', 'all']
    parser.add_argument('--slices', nargs='+', choices=kinds, default=kinds)
    parser.add_argument('--threads', nargs='+', type=int, default=[2])
    parser.add_argument('--per-site', type=int, default=50)
    parser.add_argument('--profile', action='store_true')
    parser.add_argument('--alone', action='store_true', help='measure in this process')
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    if args.alone:
        measure(args.work_dir, args.slices[0], args.threads[0], args.per_site, args.profile)
        return
    print('slices\tscans\tthreads\tseconds\tCPU seconds\tload\tpeak anonymous memory, GB')
    for slices in args.slices:
        store(args.work_dir, slices)
        for threads in args.threads:
            command = [sys.executable, '-m', 'benchmarks.calibration', str(args.work_dir)]
            command += ['--slices', slices, f'--threads={threads}', f'--per-site={args.per_site}']
            command += ['--alone', *['--profile'] * args.profile]
            environment = os.environ | {'OMP_NUM_THREADS': f'{threads}'}
            sys.stdout.flush()
            subprocess.run(command, check=True, env=environment)


def store(work_dir: Path, slices: str) -> Path:
    """The file of the different scans, (S, D, H, W), site after site; it is drawn once."""
    from benchmarks.phantom_slices import draw_scanners, draw_visit
    from benchmarks.phantoms import SEEN
    from benchmarks.volumes import BIAS_LEFT, CORNER, GRID, SHAPE, as_stack, brightness, xyz
    from ddae_app.phantom.population import draw_subjects

    file = work_dir / f'{slices}.npy'
    if file.is_file():
        return file
    box = [slice(a, a + n) for a, n in zip(CORNER, xyz(SHAPE), strict=True)]
    if slices == 'medial':
        box[2] = slice(GRID.shape[2] // 2, GRID.shape[2] // 2 + 1)
    points, scans = GRID.points(tuple(box)), []
    if slices == 'medial':
        points = points[:, :, 0]  # in two dimensions there is no blur across the slice
    scanners = draw_scanners(SEEN, 0)
    for site in SEEN:
        for subject in draw_subjects(site, DRAWN_PER_SITE, 1000, 0):
            visit = draw_visit(subject, scanners[site], 1000, points, None, BIAS_LEFT)
            image = visit.image / brightness(visit.image, visit.mask)
            shape = (*image.shape[:2], -1)
            stack = as_stack(image.reshape(shape), visit.mask.reshape(shape))
            scans.append(stack.astype(np.float32))
    np.save(file, np.stack(scans))
    return file


def measure(work_dir: Path, slices: str, threads: int, per_site: int, profile: bool) -> None:
    """Calibrate, and print one line of the table."""
    import torch

    from benchmarks.memory import watch
    from benchmarks.phantoms import SEEN
    from ddae_app.methods.data import SliceData
    from ddae_app.methods.ddae.bundle import load_bundle
    from ddae_app.methods.ddae.calibration import calibrate
    from ddae_app.methods.find import packaged_model

    torch.set_num_threads(threads)
    drawn, n = np.load(store(work_dir, slices), mmap_mode='r'), len(SEEN) * per_site
    file = work_dir / f'{slices}-{n}.npy'
    images = np.lib.format.open_memmap(
        file, mode='w+', dtype=np.float32, shape=(n, *drawn.shape[1:])
    )
    for i in range(n):
        images[i] = drawn[i // per_site * DRAWN_PER_SITE + i % per_site % DRAWN_PER_SITE]
    rng = np.random.default_rng(0)
    ages, sexes = rng.uniform(20, 80, n), tuple(rng.choice(['M', 'F'], n).tolist())
    bundle = load_bundle(packaged_model(slices).path)
    peak, stop = [0.0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, stop))
    profiler = cProfile.Profile()
    watcher.start()
    started, cpu = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    sites = tuple(SEEN[i // per_site] for i in range(n))
    data = SliceData(images, sites, ages, sexes, tuple(f'{i}' for i in range(n)))
    calibrate(bundle, data)
    profiler.disable()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    stop.set()
    watcher.join()
    file.unlink()
    load = os.getloadavg()[0]
    print(
        f'{slices}\t{n}\t{threads}\t{seconds:.0f}\t{cpu:.0f}\t{load:.1f}\t{peak[0]:.2f}',
        flush=True,
    )
    if profile:
        pstats.Stats(profiler).sort_stats('cumulative').print_stats('ddae_app', 30)


if __name__ == '__main__':
    main()
