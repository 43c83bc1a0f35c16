from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ddae_app.bids.cohort import SITE_COLUMNS, Cohort, Covariates, read_cohort
from ddae_app.bids.scan import Scan
from ddae_app.errors import InvalidBIDSError, UsageError


def scan(participant: str = '01', session: str | None = None) -> Scan:
    stem = f'sub-{participant}' + (f'_ses-{session}' if session else '')
    return Scan(Path(f'{stem}_T1w.nii.gz'), participant, session, stem)


@pytest.fixture
def people(bids_dir):
    """Write participants.tsv and its dictionary: ``people('participant_id site', 'sub-01 A')``."""

    def write(*lines: str, **dictionary: dict) -> None:
        text = ''.join('\t'.join(line.split(' ')) + '\n' for line in lines)
        (bids_dir / 'participants.tsv').write_text(text)
        if dictionary:
            (bids_dir / 'participants.json').write_text(json.dumps(dictionary))

    return write


@pytest.fixture
def known(bids_dir):
    """What is known of one scan."""

    def read(of: Scan | None = None, **asked) -> Covariates:
        of = of or scan()
        return read_cohort(bids_dir, [of], **asked)[of]

    return read


def test_site_age_and_sex(people, known):
    people('participant_id age sex site', 'sub-02 70 M B', 'sub-01 31.5 F A')
    assert known() == Covariates('A', 31.5, 'F')


@pytest.mark.parametrize('column', [*SITE_COLUMNS, 'SITE', 'Site_ID', 'Scanner'])
def test_every_usual_name_of_the_site_column(people, known, bids_dir, column):
    people(f'participant_id group {column}', 'sub-01 patient A')
    assert known().site == 'A'
    assert read_cohort(bids_dir, [scan()]).site_column == column


def test_the_first_usual_name_wins(people, known):
    people('participant_id scanner institution site', 'sub-01 Prisma Here A')
    assert known().site == 'A'


def test_the_named_site_column_wins(people, known):
    people('participant_id site Vendor', 'sub-01 A Siemens')
    assert known(site_column='vendor').site == 'Siemens'


def test_a_site_column_that_is_not_there(people, known):
    people('participant_id site', 'sub-01 A')
    with pytest.raises(UsageError, match="'Vendor'.*which has participant_id, site"):
        known(site_column='Vendor')


def test_a_site_column_without_a_table(known):
    with pytest.raises(UsageError, match='participants.tsv, which is not there'):
        known(site_column='Vendor')


def test_the_site_of_all_scans_may_be_named(people, known, bids_dir):
    people('participant_id site', 'sub-01 A')
    assert known(source_site='IXI').site == 'IXI'
    assert read_cohort(bids_dir, [scan()], source_site='IXI').site_column == '--source-site'


def test_nothing_is_known_without_a_table(bids_dir):
    cohort = read_cohort(bids_dir, [scan()])
    assert cohort[scan()].site is None and cohort[scan()].sex is None
    assert math.isnan(cohort[scan()].age)
    assert (cohort.site_column, cohort.columns) == (None, ())


def test_a_participant_without_a_row_is_not_known(people, known):
    people('participant_id site', 'sub-02 A')
    assert known().site is None


def test_labels_without_prefix(people, known):
    people('participant_id site', '01 A')
    assert known().site == 'A'


@pytest.mark.parametrize('header', ['sex', 'gender', 'Gender', 'SEX'])
@pytest.mark.parametrize(
    ('value', 'sex'),
    [
        ('M', 'M'),
        ('f', 'F'),
        ('male', 'M'),
        ('Female', 'F'),
        ('1', None),
        ('2', None),
        ('O', None),
    ],
)
def test_sex(people, known, header, value, sex):
    people(f'participant_id {header}', f'sub-01 {value}')
    assert known().sex == sex


@pytest.mark.parametrize(
    'levels',
    [
        {'1': 'male', '2': 'female'},
        {'1': 'Male participant', '2': 'Female participant'},
        {'1': {'Description': 'Man'}, '2': {'Description': 'Woman'}},
    ],
)
def test_codes_of_sex_need_a_dictionary(people, known, levels):
    people('participant_id sex', 'sub-01 1', 'sub-02 2', 'sub-03 3', sex={'Levels': levels})
    assert [known(scan(label)).sex for label in ('01', '02', '03')] == ['M', 'F', None]


