"""Maps on the cortex: each form of input, what is missing, what is refused, and the three levels.

The mesh is mostly that of fsaverage3, whose 642 vertices are the first of those of fsaverage5.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.surfaces import error, simulate, written
from benchmarks.surfaces import write as write_freesurfer
from ddae_app.bids.dataset import read_tsv
from ddae_app.bids.surface_files import NATIVE, find_maps
from ddae_app.bids.validation import run_validator
from ddae_app.cli.main import main
from ddae_app.errors import UsageError
from ddae_app.features.fit import fit_model
from ddae_app.features.maps import SurfaceMaps, read_surface_maps
from ddae_app.features.model import FeatureModel
from ddae_app.features.people import digest_of_rows
from ddae_app.imaging.surfaces import gifti_of, read_maps, written_like
from ddae_app.levels.features.outputs import _taken_together
from tests.features.commands import refused, run
from tests.features.simulated import labels_of, table_of, write_dataset, write_table

V = 642
WALL = np.arange(600, V)
SPACE = '_space-fsaverage3'
CONFIG = Path(__file__).parents[2] / 'bids_validator_config' / 'derivatives.json'


@pytest.fixture(scope='module')
def labels():
    return labels_of(12)


@pytest.fixture(scope='module')
def values(labels):
    """Thickness, shape (36, 1284), 0 on the medial wall and in one vertex of one person."""
    rng = np.random.default_rng(3)
    v = 2.5 + 0.2 * rng.normal(size=(len(labels.sites), 2 * V))
    v += 0.3 * (labels.sites == 'B')[:, None] - 0.004 * (labels.ages - 50)[:, None]
    v[:, np.concatenate([WALL, WALL + V])] = 0
    v[4, 7] = 0
    v[5, V + 8] = np.nan
    return v.astype(np.float32)


def _gifti(
    folder: Path, person: str, values: np.ndarray, space: str = '_space-fsaverage3'
) -> None:
    anat = folder / f'sub-{person}' / 'anat'
    anat.mkdir(parents=True, exist_ok=True)
    for hemi, half in zip('LR', np.split(values, 2), strict=True):
        path = anat / f'sub-{person}_hemi-{hemi}{space}_thickness.shape.gii'
        path.write_bytes(gifti_of(half, hemi))


def _mgh(folder: Path, person: str, values: np.ndarray, mesh: str = 'fsaverage3') -> None:
    surf = folder / f'sub-{person}' / 'surf'
    surf.mkdir(parents=True, exist_ok=True)
    for side, half in zip(('lh', 'rh'), np.split(values, 2), strict=True):
        image = nib.MGHImage(half[:, None, None].astype(np.float32), np.eye(4))
        nib.save(image, surf / f'{side}.thickness.{mesh}.mgh')


def _morph(folder: Path, person: str, values: np.ndarray) -> None:
    surf = folder / f'sub-{person}' / 'surf'
    surf.mkdir(parents=True, exist_ok=True)
    for side, half in zip(('lh', 'rh'), np.split(values, 2), strict=True):
        nib.freesurfer.write_morph_data(surf / f'{side}.thickness', half)


def _cifti(folder: Path, person: str, values: np.ndarray) -> None:
    """As sMRIPrep writes it, without the medial wall."""
    anat = folder / f'sub-{person}' / 'anat'
    anat.mkdir(parents=True, exist_ok=True)
    there = np.ones(V, dtype=bool)
    there[WALL] = False
    sides = ('cortex_left', 'cortex_right')
    models = [nib.cifti2.BrainModelAxis.from_mask(there, name=side) for side in sides]
    axes = nib.cifti2.ScalarAxis(['thickness']), models[0] + models[1]
    data = values[np.tile(there, 2)][None]
    image = nib.Cifti2Image(data.astype(np.float32), header=axes)
    nib.save(image, anat / f'sub-{person}_space-tiny_den-1k_thickness.dscalar.nii')


FORMS: dict[str, Callable[[Path, str, np.ndarray], None]] = {
    'gifti': _gifti, 'mgh': _mgh, 'morph': _morph, 'cifti': _cifti,
}  # fmt: skip


def _written(folder: Path, labels, values: np.ndarray, form: str = 'gifti') -> Path:
    for person, row in zip(labels.subjects, values, strict=True):
        FORMS[form](folder, person, row)
    return folder


@pytest.mark.parametrize('form', FORMS)
def test_every_form_is_read_alike(tmp_path, labels, values, form):
    maps, said = read_surface_maps([_written(tmp_path, labels, values, form)], 'thickness')
    assert maps.participants == tuple(labels.subjects) and maps.sizes == (V, V)
    assert maps.values.dtype == np.float32 and maps.values.shape == (36, 2 * 600)
    expected = np.delete(values, [*WALL, *(WALL + V)], axis=1)
    expected[expected == 0] = np.nan
    assert np.array_equal(maps.values, expected, equal_nan=True)
    assert maps.features[0] == 'L0' and maps.features[600] == 'R0'
    assert maps.mesh == ('tiny_den-1k' if form == 'cifti' else 'fsaverage3')
    assert '1,200 vertices outside the medial wall' in said[-1]


def test_a_cifti_file_is_read_once_for_both_hemispheres(tmp_path, labels, values, monkeypatch):
    folder, read, load = _written(tmp_path, labels, values, 'cifti'), [], nib.load
    monkeypatch.setattr(nib, 'load', lambda path: read.append(path) or load(path))
    maps, _ = read_surface_maps([folder], 'thickness')
    assert maps.sizes == (V, V)
    assert sorted(read) == sorted(folder.rglob('*.dscalar.nii')) and len(read) == 36


def test_zero_is_a_value_of_curvature(tmp_path, labels, values):
    folder = _written(tmp_path, labels, values)
    for path in folder.rglob('*.gii'):
        path.rename(path.with_name(path.name.replace('thickness', 'curv')))
    maps, _ = read_surface_maps([folder], 'curv')
    assert maps.values[4, 7] == 0 and np.isnan(maps.values[5, 608])


@pytest.mark.parametrize('measure', ['thickness', 'curv'])
def test_the_digest_of_maps_is_not_that_of_a_model(tmp_path, labels, values, measure):
    """At the group level, maps are read without the vertices that a model knows."""
    values = values.copy()
    values[:, [5, V + 9]] = 0
    folder = _written(tmp_path, labels, values)
    for path in folder.rglob('*.gii'):
        path.rename(path.with_name(path.name.replace('thickness', measure)))
    alone, _ = read_surface_maps([folder], measure)
    with_model, _ = read_surface_maps([folder], measure, (), ('L5', 'L6', 'R9'))
    assert {*with_model.features} - {*alone.features} == {'L5', 'R9'}
    assert digest_of_rows(alone, labels) == digest_of_rows(with_model, labels)
    other = replace(alone, values=alone.values + np.float32(0.1))
    assert digest_of_rows(alone, labels) != digest_of_rows(other, labels)


def test_one_of_several_meshes_is_taken(tmp_path, labels, values):
    folder = _written(tmp_path, labels, values, 'mgh')
    for person in labels.subjects:
        _mgh(folder, person, np.ones(2 * 2562), 'fsaverage4')
        _morph(folder, person, np.ones(2 * (700 + int(person))))
    maps, said = read_surface_maps([folder], 'thickness')
    assert maps.mesh == 'fsaverage3'
    assert said[0] == 'thickness on fsaverage3 is taken, and not that on fsaverage4'


def test_the_longitudinal_stream_is_left_out(tmp_path, labels, values):
    folder, person = tmp_path / 'fs', labels.subjects[0]
    for visit in ('ses-1', 'ses-2'):
        _mgh(folder, f'{person}_{visit}', values[0])
        _mgh(folder, f'{person}_{visit}.long.sub-{person}', values[0])
    _mgh(folder, person, values[0])
    _mgh(folder, '001', values[1])
    _mgh(folder, '002', values[2])
    (folder / 'sub-002' / 'base-tps').touch()
    maps, _ = read_surface_maps([folder], 'thickness')
    assert maps.names == [f'sub-{person}_ses-1', f'sub-{person}_ses-2', 'sub-001']
    assert maps.left_out[0].startswith(
        '2 folders with maps left out, of the longitudinal stream (to take it, give a folder of'
    )
    assert maps.left_out[1:] == (
        '2 folders with maps left out, template or average of the sessions of a person: '
        f'sub-{person}, sub-002',
    )


def test_one_folder_by_two_names_is_read_once(tmp_path, labels, values):
    folder = _written(tmp_path, labels, values)
    maps, _ = read_surface_maps([folder, folder], 'thickness')
    assert maps.participants == tuple(labels.subjects)


def _change(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for hemi in 'LR':
        one = path / 'anat' / f'{path.name}_hemi-{hemi}_space-fsaverage3_thickness.shape.gii'
        one.write_bytes(gifti_of(change(read_maps(one, hemi)[hemi]), hemi))


def _unlink_right(folder: Path) -> None:
    next(folder.glob('sub-003/anat/*hemi-R*')).unlink()


def _truncate(folder: Path) -> None:
    path = next(folder.glob('sub-003/anat/*hemi-R*'))
    path.write_bytes(path.read_bytes()[:500])


def _twice(folder: Path) -> None:
    _gifti(folder, '003', np.ones(2 * V), '_desc-smooth_space-fsaverage3')


def _infinite(folder: Path) -> None:
    _change(folder / 'sub-003', lambda v: np.where(np.arange(V) == 5, np.inf, v))


def _meters(folder: Path) -> None:
    _change(folder / 'sub-003', lambda v: v / 1000)


def _empty(folder: Path) -> None:
    _change(folder / 'sub-003', lambda v: v * np.nan)


def _other_mesh(folder: Path) -> None:
    _change(folder / 'sub-003', lambda v: np.ones(650))


def _annexed(folder: Path) -> None:
    path = next(folder.glob('sub-003/anat/*hemi-R*'))
    path.unlink()
    path.symlink_to(folder / '.git' / 'annex' / 'objects' / 'x')


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (
            _unlink_right,
            r'sub-003 has no map of thickness of the right hemisphere beside .*-L',
        ),
        (_truncate, r'hemi-R.*: not readable as a map on the cortex, or damaged'),
        (_twice, r'sub-003 has two maps of thickness of the left hemisphere, .* leave one'),
        (_infinite, r'thickness of sub-003 is infinite at 2 vertices; expected finite'),
        (_meters, r'thickness of sub-003 is about 1,000 times smaller than that of most people'),
        (_empty, r'thickness of sub-003 has no values; make it again'),
        (_other_mesh, r'sub-003 have 650 and 650 vertices, and fsaverage3 has 642 and 642; resam'),
        (_annexed, r'the content is not on this machine; run "datalad get'),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, labels, values, spoil, message):
    folder = _written(tmp_path, labels, values)
    spoil(folder)
    with pytest.raises(UsageError, match=message) as told:
        read_surface_maps([folder], 'thickness')
    assert '\n' not in str(told.value)


def test_meshes_of_people_are_refused(tmp_path):
    for person, size in (('01', 700), ('02', 701)):
        _morph(tmp_path, person, np.ones(2 * size))
    with pytest.raises(UsageError, match='sub-01 has 700 and 700; resample .* mri_surf2surf'):
        read_surface_maps([tmp_path], 'thickness')


def test_files_of_several_maps_and_none(tmp_path):
    arrays = [nib.gifti.GiftiDataArray(np.ones(V, dtype=np.float32)) for _ in range(2)]
    path = tmp_path / 'x.shape.gii'
    nib.save(nib.GiftiImage(darrays=arrays), path)
    with pytest.raises(UsageError, match='expected one number for each vertex of the left'):
        read_maps(path, 'L')
    with pytest.raises(UsageError, match='no maps in .*; looked for .*thickness.shape.gii, sub-'):
        read_surface_maps([tmp_path], 'thickness')


def test_a_cifti_file_keeps_what_is_no_cortex(tmp_path):
    cortex = nib.cifti2.BrainModelAxis.from_mask(np.arange(9) != 4, name='cortex_left')
    right = nib.cifti2.BrainModelAxis.from_mask(np.ones(9, dtype=bool), name='cortex_right')
    below = nib.cifti2.BrainModelAxis.from_mask(
        np.ones((1, 1, 3), dtype=bool), name='thalamus_left', affine=np.eye(4)
    )
    axes = nib.cifti2.ScalarAxis(['x']), cortex + below + right
    path = tmp_path / 'x.dscalar.nii'
    nib.save(nib.Cifti2Image(np.arange(20, dtype=np.float32)[None], header=axes), path)
    assert np.isnan(read_maps(path, 'L')['L']).tolist() == [i == 4 for i in range(9)]
    other = {h: -values for h, values in read_maps(path, 'LR').items()}
    other['R'][2] = np.nan
    path.write_bytes(written_like(path, 'LR', other))
    assert nib.load(path).get_fdata().ravel().tolist() == [
        *(-float(i) for i in range(8)), 8, 9, 10, -11, -12, 13,
        *(-float(i) for i in range(14, 20)),
    ]  # fmt: skip


@pytest.mark.parametrize('kind', [np.uint8, np.int16, np.float64])
def test_harmonized_cifti_is_float32_and_its_source_read_once(tmp_path, monkeypatch, kind):
    models = [
        nib.cifti2.BrainModelAxis.from_mask(np.ones(9, dtype=bool), name=f'cortex_{side}')
        for side in ('left', 'right')
    ]
    axes = nib.cifti2.ScalarAxis(['x']), models[0] + models[1]
    image = nib.Cifti2Image(np.arange(18, dtype=kind)[None], header=axes)
    image.set_data_dtype(kind)
    nib.save(image, path := tmp_path / 'x.dscalar.nii')
    other = {h: v + 0.3 for h, v in read_maps(path, 'LR').items()}
    opened, load = [], nib.load
    monkeypatch.setattr(nib, 'load', lambda p: [opened.append(p), load(p)][1])
    content = written_like(path, 'LR', other)
    assert opened == [path]
    path.write_bytes(content)
    written = nib.load(path)
    assert written.get_data_dtype() == np.float32
    assert written.nifti_header.get_slope_inter() in ((1, 0), (None, None))
    assert np.allclose(written.get_fdata().ravel(), np.arange(18) + 0.3, atol=1e-6)


def test_maps_and_tables_are_harmonized_alike(tmp_path, labels, values):
    """The same numbers as a table of as many columns, whatever the blocks."""
    maps, _ = read_surface_maps([_written(tmp_path, labels, values)], 'thickness')
    model, _ = fit_model(maps, labels, name='m')
    table = table_of(maps.values.astype(float), labels)
    alike, _ = fit_model(table, labels, name='t')
    for target in (None, 'B'):
        ours, theirs = (
            m.harmonized(x, labels, target) for m, x in ((model, maps), (alike, table))
        )
        assert ours.dtype == np.float32
        assert np.allclose(ours, theirs, rtol=0, atol=1e-6, equal_nan=True)
    assert np.array_equal(ours[labels.sites == 'B'], maps.values[labels.sites == 'B'])


def test_vertices_with_too_few_values_stay_as_they_are(tmp_path, labels, values):
    """At the edge of the medial wall, a site may have no values at all."""
    edge = values.copy()
    edge[labels.sites == 'A', 3] = 0
    maps, _ = read_surface_maps([_written(tmp_path, labels, edge)], 'thickness')
    model, warnings = fit_model(maps, labels, name='m')
    assert model.info.constant == ('L3',)
    assert any('too few values or no variation' in w and '1 vertex' in w for w in warnings)
    assert np.array_equal(model.harmonized(maps, labels)[:, 3], maps.values[:, 3], equal_nan=True)


def test_vertices_that_do_not_vary_stay_as_they_are(tmp_path, labels, values):
    flat = values.copy()
    flat[:, 9], flat[:, 10] = 2, labels.sites == 'A'
    maps, _ = read_surface_maps([_written(tmp_path, labels, flat)], 'thickness')
    model, _ = fit_model(maps, labels, name='m')
    assert set(model.info.constant) == {'L9', 'L10'}


def test_a_site_in_other_units_is_refused(tmp_path, labels, values):
    """Where half of the people have them, nobody's map is the odd one."""
    rows = np.flatnonzero(labels.sites != 'C')
    mixed = values[rows] * np.where(labels.sites[rows] == 'A', 1000, 1)[:, None]
    chosen = labels.rows(rows)
    maps, _ = read_surface_maps([_written(tmp_path, chosen, mixed)], 'thickness')
    with pytest.raises(UsageError, match='values at site A about 1,000 times those at site B'):
        fit_model(maps, chosen, name='m')


