"""Harmonization methods on the scans of real scanners: is the site gone, and is the person there?

    python -m benchmarks.real BIDS_DIR WORK_DIR [--preproc-dir PREPROC_DIR] [--take-away]
        [--probe-sites ...] [--methods source ...] [--deals 5] [--ages 19 53] [--sites ...]
        [--slices all]

``BIDS_DIR`` is a dataset whose ``participants.tsv`` has site, age and sex. It is preprocessed by
the command line of the program, unless ``--preproc-dir`` is what that made before. People of
similar ages are dealt into halves, several times. In each deal, every method is fitted to the one
half and judged on the other; the next deal takes the same halves the other way round. In the half
to judge on, in five folds, probes are trained on the outputs of some people and tested on those of
others, as at the group level. The people from whom the packaged networks learned
(``benchmarks.universal``) train probes and methods, but none of the figures is of them. The medial
slice is judged; with ``--slices all``, methods take whole volumes, of which the medial slice is
judged, and site_histogram is of the whole volume.

Each figure of ``WORK_DIR/medial-19-53-IXI/real.md`` (slices, ages, target) is the mean over the
deals, with the lowest and the highest; ``real.tsv`` also has the mean ends of the 95 % bootstrap
intervals over people. What is done is kept, so that a run that was stopped resumes; start in a new
folder where a method changed. The methods that are trained (``cvae style-gan ddae-trained``) are
fitted in ``--trained-deals`` only. ``--take-away`` asks what the linear probe sees
(``benchmarks.real_take_away``), and where the brains of each site lie
(``benchmarks.real_placement``). The methods ``nyul`` and ``white-stripe`` need the extra
``benchmarks``.

Columns. Balanced accuracy of the site: site_linear; site_inside, a linear probe of the pixels that
are brain in everybody and six from the edge of that, so that the mask tells nothing;
site_histogram; in whole volumes, site_histogram_medial of their medial slice; and site_cnn, in
``--cnn-deals`` only, as a network takes a while. site_linear_learnt: of the people whom the
networks learned from, to see whether their outputs are different. Age and sex, predicted by probes
from the images: age_mae (years), age_r, age_r_within_site, sex. Similarity to the source scan:
ssim, edges (gradient correlation), rank (Spearman correlation of distances within a site),
identified (share of outputs that are most like their own scan), variance_ratio (within sites,
after over before), tissue_drift (percent points). target_distance: of intensities to those of the
target. seconds: of one processor, to fit to the one half and harmonize the other.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.real_methods import METHODS, TRAINED, USUAL, Fit, measured
from benchmarks.real_placement import write_aligned, write_placement
from benchmarks.real_scans import Scans, read_scans
from benchmarks.real_tables import Ends, write_intervals
from benchmarks.real_take_away import take_away
from ddae_app.evaluation import estimates, fidelity, probes
from ddae_app.evaluation.estimates import Score
from ddae_app.evaluation.probes import Components
from ddae_app.imaging.anatomy import tissue_shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--preproc-dir', type=Path)
    parser.add_argument('--slices', default='medial', choices=['medial', 'all'])
    parser.add_argument('--ages', nargs=2, type=float, default=(19, 53), help='years')
    parser.add_argument('--sites', nargs='+', help='all by default')
    parser.add_argument('--target', default='IXI', help='the site to harmonize to')
    parser.add_argument('--deals', type=int, default=5)
    parser.add_argument('--cnn-deals', type=int, default=1)
    parser.add_argument('--trained-deals', type=int, default=1)
    parser.add_argument(
        '--images', type=int, default=12_800, help='shown in each training of a network'
    )
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--methods', nargs='+', default=USUAL, choices=list(METHODS))
    parser.add_argument('--take-away', action='store_true')
    parser.add_argument('--probe-sites', nargs='+', help='of --take-away; all by default')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    scans = read_scans(
        args.bids_dir, args.work_dir, args.preproc_dir, tuple(args.ages), args.sites,
        args.slices == 'all',
    )  # fmt: skip
    people = scans.people.groupby('site')['learnt'].agg(['size', 'sum'])
    for site, (everybody, learnt) in people.iterrows():
        print(f'{site}: {everybody} people, {everybody - learnt} of whom are judged on')
    chosen = args.slices, *(f'{age:g}' for age in args.ages), args.target, *(args.sites or ())
    bench = Bench(scans, args.work_dir / '-'.join(chosen), args.target, args.images)
    bench.folder.mkdir(exist_ok=True)
    for name in args.methods:
        deals = args.trained_deals if name in TRAINED else args.deals
        for deal in range(deals):
            scores = bench.judged(name, deal, cnn=deal < args.cnn_deals)
            print(f'{name}, deal {deal + 1}: site_linear {scores["site_linear"][0]:.2f}')
    rows = {name: bench.summary(name) for name in METHODS}
    write_intervals(bench.folder, 'real', {n: row for n, row in rows.items() if row})
    print((bench.folder / 'real.md').read_text())
    if args.take_away:
        made = {name: bench.made(name) for name in METHODS}
        write_placement(scans, args.target, bench.folder)
        write_aligned(scans, args.target, args.deals, bench.folder, args.probe_sites)
        take_away(scans, made, bench.folder, args.probe_sites)


@dataclass(frozen=True)
class Bench:
    """Outputs and figures of every method in every deal, which are kept in a folder."""

    scans: Scans
    folder: Path
    target: str
    images: int

    def outputs(self, name: str, deal: int) -> dict[str, np.ndarray]:
        """What a method makes of the people to judge on in a deal, as ``measured`` returns it."""
        file = self.folder / 'outputs' / f'{name}-{deal}.npz'
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            fitting, others = (self.scans.take(rows) for rows in self.scans.deal(deal))
            folder = self.folder / f'{name}-{deal}'
            fit = Fit(fitting, others, self.target, self.images, folder)
            np.savez_compressed(file, **measured(METHODS[name], fit))
        with np.load(file) as stored:
            return dict(stored)

    def made(self, name: str) -> list[np.ndarray]:
        """The outputs of the first deals, as many as were made."""
        count = len(list((self.folder / 'outputs').glob(f'{name}-[0-9]*.npz')))
        return [self.outputs(name, deal)['images'] for deal in range(count)]

    def judged(self, name: str, deal: int, *, cnn: bool) -> dict[str, Ends]:
        """The figures of a method in a deal, with the ends of their intervals over people."""
        file = self.folder / 'deals' / f'{name}-{deal}.json'
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            outputs = self.outputs(name, deal)
            others = self.scans.take(self.scans.deal(deal)[1])
            found = judge(
                others, outputs['images'], self.target, deal,
                cnn=cnn, quantiles=outputs.get('quantiles'),
            )  # fmt: skip
            found['seconds'] = (float(outputs['seconds']),) * 3
            file.write_text(json.dumps(found))
        return {name: tuple(ends) for name, ends in json.loads(file.read_text()).items()}

    def summary(self, name: str) -> dict[str, list[Ends]]:
        """The figures of every deal that was judged, by column."""
        columns: dict[str, list[Ends]] = {}
        for file in sorted((self.folder / 'deals').glob(f'{name}-[0-9]*.json')):
            for column, ends in json.loads(file.read_text()).items():
                columns.setdefault(column, []).append(tuple(ends))
        return columns


@dataclass
class Predictions:
    """What probes predict of each scan, shape (N,); every scan is tested once."""

    labels: dict[str, np.ndarray] = field(default_factory=dict)
    ages: np.ndarray = field(default_factory=lambda: np.empty(0))

    def label(self, name: str, n: int, test: np.ndarray, found: np.ndarray) -> None:
        self.labels.setdefault(name, np.full(n, '', dtype=object))[test] = found


def judge(
    scans: Scans,
    outputs: np.ndarray,
    target: str,
    seed: int,
    *,
    cnn: bool,
    quantiles: np.ndarray | None = None,
) -> dict[str, Ends]:
    """The figures of one deal, with 95 % bootstrap intervals over people.

    Parameters
    ----------
    scans : Scans
        The half of the people to whom the method was not fitted.
    outputs : np.ndarray, shape (N, H, W), or (N, F) for what is no image
        Of the first, all figures are found; of the second, only the linear probe of the site.
    target : str
    seed : int
        Of folds, probes and bootstrap samples.
    cnn : bool
        Whether to train networks.
    quantiles : np.ndarray, shape (N, 33), optional
        Of the intensities of whole volumes.
    """
    found = predict(scans, outputs, seed, cnn=cnn, quantiles=quantiles)
    judged, sites = scans.judged, scans.sites
    scores = {
        name: (estimates.balanced_accuracy(sites, labels.astype(str)), judged)
        for name, labels in found.labels.items()
        if name.startswith('site')
    }
    learnt = np.setdiff1d(np.arange(len(sites)), judged)
    scores['site_linear_learnt'] = scores['site_linear'][0], learnt
    if outputs.ndim == 3:
        of_people = _biology(scans, found) | _similarity(scans, outputs)
        scores |= {name: (score, judged) for name, score in of_people.items()}
        distance = fidelity.intensity_distance_to_site(
            fidelity.intensity_quantiles(outputs), sites, target
        )
        scores['target_distance'] = estimates.mean(distance), judged[sites[judged] != target]
    ends = {}
    for name, (score, rows) in scores.items():
        one = estimates.bootstrap_estimate(score, rows, scans.subjects, sites, seed)
        ends[name] = one.value, one.low, one.high
    return ends


def predict(
    scans: Scans,
    outputs: np.ndarray,
    seed: int,
    *,
    cnn: bool,
    quantiles: np.ndarray | None = None,
) -> Predictions:
    """Train and test the probes of all folds."""
    sites, sexes = scans.sites, scans.people['sex'].to_numpy(str)
    ages, n = scans.people['age'].to_numpy(float), len(outputs)
    found = Predictions(ages=np.full(n, np.nan))
    for train, test in scans.probe_folds(seed):
        components = Components.fit(outputs[train], seed)
        of_site = {'site_linear': outputs}
        if outputs.ndim == 3:
            of_site['site_inside'] = outputs[:, scans.interior]
            of_slice = probes.intensity_quantiles(outputs)
            of_site['site_histogram'] = of_slice if quantiles is None else quantiles
            if quantiles is not None:
                of_site['site_histogram_medial'] = of_slice
            found.ages[test] = components.fit_regression(ages[train])(outputs[test])
            found.label('sex', n, test, components.fit_classifier(sexes[train])(outputs[test]))
        for name, features in of_site.items():
            classify = Components.fit(features[train], seed).fit_classifier(sites[train])
            found.label(name, n, test, classify(features[test]))
        if cnn and outputs.ndim == 3:
            labels = probes.cnn_predict(outputs, sites, train, test, seed=seed)
            found.label('site_cnn', n, test, labels)
    return found


def _biology(scans: Scans, found: Predictions) -> dict[str, Score]:
    ages, rows = scans.people['age'].to_numpy(float), scans.judged
    residuals = [
        estimates.subtract_site_means(values, scans.sites, rows) for values in (ages, found.ages)
    ]
    sexes = scans.people['sex'].to_numpy(str)
    return {
        'age_mae': estimates.mean(np.abs(found.ages - ages)),
        'age_r': estimates.correlation(ages, found.ages),
        'age_r_within_site': estimates.correlation(*residuals),
        'sex': estimates.balanced_accuracy(sexes, found.labels['sex'].astype(str)),
    }


def _similarity(scans: Scans, after: np.ndarray) -> dict[str, Score]:
    """How the outputs compare with their scans."""
    before, sites = scans.slices(), scans.sites
    shares = [
        np.array([list(tissue_shares(x[None]).values()) for x in images])
        for images in (after, before)
    ]
    blocks = fidelity.block_means(after), fidelity.block_means(before)
    of_each = {
        'ssim': fidelity.ssim(after, before),
        'edges': fidelity.gradient_correlation(after, before),
        'rank': fidelity.distance_rank_correlations(*blocks, sites),
        'identified': fidelity.matches_reference(*blocks),
        'tissue_drift': 100 * np.abs(shares[0] - shares[1]).mean(axis=1),
    }
    variances = (fidelity.between_subject_variance(of, sites) for of in blocks)
    return {name: estimates.mean(values) for name, values in of_each.items()} | {
        'variance_ratio': estimates.ratio(*variances)
    }


if __name__ == '__main__':
    main()
