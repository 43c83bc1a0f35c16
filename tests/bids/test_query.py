from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ddae_app.bids import query
from ddae_app.bids.cohort import read_cohort
from ddae_app.bids.query import Selection, find_scans, read_filters
from ddae_app.bids.sidecars import raw_uri
from ddae_app.bids.validation import validate_input
from ddae_app.errors import InvalidBIDSError, NothingSelectedError, UsageError


@pytest.fixture
def found(bids_dir):
    """Stems of what is selected: ``found(participants=('01',))``."""
    return lambda **asked: [scan.stem for scan in find_scans(bids_dir, Selection(**asked))]


@pytest.fixture
def dataset(add):
    """Two participants; the second has sessions."""
    for stem in (
        'sub-01', 'sub-01_acq-a', 'sub-01_acq-b+c', 'sub-01_run-01', 'sub-02_ses-1',
        'sub-02_ses-2_acq-a',
    ):  # fmt: skip
        add(stem)


def test_all_t1w_are_found_by_name(dataset, found):
    assert found() == [
        'sub-01', 'sub-01_acq-a', 'sub-01_acq-b+c', 'sub-01_run-01', 'sub-02_ses-1',
        'sub-02_ses-2_acq-a',
    ]  # fmt: skip


def test_a_scan_knows_its_participant_and_session(dataset, bids_dir):
    scan = find_scans(bids_dir, Selection())[-1]
    assert (scan.participant, scan.session) == ('02', '2')
    assert scan.path == bids_dir / 'sub-02/ses-2/anat/sub-02_ses-2_acq-a_T1w.nii.gz'


@pytest.mark.parametrize('folder', ['sub-01', 'ses-1', 'perf', 'x_ce-gd', 'part-real'])
def test_folders_above_the_dataset_say_nothing_of_its_scans(
    dataset, bids_dir, found, tmp_path, folder
):
    stems = found()
    there = tmp_path / folder / 'bids'
    there.parent.mkdir()
    bids_dir.rename(there)
    for database in (None, tmp_path / 'index', tmp_path / 'index'):
        scans = find_scans(there, Selection(database=database))
        assert [scan.stem for scan in scans] == stems
    assert [scan.session for scan in scans] == [None] * 4 + ['1', '2']


@pytest.mark.parametrize('label', ['02', 'sub-02'])
def test_participants_with_and_without_prefix(dataset, found, label):
    assert found(participants=(label,)) == ['sub-02_ses-1', 'sub-02_ses-2_acq-a']


@pytest.mark.parametrize('label', ['01', '0', 'a+b', '01a'])
def test_no_more_than_the_named_participants_is_indexed(add, bids_dir, found, monkeypatch, label):
    """A job of an array would index the whole dataset each time."""
    from bids.layout.index import BIDSLayoutIndexer

    def spy(self, path, entities):
        indexed.add(Path(str(path)).relative_to(bids_dir).parts[0])
        return index_file(self, path, entities)

    indexed, index_file = set(), BIDSLayoutIndexer._index_file
    monkeypatch.setattr(BIDSLayoutIndexer, '_index_file', spy)
    for name in ('01', '0', 'a+b', '01a', 'aab'):
        add(f'sub-{name}')
    assert found(participants=(label,)) == [f'sub-{label}']
    assert {name for name in indexed if name.startswith('sub-')} == {f'sub-{label}'}


@pytest.mark.parametrize('others', [3, 120])
def test_no_folder_of_others_is_looked_into(add, bids_dir, monkeypatch, others):
    """Thousands of jobs of an array would each look into thousands of folders."""

    def spy(name):
        real = getattr(os, name)

        def call(path='.', *args, **kwargs):
            parts = Path(os.fsdecode(path)).parts if isinstance(path, str | Path) else ()
            touched.update(part for part in parts if part.startswith('sub-'))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, name, call)

    named = [f'n{i}' for i in range(others)]
    for name in [*named, *(f'o{i}' for i in range(others))]:
        add(f'sub-{name}_ses-1')
    touched = set()
    for name in ('scandir', 'listdir', 'stat', 'lstat'):
        spy(name)
    scans = find_scans(bids_dir, Selection(participants=tuple(named)))
    read_cohort(bids_dir, scans)
    monkeypatch.undo()
    assert len(scans) == others
    assert {name.split('_')[0] for name in touched} == {f'sub-{name}' for name in named}


