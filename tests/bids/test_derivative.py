"""What is written into the output dataset: descriptions, tables, sidecars."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import multiprocessing
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from ddae_app import __version__
from ddae_app.bids import sidecars
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.dataset import (
    dataset_name,
    is_phantom,
    link_names,
    read_tsv,
    source_of,
    to_tsv,
    update_scans,
    write_description,
    write_json,
)
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import BIDSIGNORE, IMAGES, Layout, sidecar
from ddae_app.bids.output_folder import check_locks, check_output_folder, leave_out_of_bids
from ddae_app.bids.scan import Scan, Space
from ddae_app.bids.validation import run_validator
from ddae_app.errors import UsageError
from ddae_app.settings import Protocol

SPACE = Space(Protocol(), 'https://templateflow.s3.amazonaws.com/x_T1w.nii.gz')
IMAGE = Layout(Path()).in_space(SPACE).ending('preproc')
CONFIG = Path(__file__).parents[2] / 'bids_validator_config' / 'derivatives.json'


def scan(participant: str, session: str | None = None, run: int = 1) -> Scan:
    middle = f'_ses-{session}' if session else ''
    stem = f'sub-{participant}{middle}_run-{run}'
    return Scan(Path(f'{stem}_T1w.nii.gz'), participant, session, stem)


def update(folder: Path, rows: dict[Scan, dict]) -> None:
    """Put measures of scans into the tables of an output folder."""
    layout, tables = Layout(folder).in_space(SPACE), {}
    for one, values in rows.items():
        table = layout.scans_table(one)
        image = layout.image('preproc', one).relative_to(table.parent).as_posix()
        tables.setdefault(table, {})[image] = values
    update_scans(tables)


def test_what_a_dataset_was_made_of(tmp_path):
    scans, other, out = tmp_path / 'scans', tmp_path / 'other', tmp_path / 'deep' / 'out'
    (tmp_path / 'link').symlink_to(scans)
    assert source_of(out) is None
    write_description(out, tmp_path / 'link', [('ddae-app', other)])
    assert source_of(out) == scans.resolve()


def test_the_labels_of_images_are_explained_once_each(tmp_path):
    write_description(tmp_path, tmp_path)
    labels = [row['desc_id'] for row in read_tsv(tmp_path / 'descriptions.tsv')]
    assert labels == list(dict.fromkeys(f'desc-{image.desc}' for image in IMAGES.values()))


@pytest.mark.parametrize(
    ('value', 'cell'),
    [
        (None, 'n/a'), ('', 'n/a'), (' ', 'n/a'), (math.nan, 'n/a'), (np.float32('nan'), 'n/a'),
        (0.123456789, '0.12346'), (np.float32(0.5), '0.5'), (3, '3'),
        (np.int64(1234567), '1234567'), (0, '0'), (False, 'False'), ('Site\tA\r\nB', 'Site A B'),
    ],
)  # fmt: skip
def test_cells_of_a_table(value, cell):
    assert to_tsv([{'x': value, 'y': 1}]).splitlines() == ['x\ty', f'{cell}\t1']


def test_rows_may_lack_columns():
    assert to_tsv([{'a': 1}, {'b': 2}]) == 'a\tb\n1\tn/a\nn/a\t2\n'


def test_a_table_can_be_read_back(tmp_path):
    rows = [{'a': '1', 'b': 'two "words"'}, {'a': 'n/a', 'b': 'Köln'}]
    (tmp_path / 'x.tsv').write_text(to_tsv(rows), encoding='utf-8')
    assert read_tsv(tmp_path / 'x.tsv') == rows


def test_quality_of_other_runs_is_kept(tmp_path):
    first, second = scan('01', run=1), scan('01', run=2)
    update(tmp_path, {second: {'ssim': 0.9, 'scale_min': 1}})
    update(tmp_path, {first: {'ssim': 0.8}, scan('02'): {'ssim': 0.5}})
    update(tmp_path, {second: {'ssim': 0.7, 'target_site': 'IXI'}})
    assert read_tsv(tmp_path / 'sub-01' / 'sub-01_scans.tsv') == [
        {'filename': f'anat/sub-01_run-1{IMAGE}', 'ssim': '0.8', 'scale_min': 'n/a',
         'target_site': 'n/a'},
        {'filename': f'anat/sub-01_run-2{IMAGE}', 'ssim': '0.7', 'scale_min': '1',
         'target_site': 'IXI'},
    ]  # fmt: skip
    assert [row['ssim'] for row in read_tsv(tmp_path / 'sub-02' / 'sub-02_scans.tsv')] == ['0.5']


def test_sessions_have_tables_of_their_own(tmp_path):
    update(tmp_path, {scan('01', 'a'): {'ssim': 1}, scan('01', 'b'): {'ssim': 2}})
    for session, value in (('a', '1'), ('b', '2')):
        path = tmp_path / f'sub-01/ses-{session}/sub-01_ses-{session}_scans.tsv'
        (row,) = read_tsv(path)
        assert row == {'filename': f'anat/sub-01_ses-{session}_run-1{IMAGE}', 'ssim': value}
        assert 'ssim' in json.loads(path.with_suffix('.json').read_text())


def _update_often(folder: Path, process: int) -> None:
    for number in range(20):
        update(folder, {scan('01', run=100 * process + number): {'ssim': number}})
        leave_out_of_bids(folder / f'work-{process}-{number}', folder)


def test_jobs_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context('spawn')
    jobs = [context.Process(target=_update_often, args=(tmp_path, process)) for process in (1, 2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(read_tsv(tmp_path / 'sub-01' / 'sub-01_scans.tsv')) == 40
    assert len((tmp_path / '.bidsignore').read_text().splitlines()) == 40


def _others(folder: Path, generator: str | None, *names: str) -> None:
    """A folder of somebody else."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('not ours')
    if generator is not None:
        content = {'GeneratedBy': [{'Name': generator}]} if generator else {'Name': 'raw'}
        write_json(folder / 'dataset_description.json', content)


