"""What a run says of the tables before it works."""

from __future__ import annotations

import json

import pytest

from ddae_app.bids.cohort import read_cohort
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.scan import Scan
from ddae_app.bids.understood import facts, near_twins, warnings


@pytest.fixture
def said(bids_dir):
    """What is said of some participants: ``said(['participant_id site', 'sub-01 A'])``."""

    def say(lines, dictionary=None, *, labels=None, json_files=None, **asked):
        rows = [line.split('|') for line in lines]
        text = ''.join('\t'.join(row) + '\n' for row in rows)
        (bids_dir / 'participants.tsv').write_text(text)
        (bids_dir / 'participants.json').write_text(json.dumps(dictionary or {}))
        labels = labels or [row[0].removeprefix('sub-') for row in rows[1:]]
        scans = [Scan(bids_dir / 'x', label, None, f'sub-{label}') for label in labels]
        for label in labels:
            (bids_dir / f'sub-{label}').mkdir(exist_ok=True)
        for name, content in (json_files or {}).items():
            (bids_dir / name).write_text(json.dumps(content))
        metadata = ScanMetadata(bids_dir)
        cohort = read_cohort(bids_dir, scans, metadata=metadata, **asked)
        return facts(cohort, scans), warnings(cohort, scans, metadata)

    return say


def test_what_was_understood_is_told(said):
    told, doubts = said(
        ['participant_id|site|age|sex', 'sub-01|B|020Y|M', 'sub-02|A|34|2', 'sub-03|A|n/a|O'],
        {'sex': {'Levels': {'2': 'female'}}},
    )
    assert told == [
        'input: 3 T1w of 3 participants',
        "sites (column 'site'): A 2, B 1",
        "ages (column 'age', in years): 20 to 34 years ('020Y' read as 20); 1 missing",
        "sexes (column 'sex'): M 1; F 1 ('2'); other 1 ('O'), which a model takes as not known",
    ]
    assert doubts == []


def test_what_is_unknown_is_told(said):
    told, _ = said(['participant_id', 'sub-01'])
    assert told[1:] == [
        'sites: unknown',
        'age unknown (no table has a column age)',
        'sex unknown (no table has a column sex)',
    ]
    told, _ = said(['participant_id|age|sex', 'sub-01|n/a|n/a'])
    assert told[2] == "age unknown (no value in column 'age', in years)"


def test_what_is_missing_and_what_is_not_understood_is_told(said, bids_dir):
    told, doubts = said(
        ['participant_id|site|age|sex', 'sub-01|A|30-34|H', 'sub-02|n/a|31|M', 'sub-09|A|30|F'],
        labels=['01', '02', '03'],
        source_site=None,
    )
    assert told[1:] == [
        "sites (column 'site'): A 1; 2 not known",
        "ages (column 'age', in years): 31 years; 1 not understood; 1 missing",
        "sexes (column 'sex'): 2 not understood; 1 missing",
    ]
    assert doubts[0].startswith("participants.tsv: age of sub-01 is '30-34': a range")
    assert doubts[1].startswith("participants.tsv: sex of sub-01 is 'H': expected")
    assert doubts[2].startswith("participants.tsv: sex of sub-02 is 'M': beside H or V")
    assert doubts[3:] == [
        "no site: site of sub-02 is 'n/a' in participants.tsv",
        'participants.tsv has no row of sub-03',
        'participants.tsv has rows without a folder: sub-09',
    ]


def test_columns_that_are_not_read_are_named(said):
    told, doubts = said(
        ['participant_id|Age_at_MRI|Gender_self|language|site|Scanner', 'sub-01|3|M|en|A|Prisma']
    )
    assert told[1] == "sites (column 'site'; not 'Scanner'): A 1"
    assert doubts == [
        "participants.tsv: 'Age_at_MRI' not read; if it is the age, call the column age",
        "participants.tsv: 'Gender_self' not read; if it is the sex, call the column sex",
    ]


@pytest.mark.parametrize('name', ['LongName', 'Description', 'description'])
def test_a_unit_that_only_the_description_tells_is_doubted(said, name):
    lines = ['participant_id|site|age', 'sub-01|A|24']
    assert said(lines, {'age': {name: 'Age in months, at the scan'}})[1] == [
        'the data dictionary gives age no Units, so it is read in years, but tells of it '
        "'Age in months, at the scan'; write the unit into Units"
    ]
    for clear in (
        {name: 'Age in months, at the scan', 'Units': 'months'},
        {name: 'Age in years, within 30 days of the scan'},
        {name: 'A demographic'},
    ):
        assert said(lines, {'age': clear})[1] == []
    lines[0] = 'participant_id|site|age_months'
    assert said(lines, {'age_months': {name: 'Age in months'}})[1] == []