def test_a_hemisphere_without_values_is_refused(tmp_path, labels, values):
    """As a surface that failed, or a file of zeros; of the other one there is nothing to say."""
    failed = values.copy()
    failed[5, V:] = 0
    with pytest.raises(UsageError, match='thickness of sub-005 has no values in the right hemi'):
        read_surface_maps([_written(tmp_path / 'a', labels, failed)], 'thickness')
    failed[5] = 0
    with pytest.raises(UsageError, match='thickness of sub-005 has no values; make it again'):
        read_surface_maps([_written(tmp_path / 'b', labels, failed)], 'thickness')
    failed[:, V:] = 0  # nobody has it
    failed[5] = values[5] * (np.arange(2 * V) < V)
    maps, _ = read_surface_maps([_written(tmp_path / 'c', labels, failed)], 'thickness')
    assert all(name.startswith('L') for name in maps.features)


def test_a_file_of_the_other_hemisphere_is_refused(tmp_path, labels, values):
    folder = _written(tmp_path, labels, values)
    left, right = sorted((folder / 'sub-005' / 'anat').glob('*.shape.gii'))
    content = right.read_bytes()
    right.write_bytes(left.read_bytes())
    with pytest.raises(UsageError, match=r'hemi-R.*: of CortexLeft, as the file says, and not of'):
        read_surface_maps([folder], 'thickness')
    # A file that names none is taken by its name.
    right.write_bytes(content.replace(b'AnatomicalStructurePrimary', b'Whatever'))
    maps, _ = read_surface_maps([folder], 'thickness')
    assert len(maps.participants) == 36


