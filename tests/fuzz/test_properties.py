"""What holds whatever somebody writes into a dataset, a model or a command line."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddae_app.bids.query import Selection, find_scans, read_filters
from ddae_app.errors import DdaeError, InvalidBIDSError, ModelError
from ddae_app.methods.modelfile import MAX_GRID, METADATA_KEY, metadata_of, parse_info
from ddae_app.reports.group import write_group_report
from ddae_app.reports.participant import (
    Measure,
    ParticipantReport,
    Picture,
    ScanReport,
    write_participant_report,
)
from tests.methods.toy import info

few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DESCRIPTION = '{"Name": "x", "BIDSVersion": "1.10.0"}'

numbers = st.integers() | st.floats() | st.integers(min_value=2**60)
hostile = st.sampled_from(
    [
        '01',
        '02',
        '..',
        '../../secret',
        '/etc/passwd',
        '*',
        '**',
        '.*',
        '',
        'sub-',
        '<script>',
        '\0',
        '\x1b[2J',
    ]
)
texts = st.text(max_size=40) | hostile
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def leaves(content, path=()):
    """The address of everything inside parsed JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


HEADER = metadata_of(info())[METADATA_KEY]
LEAVES = list(leaves(json.loads(HEADER)))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(LEAVES), values)
def test_a_model_tells_what_its_schema_allows_or_is_refused(address, value):
    header = json.loads(HEADER)
    inside = header
    for key in address[:-1]:
        inside = inside[key]
    inside[address[-1]] = value
    try:
        info = parse_info(Path('m.safetensors'), {METADATA_KEY: json.dumps(header)})
    except ModelError as error:
        assert str(error).startswith('m.safetensors: ')
        return
    assert max(info.protocol.grid) <= MAX_GRID
    assert len(info.sites) == len(info.training.subjects_per_site)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """One participant, and next to the dataset another that is nobody's business."""
    root = tmp_path_factory.mktemp('root')
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    for folder, label in (('bids', '01'), ('secret', '02')):
        anat = root / folder / f'sub-{label}' / 'anat'
        anat.mkdir(parents=True)
        nib.save(image, anat / f'sub-{label}_T1w.nii.gz')
        (root / folder / 'dataset_description.json').write_text(DESCRIPTION)
    assert len(find_scans(root / 'bids', Selection())) == 1
    return root / 'bids'


def selects_nothing_else(dataset: Path, selection: Selection) -> bool:
    """Whether nothing but the scan of the dataset is selected."""
    try:
        scans = find_scans(dataset, selection)
    except DdaeError:
        return True
    return [scan.path for scan in scans] == [dataset / 'sub-01/anat/sub-01_T1w.nii.gz']


@few
@given(st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_labels_lead_nowhere_else(dataset, participants, sessions):
    assert selects_nothing_else(dataset, Selection(tuple(participants), tuple(sessions)))


entities = st.sampled_from(['subject', 'session', 'run', 'datatype', 'extension', 'suffix'])


@few
@given(st.dictionaries(entities | texts, values, max_size=3))
@example({'run': 2**63})
@example({'subject': [None, None]})
def test_filters_lead_nowhere_else(dataset, tmp_path, content):
    (tmp_path / 'filters.json').write_text(json.dumps({'t1w': content}))
    try:
        filters = read_filters(tmp_path / 'filters.json')
    except DdaeError:
        return
    assert selects_nothing_else(dataset, Selection(filters=filters))


@pytest.mark.parametrize('entity', ['acq-<img src=x>', 'acq-a b', 'acq-a#b', 'acq-a%2f'])
def test_names_that_are_no_bids_names_are_refused(tmp_path, entity):
    anat = tmp_path / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    (tmp_path / 'dataset_description.json').write_text(DESCRIPTION)
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    nib.save(image, anat / f'sub-01_{entity}_T1w.nii.gz')
    with pytest.raises(InvalidBIDSError, match='not a BIDS name'):
        find_scans(tmp_path, Selection())


class Tags(HTMLParser):
    """The tags of a page, with the names of their attributes, and where they lead."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags: list[tuple] = []
        self.feed(page.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))


@few
@given(texts, texts)
def test_texts_of_users_make_no_tags(tmp_path, site, name):
    def tags(site, name):
        page = tmp_path / 'page.html'
        rows = [{'bids_name': name, 'source_site': site, 'cjv': '0.5', name: site}]
        write_group_report(page, rows, {}, {name: f'{name}.html'}, evaluation=site)
        whole = Tags(page).tags
        measures, picture = Measure(name, site, name), Picture(site, name, site, name)
        scan = ScanReport(
            name, None, (('Site', site),), (measures,), (picture,), (site,), crash=(name, site)
        )
        report = ParticipantReport(
            participant=name,
            version='0',
            run_id='r',
            warnings=(site,),
            scans=(scan,),
            methods='',
            settings=site,
            command=name,
        )
        write_participant_report(page, report)
        return whole + Tags(page).tags

    assert tags(f's{site}', f'n{name}') == tags('site', 'name')
