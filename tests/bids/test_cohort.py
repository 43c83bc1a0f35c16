from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ddae_app.bids.cohort import read_cohort
from ddae_app.bids.covariates import SITE_COLUMNS, Covariates
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


def test_the_flag_names_the_site_of_scans_without_one(people, known, bids_dir):
    people('participant_id site', 'sub-01 A', 'sub-02 n/a')
    assert known(source_site='IXI').site == 'A'
    for label in ('02', '03'):
        filled = known(scan(label), source_site='IXI')
        assert (filled.site, filled.site_from) == ('IXI', '--source-site')
    people('participant_id age', 'sub-01 30')
    assert known(source_site='IXI').site == 'IXI'
    assert read_cohort(bids_dir, [scan()], source_site='IXI').site_column == '--source-site'


@pytest.mark.parametrize(
    ('lines', 'of', 'reason'),
    [
        (['participant_id site', 'sub-02 A'], '01', 'participants.tsv has no row of sub-01'),
        (
            ['participant_id site', 'sub-01 n/a'],
            '01',
            "site of sub-01 is 'n/a' in participants.tsv",
        ),
        (
            ['participant_id age', 'sub-01 30'],
            '01',
            'participants.tsv has no site column (found participant_id, age)',
        ),
        ([], '01', 'participants.tsv is not there'),
    ],
)
def test_what_is_missing_of_a_site_is_told(people, known, lines, of, reason):
    if lines:
        people(*lines)
    assert known(scan(of)).no_site == reason


def test_a_row_that_is_spelled_otherwise_is_no_missing_row(people, known, bids_dir):
    people('participant_id site', 'sub-1 A', 'sub-02 B', 'sub-2 C')
    assert known().fault == (
        'participants.tsv has no row of sub-01, but one of sub-1, which may be the same person; '
        'write both alike'
    )
    assert known(scan('02')).site == 'B'
    (bids_dir / 'sub-1').mkdir()
    assert known().fault is None, 'the row is that of another participant'


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
        ('hombre', 'M'),
        ('Mujer', 'F'),
        ('O', None),
        ('other', None),
    ],
)
def test_sex(people, known, header, value, sex):
    people(f'participant_id {header}', f'sub-01 {value}')
    assert (known().sex, known().unread) == (sex, {})


@pytest.mark.parametrize('value', ['1', '2', '0', 'H', 'w', 'X', 'M?', 'male/female', 'm f'])
def test_a_sex_that_is_not_understood_is_told(known, bids_dir, value):
    (bids_dir / 'participants.tsv').write_text(f'participant_id\tsex\nsub-01\t{value}\n')
    assert known().sex is None
    assert known().unread['sex'] == (
        f'participants.tsv: sex of sub-01 is {value!r}: expected M, F or O, a word such as '
        'female or other, or a code that "Levels" in participants.json explains; mend it, or '
        'write n/a if it is not known'
    )


@pytest.mark.parametrize(
    'levels',
    [
        {'1': 'male', '2': 'female'},
        {'1': 'Male participant', '2': 'Female participant'},
        {'1': {'Description': 'Man'}, '2': {'Description': 'Woman'}},
        {'1': 'sex at birth: male', '2': 'hembra (female)'},
        {'1': 'M', '2': 'F', '9': 'unknown'},
    ],
)
def test_codes_of_sex_need_a_dictionary(people, known, levels):
    rows = ('sub-01 1', 'sub-02 2.0', 'sub-03 3')
    people('participant_id Sex', *rows, sex={'Levels': levels})
    assert [known(scan(label)).sex for label in ('01', '02', '03')] == ['M', 'F', None]
    assert [*known(scan('03')).unread] == ['sex']
    assert not known().unread


def test_the_dictionary_wins_over_the_usual_meaning(people, known):
    levels = {
        'H': 'male (hombre)', 'M': 'female (mujer)', '?': 'unknown', 'x': 'male or female',
        'y': 'not female', 'z': 'male, not verified',
    }  # fmt: skip
    rows = ('sub-01 H', 'sub-02 M', 'sub-03 ?', 'sub-04 x', 'sub-05 y', 'sub-06 z')
    people('participant_id sex', *rows, sex={'Levels': levels})
    read = [known(scan(f'0{i}')) for i in range(1, 7)]
    assert [c.sex for c in read] == ['M', 'F', None, None, None, 'M']
    assert [[*c.unread] for c in read] == [[], [], [], ['sex'], ['sex'], []]


@pytest.mark.parametrize('other', ['H', 'V'])
def test_m_is_not_male_where_it_may_be_mujer(people, known, other):
    people('participant_id sex', f'sub-01 {other}', 'sub-02 M', 'sub-03 F')
    assert 'it may be mujer or male' in known(scan('02')).unread['sex']
    assert known(scan('03')).sex == 'F'


