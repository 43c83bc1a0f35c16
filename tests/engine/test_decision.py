"""What is decided for a scan, from what lies on disk and what was asked for; no file is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddae_app.bids import provenance
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Preprocessed
from ddae_app.bids.scan import Scan
from ddae_app.bids.sidecars import ModelFacts
from ddae_app.engine.decision import (
    OutputState,
    PlanRequest,
    ScanState,
    decide,
    listing,
    summary,
)
from ddae_app.settings import Protocol

SCAN = Scan(Path('/bids/sub-01/anat/sub-01_T1w.nii.gz'), '01', None, 'sub-01')
RAW = 'a' * 64
MODEL = SimpleNamespace(
    sites=('A', 'B'),
    source_sites=('A', 'B'),
    name='m',
    method='ddae',
    phantom=False,
    uses_covariates=False,
)
REQUEST = PlanRequest(
    Protocol(),
    model=MODEL,
    facts=ModelFacts('DDAE', 'm', 'f' * 64, False),
    target_site='B',
)
PREPROC = provenance.preprocessing_record(RAW, Protocol(), Extraction('none'), sloppy=False)
FILES = Preprocessed(*(Path(f'/other/sub-01/anat/{name}') for name in ('image', 'mask', 'xfm')))
OWN = Preprocessed(*(Path(f'/out/sub-01/anat/{name}') for name in ('image', 'mask', 'xfm')))


def harmonized_from(record, request=REQUEST, covariates=None, site_scans=None):
    metadata = request.metadata(covariates or Covariates('A'))
    return provenance.harmonization_record(
        record, metadata, site_scans, keep_noise=request.keep_noise, sloppy=request.sloppy
    )


DONE = ScanState(
    SCAN,
    Covariates('A'),
    RAW,
    preproc=OutputState(True, None, PREPROC),
    harmonized=OutputState(True, None, harmonized_from(PREPROC)),
    own=OWN,
)


def states(state, request=REQUEST):
    decision = decide(state, request, [Path('/out')])
    return decision.preprocess.state, decision.harmonize.state


def test_nothing_is_there():
    decision = decide(ScanState(SCAN, Covariates('A'), RAW), REQUEST)
    assert (decision.preprocess.state, decision.harmonize.state) == ('new', 'new')
    assert decision.is_work and decision.preprocessed is None
    assert decision.preproc_record == PREPROC
    assert decision.harmonize_record == harmonized_from(PREPROC)


def test_everything_is_there():
    decision = decide(DONE, REQUEST)
    assert (decision.preprocess.state, decision.harmonize.state) == ('done', 'done')
    assert not decision.is_work and decision.preprocessed == OWN
    assert decision.preproc_record is None


@pytest.mark.parametrize(
    ('change', 'why'),
    [
        ({'target_site': 'A'}, 'target site (B, now A)'),
        ({'keep_noise': True}, 'keep noise (False, now True)'),
        ({'facts': ModelFacts('DDAE', 'm', 'e' * 64, False)}, 'model'),
    ],
)
def test_another_request_is_another_harmonization_alone(change, why):
    decision = decide(DONE, replace(REQUEST, **change))
    assert decision.preprocess.state == 'done'
    assert (decision.harmonize.state, decision.harmonize.why) == ('changed', why)
    assert decision.preprocessed == OWN and decision.preproc_record is None


@pytest.mark.parametrize(
    ('change', 'why'),
    [
        ({'sloppy': True}, 'sloppy (False, now True)'),
        ({'protocol': Protocol(grid=(97, 115, 97))}, 'grid'),
    ],
)
def test_another_preprocessing_makes_both_stages_anew(change, why):
    decision = decide(DONE, replace(REQUEST, **change))
    assert (decision.preprocess.state, decision.preprocess.why) == ('changed', why)
    assert decision.harmonize.state == 'changed' and 'preprocessing' in decision.harmonize.why
    assert decision.preprocessed is None


def test_another_brain_extraction_makes_both_stages_anew():
    decision = decide(replace(DONE, extraction=Extraction('deepbet')), REQUEST)
    assert decision.preprocess.why == 'skull stripping (none, now deepbet)'
    assert decision.harmonize.why == 'preprocessing'
    mask = Extraction('mask', Path('/fmriprep/mask.nii.gz'), 'c' * 64)
    decision = decide(replace(DONE, extraction=mask), REQUEST)
    assert 'skull stripping (none, now mask)' in decision.preprocess.why
    assert decision.extraction == mask
    assert decision.preproc_record['BrainMaskSHA256'] == 'c' * 64


def test_images_of_earlier_steps_are_made_again():
    old = {key: value for key, value in PREPROC.items() if key != 'Steps'}
    decision = decide(replace(DONE, preproc=OutputState(True, None, old)), REQUEST)
    assert (decision.preprocess.state, decision.preprocess.why) == (
        'changed', 'steps of preprocessing',
    )  # fmt: skip


def test_a_scan_without_the_mask_that_was_asked_for_is_refused():
    decision = decide(replace(DONE, extraction='no brain mask of sub-01'), REQUEST)
    assert decision.refusal == 'no brain mask of sub-01' and not decision.is_work


def test_another_image_is_another_scan():
    changed = replace(DONE, raw_sha256='b' * 64)
    decision = decide(changed, REQUEST)
    assert decision.preprocess.why == 'T1w image' and decision.harmonize.why == 'preprocessing'


@pytest.mark.parametrize('covariates', [Covariates('B'), Covariates('A', 40.0, 'F')])
def test_other_covariates_are_another_harmonization(covariates):
    assert states(replace(DONE, covariates=covariates)) == ('done', 'changed')


def test_what_is_missing_or_interrupted_is_made_again():
    lost = replace(DONE, harmonized=replace(DONE.harmonized, missing='x.svg'))
    decision = decide(lost, REQUEST)
    assert (decision.harmonize.state, decision.harmonize.why) == (
        'incomplete', 'x.svg is missing',
    )  # fmt: skip
    # What was asked for tells more than what is missing because of it.
    decision = decide(lost, replace(REQUEST, target_site='A', keep_noise=True))
    assert decision.harmonize.state == 'changed'
    assert decision.harmonize.why == 'target site (B, now A), keep noise (False, now True)'
    interrupted = replace(DONE, preproc=OutputState(True))
    decision = decide(interrupted, REQUEST)
    assert decision.preprocess.state == 'incomplete' and 'interrupted' in decision.preprocess.why
    assert decision.harmonize.state == 'changed'


def test_anew_counts_no_output():
    assert states(DONE, replace(REQUEST, anew=True)) == ('new', 'new')


def test_preprocessing_alone():
    request = replace(REQUEST, model=None, facts=None, target_site=None)
    assert states(DONE, request) == ('done', 'none')
    # Without a model no site is unknown.
    assert states(replace(DONE, covariates=Covariates(None)), request) == ('done', 'none')


def test_what_was_preprocessed_elsewhere_is_reused():
    state = ScanState(SCAN, Covariates('A'), RAW, FILES, PREPROC)
    decision = decide(state, REQUEST)
    assert (decision.preprocess.state, decision.preprocess.why) == (
        'reused',
        '/other, skull stripping none',
    )
    assert decision.harmonize.state == 'new' and decision.preprocessed == FILES
    assert decision.harmonize_record['Preprocessing'] == PREPROC


def test_what_is_not_there_to_be_reused_is_told():
    state, roots = ScanState(SCAN, Covariates('A'), RAW), [Path('/other'), Path('/out')]
    decision = decide(state, REQUEST, roots)
    assert decision.preprocess.state == 'new'
    assert summary([decision])[0] == 'preprocess: 1 new (not preprocessed in /other)'
    assert decide(state, REQUEST, roots[1:]).preprocess.why == ''


def test_what_was_made_for_testing_is_said_where_it_is_reused():
    sloppy = ScanState(SCAN, Covariates('A'), RAW, FILES, PREPROC | {'Sloppy': True})
    decision = decide(sloppy, REQUEST)
    assert decision.preprocess.state == 'reused'
    assert 'made with --sloppy: not suitable for analysis' in summary([decision])[0]


def test_another_image_since_is_refused():
    state = ScanState(SCAN, Covariates('A'), 'b' * 64, FILES, PREPROC)
    decision = decide(state, REQUEST)
    assert decision.preprocess.state == 'refused' and not decision.is_work
    assert 'preprocess it again' in decision.refusal


def test_without_preprocessing_there_is_nothing_to_harmonize():
    request = replace(REQUEST, preprocess=False)
    decision = decide(ScanState(SCAN, Covariates('A'), RAW), request, [Path('/out'), Path('/x')])
    assert '/out, /x; run --stage preproc' in decision.refusal


@pytest.mark.parametrize(
    ('policy', 'subjects', 'refused'),
    [
        ('refuse', None, True), ('agnostic', None, False), ('adapt', None, False),
        ('adapt', 4, True), ('adapt', 5, False),
    ],
)  # fmt: skip
def test_unseen_sites(policy, subjects, refused):
    state = replace(DONE, covariates=Covariates('C'), site_subjects=subjects)
    decision = decide(state, replace(REQUEST, unseen_site=policy))
    assert (decision.harmonize.state == 'refused') is refused
    assert bool(decision.refusal) is refused


def test_other_scans_of_a_measured_site_are_another_harmonization():
    request = replace(REQUEST, unseen_site='adapt')
    covariates = Covariates('C')
    record = harmonized_from(PREPROC, request, covariates, 'd' * 64)
    state = replace(
        DONE,
        covariates=covariates,
        harmonized=OutputState(True, None, record),
        site_subjects=5,
        site_scans_sha256='d' * 64,
    )
    assert states(state, request) == ('done', 'done')
    decision = decide(replace(state, site_scans_sha256='e' * 64), request)
    assert decision.harmonize.why == 'scans of its site'


def test_listing_and_summary():
    decisions = [
        decide(DONE, REQUEST),
        decide(ScanState(SCAN, Covariates('A'), RAW), REQUEST),
        decide(DONE, replace(REQUEST, target_site='A')),
        decide(replace(DONE, covariates=Covariates('C')), REQUEST),
    ]
    assert summary(decisions) == [
        'preprocess: 2 done',
        'preprocess: 1 new',
        'harmonize: 1 changed (target site (B, now A))',
        'harmonize: 1 done',
        'harmonize: 1 new',
    ]
    header, *rows = (line.split('\t') for line in listing(decisions))
    assert header == ['scan', 'preprocess', 'harmonize', 'why']
    assert rows[0] == ['sub-01', 'done', 'done', '-']
    assert rows[2] == ['sub-01', 'done', 'changed', 'target site (B, now A)']
    assert rows[3][1:3] == ['none', 'refused']


@pytest.mark.parametrize(
    ('state', 'expected'),
    [
        (ScanState(SCAN, Covariates('A'), None), ('refused', 'none')),
        # Whether the outputs are of this image cannot be told.
        (replace(DONE, raw_sha256=None), ('refused', 'none')),
        (ScanState(SCAN, Covariates('A'), None, FILES, PREPROC), ('reused', 'new')),
    ],
)
def test_an_image_that_was_not_fetched_is_refused_where_it_is_needed(state, expected):
    state = replace(state, raw_not_fetched='run "datalad get x"')
    assert states(state) == expected
    decision = decide(state, REQUEST)
    assert decision.refusal == ('run "datalad get x"' if expected[0] == 'refused' else None)


def test_whole_scans_need_the_image_itself():
    request = replace(REQUEST, protocol=Protocol(slices='all'), preprocess=False)
    state = ScanState(SCAN, Covariates('A'), None, FILES, PREPROC, PREPROC, raw_not_fetched='get')
    assert decide(state, request).refusal == 'get'
    done = OutputState(True, None, harmonized_from(PREPROC, request))
    assert decide(replace(state, harmonized=done), request).refusal is None


@pytest.mark.parametrize('preprocess', [True, False])
def test_a_preprocessed_scan_that_was_not_fetched_is_not_made_again(preprocess):
    state = ScanState(SCAN, Covariates('A'), RAW, not_fetched='get')
    request = replace(REQUEST, preprocess=preprocess)
    assert decide(state, request).refusal == 'get'


def test_a_scan_of_which_the_tables_contradict_each_other_is_refused_at_every_stage():
    state = replace(DONE, covariates=Covariates('A', fault='no row of ses-01'))
    preprocess_only = replace(REQUEST, model=None, facts=None, target_site=None)
    for request in (REQUEST, preprocess_only):
        decision = decide(state, request)
        assert decision.refusal == 'no row of ses-01' and not decision.is_work


def test_an_age_that_is_not_understood_is_refused_where_the_method_takes_ages():
    state = replace(DONE, covariates=Covariates('A', unread={'age': "age is '30-34'"}))
    takes_ages = replace(REQUEST, model=SimpleNamespace(**vars(MODEL) | {'uses_covariates': True}))
    assert decide(state, takes_ages).refusal == "age is '30-34'"
    assert decide(state, REQUEST).refusal is None


def test_the_refusal_says_what_is_missing_of_the_site():
    state = replace(DONE, covariates=Covariates(no_site='participants.tsv has no row of sub-01'))
    refusal = decide(state, REQUEST).refusal
    assert refusal is not None and 'participants.tsv has no row of sub-01' in refusal
