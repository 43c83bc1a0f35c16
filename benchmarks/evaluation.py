"""Time and memory of the evaluation at the group level.

    python -m benchmarks.evaluation [--scans 4120] [--threads 1] [--at-once 2]

It evaluates unharmonized scans, outputs of another method, histogram matching, ComBat and a blur,
as ``ddae-app ... group`` does, on smooth random images of seven sites: so many of them at once,
each on so many threads. The time does not depend on what the images show. Aim: 4120 scans, as in
the paper, in 6 minutes and 2 GB on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import resource
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--scans', type=int, default=4120)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--at-once', type=int, default=2)
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)

    import numpy as np
    import pandas as pd
    from scipy.ndimage import gaussian_filter

    from ddae_app.evaluation.candidates import blurred, cross_fitted, precomputed, unharmonized
    from ddae_app.evaluation.data import EvaluationData
    from ddae_app.evaluation.protocol import controls, evaluate
    from ddae_app.methods.combat import ComBat
    from ddae_app.methods.histogram import HistogramMatching

    rng, n = np.random.default_rng(0), args.scans
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    brain = (np.hypot(x, y) < 0.8).astype(np.float32)
    images = np.empty((n, 128, 128), np.float32)
    for row in range(n):
        smooth = 0.5 + gaussian_filter(rng.normal(0, 2, (128, 128)), 4)
        images[row] = (smooth + 0.02 * (row % 7)).clip(0.01, 1.2) * brain
    cohort = pd.DataFrame(
        {
            'subject': [f'p{i}' for i in range(n)],
            'site': [f'site{i % 7}' for i in range(n)],
            'age': rng.uniform(20, 80, n),
            'sex': rng.choice(['F', 'M'], n),
        }
    )
    data, target = EvaluationData.from_cohort(images, cohort), 'site0'
    candidates = [
        unharmonized(images),
        precomputed('precomputed', images * np.float32(0.9), 'n/a'),
        cross_fitted('histogram', HistogramMatching(), images, cohort, target),
        cross_fitted('combat', ComBat(), images, cohort, target),
        blurred(images),
    ]
    print(f'{n} scans, {args.at_once} candidates at once on {args.threads} threads each')
    print('part\tseconds\tpeak memory so far, GB')
    started = time.perf_counter()

    def report(part: str, since: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f'{part}\t{time.perf_counter() - since:.0f}\t{peak:.2f}', flush=True)

    evaluate(data, candidates, target, at_once=args.at_once)
    report(f'{len(candidates)} candidates', started)
    since = time.perf_counter()
    controls(data)
    report('controls', since)
    report('total', started)


if __name__ == '__main__':
    main()
