"""The evaluation: sound methods pass, and each way to fail is detected by its own measure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.errors import NotEvaluableError
from ddae_app.evaluation import predictions, probes
from ddae_app.evaluation.candidates import blurred, cross_fitted, precomputed, unharmonized
from ddae_app.evaluation.data import EvaluationData
from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.findings import OUTPUT_PROBES, findings, headline
from ddae_app.evaluation.predictions import INTENSITY_BINS
from ddae_app.evaluation.protocol import MEANING, controls, evaluate
from ddae_app.methods.combat import ComBat

N = 60
SITES = ('A', 'B', 'C')
TARGET = 'A'
NOT_MEASURED = ('paired_psnr', 'paired_ssim', 'icc', 'fid', 'kid')
"""No subject traveled, and there is no Inception network."""


class AgeWriter:
    """Writes the age that it is given into the image, or 50."""

    def fit(self, images, cohort):
        return self

    def transform(self, images, cohort, target_site):
        ages = cohort['age'].fillna(50).to_numpy()[:, None, None]
        return np.where(images > 0, images * 0.5 + ages / 160, 0).astype(np.float32)


@pytest.fixture(scope='module')
def world():
    """Brains that show age and sex, and scanners that shift and shade their intensities."""
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
def estimates(world):
    """The estimates of every candidate, sound or not."""
    images, truth, cohort = world
    target = images[cohort['site'] == TARGET].mean(axis=0)
    everybody = np.arange(len(images))
    leaky = ComBat().fit(images, cohort).transform(images, cohort, TARGET)
    candidates = [
        unharmonized(images),
        precomputed('truth', truth, 'n/a'),
        cross_fitted('combat', ComBat(), images, cohort, TARGET),
        blurred(images),
        precomputed('mean', np.where(images > 0, target, 0).astype(np.float32), 'everybody'),
        cross_fitted('age-writer', AgeWriter(), images, cohort, TARGET),
        precomputed('leaky', leaky, 'everybody'),
        precomputed('identity', images[everybody], 'n/a'),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, 'COSTLY_TEST_SCANS', 30)  # one network for each half
        results = evaluate(EvaluationData.from_cohort(images, cohort), candidates, TARGET)
    return {name: result.estimates for name, result in results.items()}


def warnings(estimates, name):
    conclusions = findings(estimates[name], estimates['source'], 1 / 3)
    return ' / '.join(finding.text for finding in conclusions if finding.warning)


def test_the_order_of_the_methods_is_that_of_the_truth(estimates):
    accuracy = {
        name: estimates[name]['site_linear'].value for name in ('source', 'combat', 'truth')
    }
    assert accuracy['source'] > 0.8
    assert accuracy['truth'] < 0.45
    assert accuracy['truth'] <= accuracy['combat'] < accuracy['source'] - 0.3
    for name in ('source', 'truth', 'combat'):
        for measure, estimate in estimates[name].items():
            assert estimate.low <= estimate.value <= estimate.high, (name, measure)
    assert set(estimates['combat']) == set(MEANING) - {'site_all', *NOT_MEASURED}
    assert set(estimates['truth']) == set(MEANING) - {'age_slope', *NOT_MEASURED}


def test_biology_is_predicted_from_the_truth(estimates):
    truth = estimates['truth']
    assert truth['age_r'].value > 0.8 and truth['age_r_within_site'].value > 0.8
    assert truth['sex'].value > 0.8
    assert truth['age_mae_new_site'].value < estimates['source']['age_mae_new_site'].value
    assert truth['identified'].value > 0.9 and truth['rank'].value > 0.8


def test_sound_methods_get_no_warning(estimates):
    assert warnings(estimates, 'truth') == ''
    assert warnings(estimates, 'combat') == ''
    assert warnings(estimates, 'source') == ''


@pytest.mark.parametrize(
    ('failing', 'warning'),
    [
        ('blur', 'Site effects are hidden, not removed'),
        ('mean', 'Individual anatomy is lost'),
        ('age-writer', 'The method writes age into the images'),
        ('leaky', 'below chance'),
        ('identity', 'The site can be classified as well as from the original scans'),
    ],
)
def test_each_failure_gets_its_warning(estimates, failing, warning):
    assert warning in warnings(estimates, failing)


def test_better_age_prediction_is_no_warning_for_a_method_that_receives_no_age():
    def of(r):
        near = Estimate(r, r - 0.05, r + 0.05, 100)
        return dict.fromkeys(MEANING, Estimate(0.9, 0.85, 0.95, 100)) | {'age_r': near}

    source, better = of(0.4), of(0.6)
    del better['age_slope'], source['age_slope']
    for blind in (True, False):
        conclusions = findings(better, source, 0.5, label_blind=blind)
        (age,) = [each for each in conclusions if 'Age is predicted better' in each.text]
        assert age.warning != blind
        assert ('may have written the age into the images' in age.text) != blind


def test_the_first_finding_is_about_the_site(estimates):
    verdicts = {
        name: findings(estimates[name], estimates['source'], 1 / 3)[0].text
        for name in ('source', 'mean')
    }
    assert verdicts['source'].startswith('The original scans show site effects: ')
    assert verdicts['source'].endswith('chance 0.33).')
    assert verdicts['mean'].startswith('The outputs show no site effects')


def test_controls_are_at_chance_without_confounding(world):
    images, _, cohort = world
    accuracies = controls(EvaluationData.from_cohort(images, cohort))
    assert set(accuracies) == {'mask', 'demographics', 'shuffled'}
    for estimate in accuracies.values():
        assert estimate.low < 0.45


def test_a_site_of_few_people_is_an_error_that_names_it(world):
    images, _, cohort = world
    few = np.flatnonzero((cohort['site'] != 'C') | (np.arange(len(cohort)) % N < 3))
    message = r'of C \(3\): 10 of each site are needed; exclude these scans'
    with pytest.raises(NotEvaluableError, match=message):
        EvaluationData.from_cohort(images[few], cohort.iloc[few])
    fewer = few[(cohort['site'].iloc[few] != 'B') | (few % N < 4)]
    # Nothing could be compared without both.
    with pytest.raises(NotEvaluableError, match=r'of B \(4\), C \(3\): 10 .* are needed; add'):
        EvaluationData.from_cohort(images[fewer], cohort.iloc[fewer])
    one = np.flatnonzero(cohort['site'] == 'A')
    with pytest.raises(NotEvaluableError, match='all scans are of site A'):
        EvaluationData.from_cohort(images[one], cohort.iloc[one])


def test_results_do_not_depend_on_how_many_are_evaluated_at_once(world, monkeypatch):
    images, _, cohort = world
    images, cohort = images[::2], cohort[::2].reset_index(drop=True)  # half are enough for that
    monkeypatch.setattr(probes, 'EPOCHS', 1)
    monkeypatch.setattr(probes, 'LEAST_STEPS', 5)
    data = EvaluationData.from_cohort(images, cohort)
    candidates = [
        unharmonized(images),
        cross_fitted('combat', ComBat(), images, cohort, TARGET),
        precomputed('same', images, 'n/a'),
    ]
    shown = [40, 3]
    alone, together = (evaluate(data, candidates, TARGET, at_once=n, shown=shown) for n in (1, 3))
    assert list(together) == ['source', 'combat', 'same']
    for name, result in together.items():
        # As text, since not a number equals not a number there.
        assert repr(result.estimates) == repr(alone[name].estimates)
        assert np.array_equal(result.shown, alone[name].shown)
        assert result.intensities.keys() == alone[name].intensities.keys()
        for site, counts in result.intensities.items():
            assert np.array_equal(counts, alone[name].intensities[site])
    assert repr(together['same'].estimates) == repr(together['source'].estimates)
    source = together['source']
    assert np.array_equal(source.shown, images[shown])
    assert not np.array_equal(together['combat'].shown, images[shown])
    assert list(source.intensities) == sorted(set(cohort['site']))
    for site, counts in source.intensities.items():
        scans = images[cohort['site'] == site]
        assert np.array_equal(counts, np.histogram(scans[scans > 0], INTENSITY_BINS)[0])


@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_unknown_ages_and_sexes_leave_their_measures_out(world, monkeypatch):
    images, _, cohort = world
    monkeypatch.setattr(probes, 'EPOCHS', 1)
    monkeypatch.setattr(probes, 'LEAST_STEPS', 1)
    unknown = cohort.assign(age=np.nan, sex=None)
    data = EvaluationData.from_cohort(images, unknown)
    measured = evaluate(data, [unharmonized(images)], TARGET)['source'].estimates
    assert 'site_linear' in measured
    assert not {'age_mae', 'age_r', 'sex', 'age_mae_new_site'} & set(measured)
    assert set(controls(data)) == {'mask', 'shuffled'}, 'of nothing, no site can be told'


def test_age_in_the_images_is_found_where_few_ages_are_known(world, monkeypatch):
    """In some folds too few are known to predict it, which does not say that nothing changed."""
    images, _, cohort = world
    monkeypatch.setattr(probes, 'EPOCHS', 1)
    monkeypatch.setattr(probes, 'LEAST_STEPS', 1)
    monkeypatch.setattr(predictions, 'COSTLY_TEST_SCANS', 1)
    monkeypatch.setattr(predictions, 'MIN_TRAINING_SCANS', 12)
    few = cohort.assign(age=cohort['age'].where(np.arange(len(cohort)) % 3 == 0))[::2]
    data = EvaluationData.from_cohort(images[::2], few)
    candidate = cross_fitted('age-writer', AgeWriter(), images[::2], few, TARGET)
    measured = evaluate(data, [candidate], TARGET)['age-writer'].estimates
    assert 10 < measured['age_r'].n < few['age'].notna().sum()
    assert measured['age_slope'].n <= measured['age_r'].n
    assert measured['age_slope'].value > 0.8


def test_a_target_of_other_scans_leaves_out_the_distances_to_it_alone(world, monkeypatch):
    images, _, cohort = world
    images, cohort = images[::2], cohort[::2].reset_index(drop=True)  # half are enough for that
    monkeypatch.setattr(probes, 'EPOCHS', 1)
    monkeypatch.setattr(probes, 'LEAST_STEPS', 1)
    data = EvaluationData.from_cohort(images, cohort)
    here, elsewhere = (
        evaluate(data, [unharmonized(images)], target)['source'].estimates
        for target in (TARGET, 'Elsewhere')
    )
    assert set(here) - set(elsewhere) == {'target_distance', 'frechet', 'kernel', 'mmd'}
    assert elsewhere == {name: here[name] for name in elsewhere}


def test_the_headline_compares_a_method_with_the_others(estimates):
    text = headline(estimates, 'truth', 1 / 3)
    assert text.startswith('The outputs of truth show no site effects')
    assert 'chance 0.33). For comparison' in text
    best = max(estimates['source'][name].value for name in OUTPUT_PROBES)
    assert best > 0.8 and f': the original scans {best:.2f}' in text
    assert ', combat 0.' in text and 'truth 0.' not in text
    source = headline(estimates, 'source', 1 / 3)
    assert source.startswith('The original scans show site effects')


def test_controls_of_people_who_were_all_scanned_at_every_site(world):
    """Their first sites are all the same, and of one site no classifier can be trained."""
    images, _, cohort = world
    people = cohort['subject'].where(cohort['site'] == 'A', np.roll(cohort['subject'], N))
    traveled = np.flatnonzero(cohort['site'] != 'C')
    data = EvaluationData.from_cohort(
        images[traveled], cohort.assign(subject=people).iloc[traveled]
    )
    assert set(data.subjects[data.sites == 'A']) == set(data.subjects[data.sites == 'B'])
    accuracies = controls(data)
    assert set(accuracies) == {'mask', 'demographics', 'shuffled'}
    assert accuracies['shuffled'].low < 0.5 < accuracies['shuffled'].high


@pytest.mark.filterwarnings('error')
def test_what_is_unknown_of_one_site_does_not_tell_it_from_age_and_sex(world):
    """The mean age in the place of unknown ones did: nobody elsewhere is of that very age."""
    images, _, cohort = world
    people, at_b = np.arange(len(cohort)), cohort['site'] == 'B'

    def told(**changes):
        data = EvaluationData.from_cohort(images, cohort.assign(**changes))
        return controls(data)['demographics']

    sex_alone, age_alone = told(age=np.nan), told(sex=None)
    assert told(age=cohort['age'].mask(at_b)) == sex_alone
    assert told(age=cohort['age'].mask(at_b & (people % 2 > 0))) == sex_alone
    assert told(sex=cohort['sex'].mask(at_b, None)) == age_alone
    few = at_b & (people % 9 == 0)
    assert told(age=cohort['age'].mask(few)).n == len(cohort) - few.sum()