@pytest.mark.parametrize(
    'levels',
    [None, [], 'male', {'1': None}, {'1': 3}, {'1': 'one'}, {'1': ''}, {'1': {'TermURL': 'x'}}],
)
def test_a_dictionary_that_explains_nothing(people, known, levels):
    people('participant_id sex', 'sub-01 1', sex={'Levels': levels})
    assert known().sex is None
    assert 'sex of sub-01 is' in known().unread['sex']


@pytest.mark.parametrize('empty', ['', ' ', {'TermURL': 'https://purl.org/x'}])
def test_levels_without_a_text_leave_a_value_as_it_is(people, known, empty):
    levels = {'M': empty, 'F': empty, '30': empty}
    columns = {'sex': {'Levels': levels}, 'age': {'Levels': levels}}
    people('participant_id sex age', 'sub-01 F 30', 'sub-02 M 31', **columns)
    read = [known(scan(label)) for label in ('01', '02')]
    assert [(c.sex, c.age, c.unread) for c in read] == [('F', 30, {}), ('M', 31, {})]


@pytest.mark.parametrize(
    'value',
    ['n/a', 'N/A', 'NA', 'NaN', '', 'none', 'Unknown', 'n.a.', '<NA>', '#N/A', '.', '-', '--',
     '–', 'n.a', 'Not available'],
)  # fmt: skip
def test_missing_values(bids_dir, known, value):
    text = f'participant_id\tage\tsex\tsite\nsub-01\t{value}\t{value}\t{value}\n'
    (bids_dir / 'participants.tsv').write_text(text, encoding='utf-8')
    here = known()
    assert here.site is None and here.sex is None and math.isnan(here.age)
    assert not here.unread


@pytest.mark.parametrize(
    ('value', 'age'),
    [('34', 34), ('21,5', 21.5), ('34,500', 34.5), ('0', 0), ('95', 95), ('34.0', 34),
     ('020Y', 20), ('018M', 1.5), ('012W', 0.23), ('045D', 0.123), ('6m', 0.5), ('34y', 34),
     ('40 years', 40), ('40 yrs old', 40), ('18 months', 1.5), ('18 mo', 1.5), ('2y 6m', 2.5),
     ('89+', 89), ('90 +', 90), ('>89', 89), ('> 89 years', 89), ('>=90', 90), ('089Y+', None),
     ('"34"', 34), ('1e1', 10)],
)  # fmt: skip
@pytest.mark.parametrize('header', ['age', 'Age', 'age_at_scan', 'age_years'])
def test_age(bids_dir, known, header, value, age):
    (bids_dir / 'participants.tsv').write_text(f'participant_id\t{header}\nsub-01\t{value}\n')
    assert known().age == pytest.approx(math.nan if age is None else age, nan_ok=True, abs=0.001)
    assert ('age' in known().unread) == (age is None)


@pytest.mark.parametrize(
    ('value', 'why'),
    [('30-34', 'a range is no single age'), ('30 – 34', 'a range is no single age'),
     ('22 to 25 years', 'a range is no single age'), ('-1', 'expected an age such as'),
     ('131', 'expected 0 to 130 years'), ('-999', 'expected an age such as'),
     ('400', 'is the unit in participants.json?'), ('old', 'expected an age such as 34, 34.5'),
     ('inf', 'expected an age'), ('36+', 'only ages of 80 years or more'),
     ('>18', 'only ages of 80 years or more'), ('<5', 'expected an age'),
     ('12 hours', 'expected an age'), ('34?', 'expected an age')],
)  # fmt: skip
def test_an_age_that_has_no_single_meaning_is_told(bids_dir, known, value, why):
    (bids_dir / 'participants.tsv').write_text(f'participant_id\tage\nsub-01\t{value}\n')
    here = known()
    assert math.isnan(here.age)
    assert here.unread['age'].startswith(f'participants.tsv: age of sub-01 is {value!r}: ')
    assert why in here.unread['age']
    assert here.unread['age'].endswith('; mend it, or write n/a if it is not known')


@pytest.mark.parametrize(
    ('units', 'age'),
    [('months', 50), ('Month', 50), ('mo', 50), ('age in months', 50), ('weeks', 11.5),
     ('wk', 11.5), ('days', 1.64), ('d', 1.64), ('y', None), ('', None), ('decades', None),
     ('months or years', None)],
)  # fmt: skip
def test_units_of_age(people, known, units, age):
    people('participant_id Age', 'sub-01 600', age={'Units': units})
    here = known()
    assert here.age == pytest.approx(math.nan if age is None else age, rel=0.01, nan_ok=True)
    assert ('age' in here.unread) == (age is None)