def test_columns_that_differ_in_case_are_named(bids_dir):
    (bids_dir / 'participants.tsv').write_text(
        'participant_id\tSite\tsite\tage\tAGE\tSex\tsex\nsub-01\tA\tB\t40\t50\tF\tM\n'
    )
    scan = Scan(bids_dir / 'sub-01_T1w.nii.gz', '01', None, 'sub-01')
    told = facts(read_cohort(bids_dir, [scan]), [scan])
    assert told[1:] == [
        "sites (column 'site'; not 'Site'): B 1",
        "ages (column 'age', not 'AGE', in years): 40 years",
        "sexes (column 'sex', not 'Sex'): M 1",
    ]
    for asked, site, line in (
        ('Site', 'A', "sites (column 'Site'): A 1"),
        ('SITE', 'A', "sites (column 'Site'; not 'site'): A 1"),
    ):
        cohort = read_cohort(bids_dir, [scan], site_column=asked)
        assert cohort[scan].site == site and facts(cohort, [scan])[1] == line


def test_the_flag_says_what_it_filled(said):
    lines = ['participant_id|site', 'sub-01|A', 'sub-02|n/a']
    told, doubts = said(lines, source_site='IXI')
    assert told[1] == "sites (column 'site'): A 1, IXI 1; 1 of them by --source-site"
    assert doubts == []
    _, doubts = said(lines[:2], source_site='IXI')
    assert doubts == ['--source-site IXI: no scan lacks a site, so the flag names none']
    told, _ = said(['participant_id', 'sub-01'], source_site='IXI')
    assert told[1] == 'sites (--source-site): IXI 1'


def test_many_of_a_kind_are_counted(said):
    _, doubts = said(['participant_id|site', *(f'sub-{i:02}|n/a' for i in range(8))])
    assert len(doubts) == 6 and doubts[-1] == '... and 3 more of this kind'


@pytest.mark.parametrize(
    ('names', 'twins'),
    [
        (('Siemens1', 'siemens 1', 'Siemens_1'), 1),
        (('UCLA', 'ucla', 'UCLA.0', 'Utrecht', 'utrecht', 'York'), 2),
        (('Site01', 'site1'), 1),
        (('1', '1.0'), 1),
        (('Köln', 'Koln'), 1),
        (('Siemens', 'Simens'), 1),
        (('Siemens', 'Seimens'), 1),
        (('Utrecht', 'Utrech'), 1),
        (('PhantomA', 'PhantomB', 'PhantomC'), 0),
        (('Siemens1', 'Siemens2', 'Siemens10'), 0),
        (('1', '10', '100', '2'), 0),
        (('NYU', 'NYC', 'UCL', 'UCLA'), 0),
        (('Leuven_1', 'Leuven_2', 'Yale', 'Pitt'), 0),
        (('Guys', 'HH', 'IOP'), 0),
    ],
)
def test_sites_that_may_be_one_are_told(names, twins):
    lines = near_twins(names)
    assert len(lines) == twins
    if twins == 1:
        assert all(repr(name) in lines[0] for name in names)


def test_sites_are_compared_with_those_of_a_model():
    (line,) = near_twins({'siemens 1', 'GE'}, ('Siemens1', 'Siemens2', 'GE'))
    assert line.startswith("the sites 'Siemens1', 'siemens 1' have")


def test_the_json_of_the_scans_contradicts_the_table(said):
    rows = ['participant_id|site', 'sub-01|A', 'sub-02|A', 'sub-03|A', 'sub-04|B', 'sub-05|B']
    prisma, skyra = ({'ManufacturersModelName': name} for name in ('Prisma', 'Skyra'))
    of_b = {'ManufacturersModelName': 'Skyra', 'InstitutionName': 'B'}
    files = {
        'T1w.json': prisma,
        'sub-03/sub-03_T1w.json': skyra | {'InstitutionName': 'b'},
        'sub-04/sub-04_T1w.json': of_b,
        'sub-05/sub-05_T1w.json': of_b,
    }
    _, doubts = said(rows, json_files=files)
    assert doubts == [
        'sub-03 is of site A, but InstitutionName of its JSON names site B',
        'the JSON of the scans of site A names several scanners: ManufacturersModelName is '
        "'Prisma' (2), 'Skyra' (1) (the last: sub-03); is it one site?",
    ]
    (said_of, *_), _ = said(rows[:3], json_files={}), None
    assert said_of[1] == "sites (column 'site'): A 2"


