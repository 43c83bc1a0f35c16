"""What a run takes where no flag says so: slices, brain extraction, masks; and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ddae_app.bids.cohort import Cohort
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import SpaceLayout, sidecar
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import (
    check_selection,
    check_sites_known,
    check_understood,
    derivative_roots,
    extraction_of,
    find_preprocessed,
    mask_folders,
    protocol_without_model,
    select_all_scans,
    select_scans,
    space_of,
)
from ddae_app.errors import InvalidBIDSError, UsageError, WeightsError
from ddae_app.imaging.weights import record_weights, weights_sha256
from ddae_app.settings import (
    HarmonizeSettings,
    PreprocSettings,
    Protocol,
    SelectSettings,
    Settings,
    TrainSettings,
)


def test_participants_without_a_scan_and_what_is_left_out_are_told_once(tmp_path, caplog):
    """They used to be passed over in silence, and what was left out was told at each look."""
    caplog.set_level('INFO', logger='ddae_app')
    (tmp_path / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    for name in ('01_T1w', '02_UNIT1', '03_ce-gadolinium_T1w'):
        scan = tmp_path / f'sub-{name[:2]}' / 'anat' / f'sub-{name}.nii.gz'
        scan.parent.mkdir(parents=True)
        scan.touch()
    select = SelectSettings(skip_bids_validation=True)
    settings = Settings(tmp_path, tmp_path / 'out', 'participant', select=select)
    select_all_scans(settings)
    check_selection(settings)
    assert not caplog.text
    scans, _ = select_scans(settings)
    assert [scan.stem for scan in scans] == ['sub-01']
    assert caplog.text.count('1 contrast-enhanced T1w left out') == 1
    assert caplog.text.count('no scan is taken of sub-02, sub-03: the folder holds no T1w') == 1
    assert 'UNIT1 is none' in caplog.text
    caplog.clear()
    select_scans(replace(settings, select=replace(select, participant_label=('01',))))
    assert 'no scan is taken' not in caplog.text


@pytest.mark.parametrize(
    ('slices', 'method', 'preset', 'expected'),
    [
        (None, None, 'base', 'all'),
        (None, 'combat', 'tiny', 'all'),
        (None, 'cvae', 'tiny', 'medial'),
        (None, 'ddae', 'paper', 'medial'),
        ('medial', None, 'base', 'medial'),
        ('all', 'ddae', 'paper', 'all'),
    ],
)
def test_all_slices_but_for_what_was_published(slices, method, preset, expected):
    settings = Settings(
        Path('/bids'),
        Path('/out'),
        'train',
        preproc=PreprocSettings(slices=slices),
        harmonize=HarmonizeSettings(method=method),
        train=TrainSettings(preset=preset),
    )
    protocol = protocol_without_model(settings)
    assert protocol.slices == expected
    assert protocol.depth == (130 if expected == 'all' else 1)


def weights_in(folder: Path) -> Path:
    """A folder with the files of HD-BET's weights, which nobody vouches for."""
    (folder / 'fold_all').mkdir(parents=True)
    for name in ('plans.json', 'dataset.json', 'fold_all/checkpoint_final.pth'):
        (folder / name).write_text('x')
    return folder


def test_brains_are_extracted_by_hd_bet_where_its_weights_are_and_else_by_deepbet(
    tmp_path, caplog
):
    caplog.set_level('INFO', 'ddae_app')
    usual = PreprocSettings(hd_bet_weights=tmp_path / 'none')
    assert usual.skull_strip == 'auto'
    assert extraction_of(usual) == Extraction('deepbet')
    assert f'deepbet, since {tmp_path / "none"} has no weights of HD-BET' in caplog.text
    weights = weights_in(tmp_path / 'weights')
    digest = weights_sha256(weights)
    record_weights(weights, digest)
    expected = Extraction('hd-bet', weights, digest)
    assert extraction_of(replace(usual, hd_bet_weights=weights)) == expected
    assert f'HD-BET, weights {weights}' in caplog.text
    asked = replace(usual, hd_bet_weights=weights, skull_strip='deepbet')
    assert extraction_of(asked) == Extraction('deepbet')


@pytest.mark.parametrize('method', ['deepbet', 'template', 'none'])
def test_the_log_says_how_brains_are_extracted(caplog, method):
    caplog.set_level('INFO', 'ddae_app')
    assert extraction_of(PreprocSettings(skull_strip=method)) == Extraction(method)
    (message,) = caplog.messages
    assert message.startswith('Brain extraction: ') and method in message


def test_weights_that_cannot_be_used_are_not_left_out_in_silence(tmp_path, caplog):
    asked = PreprocSettings(hd_bet_weights=weights_in(tmp_path / 'weights'))
    assert extraction_of(asked) == Extraction('deepbet')
    (record,) = caplog.records
    assert record.levelname == 'WARNING' and '--hd-bet-sha256' in record.getMessage()
    with pytest.raises(WeightsError, match='--hd-bet-sha256'):
        extraction_of(replace(asked, skull_strip='hd-bet'))


