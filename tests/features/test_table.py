"""Tables are read as they are written, and what is wrong in them is told in one line."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.errors import UsageError
from ddae_app.features.table import read_feature_table

GOOD = 'participant_id\tsession_id\tlh_thick\tvolume\nsub-01\tses-1\t2.5\t1e3\n02\tn/a\tn/a\t\n'


def _written(tmp_path, text: str, name: str = 't.tsv'):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_table_is_read(tmp_path):
    table = read_feature_table(_written(tmp_path, GOOD))
    assert table.participants == ('01', '02')
    assert table.sessions == ('1', None)
    assert table.names == ['sub-01_ses-1', 'sub-02']
    assert table.features == ('lh_thick', 'volume')
    assert table.values[0].tolist() == [2.5, 1000]
    assert np.isnan(table.values[1]).all()


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
def test_a_csv_with_quotes_and_a_mark_of_byte_order(tmp_path, ending):
    text = ending.join(['"participant_id","a b"', '"sub-01"," 1.5 "', ''])
    table = read_feature_table(_written(tmp_path, '\ufeff' + text, 't.csv'))
    assert table.features == ('a b',) and table.values.tolist() == [[1.5]]


def test_what_does_not_change_is_written_as_it_was(tmp_path):
    table = read_feature_table(_written(tmp_path, GOOD))
    assert table.written(table.values) == GOOD.replace('\t\n', '\tn/a\n')
    changed = table.values + 1 / 3
    again = read_feature_table(_written(tmp_path, table.written(changed)))
    assert np.allclose(again.values, changed, rtol=1e-11, equal_nan=True)


def test_a_name_with_quotes_comes_back(tmp_path):
    lines = ['participant_id,"""left"" side","6"" away"', 'sub-01,1,2', '']
    table = read_feature_table(_written(tmp_path, '\n'.join(lines), 't.csv'))
    assert table.features == ('"left" side', '6" away')
    again = read_feature_table(_written(tmp_path, table.written(table.values)))
    assert again.header == table.header and again.cells == table.cells


@pytest.mark.parametrize('word', ['n/a', 'NaN', '', 'NA', '.'])
def test_what_is_missing_is_not_zero(tmp_path, word):
    table = read_feature_table(_written(tmp_path, f'participant_id\tx\n01\t{word}\n02\t0\n'))
    assert np.isnan(table.values[0, 0]) and table.values[1, 0] == 0


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('ID\tx\n01\t1\n', 'no column participant_id .found ID, x.; call the column'),
        ('participant_id,x\n01,1\n', 'no column participant_id .*separate columns by tabs'),
        ('', 'no column participant_id .found nothing'),
        (
            'participant_id;x\n01;1,5\n',
            'separated by semicolons; save the table with tabs .* points',
        ),
        ('participant_id\tx\n', 'no rows; expected one for each person'),
        ('participant_id\n01\n', 'no column but participant_id; expected columns of features'),
        ('participant_id\tx\tx\n01\t1\t1\n', 'several columns x; rename or remove'),
        ('participant_id\t\tx\n01\t1\t1\n', 'column 2 has no name'),
        ('participant_id\tx\n01\t1\t2\n', "row of '01' has 3 cells, and the header has 2"),
        ('participant_id\tx\n01\t1\nsub-01\t2\n', 'sub-01 has several rows; expected one'),
        (
            'participant_id\tsession_id\tx\n01\t1\t1\n01\tses-1\t2\n',
            'sub-01_ses-1 has several rows',
        ),
        ('participant_id\tx\nn/a\t1\n', "participant_id is 'n/a' in a row; expected a label"),
        ('participant_id\tx\n0_1\t1\n', "participant_id is '0_1' in a row; expected a label"),
        (
            'participant_id\tx\nsub-01_ses-1\t1\n',
            "with or without sub-: write 'ses-1' into a column session_id",
        ),
        ('participant_id\tsite\n01\tA\n', "column site of sub-01 is 'A'; expected numbers"),
        ('participant_id\tx\n01\t1,5\n', "column x of sub-01 is '1,5'; expected numbers"),
        ('participant_id\tx\n01\t1_000\n', "column x of sub-01 is '1_000'; expected numbers"),
        ('participant_id\tx\n01\tinf\n', "column x of sub-01 is 'inf', which is infinite"),
        ('participant_id\tx\n01\t-1e999\n', "is '-1e999', which is infinite"),
        (b'participant_id\tx\n01\t\xff\n', 'not readable as a UTF-8 table .*; save it as one'),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, text, message):
    path = tmp_path / 't.tsv'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message) as error:
        read_feature_table(path)
    assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(UsageError, match='no such file; expected a table, .tsv or .csv'):
        read_feature_table(tmp_path / 'x.tsv')
    with pytest.raises(UsageError, match='expected a name that ends with .tsv or .csv'):
        read_feature_table(_written(tmp_path, GOOD, 't.txt'))
    link = tmp_path / 'l.tsv'
    link.symlink_to(tmp_path / '.git' / 'annex' / 'objects' / 'x')
    with pytest.raises(UsageError, match='the content is not on this machine; run "datalad get'):
        read_feature_table(link)