def test_a_hemisphere_in_other_units_is_refused(tmp_path, labels, values):
    mixed = values.copy()
    mixed[5, :V] *= 1000
    with pytest.raises(UsageError, match='of sub-005 is about 1,000 times larger than that of mo'):
        read_surface_maps([_written(tmp_path / 'a', labels, mixed)], 'thickness')
    mixed[5, :V] *= 1e27
    with pytest.raises(UsageError, match=r'is about 1e\+30 times larger'):
        read_surface_maps([_written(tmp_path / 'b', labels, mixed)], 'thickness')


def _lesions(folder: Path, labels) -> tuple[Path, np.ndarray]:
    """Maps of a measure that is 0 nearly everywhere, of whom some have it on one side alone."""
    rng = np.random.default_rng(5)
    values = np.zeros((36, 2 * V), dtype=np.float32)
    there = rng.random((36, 30)) < 0.7
    values[:, V : V + 30] = np.where(there, rng.lognormal(0, 1, (36, 30)), 0)
    values[::4, :30] = rng.lognormal(0, 1, (9, 30))
    for person, row in zip(labels.subjects, values, strict=True):
        FORMS['mgh'](folder, person, row)
    for path in folder.glob('sub-*/surf/*.mgh'):
        path.rename(path.with_name(path.name.replace('thickness', 'lesion')))
    return folder, values