@pytest.mark.parametrize('name', ['units', 'UNITS', ' Units', 'Unit', 'unit'])
def test_entries_of_a_dictionary_in_other_case_count(people, known, name):
    levels = {'1': 'male', '2': 'female'}
    people('participant_id age sex', 'sub-01 24 2', age={name: 'months'}, sex={'levels': levels})
    assert (known().age, known().sex) == (2, 'F')
    people('participant_id age', 'sub-01 24', age={name: 'months', 'Units': 'years'})
    assert known().age == 24


@pytest.mark.parametrize('units', ['decades', 'months or years'])
def test_a_unit_that_is_not_understood_is_told(people, known, units):
    text = f"the data dictionary gives its unit as '{units}'; expected years, months, weeks"
    people('participant_id age', 'sub-01 30', age={'Units': units})
    assert text in known().unread['age']


def test_the_unit_of_a_value_wins_over_that_of_the_column(people, known):
    people('participant_id age', 'sub-01 034Y', age={'Units': 'months'})
    assert known().age == 34
    people('participant_id age_months', 'sub-01 18')
    assert known().age == 1.5


def test_a_comma_with_two_meanings_is_told(people, known):
    people('participant_id age', 'sub-01 12,045', age={'Units': 'days'})
    assert 'decimal point or for thousands' in known().unread['age']


def test_codes_of_age_are_what_the_dictionary_says(people, known):
    levels = {'1': '18-25', '2': '30 years', '-9': 'missing', '89+': '89 or older'}
    rows = ('sub-01 1', 'sub-02 2', 'sub-03 -9', 'sub-04 89+', 'sub-05 3')
    people('participant_id age', *rows, age={'Levels': levels})
    read = [known(scan(f'0{i}')) for i in (1, 2, 3, 4, 5)]
    assert [c.age for c in read] == pytest.approx([math.nan, 30, math.nan, 89, 3], nan_ok=True)
    assert [[*c.unread] for c in read] == [['age'], [], [], [], []]


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


def test_rows_that_contradict_each_other_are_a_fault_of_that_participant(people, known):
    people('participant_id site', 'sub-01 A', 'sub-01 B', 'sub-02 A', 'sub-02 A')
    assert known(scan('02')).site == 'A' and known(scan('02')).fault is None
    assert 'participants.tsv: sub-01 has several rows, which differ' in known().fault


def test_a_row_longer_than_the_header_is_a_fault(known, bids_dir):
    table = bids_dir / 'participants.tsv'
    table.write_text('participant_id\tsite\nsub-01\tA\tB\nsub-02\tA\t\t\n')
    assert 'the row of sub-01 has 3 cells, and the header has 2' in known().fault
    assert known(scan('02')) == Covariates('A')


def test_two_columns_of_one_name_are_refused(known, bids_dir):
    (bids_dir / 'participants.tsv').write_text('participant_id\tsite\tsite\nsub-01\tA\tB\n')
    with pytest.raises(InvalidBIDSError, match="two columns 'site'"):
        known()


def test_quotes_of_other_programs_are_no_part_of_values(known, bids_dir):
    table = bids_dir / 'participants.tsv'
    table.write_text('"participant_id"\t"site"\t"age"\n"sub-01"\t"The ""A"" site"\t34\n')
    assert known() == Covariates('The "A" site', 34)


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
    assert known(scan()) == Covariates('A', 30, 'F')
    assert known(scan(session='1')).inherited == ('site',), 'its table has no column sex'


@pytest.mark.parametrize('rows', [['ses-1 36 B'], ['ses-2 36 B'], []])
def test_a_session_without_a_row_is_a_fault(people, sessions, known, rows):
    people('participant_id age site', 'sub-01 34 A', 'sub-02 20 B')
    sessions('session_id age site', *rows)
    there = rows[0].split()[0] if rows else 'none'
    here = known(scan(session='01'))
    assert here.fault == (
        f'sub-01_sessions.tsv has no row of ses-01; it has {there}; write the labels alike, or '
        'add the row'
    )
    assert known(scan(session='01'), source_site='IXI').fault == here.fault
    assert here == Covariates(fault=here.fault), 'what is not reliable is not used'
    assert known(scan('02', '01')) == Covariates('B', 20), 'who has no table of sessions'


def test_a_damaged_table_of_sessions_is_a_fault_of_that_participant(people, sessions, known):
    people('participant_id age site', 'sub-01 34 A', 'sub-02 20 B')
    sessions('session_id,site', 'ses-1,B')
    fault = known(scan(session='1')).fault
    assert "sub-01_sessions.tsv: no column 'session_id'" in fault
    assert known(scan('02', '1')).site == 'B'