@pytest.mark.parametrize(
    ('generator', 'names', 'message'),
    [
        ('fMRIPrep', ('sub-01.html', 'README.md'), r'holds README.md of fMRIPrep; expected'),
        ('ddae-phantom', ('sub-01/anat/sub-01_T1w.nii.gz',), 'of ddae-phantom'),
        ('', ('participants.tsv',), 'holds dataset_description.json; expected'),
        (None, ('README.md',), 'holds README.md; expected an empty folder'),
        (None, ('group_T1w.html',), 'holds group_T1w.html'),
        (None, ('logs/x.log', 'work/important.txt'), 'holds work'),
    ],
)
def test_a_folder_of_others_is_not_written_to(tmp_path, generator, names, message):
    out = tmp_path / 'out'
    _others(out, generator, *names)
    with pytest.raises(UsageError, match=message):
        check_output_folder(out, tmp_path / 'elsewhere')


@pytest.mark.parametrize(
    'names',
    [(), ('logs/1/settings.toml',), ('work/x',), ('.git/HEAD', '.bidsignore'), ('models/m.s',)],
)
def test_a_folder_without_files_of_others(tmp_path, names):
    out = tmp_path / 'out'
    check_output_folder(out, out / 'work')
    _others(out, None, *names)
    check_output_folder(out, out / 'work')


def test_a_work_directory_in_the_output_folder_is_no_part_of_the_dataset(tmp_path, bids_dir):
    out = tmp_path / 'out'
    leave_out_of_bids(tmp_path / 'work', out)
    assert not out.exists()
    leave_out_of_bids(out / 'my work', out)
    write_description(out, bids_dir)
    leave_out_of_bids(out / 'logs' / 'steps', out)
    leave_out_of_bids(out / 'my work', out)
    lines = (out / '.bidsignore').read_text().splitlines()
    assert lines == ['my work', *BIDSIGNORE.splitlines(), 'logs/steps']
    for folder in ('my work', 'logs/steps'):
        (out / folder).mkdir(parents=True)
        (out / folder / 'sub-01_T1w.json').write_text('{}')
    issues = run_validator(out, kind='derivative')['issues']['issues']
    assert [issue for issue in issues if issue['severity'] == 'error'] == []