@pytest.mark.parametrize('label', ['2', 'ses-2'])
def test_sessions_with_and_without_prefix(dataset, found, label):
    assert found(sessions=(label,)) == ['sub-02_ses-2_acq-a']


def test_a_label_named_twice_counts_once(dataset, found):
    assert found(participants=('02', 'sub-02'), sessions=('1',)) == ['sub-02_ses-1']


@pytest.mark.parametrize(
    ('filters', 'stems'),
    [
        ({'acquisition': None}, ['sub-01', 'sub-01_run-01', 'sub-02_ses-1']),
        ({'acquisition': '*'}, ['sub-01_acq-a', 'sub-01_acq-b+c', 'sub-02_ses-2_acq-a']),
        ({'acquisition': ['a', 'b+c'], 'session': None}, ['sub-01_acq-a', 'sub-01_acq-b+c']),
        ({'acquisition': [None, 'a'], 'session': '*'}, ['sub-02_ses-1', 'sub-02_ses-2_acq-a']),
        ({'run': 1}, ['sub-01_run-01']),
        ({'run': '01'}, ['sub-01_run-01']),
        ({'session': ['1', '2'], 'acquisition': 'a'}, ['sub-02_ses-2_acq-a']),
        ({'ceagent': None, 'run': None, 'subject': '01', 'acquisition': None}, ['sub-01']),
    ],
)
def test_filters_mean_what_they_mean_to_fmriprep(dataset, found, filters, stems):
    assert found(filters=filters) == stems


def test_both_endings_are_found(add, found):
    add('sub-01', extension='.nii')
    add('sub-02')
    assert found() == ['sub-01', 'sub-02']


def test_one_image_in_both_endings_is_refused(add, found):
    add('sub-01', extension='.nii')
    add('sub-01')
    with pytest.raises(InvalidBIDSError, match='same BIDS name; remove one'):
        found()


@pytest.mark.parametrize('folder', ['sub-01/ses-1/anat', 'sub-02/ses-2/anat'])
def test_an_image_in_the_folder_of_another_is_refused(
    dataset, save_image, bids_dir, found, folder
):
    save_image(bids_dir / folder / 'sub-02_ses-1_run-7_T1w.nii.gz')
    with pytest.raises(InvalidBIDSError, match='of another participant or session'):
        found()


def test_images_beside_the_folders_of_participants(bids_dir, found):
    (bids_dir / 'sub-01_T1w.nii.gz').touch()
    with pytest.raises(NothingSelectedError, match='1 T1w image, none of them in a folder sub-'):
        found()


@pytest.mark.parametrize(
    'folder',
    ['derivatives/ddae-app/sub-01/anat', 'sourcedata/sub-01/anat', 'code', 'results/sub-01/anat',
     'sub-01/anat/old', '.git/annex/sub-01/anat'],
)  # fmt: skip
def test_images_outside_the_raw_folders_are_not_taken(add, save_image, found, bids_dir, folder):
    add('sub-01')
    save_image(bids_dir / folder / 'sub-01_desc-preproc_T1w.nii.gz')
    assert found() == ['sub-01']


def test_other_images_are_not_taken(add, found):
    add('sub-01')
    for suffix in ('T2w', 'T1map', 'defacemask', 'dT1w'):
        add('sub-01', suffix=suffix)
    assert found() == ['sub-01']


def test_the_phase_of_a_complex_image_is_not_taken(add, found):
    for stem in ('sub-01_part-mag', 'sub-01_part-phase', 'sub-01_part-real', 'sub-02'):
        add(stem)
    assert found() == ['sub-01_part-mag', 'sub-02']
    assert found(filters={'part': 'phase'}) == ['sub-01_part-phase']