def test_a_table_of_sessions_that_tells_nothing_needs_no_rows(people, sessions, known):
    people('participant_id age site', 'sub-01 34 A')
    sessions('session_id acq_time', 'ses-1 2020-01-01')
    assert known(scan(session='01')) == Covariates('A', 34)


def test_a_value_of_a_session_that_is_not_understood_is_not_that_of_the_participant(
    people, sessions, known
):
    people('participant_id age sex', 'sub-01 old F')
    sessions('session_id age sex', 'ses-1 30-34 n/a', 'ses-2 31 n/a', 'ses-3 n/a n/a')
    first, second, third = (known(scan(session=s)) for s in '123')
    assert math.isnan(first.age) and first.sex == 'F'
    assert "sub-01_sessions.tsv: age of ses-1 is '30-34'" in first.unread['age']
    assert (second.age, second.unread) == (31, {})
    assert "participants.tsv: age of sub-01 is 'old'" in third.unread['age']


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
    people('participant_id site', f'sub-01 {site}', 'sub-02 A')
    here = known()
    assert here.site is None
    assert here.fault.startswith('its site is ') and '200 characters' in here.fault
    assert here.fault.isprintable()
    assert known(scan('02')).fault is None
    with pytest.raises(UsageError, match='--source-site .*200 characters'):
        known(source_site=site)


def test_a_site_may_be_written_in_any_script(people, known):
    people('participant_id site', 'sub-01 Köln\xa0(西)')
    assert known().site == 'Köln\xa0(西)'


@pytest.fixture
def json_of(bids_dir):
    """Write a JSON file of the dataset: ``json_of('sub-01/anat/sub-01_T1w.json', Field='x')``."""

    def write(name: str, text: str | None = None, **fields) -> None:
        path = bids_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields) if text is None else text)

    return write


def test_a_field_of_the_json_may_name_the_site(people, known, json_of, bids_dir):
    people('participant_id age', 'sub-01 30')
    json_of('T1w.json', StationName='AWP1', Manufacturer='Siemens')
    json_of('sub-02/sub-02_T1w.json', StationName='  GE  2 ')
    json_of('sub-02/ses-1/anat/sub-02_ses-1_acq-x_T1w.json', StationName='not of this scan')
    here = known(site_column='stationname')
    assert (here.site, here.site_from) == ('AWP1', "JSON field 'stationname'")
    assert known(scan('02', '1'), site_column='StationName').site == 'GE 2'
    assert read_cohort(bids_dir, [scan()], site_column='StationName').site_column == 'StationName'
    with pytest.raises(UsageError, match='no such field in the JSON of these scans'):
        known(site_column='InstitutionName')
    with pytest.raises(UsageError, match="--site-column 'Vendor'"):
        known(site_column='Vendor', source_site='IXI')
    assert read_cohort(bids_dir, [scan()]).site_fields == ('Manufacturer', 'StationName')
    people('participant_id StationName', 'sub-01 Mine', 'sub-02 n/a')
    assert known(site_column='StationName').site == 'Mine'
    assert known(scan('02', '1'), site_column='StationName').site == 'GE 2'


@pytest.mark.parametrize('value', ['n/a', ' N/A ', 'unknown', '', None])
def test_json_may_write_that_the_site_is_not_known(json_of, bids_dir, value):
    json_of('sub-01/anat/sub-01_T1w.json', StationName=value, Manufacturer=value)
    json_of('sub-02/anat/sub-02_T1w.json', StationName='A')
    scans = [scan(), scan('02')]
    cohort = read_cohort(bids_dir, scans, site_column='StationName', source_site='B')
    assert [cohort[each].site for each in scans] == ['B', 'A']
    assert read_cohort(bids_dir, [scan()]).site_fields == ()


@pytest.mark.parametrize('text', ['{', '[]', '{"StationName": ["a"]}'])
def test_json_that_names_the_site_and_is_not_understood_is_a_fault(known, json_of, bids_dir, text):
    json_of('sub-01/anat/sub-01_T1w.json', text)
    json_of('sub-02/anat/sub-02_T1w.json', StationName='A')
    cohort = read_cohort(bids_dir, [scan(), scan('02')], site_column='StationName')
    assert 'JSON' in cohort[scan()].fault and cohort[scan('02')].site == 'A'
    with pytest.raises(UsageError, match='no such column .* JSON') as error:
        read_cohort(bids_dir, [scan()], site_column='StationName')
    assert str(error.value).endswith(cohort[scan()].fault)