@pytest.mark.parametrize('levels', [None, [], 'male', {'1': None}])
def test_a_dictionary_that_explains_nothing(people, known, levels):
    people('participant_id sex', 'sub-01 1', sex={'Levels': levels})
    assert known().sex is None


@pytest.mark.parametrize('value', ['n/a', 'N/A', 'NA', 'NaN', '', 'none', 'Unknown', 'n.a.'])
def test_missing_values(people, known, value):
    people('participant_id age sex site', f'sub-01 {value} {value} {value}')
    here = known()
    assert here.site is None and here.sex is None and math.isnan(here.age)


@pytest.mark.parametrize(
    ('value', 'age'),
    [('89+', 89), ('21,5', 21.5), ('0', 0), ('95', 95), ('-1', None), ('131', None), ('old', None),
     ('inf', None), ('400', None)],
)  # fmt: skip
@pytest.mark.parametrize('header', ['age', 'Age', 'age_at_scan'])
def test_age(people, known, header, value, age):
    people(f'participant_id {header}', f'sub-01 {value}')
    assert known().age == pytest.approx(math.nan if age is None else age, nan_ok=True)


@pytest.mark.parametrize(
    ('units', 'age'), [('months', 50), ('Month', 50), ('weeks', 11.5), ('days', 1.64), ('y', None)]
)
def test_units_of_age(people, known, units, age):
    people('participant_id age', 'sub-01 600', age={'Units': units})
    assert known().age == pytest.approx(math.nan if age is None else age, rel=0.01, nan_ok=True)


@pytest.mark.parametrize(
    'encode', [lambda b: b'\xef\xbb\xbf' + b, lambda b: b.replace(b'\n', b'\r\n')]
)
def test_tables_of_spreadsheets(people, known, bids_dir, encode):
    people('participant_id age sex site', 'sub-01 30 F Köln')
    path = bids_dir / 'participants.tsv'
    path.write_bytes(encode(path.read_bytes()))
    assert known() == Covariates('Köln', 30, 'F')


def test_values_with_spaces_and_short_rows(known, bids_dir):
    (bids_dir / 'participants.tsv').write_text('participant_id\tsite \tage\nsub-01\t Site A \n\n')
    assert known().site == 'Site A'
    assert math.isnan(known().age)


def test_a_table_with_commas_is_refused(known, bids_dir):
    (bids_dir / 'participants.tsv').write_text('participant_id,site\nsub-01,A\n')
    with pytest.raises(
        InvalidBIDSError, match=r"participants.tsv: no column 'participant_id'.*tabs"
    ):
        known()