@pytest.mark.parametrize(
    'name', ['sub-01/ses-pre-op/anat/sub-01_ses-pre-op', 'sub-01/anat/sub-01_ses-1',
             'sub-A b/anat/sub-A b', 'sub-01/anat/old/sub-01'],
)  # fmt: skip
def test_images_that_are_not_where_bids_wants_them_are_left_out_aloud(
    add, save_image, bids_dir, found, caplog, name
):
    """Otherwise a session whose label has a hyphen is never missed."""
    add('sub-01_run-2')
    save_image(bids_dir / f'{name}_T1w.nii.gz')
    with caplog.at_level('INFO', 'ddae_app'):
        assert found() == ['sub-01_run-2']
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        f'1 T1w left out, for example {name}_T1w.nii.gz: expected in sub-<label>'
    )


def test_unknown_entities_and_odd_labels_stay_in_the_name(add, found, bids_dir):
    add('sub-01_foo-1')
    add('sub-XYZ007_acq-MPRAGE+2')
    assert found() == ['sub-01_foo-1', 'sub-XYZ007_acq-MPRAGE+2']
    workflow = find_scans(bids_dir, Selection())[-1].workflow
    assert workflow == 'sub_XYZ007_acq_MPRAGE_2_wf'


@pytest.mark.parametrize(
    ('asked', 'message'),
    [
        ({'participants': ('09',)}, 'no sub-09 in the dataset; it has sub: 01, 02'),
        ({'sessions': ('ses-9',)}, 'no ses-9 in the dataset; it has ses: 1, 2'),
        (
            {'sessions': ('1',), 'filters': {'acquisition': ['a', None], 'run': '*'}},
            'no T1w image with session=1, acquisition=a or none, run=any; '
            'the dataset has 2 participants, 6 T1w images',
        ),
        ({'participants': ('01', '02'), 'sessions': ('1',)}, 'sub-01 has no T1w image with ses'),
    ],
)
def test_nothing_selected_says_what_is_there(dataset, found, asked, message):
    with pytest.raises(NothingSelectedError) as error:
        found(**asked)
    assert message in str(error.value)
    assert error.value.exit_code == 18


def test_a_named_participant_without_t1w_is_not_passed_over(add, found):
    add('sub-01')
    add('sub-02', suffix='T2w')
    assert found() == ['sub-01']
    with pytest.raises(NothingSelectedError, match='sub-02 has no T1w image; the dataset has 2'):
        found(participants=('01', '02'))


def test_of_a_participant_without_t1w_the_other_images_are_named(add, found):
    add('sub-01')
    for suffix in ('UNIT1', 'T2w', 'PDw', 'FLAIR', 'T2starw', 'angio', 'inplaneT1'):
        add('sub-02', suffix=suffix)
    add('sub-03_ce-gad')
    add('sub-04')
    with pytest.raises(NothingSelectedError) as error:
        found(participants=('02', '03'))
    assert str(error.value).endswith(
        ': sub-02 has no T1w image; the dataset has 4 participants, 3 T1w images; of sub-02 it '
        'has sub-02_UNIT1.nii.gz, sub-02_FLAIR.nii.gz, sub-02_PDw.nii.gz, '
        'sub-02_T2starw.nii.gz, sub-02_T2w.nii.gz and 2 more'
    )
    with pytest.raises(NothingSelectedError) as error:
        found(participants=('03',))
    assert 'sub-03 has no T1w image with ceagent=none; the dataset' in str(error.value)
    assert '; of sub-03 it has sub-03_ce-gad_T1w.nii.gz; to take them, give' in str(error.value)
    with pytest.raises(NothingSelectedError, match='with run=1; .*; of sub-04 it has sub-04_T1w'):
        found(participants=('04',), filters={'run': 1})


def test_a_dataset_without_images(found):
    with pytest.raises(NothingSelectedError, match='no T1w image; the dataset has 0 participants'):
        found()


def test_a_folder_that_is_no_dataset(found, bids_dir):
    (bids_dir / 'dataset_description.json').unlink()
    with pytest.raises(InvalidBIDSError, match='no dataset_description.json'):
        found()


