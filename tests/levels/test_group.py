"""The group level on outputs as the participant level leaves them."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from tests.levels.conftest import TEMPLATE, run
from tests.levels.derived import write_derived

N = 12


def people(seed: int) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Scans of two sites, one of which is brighter at the front; and the same without that."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    brain = 0.5 + gaussian_filter(rng.normal(0, 1, (2 * N, 128, 128)), (0, 5, 5))
    shading = np.repeat([0, 1], N)[:, None, None] * 0.2 * (1 + y)
    inside = np.hypot(x, y) < 0.7
    images, truth = (
        np.where(inside, values, 0).clip(0.01 * inside).astype(np.float32)
        for values in (brain + shading, brain)
    )
    cohort = pd.DataFrame(
        {
            'subject': [f'{i:02}' for i in range(2 * N)],
            'site': np.repeat(['East', 'West'], N),
            'age': rng.integers(20, 80, 2 * N).astype(float),
            'sex': rng.choice(['F', 'M'], 2 * N),
        }
    )
    return images, truth, cohort


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp('group')
    images, truth, cohort = people(0)
    write_derived(folder, images, cohort, TEMPLATE, truth, 'East')
    result = run(
        folder / 'bids', folder / 'out', 'group', '-w', folder / 'work', '--skip-bids-validation'
    )
    assert result.returncode == 0, result.stderr
    return folder / 'out'


def test_the_figures_tell_what_was_done(judged):
    metrics = json.loads((judged / 'group_metrics.json').read_text())
    assert metrics['Scans'] == 2 * N
    assert metrics['TargetSite'] == 'East'
    assert metrics['Chance'] == 0.5
    assert set(metrics['Methods']) == {'source', 'DDAE (toy)', 'histogram', 'combat', 'blur'}
    told = {
        name: method['Estimates']['site_linear']['value']
        for name, method in metrics['Methods'].items()
    }
    assert told['source'] > 0.9 and told['blur'] > 0.9
    assert told['DDAE (toy)'] < 0.8
    assert metrics['Methods']['source']['Findings'][0].startswith('the site can still be told')
    for method in metrics['Methods'].values():
        assert {'value', 'low', 'high', 'n'} == set(method['Estimates']['ssim'])
        assert set(method['Estimates']) <= set(metrics['Measures'])


def test_the_page_says_it_in_words_and_opens_offline(judged):
    page = (judged / 'group_T1w.html').read_text()
    assert 'Is the site gone, and is the person still there?' in page
    assert 'the site can still be told' in page
    assert 'DDAE (toy)' in page and 'to the other half' in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert page.count('<table class="sortable">') == 2


def test_with_few_people_the_page_says_why_nothing_was_judged(tmp_path):
    images, _, cohort = people(1)
    few = [0, 1, N, N + 1]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE)
    result = run(
        tmp_path / 'bids', tmp_path / 'out', 'group', '-w', tmp_path / 'work',
        '--skip-bids-validation',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'site East has 2 people, and 10 are needed' in result.stderr
    page = (tmp_path / 'out' / 'group_T1w.html').read_text()
    assert 'Not measured: site East has 2 people' in page
    assert not (tmp_path / 'out' / 'group_metrics.json').exists()
