"""From how many people can a site be removed from whole maps, so that no probe tells it?

    python -m benchmarks.surface_people --people 100 200 400 --mesh fsaverage4 --smooth-in mm

Maps are those of :mod:`benchmarks.surfaces` at five sites. As in `group`, methods are fitted to
half of the people, and probes are trained and tested on the others. Besides the methods, there is
the appearance of sites alone, where it is told in which unit shifts are smooth, and a bound: all
that a site does is known but what it adds, and of that the functions that it is a sum of. Only
a method that knows how sites differ could do better, but by chance. Printed as Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.feature_truth import Case, case_of
from benchmarks.surfaces import simulate
from ddae_app.bids.surface_files import MESHES
from ddae_app.features.ddae import geometry_of
from ddae_app.features.evaluation import Refit, evaluate
from ddae_app.features.fit import fit_model
from ddae_app.features.people import CovariateDesign
from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from ddae_app.methods.feature_ddae.model import STEPS, FeatureDDAE
from ddae_app.methods.feature_ddae.networks import FeatureNetworks
from ddae_app.methods.location_scale import SiteRegression

SITES = 5

UNITS = ('mm', 'deviations', 'mean')

MEASURES = ('site_linear', 'site_variance', 'age_r', 'sex')


class Fits:
    """Methods that are fitted to some rows of simulated maps, and applied to all."""

    def __init__(self, case: Case, functions: np.ndarray) -> None:
        self._case, self._functions = case, functions
        self._sites = np.unique(case.labels.sites, return_inverse=True)[1]

    def candidates(self) -> dict[str, np.ndarray | Refit]:
        """By name, the source first."""
        return {
            'source': self._case.source.values,
            'ComBat': lambda rows: self._harmonized('combat', rows),
            **{
                f'appearance alone, smooth in {unit}': lambda rows, unit=unit: self._alone(
                    unit, rows
                )
                for unit in UNITS
            },
            'DDAE': lambda rows: self._harmonized('ddae', rows),
            'bound': self._bound,
            'truth': lambda _: self._case.truth,
        }

    def _harmonized(self, method: str, rows: np.ndarray) -> np.ndarray:
        parts = self._case.source.rows(rows), self._case.labels.rows(rows)
        model, _ = fit_model(*parts, name='half', method=method, allow_few=True)
        return model.harmonized(self._case.source, self._case.labels)

    def _regression(self, y: np.ndarray, rows: np.ndarray) -> tuple[SiteRegression, np.ndarray]:
        """Of some rows, and age and sex of all as it takes them."""
        design = CovariateDesign.fit(self._case.labels.rows(rows), spline=False)
        covariates = design.columns(self._case.labels)
        member = np.eye(SITES)[self._sites[rows]]
        return SiteRegression.fit(y[rows], member, covariates[rows]), covariates

    def _alone(self, smooth_in: str, rows: np.ndarray) -> np.ndarray:
        source, labels, sites = self._case.source, self._case.labels, self._sites
        y = source.values
        geometry = geometry_of(source.maps, source.features)
        regression, covariates = self._regression(y, rows)
        unit = {
            'mm': np.ones(y.shape[1]),
            'deviations': regression.sd,
            'mean': regression.intercepts.mean(axis=0),
        }[smooth_in]
        look = FeatureAppearance.fit(
            regression, geometry.bands, y[rows], sites[rows], covariates[rows], unit
        )
        model = FeatureDDAE(geometry, look, FeatureNetworks(geometry, SITES), np.zeros(STEPS))
        return model.harmonized(y, sites, covariates, labels.persons, None)

    def _bound(self, rows: np.ndarray) -> np.ndarray:
        truth = self._case.truth
        regression, _ = self._regression(truth, rows)
        error = regression.intercepts - regression.intercepts.mean(axis=0)
        functions, sizes, _ = np.linalg.svd(self._functions, full_matrices=False)
        basis = functions[:, sizes > 1e-9 * sizes[0]]  # on a sphere, some are sums of others
        return truth - (error @ basis @ basis.T)[self._sites]


def main() -> None:
    """Print a table for each number of people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--people', type=int, nargs='+', default=[200], help='of each site')
    parser.add_argument('--mesh', choices=('fsaverage3', 'fsaverage4', 'fsaverage5'),
                        default='fsaverage4')  # fmt: skip
    parser.add_argument('--smooth-in', choices=UNITS, default='mm')
    parser.add_argument('--only', nargs='+', help='candidates, besides the source')
    parser.add_argument('--seed', type=int, default=0)
    asked = parser.parse_args()
    for people in asked.people:
        made = simulate(people, SITES, vertices=MESHES[asked.mesh], smooth_in=asked.smooth_in,
                        seed=asked.seed)  # fmt: skip
        case = case_of(made, asked.mesh, asked.smooth_in)
        candidates = Fits(case, made.functions[made.cortex]).candidates()
        only = {'source', *(asked.only or candidates)}
        chosen = {name: value for name, value in candidates.items() if name in only}
        print(f'\n{people} people a site\n\n| | {" | ".join(MEASURES)} | distance, mm |')
        print('|---' * (len(MEASURES) + 2) + '|')
        everybody = np.arange(len(case.truth))
        for name, result in evaluate(chosen, case.labels).items():
            values = [f'{result.estimates[measure].value:.3f}' for measure in MEASURES]
            distance = case.distance(result.outputs, everybody, everybody)
            print(f'| {name} | {" | ".join(values)} | {distance:.4f} |', flush=True)


if __name__ == '__main__':
    main()