@pytest.mark.parametrize('text', ['{', '[]', '{"Name": "x"}', '', '[' * 100_000])
def test_a_broken_description_is_told_in_one_line(add, found, bids_dir, text):
    add('sub-01')
    (bids_dir / 'dataset_description.json').write_text(text)
    with pytest.raises(InvalidBIDSError, match='not readable as a BIDS dataset') as error:
        found()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_description_with_a_byte_order_mark_is_told_what_to_do(found, bids_dir, encoding):
    path = bids_dir / 'dataset_description.json'
    path.write_text('{"Name": "x", "BIDSVersion": "1.10.0"}', encoding=encoding)
    with pytest.raises(InvalidBIDSError, match='json: begins with a byte-order mark.*UTF-8'):
        found()


def test_the_index_is_made_once(add, found, tmp_path, monkeypatch):
    add('sub-01')
    database = tmp_path / 'deep' / 'index'
    assert found(database=database) == ['sub-01']
    monkeypatch.setattr(query, '_make_index', None)
    assert found(database=database) == ['sub-01']


def test_the_index_follows_the_dataset(add, found, bids_dir, tmp_path, monkeypatch):
    database = tmp_path / 'index'
    add('sub-01')
    assert found(database=database) == ['sub-01']
    add('sub-02')
    assert found(database=database) == ['sub-01', 'sub-02']
    add('sub-02_run-2')
    assert found(database=database) == ['sub-01', 'sub-02', 'sub-02_run-2']
    shutil.rmtree(bids_dir / 'sub-01')
    assert found(database=database) == ['sub-02', 'sub-02_run-2']
    before = set(database.iterdir())
    monkeypatch.setattr('bids.__version__', '0.0')
    assert found(database=database) == ['sub-02', 'sub-02_run-2']
    assert len(set(database.iterdir()) - before) == 1


@pytest.mark.parametrize('label', [(), ('01',)])
def test_who_must_not_write_takes_an_index_that_is_there(add, bids_dir, tmp_path, label):
    """And does without where there is none, or that of an earlier state of the dataset."""

    def found(**asked):
        selection = Selection(participants=label, database=tmp_path / 'index', **asked)
        return [scan.stem for scan in find_scans(bids_dir, selection)]

    def there():
        return {path: path.read_bytes() for path in tmp_path.rglob('index/**/*') if path.is_file()}

    add('sub-01')
    assert found(read_only=True) == ['sub-01'] and not (tmp_path / 'index').exists()
    assert found() == ['sub-01']
    before = there()
    assert found(read_only=True) == ['sub-01'] and there() == before
    add('sub-01_run-2')
    assert found(read_only=True) == ['sub-01', 'sub-01_run-2'] and there() == before


def test_datasets_share_a_folder_of_indexes(add, found, bids_dir, tmp_path):
    add('sub-01')
    other = tmp_path / 'other'
    shutil.copytree(bids_dir, other)
    (other / 'sub-01').rename(other / 'sub-09')
    scan = other / 'sub-09' / 'anat'
    next(scan.iterdir()).rename(scan / 'sub-09_T1w.nii.gz')
    database = tmp_path / 'index'
    assert found(database=database) == ['sub-01']
    assert [s.stem for s in find_scans(other, Selection(database=database))] == ['sub-09']
    assert found(database=database) == ['sub-01']


def test_files_of_others_in_the_folder_of_indexes_stay(add, found, tmp_path):
    add('sub-01')
    database = tmp_path / 'index'
    database.mkdir()
    for name in ('layout_index.sqlite', 'layout_args.json', 'notes.txt'):
        (database / name).write_text('of another program')
    assert found(database=database) == ['sub-01']
    for name in ('layout_index.sqlite', 'layout_args.json', 'notes.txt'):
        assert (database / name).read_text() == 'of another program'


def test_two_jobs_make_one_index(add, found, bids_dir, tmp_path, monkeypatch):
    """The second one is done while the first one is at work."""
    add('sub-01')
    database, make = tmp_path / 'index', query._make_index

    def both(index, folder):
        make(index, folder)
        make(index, folder)

    monkeypatch.setattr(query, '_make_index', both)
    assert found(database=database) == ['sub-01']
    assert len(list(database.iterdir())) == 1