def test_a_measure_that_is_zero_nearly_everywhere(tmp_path, labels, values):
    """0 is a value there, also of a whole hemisphere, and people differ by orders of magnitude."""
    folder, lesions = _lesions(tmp_path / 'a', labels)
    maps, _ = read_surface_maps([folder], 'lesion')
    assert np.array_equal(maps.values, lesions[:, maps.vertices])
    burden = 10.0 ** np.linspace(-4, 4, 36)
    spread = (np.abs(values) * burden[:, None]).astype(np.float32)
    spread[5, V:] = 0
    folder = _written(tmp_path / 'b', labels, spread, 'mgh')
    for path in folder.glob('sub-*/surf/*.mgh'):
        path.rename(path.with_name(path.name.replace('thickness', 'burden')))
    assert len(read_surface_maps([folder], 'burden')[0].participants) == 36


def test_a_hemisphere_of_zeros_is_refused_of_other_measures(tmp_path, labels, values):
    failed = values - 2.4
    failed[5, V:] = 0
    folder = _written(tmp_path, labels, failed, 'mgh')
    for path in folder.glob('sub-*/surf/*.mgh'):
        path.rename(path.with_name(path.name.replace('thickness', 'curv')))
    with pytest.raises(UsageError, match='curv of sub-005 has no values in the right hemisphere'):
        read_surface_maps([folder], 'curv')


def test_no_map_depends_on_who_else_is_read(bids_dir, labels, tmp_path):
    """A vertex at which one person has 0 is no medial wall if the model harmonizes it."""
    folder, _ = _lesions(tmp_path / 'maps', labels)
    out = tmp_path / 'out'
    command = [
        str(bids_dir),
        str(out),
        'participant',
        '--features',
        'lesion',
        '-d',
        f'fs={folder}',
    ]
    assert main([*command, '-w', str(tmp_path / 'w')]) == 0
    together = {p.name: p.read_bytes() for p in out.glob('sub-003/anat/*.gii')}
    shutil.rmtree(out / 'sub-003')
    assert main([*command, '-w', str(tmp_path / 'w'), '--participant-label', '003']) == 0
    assert {p.name: p.read_bytes() for p in out.glob('sub-003/anat/*.gii')} == together


def test_one_person_without_a_hemisphere_is_refused(
    bids_dir, folder, labels, values, tmp_path, capsys
):
    out = tmp_path / 'out'
    assert _run(bids_dir, out, 'train', folder) == 0
    failed = values[3].copy()
    failed[V:] = 0
    job = tmp_path / 'job'
    _gifti(job, '003', failed)
    line = _refused(capsys, bids_dir, out, 'participant', job)
    assert 'thickness of sub-003 has no values in the right hemisphere' in line