@pytest.mark.parametrize('name', ['plans.json', 'fold_all/checkpoint_final.pth'])
def test_weights_that_were_not_fetched_are_not_taken_for_missing(tmp_path, caplog, name):
    weights = weights_in(tmp_path / 'weights')
    (weights / name).unlink()
    (weights / name).symlink_to('.git/annex/objects/a/b')
    asked = PreprocSettings(hd_bet_weights=weights)
    assert extraction_of(asked) == Extraction('deepbet')
    (record,) = caplog.records
    assert record.levelname == 'WARNING' and 'datalad get' in record.getMessage()
    with pytest.raises(WeightsError, match='datalad get'):
        extraction_of(replace(asked, skull_strip='hd-bet'))


def test_what_was_interrupted_is_not_taken_for_preprocessed(tmp_path):
    scan = Scan(tmp_path / 'sub-01_T1w.nii.gz', '01', None, 'sub-01')
    space = space_of(Protocol())
    torn, whole = tmp_path / 'torn', tmp_path / 'whole'
    for root, record in (torn, ''), (whole, '"MadeFrom": {}'):
        files = SpaceLayout(root, space).preprocessed(scan)
        files.image.parent.mkdir(parents=True)
        for file in files:
            file.touch()
        sidecar(files.image).write_text(f'{{{record}}}')
    assert find_preprocessed(scan, space, [torn]) is None
    assert find_preprocessed(scan, space, [torn, whole]) == files


def test_masks_come_from_datasets_that_are_not_ours(tmp_path):
    for name in ('ours', 'fmriprep'):
        (tmp_path / name).mkdir()
    entries = (f'ddae-app={tmp_path / "ours"}', f'fmriprep={tmp_path / "fmriprep"}')
    settings = Settings(
        tmp_path, tmp_path / 'out', 'participant', select=SelectSettings(derivatives=entries)
    )
    assert mask_folders(settings) == [tmp_path / 'fmriprep']
    assert derivative_roots(settings) == [tmp_path / 'ours', tmp_path / 'out']


def test_masks_need_a_dataset_that_is_there(tmp_path):
    def asked(*entries, file=None):
        return Settings(
            tmp_path, tmp_path / 'out', 'participant',
            select=SelectSettings(derivatives=entries),
            preproc=PreprocSettings(brain_mask_filter=file),
        )  # fmt: skip

    with pytest.raises(UsageError, match='fmriprep=.*nowhere'):
        mask_folders(asked(f'fmriprep={tmp_path / "nowhere"}'))
    with pytest.raises(UsageError, match='--brain-mask-filter.*-d NAME=PATH'):
        mask_folders(asked(file=tmp_path / 'f.json'))


def test_fields_that_could_name_the_site_are_offered():
    settings = Settings(Path('/bids'), Path('/out'), 'participant')
    columns = ('participant_id', 'age')
    with pytest.raises(UsageError, match=r'no site column \(found participant_id, age\)') as error:
        check_sites_known(settings, Cohort({}, None, columns))
    assert 'JSON' not in str(error.value)
    with pytest.raises(UsageError, match=r'JSON of the scans \(StationName\), with --site-column'):
        check_sites_known(settings, Cohort({}, None, columns, site_fields=('StationName',)))
    check_sites_known(settings, Cohort({}, 'site', columns))


@pytest.mark.parametrize(
    ('fields', 'remedies'),
    [
        ((), 'write it, with a column site, or name the one site'),
        (
            ('StationName',),
            r'site, name a field of .* \(StationName\) with --site-column, or name',
        ),
    ],
)
def test_without_a_table_no_column_of_it_is_asked_for(fields, remedies):
    settings = Settings(Path('/bids'), Path('/out'), 'participant')
    with pytest.raises(UsageError, match=f'^/bids/participants.tsv is not .*; .*{remedies}'):
        check_sites_known(settings, Cohort({}, None, (), site_fields=fields))


def test_what_takes_all_scans_refuses_the_first_that_is_not_understood():
    scans = [Scan(Path(f'{stem}_T1w.nii'), stem[4:], None, stem) for stem in ('sub-1', 'sub-2')]
    good = Covariates('A', 30, 'F')
    bad = Covariates('A', unread={'age': "age is '30-34'"})
    check_understood(Cohort({'sub-1': good, 'sub-2': good}, 'site', ()), scans)
    with pytest.raises(InvalidBIDSError, match=r"^sub-2: age is '30-34'$"):
        check_understood(Cohort({'sub-1': good, 'sub-2': bad}, 'site', ()), scans)
    with pytest.raises(
        InvalidBIDSError, match=r'^sub-1: no row \(1 more scan with such a problem\)'
    ):
        check_understood(
            Cohort({'sub-1': Covariates(fault='no row'), 'sub-2': bad}, 'site', ()), scans
        )