def test_the_output_folder_of_an_earlier_run(tmp_path, bids_dir):
    _others(tmp_path / 'out', None, 'sub-01/anat/sub-01_desc-preproc_T1w.nii.gz', 'notes.txt')
    write_description(tmp_path / 'out', bids_dir)
    check_output_folder(tmp_path / 'out', tmp_path / 'work')


def test_what_people_write_into_the_dataset_stays(tmp_path, bids_dir):
    write_description(tmp_path, bids_dir)
    readme, ignored = tmp_path / 'README.md', tmp_path / '.bidsignore'
    first = {path: path.read_text() for path in (readme, ignored)}
    readme.write_text('notes of the lab')
    ignored.write_text('extra_data\n')
    path = tmp_path / 'dataset_description.json'
    write_json(path, json.loads(path.read_text()) | {'Funding': ['a grant']})
    for _ in range(2):
        write_description(tmp_path, bids_dir)
        assert readme.read_text() == 'notes of the lab'
        assert ignored.read_text() == 'extra_data\n' + first[ignored]
        assert json.loads(path.read_text())['Funding'] == ['a grant']
    readme.write_text(first[readme].replace('Harmonized', 'Of an earlier version'))
    write_description(tmp_path, bids_dir)
    assert readme.read_text() == first[readme]


def test_the_readme_names_every_kind_of_file_that_bids_does_not_know(tmp_path, bids_dir):
    write_description(tmp_path, bids_dir)
    readme = (tmp_path / 'README.md').read_text()
    named = [name for name in BIDSIGNORE.splitlines() if not name.startswith('.')]
    assert not [name for name in named if name.strip('*') not in readme]
    assert 'ComBat' not in readme, 'features have several methods, which their JSON names'


