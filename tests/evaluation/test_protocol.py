"""The evaluation: honest methods pass, and each way of cheating is caught by its own measure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.errors import UsageError
from ddae_app.evaluation import candidates as ways
from ddae_app.evaluation import predictions as readings
from ddae_app.evaluation import probes
from ddae_app.evaluation.data import People
from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.findings import findings, headline
from ddae_app.evaluation.protocol import MEANING, controls, evaluate
from ddae_app.methods.combat import ComBat

N = 60
SITES = ('A', 'B', 'C')
TARGET = 'A'
NOT_HERE = ('paired_psnr', 'paired_ssim', 'icc', 'fid', 'kid')
"""Nobody travelled, and there is no Inception."""


class Painter:
    """Writes the age that it is told into the image."""

    def fit(self, images, cohort):
        return self

    def transform(self, images, cohort, target_site):
        ages = cohort['age'].to_numpy()[:, None, None]
        return np.where(images > 0, images * 0.5 + ages / 160, 0).astype(np.float32)


@pytest.fixture(scope='module')
def world():
    """People whose brains show their age and sex, and scanners that shift and shade them."""
    rng = np.random.default_rng(0)
    n = N * len(SITES)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    ages, sexes = rng.uniform(20, 80, n), rng.choice(['F', 'M'], n)
    brain = 0.5 + gaussian_filter(rng.normal(0, 0.8, (n, 48, 48)), (0, 2.5, 2.5))
    brain -= 0.004 * (ages - 50)[:, None, None] * (np.hypot(x, y) < 0.4)
    brain += 0.1 * (sexes == 'F')[:, None, None] * (x > 0.3)
    cohort = pd.DataFrame(
        {
            'subject': [f'p{i}' for i in range(n)],
            'site': np.repeat(SITES, N),
            'age': ages,
            'sex': sexes,
        }
    )
    number = np.repeat(np.arange(3), N)[:, None, None]
    scans = brain + number * (0.08 + 0.1 * y * x) + rng.normal(0, 0.01, brain.shape)
    inside = np.hypot(x, y) < 0.85
    images, truth = (np.where(inside, a, 0).clip(0).astype(np.float32) for a in (scans, brain))
    return images, truth, cohort


@pytest.fixture(scope='module')
def found(world):
    """Every candidate judged, honest and not."""
    images, truth, cohort = world
    target = images[cohort['site'] == TARGET].mean(axis=0)
    everybody = np.arange(len(images))
    leaky = ComBat().fit(images, cohort).transform(images, cohort, TARGET)
    candidates = [
        ways.untouched(images),
        ways.given('truth', truth, 'n/a'),
        ways.fitted_to_others('combat', ComBat(), images, cohort, TARGET),
        ways.blurred(images),
        ways.given('mean', np.where(images > 0, target, 0).astype(np.float32), 'everybody'),
        ways.fitted_to_others('painter', Painter(), images, cohort, TARGET),
        ways.given('leaky', leaky, 'everybody'),
        ways.given('identity', images[everybody], 'n/a'),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, 'CNN_JUDGED', 30)  # one network for each half
        judged = evaluate(People.of(images, cohort), candidates, TARGET)
    return {name: judgement.estimates for name, judgement in judged.items()}


def wrong(found, name):
    said = findings(found[name], found['source'], 1 / 3)
    return ' / '.join(finding.text for finding in said if finding.wrong)


def test_the_order_of_the_methods_is_that_of_the_truth(found):
    told = {name: found[name]['site_linear'].value for name in ('source', 'combat', 'truth')}
    assert told['source'] > 0.8
    assert told['truth'] < 0.45
    assert told['truth'] <= told['combat'] < told['source'] - 0.3
    for name in ('source', 'truth', 'combat'):
        for measure, estimate in found[name].items():
            assert estimate.low <= estimate.value <= estimate.high, (name, measure)
    assert set(found['combat']) == set(MEANING) - {'site_all', *NOT_HERE}
    assert set(found['truth']) == set(MEANING) - {'age_slope', *NOT_HERE}


def test_what_people_are_is_read_from_the_truth(found):
    truth = found['truth']
    assert truth['age_r'].value > 0.8 and truth['age_r_within_site'].value > 0.8
    assert truth['sex'].value > 0.8
    assert truth['age_mae_new_site'].value < found['source']['age_mae_new_site'].value
    assert truth['identified'].value > 0.9 and truth['rank'].value > 0.8


def test_honest_methods_are_not_accused(found):
    assert wrong(found, 'truth') == ''
    assert wrong(found, 'combat') == ''
    assert wrong(found, 'source') == ''


@pytest.mark.parametrize(
    ('cheat', 'accusation'),
    [
        ('blur', 'it is hidden, not gone'),
        ('mean', 'people are lost'),
        ('painter', 'age is painted in'),
        ('leaky', 'below chance'),
        ('identity', 'the site is told as well as from the scans'),
    ],
)
def test_cheating_is_caught(found, cheat, accusation):
    assert accusation in wrong(found, cheat)


def test_an_age_that_is_read_better_is_no_crime_of_a_method_that_is_told_none():
    def of(r):
        near = Estimate(r, r - 0.05, r + 0.05, 100)
        return dict.fromkeys(MEANING, Estimate(0.9, 0.85, 0.95, 100)) | {'age_r': near}

    source, better = of(0.4), of(0.6)
    del better['age_slope'], source['age_slope']
    for blind in (True, False):
        said = findings(better, source, 0.5, label_blind=blind)
        (age,) = [finding for finding in said if 'age is read better' in finding.text]
        assert age.wrong != blind
        assert age.text.endswith('it may be painted in') != blind


def test_the_verdict_comes_first_and_in_words(found):
    verdicts = {
        name: findings(found[name], found['source'], 1 / 3)[0].text for name in ('source', 'mean')
    }
    assert verdicts['source'].startswith('the site can still be told: ')
    assert verdicts['source'].endswith('chance 0.33')
    assert verdicts['mean'].startswith('the site cannot be told: ')


def test_controls_tell_nothing_where_nothing_is(world):
    images, _, cohort = world
    told = controls(People.of(images, cohort))
    assert set(told) == {'mask', 'demographics', 'shuffled'}
    for estimate in told.values():
        assert estimate.low < 0.45


def test_a_site_of_few_people_is_an_error_that_names_it(world):
    images, _, cohort = world
    few = np.flatnonzero((cohort['site'] != 'C') | (np.arange(len(cohort)) % N < 3))
    with pytest.raises(UsageError, match='site C has 3 people, and 10 are needed'):
        People.of(images[few], cohort.iloc[few])
    one = np.flatnonzero(cohort['site'] == 'A')
    with pytest.raises(UsageError, match='all scans are of site A'):
        People.of(images[one], cohort.iloc[one])


def test_unknown_ages_and_sexes_leave_their_measures_out(world, monkeypatch):
    images, _, cohort = world
    monkeypatch.setattr(probes, 'EPOCHS', 1)
    unknown = cohort.assign(age=np.nan, sex=None)
    judged = evaluate(People.of(images, unknown), [ways.untouched(images)], TARGET)
    found = judged['source'].estimates
    assert 'site_linear' in found
    assert not {'age_mae', 'age_r', 'sex', 'age_mae_new_site'} & set(found)


def test_the_headline_holds_a_method_against_the_others(found):
    said = headline(found, 'truth', 1 / 3)
    assert said.startswith('The site cannot be told after truth: 0.')
    assert 'chance 0.33; in the scans 0.9' in said and ', after combat 0.' in said
    assert headline(found, 'source', 1 / 3).startswith('The site can still be told in the scans')
