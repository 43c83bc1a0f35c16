"""Whether a model can do what is asked of it, and what is said where it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.compatibility import (
    FEWEST_TO_ADAPT,
    check_options,
    check_protocol,
    check_target,
    mismatch,
    site_refusal,
    unseen_site_policy,
)
from ddae_app.methods.cvae import CVAEConfig, CVAEInfo
from ddae_app.methods.modelfile import ModelInfo
from ddae_app.settings import CHOICES

from .toy import info

DDAE = info(phantom=False)
OWN = 'method', 'config', 'evidence', 'networks', 'references'
SHARED = {k: v for k, v in vars(DDAE).items() if k not in OWN}
CVAE = CVAEInfo(config=CVAEConfig(16, multipliers=(1, 2)), **SHARED)
COMBAT = ModelInfo(
    method='combat', **{k: v for k, v in SHARED.items() if k not in ('age_mean', 'age_sd')}
)


def test_a_packaged_site_is_a_target_and_its_namesake_in_a_dataset_is_unknown():
    model = replace(DDAE, references=('B',))
    assert check_target(model, 'B') == 'B'
    assert 'source site B is unknown' in site_refusal(model, 'B', 'refuse')
    assert site_refusal(model, 'B', 'agnostic') is None
    assert site_refusal(model, 'A', 'refuse') is None


@pytest.mark.parametrize('policy', CHOICES['unseen_site'])
@pytest.mark.parametrize('model', [DDAE, CVAE, COMBAT, info(phantom=True)])
def test_a_site_of_the_model_is_never_refused(model, policy):
    assert site_refusal(model, 'B', policy, subjects=1) is None


def test_scans_of_an_unknown_site_are_harmonized_each_by_itself_if_the_model_can():
    assert unseen_site_policy(DDAE, 'auto') == 'agnostic'
    assert site_refusal(DDAE, 'C', 'agnostic') is None
    of_the_paper = info(replace(DDAE.config, condition_dropout=0.0))  # needs age, sex and site
    for model in (CVAE, COMBAT, of_the_paper):
        assert unseen_site_policy(model, 'auto') == 'refuse'
    for asked in ('agnostic', 'adapt', 'refuse'):
        assert unseen_site_policy(DDAE, asked) == asked


def test_an_unknown_site_is_refused_by_default_with_the_ways_out():
    refusal = site_refusal(DDAE, 'C', 'refuse')
    assert refusal == (
        "source site C is unknown to 'toy' ('toy' knows A, B); give --unseen-site agnostic "
        'or adapt, or a model trained with this site'
    )
    for model in (CVAE, COMBAT):
        refusal = site_refusal(model, 'C', 'refuse')
        assert refusal is not None and '--unseen-site' not in refusal
        assert refusal.endswith('; give a model trained with this site')
    refusal = site_refusal(DDAE, None, 'refuse')
    assert refusal is not None
    assert refusal.endswith(
        '; fill it in, or give --source-site, the site of scans that have none'
    )
    refusal = site_refusal(DDAE, None, 'refuse', missing='participants.tsv has no row of sub-01')
    assert refusal is not None
    assert refusal.startswith('its site is not known: participants.tsv has no row of sub-01 (')


def test_networks_that_are_not_calibrated_say_how_to_do_that():
    packaged = replace(DDAE, references=DDAE.sites)
    assert site_refusal(packaged, 'C', 'refuse') == (
        "source site C is unknown to 'toy' ('toy' is calibrated to no site); calibrate first "
        '(ddae-app BIDS_DIR OUTPUT_DIR train), which takes 5 participants of a site or more, or '
        'give --unseen-site agnostic to harmonize each scan by itself'
    )
    with pytest.raises(UsageError, match='knows A, B; for a site of the dataset, calibrate first'):
        check_target(packaged, 'C')


def test_the_agnostic_policy_takes_any_site():
    assert site_refusal(DDAE, 'C', 'agnostic') is None
    assert site_refusal(DDAE, None, 'agnostic', subjects=0) is None


def test_adapting_takes_a_named_site_with_enough_subjects():
    assert site_refusal(DDAE, 'C', 'adapt', FEWEST_TO_ADAPT) is None
    assert site_refusal(DDAE, 'C', 'adapt') is None  # not preprocessed yet
    for few in (0, FEWEST_TO_ADAPT - 1):
        refusal = site_refusal(DDAE, 'C', 'adapt', few)
        assert refusal is not None
        assert f'scans of 5 of its subjects, {few} are there' in refusal
        assert '--unseen-site agnostic' in refusal
    refusal = site_refusal(DDAE, None, 'adapt', 50)
    assert refusal is not None and 'source site n/a' in refusal


def test_options_that_a_method_does_not_support_are_refused():
    check_options(DDAE, 'adapt', keep_noise=True)
    for model in (CVAE, COMBAT):
        check_options(model, 'refuse', keep_noise=False)
        with pytest.raises(UsageError, match='--unseen-site adapt: .* give a model of DDAE'):
            check_options(model, 'adapt', keep_noise=False)
        with pytest.raises(UsageError, match=f'--keep-noise: .* model of {model.method}'):
            check_options(model, 'refuse', keep_noise=True)


def test_the_target_is_a_site_of_the_model():
    assert check_target(DDAE, 'B') == 'B'
    with pytest.raises(UsageError, match="--target-site is missing; 'toy' knows A, B"):
        check_target(DDAE, None)
    with pytest.raises(UsageError, match="--target-site 'C' is unknown to the model; .* A, B"):
        check_target(DDAE, 'C')


def test_flags_do_not_contradict_the_protocol_of_the_model():
    for template, cut in ((None, None), ('MNI152NLin2009aSym', 'medial')):
        assert check_protocol(DDAE, template, cut) == DDAE.protocol
    with pytest.raises(ModelError, match='--template Other: .* was trained with MNI152NLin2009a'):
        check_protocol(DDAE, 'Other', None)
    with pytest.raises(ModelError, match="--slices all: the model 'toy' was trained with medial"):
        check_protocol(DDAE, None, 'all')


def test_what_does_not_fit_preprocessed_scans_is_named():
    assert mismatch(DDAE, ['A', 'B', 'A'], DDAE.protocol) is None
    assert mismatch(DDAE, ['D', 'A', 'C'], DDAE.protocol) == 'it does not know C, D'
    whole = replace(DDAE.protocol, slices='all')
    for other in (whole, replace(DDAE.protocol, template='Other')):
        assert mismatch(DDAE, ['A'], other) == (
            'it takes scans that were preprocessed differently'
        )
    assert mismatch(DDAE, ['A'], whole, any_slices=True) is None
    differently = replace(whole, template='Other')
    assert mismatch(DDAE, ['A'], differently, any_slices=True) is not None
