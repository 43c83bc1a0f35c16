"""What stops a run, and what does not: each kind of bad file, with the real validator."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from ddae_app.bids import validation
from ddae_app.bids.query import Selection, find_scans
from ddae_app.bids.validation import run_validator, validate_input
from ddae_app.errors import InvalidBIDSError

ROWS = 'participant_id\tage\tsex\tsite\nsub-01\t30\tF\tA\nsub-02\t40\tM\tB\n'


@pytest.fixture
def dataset(bids_dir, add) -> Path:
    """Two participants and their table."""
    add('sub-01')
    add('sub-02')
    (bids_dir / 'participants.tsv').write_text(ROWS)
    return bids_dir


@pytest.fixture
def validate(dataset):
    """Validate for some participants, or for all."""
    return lambda *labels: validate_input(dataset, find_scans(dataset, Selection(labels)))


@pytest.fixture(params=['all', 'all but one'])
def selected(request, dataset, add):
    """Who is selected of whom is there: the verdict is the same."""
    if request.param == 'all':
        return lambda: Selection()
    add('sub-another')
    scans = dataset.glob('sub-*/anat/*_T1w.nii.gz')
    participants = (path.name.split('_')[0] for path in scans)
    return lambda: Selection(tuple({name for name in participants if name != 'sub-another'}))


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_IMAGES: dict[str, Callable[[Path], object]] = {
    'truncated': _halve,
    'truncated header': lambda p: p.write_bytes(
        gzip.compress(gzip.decompress(p.read_bytes())[:99])
    ),
    'a web page': lambda p: p.write_bytes(b'<html>not found</html>' * 40),
    'not compressed': lambda p: p.write_bytes(gzip.decompress(p.read_bytes())),
    'no NIfTI': lambda p: p.write_bytes(gzip.compress(b'junk' * 300)),
    'empty': lambda p: p.write_bytes(b''),
    'empty inside': lambda p: p.write_bytes(gzip.compress(b'')),
    'a broken link': lambda p: (p.unlink(), p.symlink_to('/nowhere/x.nii.gz')),
    'not fetched': lambda p: (p.unlink(), p.symlink_to('../../.git/annex/objects/a/b/c/c')),
}


def test_a_valid_dataset_passes(validate):
    validate()


def test_bad_images_do_not_stop_the_others(dataset, add, save_image, selected):
    for number, spoil in enumerate(BAD_IMAGES.values()):
        spoil(add(f'sub-bad{number}'))
    for number, shape in enumerate([(6, 6), (6, 6, 6, 1), (6, 6, 6, 3)]):
        save_image(add(f'sub-shape{number}'), shape)
    validate_input(dataset, find_scans(dataset, selected()))


@pytest.mark.parametrize(
    'table',
    [
        None,
        ROWS.replace('sub-02\t40\tM\tB\n', ''),
        ROWS + 'sub-77\t20\tF\tA\n',
        ROWS.replace('30', '95').replace('40', '89+'),
        ROWS.replace('30', 'NA').replace('40', ''),
        ROWS.replace('F', 'Woman').replace('M', '1'),
        '\ufeff' + ROWS.replace('\n', '\r\n'),
    ],
)
def test_a_table_that_can_be_understood_passes(dataset, validate, table):
    path = dataset / 'participants.tsv'
    path.unlink() if table is None else path.write_bytes(table.encode())
    validate()


def test_files_that_are_not_read_do_not_matter(dataset, selected):
    for name in (
        'sub-01/func/sub-01_task-rest_bold.nii.gz', 'sub-01/func/notes.txt',
        'sub-01/dwi/sub-01_dwi.bval', 'task-rest_events.json', 'sub-01/sub-01_scans.tsv',
        'phenotype/tests.tsv', 'CHANGES', 'sub-03/anat/sub-03_T2w.nii.gz',
    ):  # fmt: skip
        path = dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    scans = find_scans(dataset, selected())
    assert {scan.participant for scan in scans} == {'01', '02'}
    validate_input(dataset, scans)


def test_values_in_sidecars_do_not_matter(dataset, validate):
    (dataset / 'sub-01/anat/sub-01_T1w.json').write_text('{"EchoTime": "short"}')
    (dataset / 'T1w.json').write_text('{"RepetitionTime": "long"}')
    validate()


@pytest.mark.parametrize(
    ('name', 'content', 'rule'),
    [
        ('notes.txt', 'hello', 'NOT_INCLUDED'),
        ('sub-01/anat/notes.txt', 'hello', 'NOT_INCLUDED'),
        ('sub-01/anat/sub-01_foo-1_T1w.json', '{}', 'ENTITY_NOT_IN_RULE'),
        ('sub-01/anat/sub-01_T1w.json', '{', 'JSON_INVALID'),
        ('sub-01/anat/sub-01_T1w.json', '', 'JSON_INVALID'),
        ('participants.json', '[', 'JSON_INVALID'),
        ('participants.tsv', ROWS.replace('\t', ','), 'TSV_COLUMN_MISSING participant_id'),
        ('participants.tsv', ROWS.replace('sub-', ''), 'TSV_VALUE_INCORRECT_TYPE participant_id'),
        ('participants.tsv', ROWS + 'sub-01\t31\tF\tA\n', 'TSV_INDEX_VALUE_NOT_UNIQUE'),
        ('participants.tsv', '', 'TSV_COLUMN_MISSING participant_id'),
        ('dataset_description.json', '{"BIDSVersion": "1.10.0"}', 'JSON_KEY_REQUIRED Name'),
    ],
)
def test_an_error_names_file_and_rule(dataset, selected, name, content, rule):
    scans = find_scans(dataset, selected())
    (dataset / name).write_text(content)
    with pytest.raises(InvalidBIDSError) as error:
        validate_input(dataset, scans)
    assert f'{dataset / name}: not valid BIDS: {rule}' in str(error.value)
    assert '--skip-bids-validation' in str(error.value) and '\n' not in str(error.value)
    assert error.value.exit_code == 16


def test_a_long_explanation_ends_with_a_word(dataset, validate):
    (dataset / 'a.txt').write_text('hello')
    with pytest.raises(InvalidBIDSError, match=r' \.\.\.\); run') as error:
        validate()
    assert 'Please consult the specification and ...' in str(error.value)


def test_other_errors_are_counted(dataset, validate):
    for name in ('a.txt', 'b.txt', 'c.txt'):
        (dataset / name).write_text('hello')
    with pytest.raises(InvalidBIDSError, match='and 2 more errors; run'):
        validate()


def test_errors_of_participants_who_are_not_selected_are_passed_over(dataset, validate):
    (dataset / 'sub-02/anat/notes.txt').write_text('hello')
    validate('01')
    with pytest.raises(InvalidBIDSError, match='sub-02/anat/notes.txt'):
        validate('02')


def test_files_of_others_are_not_read(dataset, validate, monkeypatch):
    """A job of an array would have the validator read those of the whole dataset."""

    def spy(folder, config=None):
        seen.append({path.relative_to(folder).as_posix() for path in folder.rglob('*')})
        return run_validator(folder, config)

    seen: list[set[str]] = []
    (dataset / 'derivatives' / 'large').mkdir(parents=True)
    monkeypatch.setattr(validation, 'run_validator', spy)
    validate('01')
    assert seen == [
        {
            'README.md', 'dataset_description.json', 'derivatives', 'participants.tsv', 'sub-01',
            'sub-01/anat', 'sub-01/anat/sub-01_T1w.nii.gz',
        }
    ]  # fmt: skip


def test_a_derivative_is_no_input(dataset):
    path = dataset / 'dataset_description.json'
    content = json.loads(path.read_text()) | {'DatasetType': 'derivative'}
    scans = find_scans(dataset, Selection())
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidBIDSError, match="DatasetType is 'derivative'; expected a raw"):
        validate_input(dataset, scans)


def test_a_validator_that_breaks_down_is_told_in_one_line(dataset):
    with pytest.raises(InvalidBIDSError, match=r'the BIDS validator failed \(error: ') as error:
        run_validator(dataset, dataset / 'README.md')
    assert '\n' not in str(error.value) and '\x1b' not in str(error.value)


def test_no_validator_at_all(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(validation.sys, 'executable', str(tmp_path / 'python'))
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(InvalidBIDSError, match='bids-validator-deno is not installed'):
        run_validator(dataset)


@pytest.mark.parametrize('name', ['input.json', 'derivatives.json'])
def test_the_configurations_are_of_the_form_that_the_validator_reads(name):
    path = files('ddae_app') / 'data' / 'bids_validator_config' / name
    content = json.loads(path.read_text())
    assert set(content) == {'ignore', 'warning', 'error'}
    # A bare number, as in configurations of the old validator, would silence everything.
    rules = [rule for part in content.values() for rule in part]
    assert all(isinstance(rule, dict) and rule.keys() & {'code', 'location'} for rule in rules)


LEGACY = Path(sys.prefix) / 'legacy' / 'node_modules' / '.bin' / 'bids-validator'


@pytest.mark.skipif(not LEGACY.exists(), reason='needs the old validator: make legacy-validator')
def test_the_old_validator_passes_what_the_new_one_does(dataset, add):
    config = files('ddae_app') / 'data' / 'bids_validator_config' / 'legacy.json'

    def errors() -> set[str]:
        command = [str(LEGACY), str(dataset), '--json', '--config', str(config)]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return {issue['key'] for issue in json.loads(said)['issues']['errors']}

    for number, (kind, spoil) in enumerate(BAD_IMAGES.items()):
        if 'link' not in kind and 'fetched' not in kind:
            spoil(add(f'sub-bad{number}'))
    assert errors() == set()
    (dataset / 'sub-01' / 'anat' / 'sub-01_T1w.json').write_text('{')
    assert errors() == {'JSON_INVALID'}