def test_a_file_system_without_locks_is_refused_at_once(tmp_path, monkeypatch):
    check_locks(tmp_path)

    def flock(*arguments):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.raises(UsageError, match='cannot lock files .Function not implemented.'):
        check_locks(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_source_is_described(tmp_path, bids_dir):
    description = {
        'Name': 'T',
        'License': 'CC0',
        'Authors': ['A', 'B'],
        'DatasetDOI': 'doi:10.1/x',
    }
    write_json(bids_dir / 'dataset_description.json', description)
    write_description(tmp_path / 'out', bids_dir)
    written = json.loads((tmp_path / 'out' / 'dataset_description.json').read_text())
    assert (written['License'], written['Authors']) == ('CC0', ['A', 'B'])
    assert written['SourceDatasets'] == [{'DOI': 'doi:10.1/x'}]
    assert written['DatasetLinks'] == {'raw': '../bids'}
    assert dataset_name(bids_dir) == 'T'


@pytest.mark.parametrize('text', [None, '{', '[]', '{"GeneratedBy": "x"}', '{"GeneratedBy": [1]}'])
def test_a_source_without_a_description(bids_dir, text):
    path = bids_dir / 'dataset_description.json'
    path.unlink() if text is None else path.write_text(text)
    assert dataset_name(bids_dir) == 'bids'
    assert not is_phantom(bids_dir)


def test_phantoms_are_recognized(bids_dir):
    write_json(bids_dir / 'dataset_description.json', {'GeneratedBy': [{'Name': 'ddae-phantom'}]})
    assert is_phantom(bids_dir)


def test_what_is_not_known_of_a_person_is_null():
    model = sidecars.ModelFacts('DDAE', 'm', 'abc', True)
    facts = sidecars.harmonization(model, Covariates(), 'IXI', 'agnostic')
    assert (facts['SourceSite'], facts['Age'], facts['Sex']) == ('n/a', None, None)
    known = sidecars.harmonization(model, Covariates('A', 30.5, 'F'), 'IXI', 'refuse')
    assert (known['SourceSite'], known['Age'], known['Sex']) == ('A', 30.5, 'F')
    assert known['PhantomModel'] and known['ModelSHA256'] == 'abc'


def test_resolution_of_a_grid_that_is_no_cube():
    space = Space(Protocol(grid=(97, 115, 97)), 'https://example.org/t')
    assert space.entities == {'space': 'MNI152NLin2009aSym', 'res': '97x115'}


@pytest.mark.parametrize('description', [{}, {'License': 3, 'Authors': 'A', 'DatasetDOI': ''}])
@pytest.mark.parametrize('session', [None, 'a'])
def test_the_official_validator_has_no_complaint(
    tmp_path, bids_dir, save_image, session, description
):
    """Everything that a participant run writes, with images of noise; no error, no warning."""
    out = tmp_path / 'out'
    write_json(bids_dir / 'dataset_description.json', description)
    one = Scan(bids_dir / f'sub-01/anat/sub-01{"_ses-a" if session else ""}_T1w.nii.gz',
               '01', session, f'sub-01{"_ses-a" if session else ""}')  # fmt: skip
    layout = Layout(out).in_space(SPACE)
    model = sidecars.ModelFacts('DDAE', 'm', 'abc', False)
    container = {'Type': 'docker', 'Tag': 'ddae-app:1'}
    if session:
        container['URI'] = f'docker://ddae-app@sha256:{64 * "a"}'
    write_description(out, bids_dir, [('ddae-app', tmp_path / 'ü x=1')], container)
    preproc, brain, slices, harmonized = (
        layout.image(kind, one) for kind in ('preproc', 'mask', 'slices', 'harmonized')
    )
    facts = sidecars.harmonization(model, Covariates('A'), 'IXI', 'refuse')
    raw = sidecars.raw_uri(one, bids_dir)
    for path, metadata in (
        (preproc, sidecars.preproc(SPACE, [raw], Extraction('hd-bet', None, 'abc'))),
        (brain, sidecars.mask(SPACE, [raw])),
        (slices, sidecars.slices(SPACE, layout.uri(preproc))),
        (harmonized, sidecars.slices(SPACE, layout.uri(slices), harmonized=facts)),
    ):
        save_image(path)
        write_json(sidecar(path), metadata)
    quality = {'ssim': 0.9, 'source_site': 'A', 'target_site': 'IXI'}
    update(out, {one: quality})
    for path in (
        layout.transform(one), layout.figure(one, 'brain'), layout.page('01'), layout.group_table,
        layout.model('ddae').model, layout.run('1').citations['md'],
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('text\n')
    issues = run_validator(out, CONFIG, 'derivative')['issues']['issues']
    assert [(i['code'], i.get('subCode'), i.get('location')) for i in issues] == []


def test_the_container_and_the_code_are_named(tmp_path, bids_dir, monkeypatch):
    container = {'Type': 'docker', 'Tag': 'ddae-app:1', 'URI': 'docker://ddae-app@sha256:0'}
    write_description(tmp_path, bids_dir, container=container)
    path = tmp_path / 'dataset_description.json'
    usual = {'Name': 'ddae-app', 'Version': __version__}
    (generator,) = json.loads(path.read_text())['GeneratedBy']
    assert generator == usual | {'Container': container}
    package = EmailMessage()
    package['Project-URL'] = 'Documentation, https://example.org/docs'
    package['Project-URL'] = 'Source, https://example.org/code'
    monkeypatch.setattr('ddae_app.bids.dataset.metadata', lambda name: package)
    write_description(tmp_path, bids_dir)
    (generator,) = json.loads(path.read_text())['GeneratedBy']
    assert generator == usual | {'CodeURL': 'https://example.org/code'}


def _links(out: Path) -> dict[str, str]:
    return json.loads((out / 'dataset_description.json').read_text())['DatasetLinks']


@pytest.fixture
def earlier(tmp_path) -> list[Path]:
    """Output folders of three earlier runs, beside each other."""
    folders = [tmp_path / name for name in ('first', 'the second', 'thïrd')]
    for folder in folders:
        folder.mkdir()
    return folders


def own(*folders: Path) -> list[tuple[str, Path]]:
    """Folders of earlier runs as entries of --derivatives."""
    return [('ddae-app', folder) for folder in folders]


def test_folders_of_one_name_are_told_apart(tmp_path, bids_dir, earlier):
    first, second, third = earlier
    out = tmp_path / 'out'
    write_description(out, bids_dir, [('fmriprep', first), ('ddae-app', second)])
    write_description(out, bids_dir, [('fmriprep', third), ('smriprep', first)])
    assert _links(out) == {
        'raw': '../bids',
        'fmriprep': '../first',
        'ddae-app': '../the%20second',
        'fmriprep-2': '../th%C3%AFrd',
    }


def test_a_folder_keeps_its_name_whatever_the_order(tmp_path, bids_dir, earlier):
    out = tmp_path / 'out'
    first, second, third = earlier
    write_description(out, bids_dir, own(first))
    write_description(out, bids_dir, own(second, first))
    write_description(out, bids_dir, own(third))
    write_description(out, bids_dir)
    assert _links(out) == {
        'raw': '../bids',
        'ddae-app': '../first',
        'ddae-app-2': '../the%20second',
        'ddae-app-3': '../th%C3%AFrd',
    }
    assert link_names(out, own(third, second)) == {'ddae-app-3': third, 'ddae-app-2': second}
    assert link_names(tmp_path / 'new', own(third, second)) == {
        'ddae-app': third,
        'ddae-app-2': second,
    }


def test_links_of_earlier_versions_and_of_others_are_kept(tmp_path, bids_dir, earlier):
    out = tmp_path / 'out'
    out.mkdir()
    first, second, third = earlier
    links = {
        'ddae-app': second.as_uri(),
        'ddae-app-2': 'doi:10.18112/openneuro.ds000001.v1.0.0',
        'ddae-app-3': '../moved away',
    }
    write_json(out / 'dataset_description.json', {'DatasetLinks': links | {'odd': 3}})
    assert link_names(out, own(first, second, third)) == {
        'ddae-app-4': first,
        'ddae-app': second,
        'ddae-app-5': third,
    }
    write_description(out, bids_dir, own(second))
    assert _links(out) == links | {'ddae-app': '../the%20second', 'raw': '../bids'}


def test_one_folder_by_two_paths_has_one_name(tmp_path, bids_dir, earlier):
    (tmp_path / 'link').symlink_to(earlier[0])
    write_description(tmp_path / 'out', bids_dir, own(earlier[0]))
    assert link_names(tmp_path / 'out', own(tmp_path / 'link')) == {'ddae-app': tmp_path / 'link'}


def test_the_output_folder_needs_no_name_but_by_another_path(tmp_path, bids_dir):
    out, link = tmp_path / 'out', tmp_path / 'link'
    out.mkdir()
    link.symlink_to('out')
    write_description(out, bids_dir, own(out, link))
    assert link_names(out, own(out, link)) == {'ddae-app': link}
    assert _links(out) == {'raw': '../bids', 'ddae-app': '.'}
    assert Layout(out).uri(link / 'x', link_names(out, own(link))) == 'bids:ddae-app:x'


@pytest.mark.parametrize('where', ['beside', 'derivatives', 'linked'])
def test_uris_resolve_by_the_links(tmp_path, bids_dir, add, save_image, where):
    """As the standard says: the folder of the link, from the root of the dataset."""
    out = tmp_path / 'a' / 'out'
    if where == 'derivatives':
        out = bids_dir / 'derivatives' / 'ddae-app'
    elif where == 'linked':
        (tmp_path / 'far' / 'away').mkdir(parents=True)
        out.parent.mkdir()
        out.symlink_to(tmp_path / 'far' / 'away')
    folder = tmp_path / 'böse = "x"'
    image = save_image(folder / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz')
    raw = add('sub-01')
    write_description(out, bids_dir, own(folder))
    uris = {
        image: Layout(out).uri(image, link_names(out, own(folder))),
        raw: sidecars.raw_uri(Scan(raw, '01', None, 'sub-01'), bids_dir),
    }
    for path, uri in uris.items():
        _, name, inside = uri.split(':')
        assert (out / unquote(_links(out)[name]) / inside).samefile(path)
