"""What a probe of the site sees: each planted site effect shows in the view that has it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.explanation import explain
from ddae_app.evaluation.probes import linear_accuracy
from ddae_app.evaluation.views import EDGE_PIXELS, VIEWS, interior, views

N = 80
Y, X = np.mgrid[-1:1:64j, -1:1:64j]
BRAIN = np.hypot(X, Y) < 0.9
CHANCE = 0.5
UNTOLD = 0.7
"""Chance lets a probe of so few scans be right this often."""


def heads(shift: int = 0) -> np.ndarray:
    """Brains of gray matter with a white and a dark disk, and their own texture at all scales."""
    rng = np.random.default_rng(0)
    anatomy = 0.6 + 0.25 * (np.hypot(X, Y - 0.3) < 0.25) - 0.4 * (np.hypot(X, Y + 0.3) < 0.25)
    images = np.repeat(np.roll(anatomy, shift, 0)[None], 2 * N, axis=0)
    for sigma in (0, 2, 6):
        noise = gaussian_filter(rng.standard_normal(images.shape), (0, sigma, sigma))
        images = images + 0.03 * noise / noise.std()
    return np.where(BRAIN, images, 0).astype(np.float32)


def accuracies(images: np.ndarray) -> dict[str, float]:
    sites, people = np.repeat(['A', 'B'], N), np.arange(2 * N).astype(str)
    inside = interior(images)
    found = {name: linear_accuracy(seen, sites, people) for name, seen in views(images, inside)}
    assert found.keys() == set(VIEWS)
    return found | {'site_linear': linear_accuracy(images, sites, people)}


def with_effect(effect: np.ndarray) -> np.ndarray:
    images = heads()
    images[N:] = np.where(BRAIN, images[N:] + effect, 0)
    return images


def test_nothing_is_told_where_there_is_no_effect():
    assert max(accuracies(heads()).values()) < UNTOLD


def test_shading_is_broad():
    found = accuracies(with_effect(0.12 * X))
    assert found['site_broad'] > 0.9
    assert found['site_fine'] < UNTOLD


def test_a_fine_pattern_is_fine():
    found = accuracies(with_effect(0.02 * (-1.0) ** np.add(*np.indices(X.shape))))
    assert found['site_fine'] > 0.9
    assert found['site_broad'] < UNTOLD


def test_what_is_at_the_edge_alone_is_not_in_the_interior():
    rim = BRAIN & (np.hypot(X, Y) > 0.85)
    found = accuracies(with_effect(0.3 * rim))
    assert found['site_linear'] > 0.9
    assert max(value for name, value in found.items() if name != 'site_linear') < UNTOLD


def test_anatomy_that_is_moved_tells_by_its_tissues():
    images = heads()
    images[N:] = heads(shift=3)[N:]
    assert accuracies(images)['site_tissues'] > 0.9


def test_the_interior_is_common_to_nearly_all_and_far_from_the_edge():
    images = np.repeat(BRAIN[None].astype(np.float32), 200, axis=0)
    images[0] = 0  # one bad mask
    inside = interior(images)
    assert inside.any() and not (inside & ~BRAIN).any()
    edge = np.flatnonzero(BRAIN[32])[0]
    assert not inside[32, edge + EDGE_PIXELS - 1] and inside[32, edge + EDGE_PIXELS]
    assert not interior(images[:, ::8, ::8]).any()


def estimates(chosen: float = 0.5, **others: float) -> dict[str, Estimate]:
    """Accuracies with intervals of .05 to either side; all others are `chosen`."""
    names = ('site_cnn', 'site_linear', 'site_histogram', *VIEWS)
    values = dict.fromkeys(names, chosen) | others
    return {name: Estimate(v, v - 0.05, v + 0.05, 80) for name, v in values.items()}


CONTROLS = {name: Estimate(0.5, 0.45, 0.55, 80) for name in ('mask', 'demographics', 'shuffled')}


def test_where_no_probe_tells_the_site_nothing_is_explained():
    found = explain(estimates(), CONTROLS, CHANCE, 20)
    assert 'No probe tells the site' in ' '.join(found.seen)
    assert len(found.advice) == 1 and 'covariate' in found.advice[0]


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'site_linear': 0.9}, 'probably lies at the edge of the brain'),
        (
            {'site_linear': 0.9, 'site_interior': 0.9, 'site_broad': 0.85},
            'told most of all by broad structure',
        ),
        (
            {'site_cnn': 0.9, 'site_linear': 0.8, 'site_interior': 0.9, 'site_fine': 0.85},
            'told most of all by fine structure',
        ),
        (
            {'site_linear': 0.9, 'site_interior': 0.8, 'site_tissues': 0.8, 'site_broad': 0.7},
            'Where CSF, gray and white matter lie tells it about as well',
        ),
        ({'site_histogram': 0.8}, 'the intensity histogram alone tells the site best'),
    ],
)
def test_the_explanation_names_what_the_probe_sees(values, words):
    assert words in ' '.join(explain(estimates(**values), CONTROLS, CHANCE, 20).seen)


def test_the_advice_follows_from_what_is_seen():
    def advice(scans=20, harmonized=True, control=None, **values):
        controls = CONTROLS | ({control: Estimate(0.8, 0.7, 0.9, 80)} if control else {})
        found = explain(estimates(**values), controls, CHANCE, scans, harmonized=harmonized)
        return ' '.join(found.advice)

    assert 'add scans' in advice(site_histogram=0.8)
    assert 'add scans' not in advice(site_histogram=0.8, scans=200)
    assert 'skull-strip' in advice(site_linear=0.8, control='mask')
    assert 'skull-strip' not in advice(site_linear=0.8)
    assert 'other ages' in advice(site_linear=0.8, control='demographics')
    assert '--preset base' in advice(site_cnn=0.8)
    assert advice(site_linear=0.8, harmonized=False).startswith('Harmonize the scans')