@pytest.mark.parametrize('kind', ['a file', 'below a file', 'broken'])
def test_an_unusable_index_folder(add, found, tmp_path, kind):
    add('sub-01')
    database = tmp_path / 'index'
    if kind == 'broken':
        found(database=database)
        (index,) = database.glob('*/layout_index.sqlite')
        index.write_text('this is no database' * 10)
    else:
        database.write_text('')
    with pytest.raises(UsageError, match='--bids-database-dir .*not usable') as error:
        found(database=database / 'x' if kind == 'below a file' else database)
    assert '\n' not in str(error.value)


def test_what_bidsignore_lists_is_taken_as_in_fmriprep_and_can_be_filtered_out(
    add, bids_dir, found, tmp_path
):
    for stem in ('sub-01', 'sub-01_desc-defaced', 'sub-02'):
        add(stem)
    (bids_dir / '.bidsignore').write_text('sub-02/\n*_desc-*\n')
    assert found() == ['sub-01', 'sub-01_desc-defaced', 'sub-02']
    for database in (None, tmp_path / 'index', tmp_path / 'index'):
        assert found(filters={'desc': None}, database=database) == ['sub-01', 'sub-02']


def test_a_filter_of_an_unknown_entity_is_refused(dataset, found):
    with pytest.raises(UsageError, match=r"'acq' is no BIDS entity.* acquisition, "):
        found(filters={'acq': None})


def test_a_value_that_a_filter_has_twice_is_one(dataset, found):
    assert found(filters={'run': [None, None]}) == found(filters={'run': None})


@pytest.mark.parametrize('run', [2**63, -(2**63) - 1, str(2**63), [1, 10**40]])
def test_a_number_that_no_index_holds_is_refused(dataset, found, run):
    with pytest.raises(UsageError, match='too large for an entity'):
        found(filters={'run': run})


def test_filters_are_read_from_the_t1w_query(tmp_path):
    path = tmp_path / 'filters.json'
    path.write_text('\ufeff{"t1w": {"session": "1", "run": null}, "bold": {"task": ["a"]}}')
    assert read_filters(path) == {'session': '1', 'run': None}
    path.write_text('{"bold": {"task": "rest"}}')
    assert read_filters(path) == {}


@pytest.mark.parametrize(
    'content',
    [
        '{"t1w": ',
        '["t1w"]',
        '{"t1w": "session"}',
        '{"t1w": {"session": {"a": 1}}}',
        '{"t1w": {"session": []}}',
        '{"t1w": {"session": [["1"]]}}',
        '{"T1w": {"session": "1"}}',
        '[' * 100_000,
        None,
    ],
)
def test_a_malformed_filter_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / 'filters.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match='--bids-filter-file .*filters.json') as error:
        read_filters(path)
    assert '\n' not in str(error.value)


def test_a_list_in_json_stays_a_list(tmp_path):
    path = tmp_path / 'filters.json'
    path.write_text(json.dumps({'t1w': {'run': [1, None]}}))
    assert read_filters(path) == {'run': [1, None]}


LAYOUTS = json.loads(Path(__file__).with_name('official_layouts.json').read_text())
"""Anatomical files of the first two participants of some of github.com/bids-standard/bids-examples
at commit ca54a02."""


@pytest.mark.parametrize('name', sorted(LAYOUTS))
def test_layouts_of_the_official_examples(bids_dir, found, name):
    for file in LAYOUTS[name]:
        path = bids_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # they are empty there too
    t1w = {file for file in LAYOUTS[name] if '_T1w.nii' in file and 'part-phase' not in file}
    stems = {Path(file).name.partition('_T1w')[0] for file in t1w}
    if stems:
        assert set(found()) == stems
    else:
        with pytest.raises(NothingSelectedError):
            found()


@pytest.fixture
def enhanced(add):
    """Scans with and without a contrast agent, as of a patient before and after it."""
    for stem in ('sub-01', 'sub-01_ce-gad', 'sub-02', 'sub-03_ce-gad'):
        add(stem)