@pytest.mark.parametrize('content', [b'', b'participant_id\tsite\nsub-01\tK\xf6ln\n', b'\x00\x01'])
def test_a_table_that_is_none(known, bids_dir, content):
    (bids_dir / 'participants.tsv').write_bytes(content)
    with pytest.raises(InvalidBIDSError, match=r'participants.tsv') as error:
        known()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', ['{', '[1]'])
def test_a_dictionary_that_is_none(people, known, bids_dir, content):
    people('participant_id site', 'sub-01 A')
    (bids_dir / 'participants.json').write_text(content)
    with pytest.raises(InvalidBIDSError, match='participants.json'):
        known()


def test_rows_that_contradict_each_other_are_refused(people, known):
    people('participant_id site', 'sub-01 A', 'sub-01 B', 'sub-02 A', 'sub-02 A')
    assert known(scan('02')).site == 'A'
    with pytest.raises(InvalidBIDSError, match='01 has several rows, which differ; expected one'):
        known()


@pytest.fixture
def sessions(bids_dir):
    """Write sub-01's sessions.tsv."""

    def write(*lines: str) -> Path:
        (bids_dir / 'sub-01').mkdir()
        path = bids_dir / 'sub-01' / 'sub-01_sessions.tsv'
        path.write_text(''.join('\t'.join(line.split(' ')) + '\n' for line in lines))
        return path

    return write


def test_a_session_wins_over_its_participant(people, sessions, known):
    people('participant_id age sex site', 'sub-01 30 F A')
    sessions('session_id age site', 'ses-1 31 n/a', '2 33 B')
    assert known(scan(session='1')) == Covariates('A', 31, 'F')
    assert known(scan(session='2')) == Covariates('B', 33, 'F')
    assert known(scan(session='3')) == Covariates('A', 30, 'F')
    assert known(scan()) == Covariates('A', 30, 'F')


def test_the_site_may_be_known_of_sessions_only(people, sessions, bids_dir):
    people('participant_id age', 'sub-01 30')
    sessions('session_id Vendor site', 'ses-1 GE A')
    first = scan(session='1')
    cohort = read_cohort(bids_dir, [first])
    assert (cohort[first].site, cohort.site_column) == ('A', 'site')
    assert read_cohort(bids_dir, [first], site_column='Vendor')[first].site == 'GE'


def test_sessions_may_have_a_dictionary_of_their_own(people, sessions, known, bids_dir):
    people('participant_id age', 'sub-01 30')
    path = sessions('session_id age', 'ses-1 372')
    (bids_dir / 'sessions.json').write_text('{"age": {"Units": "months"}}')
    assert known(scan(session='1')).age == 31
    path.with_suffix('.json').write_text('{"age": {"Units": "days"}}')
    assert known(scan(session='1')).age == pytest.approx(1.018, abs=0.001)


def test_the_summary_counts_what_is_missing():
    scans = [scan(f'{number:02}') for number in range(72)]
    covariates = {
        s.stem: Covariates(
            f'S{n % 7}', math.nan if n < 3 else 18 if n == 3 else 80 if n == 4 else 50,
            None if n in (10, 11) else 'F',
        )
        for n, s in enumerate(scans)
    }  # fmt: skip
    assert Cohort(covariates, 'site', ()).summary(scans) == (
        "72 T1w of 72 participants; site from column 'site': 7 sites; age 18-80, 3 missing; "
        'sex 2 missing'
    )


@pytest.mark.parametrize(
    ('of', 'column', 'line'),
    [
        (Covariates(), None, '1 T1w of 1 participant; site unknown; age unknown; sex unknown'),
        (
            Covariates('A', 30, 'F'),
            '--source-site',
            '1 T1w of 1 participant; site from --source-site: 1 site; age 30; sex known',
        ),
        (
            Covariates(None, 30, 'F'),
            'site',
            "1 T1w of 1 participant; site from column 'site': 0 sites, 1 missing; age 30; "
            'sex known',
        ),
    ],
)
def test_the_summary_of_one_scan(of, column, line):
    assert Cohort({'sub-01': of}, column, ()).summary([scan()]) == line


def test_further_columns_are_looked_up_where_they_are_known(people, known, bids_dir):
    people('participant_id site Group score', 'sub-01 A patient n/a', 'sub-02 A n/a 3')
    assert known(further=['group', 'score']).further == {'group': 'patient'}
    assert known(scan('02'), further=['group', 'score']).further == {'score': '3'}
    with pytest.raises(UsageError, match=r"--biology 'grp'.*has participant_id, site, Group"):
        known(further=['grp'])


def test_a_session_has_further_columns_of_its_own(people, known, bids_dir):
    people('participant_id site group', 'sub-01 A patient')
    folder = bids_dir / 'sub-01'
    folder.mkdir(exist_ok=True)
    (folder / 'sub-01_sessions.tsv').write_text('session_id\tscore\nses-b\t7\n')
    found = known(scan('01', 'b'), further=['group', 'score']).further
    assert found == {'group': 'patient', 'score': '7'}


@pytest.mark.parametrize('site', ['\x1b[2J', 'x' * 201, 'one\x85two'])
def test_sites_that_are_no_names_are_refused(people, known, site):
    people('participant_id site', f'sub-01 {site}')
    with pytest.raises(InvalidBIDSError, match='sub-01: its site is .*200 characters'):
        known()
    with pytest.raises(InvalidBIDSError, match='its site is'):
        known(source_site=site)


def test_a_site_may_be_written_in_any_script(people, known):
    people('participant_id site', 'sub-01 Köln\xa0(西)')
    assert known().site == 'Köln\xa0(西)'
