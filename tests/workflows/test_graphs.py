"""The graphs: which steps there are for which request, without running any."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddae_app.bids import sidecars
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Layout, Preprocessed
from ddae_app.bids.scan import Scan, Space
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.methods.registry import METHODS
from ddae_app.settings import Protocol
from ddae_app.workflows.harmonize import (
    HarmonizeRequest,
    SiteScan,
    UnseenSite,
    init_appearance_wf,
)
from ddae_app.workflows.participant import (
    Preprocessing,
    ScanPlan,
    describe,
    init_participant_wf,
)


@pytest.fixture
def build(tmp_path):
    """Build the workflow of two runs of one person."""
    image = tmp_path / 'x.nii'
    image.touch()

    def make(
        *, preproc=True, harmonize=True, device='cpu', skull_strip='none', slices='medial',
        site_effect=False, voxels=0,
    ):  # fmt: skip
        facts = sidecars.harmonization(
            sidecars.ModelFacts('DDAE', 'm', 'f' * 64, False), Covariates('A'), 'B', 'refuse'
        )
        plans = [
            ScanPlan(
                Scan(tmp_path / f'sub-01_run-{i}_T1w.nii.gz', '01', None, f'sub-01_run-{i}'),
                Covariates('A'),
                'bids:raw:x',
                None if preproc else Preprocessed(image, image, image),
                ('bids::preproc', 'bids::xfm'),
                facts if harmonize else None,
                preproc_record={'of': 'preprocessing'},
                harmonize_record={'of': 'harmonization'},
                voxels=voxels,
                extraction=Extraction(skull_strip, tmp_path, 'f' * 64) if preproc else None,
            )
            for i in (1, 2)
        ]
        template = TemplateFiles('MNI152NLin2009aSym', None, image, image, image, image)
        return init_participant_wf(
            plans,
            layout=Layout(tmp_path / 'out').in_space(
                Space(Protocol(slices=slices), 'https://example.org')
            ),
            preprocessing=Preprocessing(template, device) if preproc else None,
            request=HarmonizeRequest(
                model=image,
                model_sha256='f' * 64,
                description=METHODS['ddae'].describe(keep_noise=False),
                target_site='B',
                unseen_site='refuse',
                keep_noise=False,
                device=device,
                batch_size=4,
                reference={'levels': [0.0, 1.0]},
                site_effect=site_effect,
            )
            if harmonize
            else None,
            omp_nthreads=2,
            sloppy=False,
        )

    return make


def steps(workflow, run=1):
    prefix = f'sub_01_run_{run}_wf.'
    names = [name.split(prefix)[1] for name in workflow.list_node_names() if prefix in name]
    return {name.split('.')[-1] for name in names}


def test_every_scan_has_the_whole_way(build):
    workflow = build()
    expected = {
        'conform', 'register_mni', 'resample_grid', 'correct_bias', 'extract_brain',
        'extract_slices', 'harmonize', 'ds_preproc', 'ds_mask', 'ds_xfm', 'ds_slices',
        'ds_harmonized', 'ds_flicker',
    }  # fmt: skip
    assert expected <= steps(workflow, 1)
    assert steps(workflow, 1) == steps(workflow, 2)
    assert Path(workflow.get_node('sub_01_run_2_wf.preproc_wf.inputnode').inputs.in_file).name == (
        'sub-01_run-2_T1w.nii.gz'
    )


def test_the_image_in_the_space_of_the_scan_is_of_one_template(build, tmp_path):
    other = 'sub-01_run-1_space-Other_res-130_desc-harmonized_T1w'
    anat = tmp_path / 'out' / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    (anat / f'{other}.nii.gz').touch()
    node = build(slices='all').get_node('sub_01_run_1_wf.harmonize_derivatives_wf.ds_native')
    assert [Path(path).name for path, _ in node.inputs.voids] == [
        other.replace('Other', 'MNI152NLin2009aSym') + '.json', f'{other}.json',
    ]  # fmt: skip


def test_what_was_made_of_an_earlier_image_no_longer_counts(build):
    node = build(harmonize=False).get_node('sub_01_run_1_wf.preproc_derivatives_wf.ds_mask')
    descs = [Path(path).name.split('desc-')[1] for path, _ in node.inputs.voids]
    assert descs == ['preproc_T1w.json', 'harmonized_T1w.json']


def test_a_brain_mask_is_made_from_the_scan(build):
    """And not from the preprocessed image, which is made with it."""
    nodes = (
        build(harmonize=False).get_node(f'sub_01_run_1_wf.preproc_derivatives_wf.{name}')
        for name in ('ds_mask', 'ds_preproc')
    )
    assert [node.inputs.metadata['Sources'] for node in nodes] == [['bids:raw:x']] * 2


def test_stages(build):
    assert 'harmonize' not in steps(build(harmonize=False))
    later = steps(build(preproc=False))
    assert 'harmonize' in later and 'register_mni' not in later


def test_whole_scans_are_brought_back_and_differences_written_on_request(build):
    def sinks(**asked):
        return {step for step in steps(build(**asked)) if step.startswith('ds_')}

    medial = sinks()
    assert sinks(slices='all') == medial | {'ds_native', 'ds_planes'}
    assert sinks(site_effect=True) == medial | {'ds_difference'}
    both = medial | {'ds_native', 'ds_planes', 'ds_difference', 'ds_native_difference'}
    assert sinks(slices='all', site_effect=True) == both


def test_a_difference_has_each_source_of_the_harmonized_image_once(build):
    workflow = build(slices='all', site_effect=True)
    for sink, of in (('ds_difference', 'ds_harmonized'), ('ds_native_difference', 'ds_native')):
        metadata, harmonized = (
            workflow.get_node(f'sub_01_run_1_wf.harmonize_derivatives_wf.{name}').inputs.metadata
            for name in (sink, of)
        )
        assert metadata['Sources'] == harmonized['Sources']
        assert len(set(metadata['Sources'])) == len(metadata['Sources'])
        assert 'added' in metadata['Description']


def test_networks_queue_for_the_gpu_only_where_there_is_one(build):
    for device, skull_strip, expected in (
        ('cpu', 'hd-bet', False), ('cuda:0', 'hd-bet', True), ('cuda:0', 'deepbet', True),
    ):  # fmt: skip
        workflow = build(device=device, skull_strip=skull_strip)
        for step in ('harmonize_wf.harmonize', 'preproc_wf.extract_brain'):
            node = workflow.get_node(f'sub_01_run_1_wf.{step}')
            assert node.inputs.use_gpu is expected
            assert node.n_procs == 2
    assert (
        not build(device='cuda:0')
        .get_node('sub_01_run_1_wf.preproc_wf.extract_brain')
        .inputs.use_gpu
    )


def test_methods_follow_the_work(build):
    first, second = describe(build(skull_strip='hd-bet'))
    assert 0 < first.index('HD-BET') < first.index('registered') < first.index('N4')
    assert 'Autoencoder' in second
    assert len(describe(build(harmonize=False))) == 1


def test_the_appearance_of_a_site_is_measured_once(tmp_path):
    image = tmp_path / 'x.nii'
    image.touch()
    scans = tuple(SiteScan(image, image, label) for label in ('01', '02', '02'))
    sites = [UnseenSite(name, scans, digest * 64) for name, digest in (('A', 'a'), ('B', 'b'))]
    workflow = init_appearance_wf(sites, model=image, model_sha256='f' * 64, device='cpu')
    assert sites[0].subjects == 2
    assert sorted(workflow.list_node_names()) == sorted(
        f'{site.workflow}.measure_appearance' for site in sites
    )
    for site in sites:
        node = workflow.get_node(f'{site.workflow}.measure_appearance')
        assert node.inputs.site == site.name and len(node.inputs.images) == 3


@pytest.mark.parametrize(('step', 'usual', 'fine'), [
    ('harmonize_wf.bring_back', 2, 3.56),
    ('preproc_wf.extract_brain', 1.5, 2.66),
    ('preproc_wf.conform', 1, 1.76),
    ('preproc_wf.register_mni', 1, 1.76),
])  # fmt: skip
def test_memory_is_planned_by_the_voxels_of_the_scan(build, step, usual, fine):
    """A scan of 0.5 mm took 3 GB in a step that was planned with 2."""

    def planned(voxels):
        workflow = build(skull_strip='deepbet', slices='all', voxels=voxels)
        return workflow.get_node(f'sub_01_run_1_wf.{step}').mem_gb

    assert planned(0) == planned(256**3) == usual
    assert planned(90_000_000) == pytest.approx(fine)