def test_json_that_is_damaged_is_told(said, bids_dir):
    (bids_dir / 'T1w.json').write_text('{')
    _, doubts = said(['participant_id|site', 'sub-01|A'])
    assert len(doubts) == 1 and 'T1w.json: not readable as JSON' in doubts[0]


def test_what_a_session_takes_from_its_participant_is_told(bids_dir):
    (bids_dir / 'participants.tsv').write_text('participant_id\tsite\tage\nsub-01\tA\t30\n')
    (bids_dir / 'sub-01').mkdir()
    table = bids_dir / 'sub-01' / 'sub-01_sessions.tsv'
    table.write_text('session_id\tsite\tage\nses-1\tA\t30\nses-2\tB\tn/a\nses-3\tB\t32\n')
    scans = [Scan(bids_dir / 'x', '01', s, f'sub-01_ses-{s}') for s in ('1', '2', '4')]
    metadata = ScanMetadata(bids_dir)
    cohort = read_cohort(bids_dir, scans, metadata=metadata)
    assert facts(cohort, scans)[0] == 'input: 3 T1w of 1 participant in 3 sessions'
    first, second = warnings(cohort, scans, metadata)
    assert first.startswith('sub-01_sessions.tsv has no row of ses-4; it has ses-1, ses-2, ses-3')
    assert second.startswith('age of 1 scan is that of participants.tsv')


def test_sites_of_two_columns_are_told(bids_dir):
    """A place for one person, and a scanner for another, are no sites to compare."""
    (bids_dir / 'participants.tsv').write_text(
        'participant_id\tsite\tscanner\nsub-01\tRome\tPrisma\nsub-02\tRome\tPrisma\n'
    )
    scans = [Scan(bids_dir / 'x', who, '1', f'sub-{who}_ses-1') for who in ('01', '02')]
    sessions = bids_dir / 'sub-01' / 'sub-01_sessions.tsv'
    sessions.parent.mkdir()
    sessions.write_text('session_id\tscanner\nses-1\tPrisma\n')

    def said(scans, **asked):
        cohort = read_cohort(bids_dir, scans, **asked)
        return facts(cohort, scans)[1], warnings(cohort, scans, ScanMetadata(bids_dir))[-1:]

    told, doubts = said(scans)
    assert told == "sites (column 'scanner', column 'site'): Prisma 1, Rome 1"
    assert doubts == [
        "the sites are named by column 'scanner' (1 scan) and column 'site' (1 scan); if these "
        'are not the same thing, name one by --site-column'
    ]
    assert said(scans[:1])[0] == "sites (column 'scanner'): Prisma 1"
    told, doubts = said(scans, site_column='scanner')
    assert told == "sites (column 'scanner'): Prisma 2"
    assert not any('named by' in line for line in doubts)


def test_a_column_of_sessions_that_is_not_read_is_named(bids_dir):
    """Otherwise all sessions would have the age of the participant, and nobody would see why."""
    (bids_dir / 'participants.tsv').write_text('participant_id\tage\nsub-01\t30\n')
    sessions = bids_dir / 'sub-01' / 'sub-01_sessions.tsv'
    sessions.parent.mkdir()
    scan = Scan(bids_dir / 'x', '01', '1', 'sub-01_ses-1')

    def doubts():
        metadata = ScanMetadata(bids_dir)
        return warnings(read_cohort(bids_dir, [scan]), [scan], metadata)

    sessions.write_text('session_id\tage_at_session\tscan_age\nses-1\t35\t35\n')
    assert doubts()[-1] == (
        "sub-*_sessions.tsv: 'age_at_session', 'scan_age' not read; if it is the age, call the "
        'column age'
    )
    sessions.write_text('session_id\tage\tage_at_session\nses-1\t35\t35\n')
    assert not any('not read' in line for line in doubts())


def test_a_sex_that_changes_between_sessions_is_told(bids_dir):
    (bids_dir / 'sub-01').mkdir()
    table = bids_dir / 'sub-01' / 'sub-01_sessions.tsv'
    table.write_text('session_id\tsite\tsex\nses-1\tA\tM\nses-2\tA\tF\n')
    scans = [Scan(bids_dir / 'x', '01', s, f'sub-01_ses-{s}') for s in ('1', '2')]
    cohort = read_cohort(bids_dir, scans)
    told = warnings(cohort, scans, ScanMetadata(bids_dir))
    assert told == ['sub-01: sex is M in one session and F in another']
