"""Stats files of FreeSurfer and FastSurfer: what is read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddae_app.bids.recons import find_recons
from ddae_app.errors import UsageError
from ddae_app.features.stats import read_stats
from ddae_app.features.stats_table import StatsTable, read_stats_table
from tests.features.simulated import labels_of
from tests.features.stats_files import REGIONS, values_of, write_cortex, write_volumes

NEEDED = ('NumVert', 'SurfArea', 'GrayVol', 'ThickAvg')

VALUES = values_of(labels_of(2))


def _read(root: Path, what: str = 'aparc') -> StatsTable:
    return read_stats_table(what, find_recons([root]).found, Path('t.tsv'))


@pytest.fixture
def root(tmp_path):
    """Five people, with both kinds of stats."""
    for i, values in enumerate(VALUES[:5]):
        write_cortex(tmp_path / f'sub-{i}', values)
        write_volumes(tmp_path / f'sub-{i}', values)
    return tmp_path


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding='latin-1')
    assert old in text
    path.write_text(text.replace(old, new), encoding='latin-1')


def test_one_file(root):
    file = read_stats(root / 'sub-0' / 'stats' / 'lh.aparc.stats', NEEDED)
    assert tuple(file.regions) == REGIONS
    assert float(file.regions['cuneus']['ThickAvg']) == pytest.approx(VALUES[0, 3] / 20, abs=1e-3)
    assert file.version == 'mris_anatomical_stats 7.4.1'
    assert file.header['hemi'] == 'lh' and len(file.sha256) == 64
    named = {measure.name: measure for measure in file.measures}
    # FreeSurfer forgot a comma in this line.
    assert (named['CortexVol'].text, named['CortexVol'].unit) == ('480123.875000', 'mm^3')


@pytest.mark.parametrize(
    ('line', 'version'),
    [
        (
            'cvs_version $Id: mris_anatomical_stats.c,v 1.79 2016/03/14 15:15:34 greve Exp $',
            'mris_anatomical_stats 1.79',
        ),
        ('cvs_version $Id$', 'mris_anatomical_stats'),
        ('nothing', 'mris_anatomical_stats'),
    ],
)
def test_versions(root, line, version):
    path = root / 'sub-0' / 'stats' / 'lh.aparc.stats'
    _edit(path, '# cvs_version 7.4.1', f'# {line}')
    assert read_stats(path, NEEDED).version == version


def test_the_columns_of_the_cortex(root):
    read = _read(root)
    table = read.table
    assert table.header[:3] == ('participant_id', 'lh_bankssts_thickness', 'lh_cuneus_thickness')
    order = ['lh_MeanThickness_thickness', 'rh_bankssts_thickness', 'lh_bankssts_area']
    order += ['lh_WhiteSurfArea_area', 'rh_WhiteSurfArea_area', 'lh_bankssts_volume']
    places = [table.features.index(name) for name in order]
    assert places == sorted(places)
    assert table.features[-2:] == ('BrainSegVolNotVent', 'eTIV')
    assert len(table.features) == 6 * len(REGIONS) + 6
    assert 'lh_NumVert_area' not in table.features
    assert table.participants == ('0', '1', '2', '3', '4') and set(table.sessions) == {None}
    place = table.header.index('rh_insula_volume')
    file = read_stats(root / 'sub-3' / 'stats' / 'rh.aparc.stats', NEEDED)
    assert table.cells[3][place] == file.regions['insula']['GrayVol']
    units = {column.name: column.unit for column in read.columns}
    assert [units[f'lh_cuneus_{m}'] for m in ('thickness', 'area', 'volume')] == [
        'mm', 'mm^2', 'mm^3'
    ]  # fmt: skip
    assert set(read.versions) == {'mris_anatomical_stats 7.4.1'}


def test_the_columns_of_the_volumes(root):
    table = _read(root, 'aseg').table
    assert table.features[:2] == ('Left-Lateral-Ventricle', 'Left-Thalamus')
    assert table.features[-3:] == (
        'BrainSegVol', 'lhCortexVol', 'EstimatedTotalIntraCranialVol'
    )  # fmt: skip
    # Numbers of holes, and ratios.
    assert len(table.features) == 10
    assert table.columns(['Left-Thalamus'])[2, 0] == pytest.approx(VALUES[2, 1] * 100, abs=0.05)


def test_fastsurfer(tmp_path):
    for i, values in enumerate(VALUES[:3]):
        write_volumes(tmp_path / f'sub-{i}', values, fast=True)
        write_cortex(tmp_path / f'sub-{i}', values, atlas='aparc.DKTatlas.mapped')
    volumes = _read(tmp_path, 'aseg')
    assert not any(name.startswith('ctx-') for name in volumes.table.features)
    assert 'EstimatedTotalIntraCranialVol' not in volumes.table.features
    assert set(volumes.versions) == {'segstats.py FastSurfer 2.3.3'}
    cortex = _read(tmp_path, 'aparc.DKTatlas')
    assert 'lh_insula_thickness' in cortex.table.features
    assert set(cortex.versions) == {'mris_anatomical_stats 7.4.1, FastSurfer'}
    with pytest.raises(
        UsageError,
        match=r'no stats of aparc in .*; expected lh\.aparc\.stats and rh.*; there are those for '
        '--features aparc.DKTatlas or aseg',
    ):
        _read(tmp_path)


def test_the_segmentation_of_current_fastsurfer(tmp_path):
    """Since 2025, ``aseg+DKT.stats`` is a link to a file of another name."""
    for i, values in enumerate(VALUES[:3]):
        folder = tmp_path / f'sub-{i}'
        write_volumes(folder, values, fast=True, name_of_fast='aseg+DKT.VINN.stats')
    linked = tmp_path / 'sub-0' / 'stats' / 'aseg+DKT.stats'
    linked.symlink_to('aseg+DKT.VINN.stats')
    found = _read(tmp_path, 'aseg')
    assert [file.path.name for (file,) in found.files] == [
        'aseg+DKT.stats', 'aseg+DKT.VINN.stats', 'aseg+DKT.VINN.stats',
    ]  # fmt: skip
    assert not np.isnan(found.table.values).any()


HEAD = ['BrainSegVolNotVent', 'eTIV']


def test_the_head_where_files_of_the_cortex_lack_it(root):
    """FreeSurfer 7.3 leaves it out there; it comes from the volumes of the same person."""
    expected = _read(root)
    for i in range(3):
        write_cortex(root / f'sub-{i}', VALUES[i], head=False)
        text = (root / f'sub-{i}' / 'stats' / 'lh.aparc.stats').read_text('latin-1')
        names = [line.split(', ')[1] for line in text.splitlines() if line[:9] == '# Measure']
        assert names == ['NumVert', 'WhiteSurfArea', 'MeanThickness']
        _edit(
            root / f'sub-{i}' / 'stats' / 'aseg.stats',
            '# Measure lhCortex,',
            '# Measure BrainSegNotVent, BrainSegVolNotVent, Brain Segmentation Volume Without '
            'Ventricles, 1170000.500000, mm^3\n# Measure lhCortex,',
        )
    (root / 'sub-1' / 'stats' / 'aseg.stats').unlink()
    found = _read(root)
    assert found.table.features == expected.table.features
    assert found.versions == expected.versions
    head, before = (table.columns(HEAD) for table in (found.table, expected.table))
    assert np.isnan(head[1]).all()
    assert np.array_equal(np.delete(head, 1, axis=0), np.delete(before, 1, axis=0))
    names = [[file.path.name for file in files] for files in found.files]
    cortex = ['lh.aparc.stats', 'rh.aparc.stats']
    assert names == [[*cortex, 'aseg.stats'], cortex, [*cortex, 'aseg.stats'], cortex, cortex]


def test_older_names_of_regions(root):
    for i in range(3):
        _edit(root / f'sub-{i}' / 'stats' / 'aseg.stats', '-Thalamus ', '-Thalamus-Proper ')
    table = _read(root, 'aseg').table
    assert len(table.features) == 10 and not np.isnan(table.values).any()
    for i in range(5):
        for side in ('lh', 'rh'):
            path = root / f'sub-{i}' / 'stats' / f'{side}.aparc.stats'
            _edit(path, '\nprecentral  ', '\nG_and_S_front ' if i % 2 else '\nG&S_front ')
    table = _read(root).table
    assert 'lh_G_and_S_front_area' in table.features and not np.isnan(table.values).any()


def test_regions_that_are_not_there(root):
    """One in the person who comes first, and one without a vertex."""
    write_cortex(root / 'sub-0', VALUES[0], left_out=('bankssts',))
    path = root / 'sub-2' / 'stats' / 'rh.aparc.stats'
    _edit(path, f'{"insula":<40} 1421', f'{"insula":<40}    0')
    table = _read(root).table
    assert table.features[0] == 'lh_bankssts_thickness'
    missing = np.argwhere(np.isnan(table.values))
    assert {(int(row), table.features[column]) for row, column in missing} == {
        *((0, f'{side}_bankssts_{m}') for side in ('lh', 'rh')
          for m in ('thickness', 'area', 'volume')),
        *((2, f'rh_insula_{m}') for m in ('thickness', 'area', 'volume')),
    }  # fmt: skip
    assert table.cells[0][1] == 'n/a'


def test_a_hemisphere_that_is_missing(root):
    (root / 'sub-1' / 'stats' / 'rh.aparc.stats').unlink()
    (root / 'sub-2' / 'stats' / 'lh.aparc.stats').unlink()
    (root / 'sub-2' / 'stats' / 'rh.aparc.stats').unlink()
    read = _read(root)
    assert read.table.participants == ('0', '3', '4')
    assert read.unfinished == ('sub-1 (no rh.aparc.stats)', 'sub-2 (no lh.aparc.stats)')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('# ColHeaders StructName', '# StructName', 'no line "# ColHeaders"'),
        ('0.490     0.106', '0.490', "the row of 'bankssts' has 9 values of 10"),
        ('0.490     0.106     0.020       13     1.1\nfusiform', '0.4', 'has '),
        ('\nfusiform', '\ncuneus  ', "two rows of 'cuneus'"),
        (' 1421', ' 14x1', "'14x1' of 'bankssts' is no number"),
        (' 1421', ' inf', "'inf' of 'bankssts' is no number"),
        ('Mean Thickness, 2.', 'Mean Thickness, x', "of 'MeanThickness' is no number"),
        ('# Measure BrainSeg, BrainSegVol, ', '# Measure ', 'is damaged'),
        ('GrayVol ThickAvg', 'GrayVol Thick', 'no column ThickAvg'),
        ('label/lh.aparc.annot', 'label/lh.aparc.a2009s.annot', 'not of aparc'),
        ('# hemi lh', '# hemi rh', 'of hemisphere rh, as its header says'),
    ],
)  # fmt: skip
def test_damaged_files(root, old, new, message):
    path = root / 'sub-2' / 'stats' / 'lh.aparc.stats'
    _edit(path, old, new)
    with pytest.raises(UsageError) as error:
        _read(root)
    text = str(error.value)
    assert text.startswith(f'{path}: ') and message in text and '\n' not in text


@pytest.mark.parametrize('keep', [0, 100, -30, -90, -1])
def test_cut_files(root, keep):
    path = root / 'sub-2' / 'stats' / 'lh.aparc.stats'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r'sub-2.*(cut|damaged)'):
        _read(root)


def test_files_cut_between_two_rows(root):
    path = root / 'sub-2' / 'stats' / 'lh.aparc.stats'
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join(lines[:-2]))
    with pytest.raises(UsageError, match='3 of the 5 regions that most people have, so it is cut'):
        _read(root)


def test_regions_of_another_atlas(root):
    path = root / 'sub-2' / 'stats' / 'lh.aparc.stats'
    row = path.read_text(encoding='latin-1').splitlines()[-1]
    rows = [row.replace('precentral', f'G_precentral{i}') for i in range(3)]
    path.write_text(path.read_text(encoding='latin-1') + '\n'.join(rows) + '\n')
    with pytest.raises(UsageError, match='G_precentral0, G_precentral1, .* of another atlas'):
        _read(root)


def test_nan_is_a_missing_value(root):
    path = root / 'sub-2' / 'stats' / 'aseg.stats'
    text = path.read_text()
    row = next(line for line in text.splitlines() if 'Left-Hippocampus' in line)
    path.write_text(text.replace(row, row.replace(row.split()[3], '-nan')))
    table = _read(root, 'aseg').table
    assert np.isnan(table.columns(['Left-Hippocampus'])[2, 0])


def test_content_that_was_not_fetched(root):
    path = root / 'sub-2' / 'stats' / 'aseg.stats'
    path.unlink()
    path.symlink_to('.git/annex/objects/x')
    with pytest.raises(UsageError, match='the content is not on this machine; run "datalad get'):
        _read(root, 'aseg')


def test_folders_of_people(tmp_path):
    names = ['sub-01', 'sub-02_ses-1', 'sub-02_ses-2', 'sub-02', 'sub-02_ses-1.long.sub-02']
    names += ['sub-03_run-1', 'bert', 'fsaverage', 'fsaverage5', 'sub-04', 'sub-05']
    for name in names:
        (tmp_path / name / 'stats').mkdir(parents=True)
    (tmp_path / 'sub-04' / 'base-tps').touch()
    (tmp_path / 'sub-05' / 'base-tps.fastsurfer').touch()
    (tmp_path / 'logs').mkdir()
    recons = find_recons([tmp_path])
    assert [(r.participant, r.session) for r in recons.found] == [
        ('01', None), ('02', '1'), ('02', '2')
    ]  # fmt: skip
    assert recons.misnamed == ('bert', 'sub-03_run-1')
    assert recons.longitudinal == ('sub-02_ses-1.long.sub-02',)
    assert recons.templates == ('sub-02', 'sub-04', 'sub-05')
    with pytest.raises(UsageError, match='are of the same person; remove one'):
        find_recons([tmp_path, tmp_path])
