"""The group level on outputs as the participant level leaves them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from hashlib import sha256

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from ddae_app.engine.inputs import select_scans
from ddae_app.evaluation import predictions, probes
from ddae_app.evaluation.data import EvaluationData
from ddae_app.levels.group.collect import Outputs, gather
from ddae_app.levels.group.evaluate import fitted_here
from ddae_app.levels.group.figures import matching_model, typical_rows, which_sites
from ddae_app.levels.group.level import run_group
from ddae_app.methods.cvae import CVAEHarmonizer
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.presets import preset_of
from ddae_app.methods.registry import refitted
from ddae_app.methods.style_gan import StyleGANHarmonizer
from ddae_app.settings import Protocol, from_flat
from tests.levels.conftest import TEMPLATE, run
from tests.levels.derived import write_derived

N = 36


def simulate(seed: int) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Scans of two sites, one of which is brighter at the front, and the truth without it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    brain = 0.5 + gaussian_filter(rng.normal(0, 1, (2 * N, 128, 128)), (0, 5, 5))
    shading = np.repeat([0, 1], N)[:, None, None] * 0.2 * (1 + y)
    inside = np.hypot(x, y) < 0.7
    images, truth = (
        np.where(inside, values, 0).clip(0.01 * inside).astype(np.float32)
        for values in (brain + shading, brain)
    )
    cohort = pd.DataFrame(
        {
            'subject': [f'{i:02}' for i in range(2 * N)],
            'site': np.repeat(['East', 'West'], N),
            'age': rng.integers(20, 80, 2 * N).astype(float),
            'sex': rng.choice(['F', 'M'], 2 * N),
            'Diagnosis': np.tile(['well', 'ill', 'well'], N)[: 2 * N],
        }
    )
    # The ill have a dark region, at every site.
    for scans in (images, truth):
        scans[(cohort['Diagnosis'] == 'ill').to_numpy(), 50:75, 50:75] *= 0.6
    return images, truth, cohort


def train(folder, images: np.ndarray, cohort: pd.DataFrame) -> None:
    """Train one model of each method, and a cVAE that was trained on other sites."""
    folder.mkdir()
    protocol = Protocol(template=TEMPLATE)
    for kind in (CVAEHarmonizer, StyleGANHarmonizer):
        harmonizer = kind(protocol=protocol, images=32, device='cpu')
        harmonizer.fit(images, cohort).save(folder / f'{kind.method}.safetensors')
    elsewhere = cohort.assign(site=cohort['site'] + 'ern')
    strange = CVAEHarmonizer(protocol=protocol, images=32, device='cpu').fit(images, elsewhere)
    strange.save(folder / 'strange.safetensors')
    preset = preset_of('tiny', 64)
    ddae = DDAEHarmonizer(preset=preset, protocol=protocol, device='cpu').fit(images, cohort)
    ddae.save(folder / 'ddae.safetensors')


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp('group')
    images, truth, cohort = simulate(0)
    write_derived(folder, images, cohort, TEMPLATE, truth, 'East')
    train(folder / 'out' / 'models', images, cohort)
    places = {'bids_dir': folder / 'bids', 'output_dir': folder / 'out'}
    asked = {'analysis_level': 'group', 'skip_bids_validation': True, 'biology': ['Diagnosis']}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, 'COSTLY_TEST_SCANS', 30)  # one network for each half
        patch.setattr(probes, 'EPOCHS', 2)
        patch.setattr(probes, 'LEAST_STEPS', 1)
        assert run_group(from_flat(places | asked | {'device': 'cpu'})) == 0
    return folder / 'out'


def test_the_measures_of_all_methods_are_written(evaluated):
    metrics = json.loads((evaluated / 'group_metrics.json').read_text())
    assert metrics['Scans'] == 2 * N
    assert metrics['TargetSite'] == 'East'
    assert metrics['Chance'] == 0.5
    assert metrics['Cautions'] == []
    # The model called strange was trained on other sites.
    assert set(metrics['Methods']) == {
        'source', 'DDAE (toy)', 'cVAE (cvae)', 'Style-Encoding GAN (style-gan)', *refitted(),
        'blur',
    }  # fmt: skip
    accuracy = {
        name: method['Estimates']['site_linear']['value']
        for name, method in metrics['Methods'].items()
    }
    assert accuracy['source'] > 0.9 and accuracy['blur'] > 0.9
    assert accuracy['DDAE (toy)'] < 0.8
    assert metrics['WhatTellsTheSite'] and metrics['Advice']
    finding = metrics['Methods']['source']['Findings'][0]
    assert finding.startswith('The original scans show site effects')
    for method in metrics['Methods'].values():
        assert {'value', 'low', 'high', 'n'} == set(method['Estimates']['ssim'])
        assert set(method['Estimates']) <= set(metrics['Measures'])
    assert 'fid' not in metrics['Measures'] and 'icc' not in metrics['Measures']
    ddae, cvae = (metrics['Methods'][name]['Estimates'] for name in ('DDAE (toy)', 'cVAE (cvae)'))
    assert ddae['biology_Diagnosis']['n'] == 2 * N
    assert abs(ddae['biology_Diagnosis_d_csf']['value']) > 1
    assert ddae['frechet']['value'] < metrics['Methods']['source']['Estimates']['frechet']['value']
    assert 'age_slope' in cvae and 'site_all' in cvae and 'age_slope' not in ddae


def test_the_page_says_it_in_words_and_opens_offline(evaluated):
    page = (evaluated / 'group_T1w.html').read_text()
    assert 'Are site effects removed, and is biological variation preserved?' in page
    assert 'The original scans show site effects' in page
    assert 'DDAE (toy)' in page and 'to the other half' in page
    verdict = r'The outputs of DDAE \(toy\) show (no )?site effects[^(]*'
    assert re.search(verdict + r'\(best balanced accuracy 0\.\d\d \[', page)
    assert 'chance 0.50). For comparison' in page
    assert ': the original scans 1.00, cVAE (cvae) ' in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert page.count('<table class="sortable">') == 2
    figures = re.findall(
        r'<strong>([\w ]+)\.</strong>[^<]*</figcaption>\s*<img src="data:image', page
    )
    assert 'What still tells the site' in page and 'What to do next' in page
    assert figures == [
        'What tells the site',
        'Variance explained by the site', 'Intensities by site', 'One participant of each site',
        'Latents of the DDAE', 'Reconstructions',
    ]  # fmt: skip
    assert 'with a balanced accuracy of 1.00 and' in page


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--biology', 'diagnosys'], "--biology 'diagnosys': no such column in participants.tsv"),
        (['--biology', 'sex'], '--biology sex: this column is always evaluated'),
        (['--inception-weights', 'participants.tsv'], 'participants.tsv: no such file'),
        (['--inception-weights', __file__], 'expected 6726825d'),
    ],
)
def test_what_is_asked_for_and_is_not_there(evaluated, tmp_path, flags, message):
    bids = evaluated.parent / 'bids'
    result = run(bids, evaluated, 'group', '-w', tmp_path, '--skip-bids-validation', *flags)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


def test_with_few_participants_the_page_says_why_there_is_no_evaluation(tmp_path):
    images, _, cohort = simulate(1)
    few = [0, 1, N, N + 1]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE)
    (tmp_path / 'out' / 'sub-01.html').write_text('The page of a participant.')
    (tmp_path / 'out' / 'group_metrics.json').write_text('{"Headline": "of an earlier run"}')
    result = run(
        tmp_path / 'bids', tmp_path / 'out', 'group', '-w', tmp_path / 'work',
        '--skip-bids-validation',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'of East (2), West (2): 10 of each site are needed; add participants' in result.stderr
    page = (tmp_path / 'out' / 'group_T1w.html').read_text()
    assert 'The harmonization was not evaluated: there are too few participants of East' in page
    assert not (tmp_path / 'out' / 'group_metrics.json').exists()
    # Of the four, one has a page that a link can lead to.
    assert set(re.findall('href="([^"]+)"', page)) == {'sub-01.html'}


def test_scans_that_were_preprocessed_elsewhere_are_evaluated_too(tmp_path):
    images, truth, cohort = simulate(1)
    few = [0, 1, N, N + 1]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE, truth[few], 'East')
    for path in (tmp_path / 'out').glob('sub-*/anat/*_desc-preproc_T1w.nii.gz'):
        path.unlink()
    result = run(
        tmp_path / 'bids', tmp_path / 'out', 'group', '-w', tmp_path / 'work',
        '--skip-bids-validation',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'of East (2), West (2): 10 of each site are needed; add participants' in result.stderr


def test_of_one_scan_the_log_speaks_in_the_singular(tmp_path, caplog):
    images, truth, cohort = simulate(1)
    few = [0, N]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE, truth[few], 'East')
    first, second = sorted((tmp_path / 'out').glob('sub-*'))
    shutil.rmtree(second)
    table = first / f'{first.name}_scans.tsv'
    table.write_text('filename\tsource_site\nanat/x_T1w.nii.gz\tEast\n')
    places = {'bids_dir': tmp_path / 'bids', 'output_dir': tmp_path / 'out'}
    level = {'analysis_level': 'group', 'skip_bids_validation': True}
    with caplog.at_level('INFO', 'ddae_app'):
        run_group(from_flat(places | level), None)
    assert 'Only 1 of 2 scans can be evaluated; ' in caplog.text
    assert 'The quality measures of 1 scan were written' in caplog.text


def test_only_what_was_harmonized_alike_and_whole_is_evaluated(tmp_path, caplog):
    images, truth, cohort = simulate(1)
    few = [*range(4), *range(N, N + 4)]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE, truth[few], 'East')
    paths = sorted((tmp_path / 'out').glob('sub-*/anat/*_desc-harmonized_T1w.json'))
    changes = (
        {'MadeFrom': None},
        {'ModelSHA256': 'e' * 64},
        {'MadeFrom': {'KeepNoise': True}},
        {'SourceSite': 'North'},
    )
    for path, change in zip(paths, changes, strict=False):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    outputs = gathered(tmp_path)
    assert len(outputs.cohort) == len(outputs.harmonized) == 4
    assert 'interrupted' in caplog.text and 'Only 4 of 8 scans' in caplog.text
    assert 'harmonized as one of North, and is now of East' in caplog.text


@pytest.mark.parametrize('kind', ['slices', 'harmonized'])
def test_a_scan_of_a_damaged_image_is_left_out(tmp_path, caplog, kind):
    images, truth, cohort = simulate(1)
    few = [0, 1, N, N + 1]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE, truth[few], 'East')
    first = min((tmp_path / 'out').glob(f'sub-*/anat/*_desc-{kind}_T1w.nii.gz'))
    first.write_bytes(first.read_bytes()[:-100])
    outputs = gathered(tmp_path)
    assert len(outputs.source) == len(outputs.harmonized) == len(outputs.cohort) == 3
    assert 'The scan sub-00 is excluded from the evaluation: ' in caplog.text


def test_slices_of_an_earlier_preprocessing_are_not_evaluated(tmp_path):
    images, truth, cohort = simulate(1)
    few = [0, 1, N, N + 1]
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE, truth[few], 'East')
    stored = gathered(tmp_path).source
    for path in (tmp_path / 'out').glob('sub-*/anat/*_desc-slices_T1w.nii.gz'):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(7 * np.ones(image.shape, np.float32), image.affine), path)
    assert (gathered(tmp_path).source == 7).all(), 'those that belong to the outputs are taken'
    for path in (tmp_path / 'out').glob('sub-*/anat/*_desc-harmonized_T1w.json'):
        path.write_text(json.dumps(json.loads(path.read_text()) | {'MadeFrom': None}))
    outputs = gathered(tmp_path)
    assert outputs.harmonized is None
    for cut, scan in zip(outputs.source, stored, strict=True):
        assert np.corrcoef(cut.ravel(), scan.ravel())[0, 1] > 0.99


def test_who_is_shown_of_a_site_is_of_a_known_age_where_one_is_known():
    sites, ages = list('AAAABB'), [np.nan, 20, 41, 60, np.nan, np.nan]
    cohort = pd.DataFrame({'site': sites, 'age': ages})
    nothing = np.zeros((6, 1, 1), np.float32)
    outputs = Outputs(nothing, None, cohort, 'A', 'A', 'nothing', '', False, Protocol())
    assert typical_rows(outputs).tolist() == [2, 4]


@pytest.mark.parametrize(('sites', 'words'), [(7, 'each site'), (9, 'the first 7 of 9 sites')])
def test_the_figure_says_of_which_sites_somebody_is_shown(sites, words):
    names = [f'S{i}' for i in range(sites)]
    cohort = pd.DataFrame({'site': names, 'age': 50.0})
    nothing = np.zeros((sites, 1, 1), np.float32)
    outputs = Outputs(nothing, None, cohort, 'S0', 'S0', 'nothing', '', False, Protocol())
    assert typical_rows(outputs).tolist() == [*range(7)]
    assert which_sites(outputs) == words


def test_of_several_models_the_figures_are_of_the_one_that_was_used(evaluated, tmp_path):
    models = tmp_path / 'models'
    models.mkdir()
    first = shutil.copy(evaluated / 'models' / 'ddae.safetensors', models)
    bundle = load_bundle(first)
    other = DDAEHarmonizer(bundle=replace(bundle, info=replace(bundle.info, name='other')))
    other.save(models / 'other.safetensors')
    places = {'bids_dir': tmp_path, 'output_dir': tmp_path, 'device': 'cpu'}
    settings = from_flat(places | {'analysis_level': 'group'})
    images, truth, cohort = simulate(0)
    used = sha256((models / 'other.safetensors').read_bytes()).hexdigest()
    protocol = Protocol(template=TEMPLATE)
    outputs = Outputs(images, truth, cohort, 'East', 'East', 'DDAE', used, False, protocol)
    model = matching_model(settings, outputs, None)
    assert model is not None and model.info.name == 'other'
    # The model that was used is there no more: which of the others to take is not known.
    assert matching_model(settings, replace(outputs, model_sha256='f' * 64), None) is None


def gathered(folder) -> Outputs:
    """What the group level collects from a dataset and its outputs."""
    places = {'bids_dir': folder / 'bids', 'output_dir': folder / 'out'}
    settings = from_flat(places | {'analysis_level': 'group', 'skip_bids_validation': True})
    return gather(settings, *select_scans(settings))


def test_scans_of_confounded_sites_that_were_harmonized_to_a_packaged_one_are_evaluated(
    tmp_path, caplog
):
    images, truth, cohort = simulate(1)
    few = [*range(10), *range(N, N + 11)]
    cohort['sex'] = np.repeat(['F', 'M'], N)
    write_derived(tmp_path, images[few], cohort.iloc[few], TEMPLATE, truth[few], 'IXI')
    metrics, page = evaluated_quickly(tmp_path, caplog)
    assert metrics['TargetSite'] == 'IXI'
    # West is the larger site.
    sentence = 'the baselines are harmonized to West, a site of this dataset'
    assert sentence in caplog.text and sentence in page and sentence in metrics['Protocol']
    assert 'harmonized to IXI (baselines: West)' in page
    assert set(metrics['Methods']) == {'source', 'DDAE (toy)', 'histogram', 'blur'}
    assert any('combat is not evaluated' in text for text in metrics['Cautions'])
    assert 'The baseline combat is not evaluated' in caplog.text
    assert not {'frechet', 'kernel', 'mmd', 'target_distance'} & set(metrics['Measures'])
    assert {'site_linear', 'rank', 'ssim'} <= set(metrics['Measures'])


def test_a_baseline_that_cannot_be_fitted_is_left_out_and_the_others_stay():
    images, _, cohort = simulate(1)
    cohort['sex'] = np.repeat(['F', 'M'], N)
    outputs = Outputs(images, None, cohort, 'East', 'East', 'nothing', '', False, Protocol())
    data = EvaluationData.from_cohort(images, cohort)
    baselines, left_out = fitted_here(outputs, data, 0)
    assert [method.name for method in baselines] == ['histogram']
    (reason,) = left_out
    assert 'The baseline combat is not evaluated' in reason
    assert 'sex is confounded with site' in reason
    apart = cohort.assign(sex=np.tile(['F', 'M'], N))
    outputs = replace(outputs, cohort=apart)
    baselines, left_out = fitted_here(outputs, EvaluationData.from_cohort(images, apart), 0)
    assert [method.name for method in baselines] == [*refitted()] and not left_out


def evaluated_quickly(folder, caplog) -> tuple[dict, str]:
    """Figures and page of the group level, whose networks learn next to nothing."""
    places = {'bids_dir': folder / 'bids', 'output_dir': folder / 'out', 'device': 'cpu'}
    level = {'analysis_level': 'group', 'skip_bids_validation': True}
    with caplog.at_level('INFO', 'ddae_app'), pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, 'COSTLY_TEST_SCANS', 1)
        patch.setattr(probes, 'EPOCHS', 1)
        patch.setattr(probes, 'LEAST_STEPS', 1)
        assert run_group(from_flat(places | level)) == 0
    metrics = json.loads((folder / 'out' / 'group_metrics.json').read_text())
    return metrics, (folder / 'out' / 'group_T1w.html').read_text()