def test_a_model_takes_the_maps_that_it_knows(tmp_path, labels, values):
    maps, _ = read_surface_maps([_written(tmp_path, labels, values)], 'thickness')
    model, _ = fit_model(maps, labels, name='m')
    model.save(tmp_path / 'm.safetensors')
    model = FeatureModel.load(tmp_path / 'm.safetensors')
    rows = np.arange(20)
    fewer = replace(
        maps.rows(rows), features=maps.features[5:], values=maps.values[rows][:, 5:],
        vertices=maps.vertices[5:],
    )  # fmt: skip
    part = model.harmonized(fewer, labels.rows(rows))
    assert np.array_equal(part, model.harmonized(maps, labels)[rows][:, 5:], equal_nan=True)
    with pytest.raises(UsageError, match='area on fsaverage3, but .*fitted to thickness on fsav'):
        model.harmonized(replace(maps, measure='area'), labels)
    with pytest.raises(UsageError, match='a table, but the model .m. was fitted to thickness'):
        model.harmonized(table_of(maps.values, labels), labels)
    with pytest.raises(UsageError, match='1,000 times smaller than those that the model was'):
        model.harmonized(replace(maps, values=maps.values / 1000), labels)


def test_the_page_counts_the_vertices_of_its_rows(bids_dir, labels, values, tmp_path):
    """They lack a vertex that stayed as it is at the fit, and have three at the edge beside."""
    values = values.copy()
    values[labels.sites == 'A', 5] = 2
    first = _written(tmp_path / 'first', labels, values)
    assert _run(bids_dir, tmp_path / 'out', 'train', first) == 0
    values[:, [5, 6]] = 0
    values[:, WALL[:3]] = 2 + np.random.default_rng(0).random((36, 3))
    second, model = _written(tmp_path / 'second', labels, values), 'thickness_features.safetensors'
    flags = ('--model', str(tmp_path / 'out' / 'models' / model))
    assert _run(bids_dir, tmp_path / 'out2', 'participant', second, *flags) == 0
    page = (tmp_path / 'out2' / 'thickness_features.html').read_text()
    assert 'outside the medial wall, of which 3 stay as they are' in page
    assert 'left unchanged, since nothing in them could be scaled: 3 vertices' in page.lower()


def test_combat_is_nearer_to_the_truth():
    simulated = simulate(20, 3)
    y = simulated.source[:, simulated.cortex]
    table = table_of(y, simulated.labels)
    harmonized = simulated.source.copy()
    model, _ = fit_model(table, simulated.labels, name='m')
    harmonized[:, simulated.cortex] = model.harmonized(table, simulated.labels)
    assert error(harmonized, simulated) < 0.5 * error(simulated.source, simulated)
    straight = simulate(20, 3, strange=False)
    assert error(straight.truth, straight) == 0


def _run(bids_dir: Path, out: Path, level: str, folder: Path, *flags: str) -> int:
    arguments = [str(bids_dir), str(out), level, '--features', 'thickness', '-d', f'fs={folder}']
    return main([*arguments, '-w', str(out.parent / 'work'), '--nprocs', '1', *flags])


def _refused(capsys, *arguments) -> str:
    assert _run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope='module')
def bids_dir(labels, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('maps') / 'bids', labels)


@pytest.fixture(scope='module')
def folder(labels, values, tmp_path_factory):
    return _written(tmp_path_factory.mktemp('derivatives') / 'smriprep', labels, values)