def test_contrast_enhanced_scans_are_left_out_aloud(enhanced, found, caplog):
    with caplog.at_level('INFO', 'ddae_app'):
        assert found() == ['sub-01', 'sub-02']
    (said,) = [record.getMessage() for record in caplog.records]
    assert '2 contrast-enhanced T1w left out (ce-, for example sub-01_ce-gad_T1w.nii.gz)' in said
    assert '--bids-filter-file with {"t1w": {"ceagent": "*"}}' in said


@pytest.mark.parametrize(
    ('value', 'stems'),
    [
        ('*', ['sub-01_ce-gad', 'sub-03_ce-gad']),
        ('gad', ['sub-01_ce-gad', 'sub-03_ce-gad']),
        ([None, '*'], ['sub-01', 'sub-01_ce-gad', 'sub-02', 'sub-03_ce-gad']),
        (None, ['sub-01', 'sub-02']),
    ],
)
def test_contrast_enhanced_scans_can_be_asked_for(enhanced, found, caplog, value, stems):
    with caplog.at_level('INFO', 'ddae_app'):
        assert found(filters={'ceagent': value}) == stems
    assert not caplog.records


def test_only_contrast_enhanced_scans(enhanced, found):
    with pytest.raises(
        NothingSelectedError, match='sub-03 has no T1w image with ceagent=none.*give --bids-filter'
    ):
        found(participants=('03',))
    with pytest.raises(NothingSelectedError, match='sub-02 has no T1w image with run=1; the data'):
        found(participants=('02',), filters={'run': 1})


def test_nothing_is_said_of_contrast_agents_where_there_are_none(dataset, found, caplog):
    with caplog.at_level('INFO', 'ddae_app'):
        found()
    assert not caplog.records


def _linked(bids_dir: Path, tmp_path: Path, what: str) -> Path:
    """The root of a dataset of which something is a link."""
    store = tmp_path / 'store'
    if what == 'root':
        (tmp_path / 'linked').symlink_to(bids_dir)
        return tmp_path / 'linked'
    if what == 'folder above':
        (tmp_path / 'linked').symlink_to(tmp_path)
        return tmp_path / 'linked' / bids_dir.name
    if what == 'files':
        for number, path in enumerate(sorted(bids_dir.rglob('*T1w.nii.gz'))):
            target = store / f'{number}.content'
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            path.symlink_to(target)
        return bids_dir
    shutil.move(bids_dir / 'sub-02', store / 'another name')
    (bids_dir / 'sub-02').symlink_to(store / 'another name')
    return bids_dir


@pytest.mark.parametrize('what', ['root', 'folder above', 'files', 'participant'])
def test_links_are_not_followed_to_find_out_what_a_scan_is(dataset, bids_dir, tmp_path, what):
    (tmp_path / 'store').mkdir()
    expected = [scan.stem for scan in find_scans(bids_dir, Selection())]
    root = _linked(bids_dir, tmp_path, what)
    scans = find_scans(root, Selection())
    assert [scan.stem for scan in scans] == expected
    for scan in scans:
        assert scan.path == root / scan.folder / f'{scan.stem}_T1w.nii.gz'
        assert scan.path.is_file()
        inside = scan.path.relative_to(root).as_posix()
        assert raw_uri(scan, root) == f'bids:raw:{inside}'


@pytest.mark.parametrize('what', ['root', 'folder above', 'files', 'participant'])
def test_links_do_not_disturb_the_validator_or_the_tables(dataset, bids_dir, tmp_path, what):
    (tmp_path / 'store').mkdir()
    (bids_dir / 'participants.tsv').write_text('participant_id\tsite\nsub-01\tA\nsub-02\tA\n')
    table = bids_dir / 'sub-02' / 'sub-02_sessions.tsv'
    table.write_text('session_id\tsite\nses-1\tB\nses-2\tC\n')
    root = _linked(bids_dir, tmp_path, what)
    scans = find_scans(root, Selection())
    validate_input(root, scans)
    cohort = read_cohort(root, scans)
    assert [cohort[scan].site for scan in scans] == ['A', 'A', 'A', 'A', 'B', 'C']
