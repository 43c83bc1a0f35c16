"""What an output was made from, and how the differences of two such records are named."""

from __future__ import annotations

import json

import pytest

from ddae_app.bids import provenance as records
from ddae_app.bids.extraction import Extraction
from ddae_app.settings import Protocol

PREPROCESSING = records.preprocessing_record(
    'a' * 64, Protocol(), Extraction('none'), sloppy=False
)
METADATA = {
    'ModelSHA256': 'm' * 64, 'SourceSite': 'A', 'TargetSite': 'B', 'UnseenSitePolicy': 'refuse',
    'Age': None, 'Sex': 'F', 'HarmonizationMethod': 'DDAE',
}  # fmt: skip


def harmonization(site_scans=None, keep_noise=False, **changes):
    return records.harmonization_record(
        PREPROCESSING, METADATA | changes, site_scans, keep_noise=keep_noise, sloppy=False
    )


def write(image, record):
    image.write_bytes(b'image')
    sidecar = image.with_name(image.name.replace('.nii.gz', '.json'))
    sidecar.write_text(
        json.dumps({'Description': 'x'} | ({records.KEY: record} if record else {}))
    )


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({}, ''),
        ({'TargetSite': 'C'}, 'target site (B, now C)'),
        ({'ModelSHA256': 'n' * 64}, 'model'),
        ({'Age': 40.0}, 'age'),
        ({'Age': 40.0, 'TargetSite': 'C'}, 'target site (B, now C), age'),
        ({'HarmonizationMethod': 'another name'}, ''),
        ({'keep_noise': True}, 'keep noise (False, now True)'),
    ],
)
def test_differences_in_words(changes, words):
    before = json.loads(json.dumps(harmonization()))  # as a sidecar gives it back
    assert records.difference(before, harmonization(**changes)) == words


def test_every_entry_has_a_name():
    masked = Extraction('mask', None, 'm' * 64).record()
    assert set(harmonization()) | set(PREPROCESSING) | set(masked) <= set(records.MEANING)


def test_an_entry_that_is_no_longer_there_is_a_difference():
    assert records.difference(PREPROCESSING | {'Extra': 1}, PREPROCESSING) == 'Extra'


def test_a_record_is_read_back(tmp_path):
    image = tmp_path / 'sub-01_T1w.nii.gz'
    assert records.read_record(image) is None
    write(image, PREPROCESSING)
    assert records.read_record(image) == PREPROCESSING
    for broken in ('{', '[]', '{"MadeFrom": 3}'):
        (tmp_path / 'sub-01_T1w.json').write_text(broken)
        assert records.read_record(image) is None


def test_scans_of_a_site_count_by_what_they_were_made_from_and_in_any_order(tmp_path):
    images = [tmp_path / f'sub-{i}_T1w.nii.gz' for i in range(3)]
    for image in images:
        write(image, PREPROCESSING)
    before = harmonization(records.digest_of_images(images))
    assert before == harmonization(records.digest_of_images(images[::-1]))
    assert before != harmonization(records.digest_of_images(images[:2]))
    write(images[0], PREPROCESSING | {'RawSHA256': 'b' * 64})
    after = harmonization(records.digest_of_images(images))
    assert records.difference(before, after) == 'scans of its site'