@pytest.fixture(scope='module')
def out(bids_dir, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('run') / 'out'
    for level in ('train', 'participant', 'group'):
        assert _run(bids_dir, out, level, folder) == 0
    return out


def _output(out: Path, person: str, hemi: str) -> Path:
    name = f'sub-{person}_hemi-{hemi}_space-fsaverage3_desc-harmonized_thickness.shape.gii'
    return out / f'sub-{person}' / 'anat' / name


def test_the_maps_that_are_written(out, folder, labels, values):
    maps, _ = read_surface_maps([folder], 'thickness')
    model = FeatureModel.load(out / 'models' / 'thickness_features.safetensors')
    expected = model.harmonized(maps, labels)
    for person, row, source in zip(labels.subjects, expected, values, strict=True):
        for hemi, on_mesh, old in zip(
            'LR', maps.on_mesh(row).values(), np.split(source, 2), strict=True
        ):
            new = nib.load(_output(out, person, hemi)).darrays[0].data
            missing = np.isnan(on_mesh)
            assert np.array_equal(new[~missing], on_mesh[~missing])
            assert np.array_equal(new[missing], old[missing], equal_nan=True)


def test_their_sidecars(out):
    said = json.loads(
        (out / 'sub-003/anat/sub-003_hemi-L_space-fsaverage3_desc-harmonized_thickness.json')
        .read_text()
    )  # fmt: skip
    assert said['Sources'] == [
        'bids:fs:sub-003/anat/sub-003_hemi-L_space-fsaverage3_thickness.shape.gii',
        'bids:raw:participants.tsv',
    ]
    assert (said['HarmonizationMethod'], said['TargetSite']) == ('ComBat', 'n/a')
    description = json.loads((out / 'dataset_description.json').read_text())
    assert description['Name'] == 'ddae-app: harmonized maps on the cortex'
    assert 'fs' in description['DatasetLinks']


def test_the_pages_and_the_measures(out):
    page = (out / 'thickness_features.html').read_text()
    assert 'Maps of thickness on fsaverage3' in page and 'The most affected' not in page
    assert 'there is no picture of maps on fsaverage3' in page
    card = (out / 'models' / 'thickness_features_MODEL.md').read_text()
    assert ', of thickness on fsaverage3, as ddae-app fits it.' in card
    assert '- Protected: age (straight line), sex' in card
    rows = read_tsv(out / 'group_thickness_features.tsv')
    value = {(row['table'], row['measure']): float(row['value']) for row in rows}
    assert value['harmonized', 'site_variance'] < 0.02 < value['source', 'site_variance']
    assert 'vertex' in (out / 'group_thickness_features.html').read_text()
    # Of so few people, probes of age and sex have too few to learn from.
    assert ('source', 'age_r') not in value and ('source', 'sex') not in value
    page = (out / 'group_thickness_features.html').read_text()
    assert 'Age is not predicted, so that' in page and 'Sex is not predicted, so that' in page
    assert 'a probe learns from 25 rows or more whose age is known' in page
    assert 'of 36 rows are marked' in (out / 'group_thickness_features.html').read_text()


def test_the_output_is_a_derivative_dataset(out):
    report = run_validator(out, CONFIG, 'derivative')
    found = {(i['code'], i['severity']) for i in report['issues']['issues']}
    assert not {code for code, severity in found if severity == 'error'}, found


def test_the_output_is_no_input(out, folder, bids_dir, tmp_path):
    flags = '-d', f'fs={folder}', f'ours={out}'
    assert _run(bids_dir, tmp_path / 'out', 'participant', folder, *flags) == 0


@pytest.mark.parametrize('form', ['cifti', 'morph'])
def test_other_forms_are_written(bids_dir, labels, values, tmp_path, form):
    folder = _written(tmp_path / 'maps', labels, values, form)
    out = tmp_path / 'out'
    assert _run(bids_dir, out, 'participant', folder, '--target-site', 'A') == 0
    name = {
        'cifti': 'sub-001_space-tiny_den-1k_desc-harmonized_thickness.dscalar.nii',
        'morph': 'sub-001_hemi-L_space-fsaverage3_desc-harmonized_thickness.shape.gii',
    }[form]
    there = sorted(p.name for p in (out / 'sub-001' / 'anat').iterdir() if p.suffix != '.json')
    assert there[0] == name and len(there) == (1 if form == 'cifti' else 2)
    same = read_maps(out / 'sub-001' / 'anat' / name, 'L')['L']
    kept = np.delete(np.arange(V), WALL)
    assert np.array_equal(same[kept], values[1, kept], equal_nan=True)
    if form == 'cifti':
        said = json.loads((out / 'sub-001/anat' / f'{name[:-12]}.json').read_text())
        assert said['Density'] == '642 vertices in each hemisphere'


def _with_sessions(folder: Path) -> tuple[Path, Path]:
    """A dataset of people with two sessions each, and their maps."""
    labels = labels_of(12, sessions=2)
    rng = np.random.default_rng(4)
    values = rng.normal(2.5, 0.2, (36, 2 * V))[labels.persons]
    values = (values + rng.normal(0, 0.1, values.shape)).astype(np.float32)
    for i, (person, row) in enumerate(zip(labels.subjects, values, strict=True)):
        _mgh(folder / 'maps', f'{person}_ses-{i % 2 + 1}', row)
    return write_dataset(folder / 'bids', labels), folder / 'maps'


def test_sessions_are_rows_of_one_person(tmp_path):
    bids_dir, folder = _with_sessions(tmp_path)
    out = tmp_path / 'out'
    assert _run(bids_dir, out, 'participant', folder) == 0
    name = 'sub-003_ses-2_hemi-R_space-fsaverage3_desc-harmonized_thickness.shape.gii'
    assert (out / 'sub-003' / 'ses-2' / 'anat' / name).is_file()
    model = FeatureModel.load(out / 'models' / 'thickness_features.safetensors')
    assert model.info.longitudinal and np.median(model.regression.ratio) > 1


def test_jobs_of_one_person_each(tmp_path, capsys):
    """No person depends on others; the sessions of a person do on each other."""
    bids_dir, folder = _with_sessions(tmp_path)
    out, job = tmp_path / 'out', tmp_path / 'job'

    def alone(*sessions: str) -> int:
        job.mkdir()
        for session in sessions:
            (job / session).symlink_to(folder / session)
        code = _run(bids_dir, out, 'participant', job)
        shutil.rmtree(job)
        return code

    assert _run(bids_dir, out, 'train', folder) == 0
    assert _run(bids_dir, out, 'participant', folder) == 0
    name = 'sub-003_ses-1_hemi-R_space-fsaverage3_desc-harmonized_thickness.shape.gii'
    path = out / 'sub-003' / 'ses-1' / 'anat' / name
    together = path.read_bytes()
    for person in ('003', '014', '030'):
        assert alone(f'sub-{person}_ses-1', f'sub-{person}_ses-2') == 0
    assert path.read_bytes() == together
    assert _run(bids_dir, out, 'group', folder) == 0
    assert alone('sub-014_ses-2') == 0
    line = _refused(capsys, bids_dir, out, 'group', folder)
    assert 'thickness of sub-014 was harmonized in several runs' in line


def test_participants_that_are_asked_for(bids_dir, folder, tmp_path, capsys):
    """As a job of an array takes them, with the model that was fitted to all."""
    out, asked = tmp_path / 'out', ('--participant-label', 'sub-003', '014')
    line = _refused(capsys, bids_dir, out, 'participant', folder, *asked)
    assert 'models/thickness_features.safetensors is not there, and a model is fitted to' in line
    assert 'run train first (this command with train, and without --participant-label)' in line
    line = _refused(capsys, bids_dir, out, 'train', folder, *asked)
    assert '--participant-label means nothing with --features at the train level' in line
    assert _run(bids_dir, out, 'participant', folder) == 0
    together = {p.name: p.read_bytes() for p in out.glob('sub-*/anat/*.gii')}
    for path in out.glob('sub-*'):
        shutil.rmtree(path)
    capsys.readouterr()
    assert _run(bids_dir, out, 'participant', folder, *asked) == 0
    said = capsys.readouterr().err
    assert 'when the model' not in said and 'the model thickness' not in said
    assert 'no thickness map' not in said
    written = {p.name: p.read_bytes() for p in out.glob('sub-*/anat/*.gii')}
    assert len(written) == 4 and {n[:7] for n in written} == {'sub-003', 'sub-014'}
    assert all(together[name] == content for name, content in written.items())
    for path in out.glob('sub-*'):
        shutil.rmtree(path)
    assert _run(bids_dir, out, 'participant', folder) == 0
    assert _run(bids_dir, out, 'participant', folder, *asked) == 0
    capsys.readouterr()
    assert _run(bids_dir, out, 'group', folder) == 0
    said = capsys.readouterr().err
    assert 'fitted to other rows' not in said
    (line,) = [line for line in said.splitlines() if 'Anatomy' in line]
    assert ' INFO Anatomy guard: thickness_desc-anatomy.tsv has 2 of these 36 rows' in line
    page = (out / 'thickness_features.html').read_text()
    assert 'These rows do not tell it, since fewer than two sites have 5 rows or more' in page
    assert 'Share of the variance of each' not in page
    line = _refused(
        capsys, bids_dir, out, 'participant', folder, '--participant-label', '3', '014'
    )
    assert 'no map of thickness on fsaverage3 of sub-3 in' in line


def test_a_job_of_one_person_names_what_it_needs(bids_dir, folder, tmp_path, capsys):
    out, job = tmp_path / 'out', tmp_path / 'job'
    job.mkdir()
    (job / 'sub-003').symlink_to(folder / 'sub-003')
    line = _refused(capsys, bids_dir, out, 'participant', job)
    assert 'a part of the people, run train with all of them first, or give --model' in line
    assert _run(bids_dir, out, 'train', folder) == 0
    capsys.readouterr()
    assert _run(bids_dir, out, 'participant', job) == 0
    said = capsys.readouterr().err
    assert 'has 0 people' not in said and 'has 1 people' not in said
    assert 'that the model thickness_features was fitted to (1 of 12 of site A): it stays' in said


def test_what_the_command_line_refuses(bids_dir, folder, labels, tmp_path, capsys):
    out = tmp_path / 'out'
    assert main([str(bids_dir), str(out), 'train', '--features', 'thickness']) == 2
    assert '--features thickness: name the folder of the maps' in capsys.readouterr().err
    line = _refused(capsys, bids_dir, out, 'train', folder, '-d', str(folder))
    assert 'as -d NAME=PATH' in line
    line = _refused(capsys, bids_dir, out, 'train', folder, '--features', 'sulc')
    assert f'--features sulc: no maps in {folder}; looked for sub-*' in line
    line = _refused(capsys, bids_dir, out, 'train', tmp_path / 'x')
    assert 'no such folder' in line
    fewer = write_dataset(tmp_path / 'bids', labels.rows(np.arange(1, 36)))
    line = _refused(capsys, fewer, out, 'train', folder)
    assert 'sub-000 is not in participants.tsv' in line


def test_a_table_of_the_name_of_the_measure(out, bids_dir, labels, values, tmp_path, capsys):
    table = write_table(tmp_path / 'thickness.tsv', values[:, 20:30].astype(float), labels)
    model = out / 'models' / 'thickness_features.safetensors'
    before = model.read_bytes()
    line = refused(capsys, 2, bids_dir, out, 'train', table)
    assert 'was fitted to thickness on fsaverage3, and not to a table, whose outputs' in line
    assert 'rename the table, or give another output folder' in line
    assert model.read_bytes() == before
    own, page = ('--model-name', 'table'), (out / 'thickness_features.html').read_bytes()
    line = refused(capsys, 2, bids_dir, out, 'participant', table, *own)
    assert 'holds outputs of maps, and those of a table would have the same names (thick' in line
    assert (out / 'thickness_features.html').read_bytes() == page


def test_maps_in_place_of_a_table(bids_dir, folder, labels, values, tmp_path, capsys):
    table = write_table(tmp_path / 'thickness.tsv', values[:, 20:30].astype(float), labels)
    out, own = tmp_path / 'out', ('--model-name', 'table')
    assert run(bids_dir, out, 'participant', table, *own) == 0
    capsys.readouterr()
    line = _refused(capsys, bids_dir, out, 'participant', folder)
    assert 'holds outputs of a table, and those of maps would have the same names (thick' in line
    assert run(bids_dir, out, 'participant', table, *own) == 0


def test_maps_in_place_of_others_are_told(bids_dir, labels, values, tmp_path, capsys):
    """Of other maps of the same people, not of those that changed or were copied."""
    out = tmp_path / 'out'
    one, two = (_written(tmp_path / name, labels, values) for name in ('one', 'two'))
    assert _run(bids_dir, out, 'participant', one) == 0
    assert _run(bids_dir, out, 'participant', two) == 0
    _change(two / 'sub-003', lambda v: v + 0.01)
    assert _run(bids_dir, out, 'participant', two) == 0
    assert 'replace those of' not in capsys.readouterr().err
    assert _run(bids_dir, out, 'participant', one) == 0
    changed = sorted((two / 'sub-003' / 'anat').iterdir())
    line = f'utputs replace those of other maps of the same people, {changed[0].resolve()}'
    page = (out / 'thickness_features.html').read_text()
    assert line in capsys.readouterr().err and line in page
    # The group level replaces nothing.
    assert _run(bids_dir, out, 'group', two) == 2
    said = capsys.readouterr().err
    assert 'is another file than' in said and 'replace those of' not in said


def test_maps_that_changed_are_not_evaluated(bids_dir, labels, values, tmp_path, capsys):
    folder, out = _written(tmp_path / 'maps', labels, values), tmp_path / 'out'
    assert _run(bids_dir, out, 'group', folder) == 18
    assert _run(bids_dir, out, 'participant', folder) == 0
    _change(folder / 'sub-003', lambda v: v + 0.01)
    capsys.readouterr()
    assert 'is another file than sub-003_hemi-L' in _refused(
        capsys, bids_dir, out, 'group', folder
    )


def test_freesurfers_maps_on_fsaverage5_are_drawn(tmp_path):
    simulated = simulate(10, 2)
    bids, subjects = write_freesurfer(tmp_path, simulated)
    out = tmp_path / 'out'
    assert _run(bids, out, 'participant', subjects) == 0
    assert 'On the cortex' in (out / 'thickness_features.html').read_text()
    assert error(written(out, simulated), simulated) < error(simulated.source, simulated)
    maps, _ = read_surface_maps([subjects], 'thickness')
    assert isinstance(maps, SurfaceMaps) and maps.mesh == 'fsaverage5'


def test_what_a_harmonized_map_depends_on():
    said = {'TargetSite': 'T', 'SitesMeasuredInTheseRows': ['T', 'S', 'X']}
    assert _taken_together(said, '01', 'S') == ['site T', 'site S']
    assert _taken_together(said | {'RandomInterceptOfPeople': True}, '01', 'A') == [
        'site T', 'sub-01',
    ]  # fmt: skip
    assert _taken_together({'TargetSite': 'n/a'}, '01', 'S') == []


REAL = """
sub-01_acq-mprage_rec-rms_desc-ribbon_mask.nii.gz
sub-01_acq-mprage_rec-rms_hemi-L_midthickness.surf.gii
sub-01_acq-mprage_rec-rms_hemi-L_space-fsLR_desc-msmsulc_sphere.surf.gii
sub-01_acq-mprage_rec-rms_hemi-L_space-fsLR_den-164k_thickness.shape.gii
sub-01_acq-mprage_rec-rms_hemi-L_sulc.shape.gii
sub-01_acq-mprage_rec-rms_hemi-L_thickness.shape.gii
sub-01_acq-mprage_rec-rms_hemi-R_space-fsLR_den-164k_thickness.shape.gii
sub-01_acq-mprage_rec-rms_hemi-R_thickness.shape.gii
sub-02_hemi-L_desc-cortex_mask.label.gii
sub-02_hemi-L_thickness.shape.gii
sub-02_hemi-R_thickness.shape.gii
sub-02_space-fsLR_den-91k_curv.dscalar.nii
sub-02_space-fsLR_den-91k_thickness.dscalar.nii
sub-02_space-fsLR_den-91k_thickness.json
"""
"""Names of files that sMRIPrep 0.16 and fMRIPrep 24 wrote."""


def test_names_of_real_files(tmp_path):
    for name in REAL.split():
        anat = tmp_path / name.split('_')[0] / 'anat'
        anat.mkdir(parents=True, exist_ok=True)
        (anat / name).touch()
    found = {
        (file.participant, file.mesh, file.hemispheres): file
        for file in find_maps([tmp_path], 'thickness')[0]
    }
    assert sorted(found) == [
        ('01', NATIVE, 'L'), ('01', NATIVE, 'R'),
        ('01', 'fsLR_den-164k', 'L'), ('01', 'fsLR_den-164k', 'R'),
        ('02', NATIVE, 'L'), ('02', NATIVE, 'R'), ('02', 'fsLR_den-32k', 'LR'),
    ]  # fmt: skip
    written = [
        found[key].harmonized(tmp_path, 'thickness', key[1]).name
        for key in [('01', 'fsLR_den-164k', 'L'), ('02', 'fsLR_den-32k', 'LR')]
    ]
    assert written == [
        'sub-01_acq-mprage_rec-rms_hemi-L_space-fsLR_den-164k_desc-harmonized_thickness.shape.gii',
        'sub-02_space-fsLR_den-91k_desc-harmonized_thickness.dscalar.nii',
    ]


def test_a_few_vertices_at_the_edge_are_no_warning_of_group(
    bids_dir, labels, values, tmp_path, capsys
):
    """At one site, two people have a value there, so that half of the people have one or none."""
    edge, out = values.copy(), tmp_path / 'out'
    edge[np.flatnonzero(labels.sites == 'B')[2:], 9] = 0
    folder = _written(tmp_path / 'maps', labels, edge)
    assert _run(bids_dir, out, 'participant', folder) == 0
    assert _run(bids_dir, out, 'group', folder) == 0
    assert 'in a half of the people' not in capsys.readouterr().err
    edge[np.flatnonzero(labels.sites == 'B')[2:], 9:30] = 0
    folder = _written(tmp_path / 'maps', labels, edge)
    assert _run(bids_dir, out, 'participant', folder) == 0
    assert _run(bids_dir, out, 'group', folder) == 0
    assert 'in a half of the people, 21 vertices cannot be scaled' in capsys.readouterr().err
