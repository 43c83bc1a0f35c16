"""Time and memory of the harmonization of scans: single slices or whole volumes.

    python -m benchmarks.inference [--slices all] [--model FILE] [--threads 2] [--scans 16]
        [--device cpu]

By default the packaged model for the medial slice is taken; ``--slices all`` takes that for whole
volumes. Aims, on 2 cores: 0.5 s and 1.5 GB for a slice, 8 s and 3 GB for a volume of 130 slices.
All slices here are full of brain. It prints one table; on a GPU, memory is what PyTorch allocates
there.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from dataclasses import replace
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--slices', default='medial', choices=['medial', 'all'])
    parser.add_argument('--model', type=Path)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--scans', type=int, default=16)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)

    import numpy as np
    import pandas as pd
    import torch

    from ddae_app.methods.ddae.config import BATCH_SIZE
    from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
    from ddae_app.methods.find import packaged_model

    path = args.model or packaged_model(args.slices).path
    harmonizer = DDAEHarmonizer.load(path, device=args.device, unseen_site='agnostic')
    source, target = harmonizer.sites[0], harmonizer.sites[-1]
    rng = np.random.default_rng(0)
    config = harmonizer.bundle.info.config
    shape = (args.scans, config.depth, config.image_size, config.image_size)
    images = rng.uniform(0.1, 1, shape).astype(np.float32)
    cohort = pd.DataFrame({'site': [source] * args.scans})
    print(f'{path.name}, {config.depth} slices a scan, {args.threads} threads, {args.device}')
    print('slices at once\tseconds per scan (fastest of the repeats)\tpeak memory, GB')
    for batch in (1, BATCH_SIZE):
        ready = replace(harmonizer, batch_size=batch)
        ready.transform(images[:1], cohort[:1], target)
        seconds = []
        for _ in range(args.repeats):
            started = time.perf_counter()
            ready.transform(images, cohort, target)
            seconds.append((time.perf_counter() - started) / args.scans)
        peak = torch.cuda.max_memory_allocated() / 1e9
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f'{batch}\t{min(seconds):.3f}\t{peak:.2f}')


if __name__ == '__main__':
    main()
