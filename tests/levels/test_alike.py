"""Scans of one site that were acquired or preprocessed in several ways are told apart."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.cohort import read_cohort
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import space_of
from ddae_app.levels.train.alike import kinds_of, unlike_references, unlike_scans
from ddae_app.settings import Protocol


@pytest.fixture
def preprocessed(tmp_path):
    """``preprocessed([('brain', 'deepbet', 1.0), ...])``: scans of site A and what was noted."""
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    layout = Layout(out).in_space(space_of(Protocol()))

    def make(kinds, sites='A'):
        scans = []
        table = 'participant_id\tsite\n'
        for i, (head, method, mm) in enumerate(kinds):
            raw = bids / f'sub-{i}' / 'anat' / f'sub-{i}_T1w.nii.gz'
            raw.parent.mkdir(parents=True)
            nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([1, 1, mm, 1])), raw)
            scan = Scan(raw, str(i), None, f'sub-{i}')
            for path in layout.preprocessed(scan):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b'')
            said = {'HeadKind': head, 'SkullStripMethod': method, 'MadeFrom': {}}
            sidecar(layout.image('preproc', scan)).write_text(json.dumps(said))
            table += f'sub-{i}\t{sites[i % len(sites)]}\n'
            scans.append(scan)
        (bids / 'participants.tsv').write_text(table)
        cohort = read_cohort(bids, scans, site_column=None, source_site=None)
        return scans, cohort, layout, [out], ScanMetadata(bids)

    return make


USUAL = 'head', 'deepbet', 1.0


def test_scans_of_one_kind_are_not_doubted(preprocessed):
    nearly = ('head', 'deepbet', 1.2)
    assert unlike_scans(*preprocessed([USUAL] * 4 + [nearly] * 2)) == []


def test_sites_may_differ_from_each_other(preprocessed):
    other = 'brain', 'none', 2.0
    assert unlike_scans(*preprocessed([USUAL, other] * 3, sites='AB')) == []


@pytest.mark.parametrize(
    ('other', 'words'),
    [
        (('brain', 'deepbet', 1.0), 'whole heads (4), skull-stripped before (2: sub-4, sub-5)'),
        (('head', 'template', 1.0), 'stripped by deepbet (4), stripped by template (2: sub-4'),
        (('head', 'deepbet', 3.0), '1 mm (4), 3 mm (2: sub-4, sub-5)'),
    ],
)
def test_two_kinds_of_scans_in_one_site_are_named(preprocessed, other, words):
    (line,) = unlike_scans(*preprocessed([USUAL] * 4 + [other] * 2))
    assert line.startswith('site A has ') and words in line


def test_two_sequences_in_one_site_are_named(preprocessed):
    found = preprocessed([USUAL] * 6)
    for scan in found[0]:
        fields = {'EchoTime': 0.003, 'FlipAngle': 8, 'InversionTime': 'long', 'X': [1]}
        if scan.participant == '2':
            fields |= {'EchoTime': 0.09, 'FlipAngle': 9}
        scan.path.with_name(f'{scan.stem}_T1w.json').write_text(json.dumps(fields))
    (line,) = unlike_scans(*found)
    assert 'EchoTimes of several kinds: 0.003 (5), 0.09 (1: sub-2)' in line


def test_an_image_that_cannot_be_read_says_nothing(preprocessed):
    scans, *rest = preprocessed([USUAL] * 3)
    scans[0].path.write_bytes(b'no image')
    scans[1].path.unlink()
    assert unlike_scans(scans, *rest) == []


def test_reference_scans_of_another_kind(preprocessed):
    scans, _, layout, roots, _ = preprocessed([USUAL] * 3 + [('brain', 'none', 1.0)] * 3)
    for kinds, words in zip(
        kinds_of(scans, layout, roots), ('whole heads', 'stripped by deepbet'), strict=True
    ):
        there, here = ({scan: kinds[scan] for scan in part} for part in (scans[3:], scans[:3]))
        line = unlike_references(there, here, 'Ref')
        assert (
            f'the target Ref are skull-stripped before, and most of the dataset are {words}'
            in (line)
        )
        assert unlike_references(here, here, 'Ref') is None
        assert unlike_references(here, {}, 'Ref') is None
