"""The DDAE of tables and maps by the command line: what comes out, new sites, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from benchmarks.surfaces import simulate
from benchmarks.surfaces import write as write_freesurfer
from ddae_app.bids.dataset import read_tsv
from ddae_app.errors import ModelError, UsageError
from ddae_app.features import ddae
from ddae_app.features.fit import fit_model
from ddae_app.features.model import FeatureModel
from ddae_app.features.table import read_feature_table
from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from tests.features.commands import refused, run
from tests.features.simulated import (
    labels_of,
    table_of,
    truth_of,
    with_sites,
    write_dataset,
    write_table,
)

N = 24

pytestmark = pytest.mark.usefixtures('short_training')


@pytest.fixture(scope='module')
def labels():
    return labels_of(N)


@pytest.fixture(scope='module')
def truth(labels):
    return truth_of(labels)


@pytest.fixture(scope='module')
def values(truth, labels):
    values = with_sites(truth, labels)
    values[3, 2] = np.nan
    return values


@pytest.fixture(scope='module')
def bids_dir(labels, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('tables') / 'bids', labels)


@pytest.fixture(scope='module')
def table(values, labels, tmp_path_factory):
    return write_table(tmp_path_factory.mktemp('elsewhere') / 'aparc.tsv', values, labels)


@pytest.fixture(scope='module')
def out(bids_dir, table, tmp_path_factory):
    out = tmp_path_factory.mktemp('run') / 'out'
    assert run(bids_dir, out, 'train', table, '--method', 'ddae') == 0
    assert run(bids_dir, out, 'participant', table, '--target-site', 'B') == 0
    assert run(bids_dir, out, 'group', table) == 0
    return out


@pytest.fixture(scope='module')
def model(out):
    return FeatureModel.load(out / 'models' / 'aparc_features.safetensors')


def test_the_table_that_is_written(out, model, table, labels, values):
    source = read_feature_table(table)
    written = read_feature_table(out / 'features' / 'aparc_desc-harmonized.tsv').values
    expected = model.harmonized(source, labels, 'B')
    np.testing.assert_allclose(written, expected, rtol=1e-6, equal_nan=True)
    at_target = labels.sites == 'B'
    assert np.array_equal(written[at_target], values[at_target], equal_nan=True)
    assert np.isnan(written[3, 2]) and np.isnan(written).sum() == 1


def test_its_files_say_so(out):
    said = json.loads((out / 'features' / 'aparc_desc-harmonized.json').read_text())
    assert (said['HarmonizationMethod'], said['TargetSite']) == ('DDAE', 'B')
    assert said['ModelSites'] == ['A', 'B', 'C'] and said['SitesMeasuredInTheseRows'] == []
    card = (out / 'models' / 'aparc_features_MODEL.md').read_text()
    assert 'Disentangled Diffusion' in card
    assert 'same units, of these sites, and of others from which the same run has 5 people' in card
    assert 'Disentangled Diffusion' in (out / 'aparc_features.html').read_text()


def test_the_page_tells_what_is_taken_away_from_each_site(out, model):
    """Nothing from the target, whose values stay as they are."""
    page = (out / 'aparc_features.html').read_text()
    cells = re.findall(r'<td>(\d\.\d\d)</td><td>(\d\.\d\d) to (\d\.\d\d)</td>', page)
    assert len(cells) == 3
    assert cells[1] == ('0.00', '1.00', '1.00') and float(cells[0][0]) > 0.5
    look, seen = model.ddae.appearance, model.effects('B')
    as_seen = (2.0 - look.shift[1]) / look.scale[1]  # a value of 2, in the unit of the target
    without_site = (2.0 - look.shift) / look.scale
    np.testing.assert_allclose((as_seen - seen.shift) / seen.scale, without_site)
    assert model.effects() is look


def test_the_evaluation_has_combat_beside_it(out):
    rows = read_tsv(out / 'group_aparc_features.tsv')
    value = {(row['table'], row['measure']): float(row['value']) for row in rows}
    for method in ('ddae', 'combat'):
        assert value[f'{method}, cross-fitted', 'site_variance'] < 0.1
    assert value['source', 'site_variance'] > 0.3
    page = (out / 'group_aparc_features.html').read_text()
    assert 'In people whom DDAE was not fitted to' in page


def test_two_fits_are_the_same(model, table, labels):
    again, _ = fit_model(read_feature_table(table), labels, name='aparc', method='ddae')
    for name, value in model.ddae.arrays().items():
        assert np.array_equal(value, again.ddae.arrays()[name]), name


@pytest.fixture
def newcomers():
    """People of the sites A and D, D being unknown to the model; labels, truth and values."""
    labels = labels_of(10, seed=5)
    labels = replace(labels, sites=np.where(labels.sites == 'B', 'D', labels.sites))
    keep = np.flatnonzero(labels.sites != 'C')
    labels = labels.rows(keep)
    truth = truth_of(labels, seed=1)
    values = truth.copy()
    values[labels.sites == 'D'] = 50 + 1.4 * (values[labels.sites == 'D'] - 50) + 3
    return labels, truth, values


def test_a_site_that_the_model_does_not_know_is_measured(out, newcomers, tmp_path, capsys):
    labels, _, values = newcomers
    bids_dir = write_dataset(tmp_path / 'bids', labels)
    table = write_table(tmp_path / 'new.tsv', values, labels)
    path = out / 'models' / 'aparc_features.safetensors'
    flags = '--model', str(path), '--target-site', 'A'
    assert run(bids_dir, tmp_path / 'out', 'participant', table, *flags) == 0
    assert 'site D is none of the model: it was measured in its 10 people' in (
        capsys.readouterr().err
    )
    page = (tmp_path / 'out' / 'new_features.html').read_text()
    fitted = page.split('Fitted to', 1)[1].split(' people', 1)[0]
    assert 'C 24' in fitted and 'D' not in fitted
    features = tmp_path / 'out' / 'features'
    said = json.loads((features / 'new_desc-harmonized.json').read_text())
    assert said['ModelSites'] == ['A', 'B', 'C'] and said['SitesMeasuredInTheseRows'] == ['D']
    written = read_feature_table(features / 'new_desc-harmonized.tsv').values
    new = labels.sites == 'D'
    away = [
        np.abs(v[new].mean(axis=0) - values[~new].mean(axis=0)).mean() for v in (written, values)
    ]
    assert away[0] < away[1] / 3
    assert np.array_equal(written[~new], values[~new])  # of site A, the target


def test_a_site_at_which_a_feature_does_not_vary_is_told(out, newcomers, tmp_path, capsys):
    """As of zeros for what was not measured there, which are brought to the mean of people."""
    labels, _, values = newcomers
    bids_dir, path = write_dataset(tmp_path / 'bids', labels), out / 'models'
    values[labels.sites == 'D', 4] = 0
    table = write_table(tmp_path / 'new.tsv', values, labels)
    flags = '--model', str(path / 'aparc_features.safetensors')
    assert run(bids_dir, tmp_path / 'out', 'participant', table, *flags) == 0
    line = 'no variation within site D, which was measured in these rows: f4; all values were'
    assert line in capsys.readouterr().err
    page = (tmp_path / 'out' / 'new_features.html').read_text()
    assert 'The appearance of D was measured in the rows at hand' in page


def test_a_new_site_may_be_the_target(model, newcomers):
    labels, _, values = newcomers
    table, new = table_of(values, labels), labels.sites == 'D'
    harmonized = model.calibrated(table, labels).harmonized(table, labels, 'D')
    assert np.array_equal(harmonized[new], values[new])
    apart = [abs(v[~new].mean() - values[new].mean()) for v in (harmonized, values)]
    assert apart[0] < apart[1] / 3


def test_a_new_site_of_too_few_people_is_refused(model, newcomers):
    labels, _, values = newcomers
    few = np.flatnonzero(labels.sites == 'D')[:4]
    table = table_of(values[few], labels.rows(few))
    with pytest.raises(UsageError, match=r'site D is unknown .* 4 people are too few'):
        model.calibrated(table, labels.rows(few))


def test_a_new_site_in_other_units_is_refused(model, newcomers):
    labels, _, values = newcomers
    new = np.flatnonzero(labels.sites == 'D')
    with pytest.raises(UsageError, match='site D about 1,000 times larger'):
        model.calibrated(table_of(1000 * values[new], labels.rows(new)), labels.rows(new))


def test_what_is_known_of_other_sites_stays(model, newcomers):
    labels, _, values = newcomers
    more = model.calibrated(table_of(values, labels), labels)
    assert more.info.sites == (*model.info.sites, 'D')
    known = np.flatnonzero(labels.sites == 'A')
    table = table_of(values[known], labels.rows(known))
    one, other = (m.harmonized(table, labels.rows(known), 'C') for m in (model, more))
    assert np.array_equal(one, other)


def test_combat_knows_its_sites_alone(newcomers, values, truth):
    labels, _, new = newcomers
    combat, _ = fit_model(table_of(with_sites(truth, labels_of(N)), labels_of(N)), labels_of(N),
                          name='c')  # fmt: skip
    assert combat.calibrated(table_of(new, labels), labels) is combat
    with pytest.raises(UsageError, match='site D is unknown'):
        combat.harmonized(table_of(new, labels), labels)


def test_another_method_than_that_of_the_model_is_refused(out, bids_dir, table, capsys):
    capsys.readouterr()
    line = refused(capsys, 2, bids_dir, out, 'participant', table, '--method', 'combat')
    assert '--method combat' in line and 'is a model of DDAE' in line


@pytest.mark.parametrize(
    'broken',
    [
        lambda arrays: arrays.pop('ddae.trust'),
        lambda arrays: arrays.update({'ddae.trust': np.array([np.nan])}),
        lambda arrays: arrays.update({'ddae.trust': np.ones(2)}),
        *(
            lambda arrays, name=f'ddae.appearance.{item.name}': arrays.update(
                {name: arrays[name][..., :-1]}
            )
            for item in fields(FeatureAppearance)
        ),
        lambda arrays: arrays.update(
            {'ddae.appearance.slopes': arrays['ddae.appearance.slopes'][:1]}
        ),
        lambda arrays: arrays.update({'ddae.networks.head.bias': np.zeros(5, np.float32)}),
        lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith('ddae.')],
    ],
)
def test_a_damaged_model_is_refused(out, tmp_path, broken):
    path = out / 'models' / 'aparc_features.safetensors'
    arrays = load_file(path)
    broken(arrays)
    with safe_open(path, 'np') as file:
        metadata = file.metadata()
    save_file(arrays, tmp_path / 'm.safetensors', metadata)
    with pytest.raises(ModelError, match='fit it again'):
        FeatureModel.load(tmp_path / 'm.safetensors')


def test_sessions_of_people(tmp_path):
    """Of people with one session too; what is known of sessions is kept in the file."""
    labels = labels_of(16, sessions=2)
    values = with_sites(truth_of(labels, own=2.0), labels)
    means = values.reshape(48, 2, 12).mean(axis=1)[labels.persons]
    values[labels.sites == 'C'] += 2 * (values - means)[labels.sites == 'C']
    rows = np.flatnonzero((labels.persons % 4 > 0) | (np.arange(96) % 2 == 0))
    values, labels = values[rows], labels.rows(rows)
    bids = write_dataset(tmp_path / 'bids', labels)
    table, out = write_table(tmp_path / 't.tsv', values, labels), tmp_path / 'out'
    asked = bids, out, 'participant', table
    assert run(*asked, '--method', 'ddae') == 0
    assert run(bids, out, 'group', table) == 0
    model = FeatureModel.load(out / 'models' / 't_features.safetensors')
    assert model.info.longitudinal and model.ddae.sessions.ratio.shape == (3, 12)
    written = read_feature_table(out / 'features' / 't_desc-harmonized.tsv').values
    whole = replace(model, ddae=replace(model.ddae, sessions=None))
    source = read_feature_table(table)
    new, old = (m.harmonized(source, labels) for m in (model, whole))
    assert written == pytest.approx(new, rel=1e-6)
    one = np.bincount(labels.persons)[labels.persons] == 1
    assert one.sum() == 12 and (new[one] == old[one]).all() and (new[~one] != old[~one]).any()


def test_maps_on_the_cortex(labels, bids_dir, tmp_path, capsys):
    rng, vertices = np.random.default_rng(3), 642
    values = 2.5 + 0.2 * rng.normal(size=(len(labels.sites), 2 * vertices))
    values += 0.3 * (labels.sites == 'B')[:, None]
    values[:, 600:vertices] = 0
    for person, row in zip(labels.subjects, values.astype(np.float32), strict=True):
        surf = tmp_path / 'fs' / f'sub-{person}' / 'surf'
        surf.mkdir(parents=True)
        for side, half in zip(('lh', 'rh'), np.split(row, 2), strict=True):
            nib.save(
                nib.MGHImage(half[:, None, None], np.eye(4)),
                surf / f'{side}.thickness.fsaverage3.mgh',
            )
    out = tmp_path / 'out'
    flags = '--method', 'ddae', '-d', f'freesurfer={tmp_path / "fs"}'
    assert run(bids_dir, out, 'participant', 'thickness', *flags) == 0
    name = '{0}/anat/{0}_hemi-R_space-fsaverage3_desc-harmonized_thickness.shape.gii'
    written = np.array(
        [nib.load(out / name.format(f'sub-{p}')).darrays[0].data for p in labels.subjects]
    )
    here = labels.sites == 'B'
    assert abs(written[here].mean() - written[~here].mean()) < 0.02
    said = json.loads((out / name.format('sub-003').replace('.shape.gii', '.json')).read_text())
    assert said['HarmonizationMethod'] == 'DDAE'


@pytest.mark.parametrize('maps', ['thickness on a mesh of 700 and 700 vertices', 'sulc on x'])
def test_other_meshes_are_refused(maps):
    with pytest.raises(UsageError, match=r'fsaverage6.*harmonize them with ComBat'):
        ddae.geometry_of(maps, ['L0', 'R0'])


@pytest.mark.parametrize('maps', ['', 'thickness on fsaverage4', 'area on fsaverage'])
def test_places_that_are_known_are_not_taken(maps):
    with pytest.raises(ValueError, match='places of'):
        ddae.geometry_of(maps, ['L0', 'R0'], np.zeros((2, 2562, 3)))


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    """A dataset, and maps of it: those of the sites S0 and S1, and each half of those of S2."""
    folder = tmp_path_factory.mktemp('parts')
    bids, maps = write_freesurfer(folder, simulate(12, 3, vertices=642), 'fsaverage3')
    for name, first, last in (('known', 0, 24), ('one', 24, 30), ('two', 30, 36)):
        (folder / name).mkdir()
        for i in range(first, last):
            (maps / f'sub-{i:04d}').rename(folder / name / f'sub-{i:04d}')
    return bids, folder


@pytest.mark.parametrize(('method', 'known'), [('combat', True), ('ddae', True), ('ddae', False)])
def test_maps_that_were_harmonized_in_parts(parts, tmp_path, capsys, method, known):
    """Where a site is measured in the rows of a run, its maps belong into one run."""
    bids, folder = parts
    out = tmp_path / 'out'

    def asked(level: str, *names: str) -> tuple:
        return bids, out, level, 'thickness', '-d', *(f'{n}={folder / n}' for n in names)

    trained = ('known', 'one', 'two') if known else ('known',)
    assert run(*asked('train', *trained), '--method', method) == 0
    assert run(*asked('participant', 'known', 'one')) == 0
    assert run(*asked('participant', 'two')) == 0
    everybody = asked('group', 'known', 'one', 'two')
    if not known:
        line = refused(capsys, 2, *everybody)
        assert 'thickness of site S2 was harmonized in several runs' in line
        assert 'run the participant level again with all of them' in line
        assert run(*asked('participant', 'known', 'one', 'two')) == 0
    assert run(*everybody) == 0
