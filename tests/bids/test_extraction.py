"""Which brain mask of the user belongs to a scan."""

from __future__ import annotations

import pytest

from ddae_app.bids.extraction import Extraction, find_mask, is_alone, read_mask_filter
from ddae_app.bids.scan import Scan
from ddae_app.errors import ImageError, UsageError

WANTED = {'desc': 'brain', 'suffix': 'mask', 'space': None}


def scan_of(tmp_path, stem):
    parts = dict(part.split('-') for part in stem.split('_'))
    path = tmp_path / 'bids' / f'{stem}_T1w.nii.gz'
    return Scan(path, parts['sub'], parts.get('ses'), stem)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_the_mask_of_a_scan_in_its_own_space(tmp_path):
    root = touch(
        tmp_path / 'fmriprep',
        'sub-01/anat/sub-01_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_desc-brain_mask.json',
        'sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_desc-ribbon_mask.nii.gz',
        'sub-01/anat/sub-01_desc-preproc_T1w.nii.gz',
        'sub-011/anat/sub-011_desc-brain_mask.nii.gz',
    )
    mask = find_mask(scan_of(tmp_path, 'sub-01'), [root], WANTED, alone=True)
    assert mask == root / 'sub-01/anat/sub-01_desc-brain_mask.nii.gz'


def test_sessions_are_kept_apart(tmp_path):
    root = touch(
        tmp_path / 'm',
        'sub-01/ses-a/anat/sub-01_ses-a_space-T1w_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_desc-brain_mask.nii.gz',
    )
    found = find_mask(scan_of(tmp_path, 'sub-01_ses-a'), [root], WANTED, alone=True)
    assert found.name == 'sub-01_ses-a_space-T1w_desc-brain_mask.nii.gz'
    with pytest.raises(ImageError, match='no brain mask of sub-01_ses-b in .*--brain-mask-filter'):
        find_mask(scan_of(tmp_path, 'sub-01_ses-b'), [root], WANTED, alone=True)


def test_a_mask_of_an_average_is_not_that_of_a_run(tmp_path):
    root = touch(tmp_path / 'm', 'sub-01/anat/sub-01_desc-brain_mask.nii.gz')
    scan = scan_of(tmp_path, 'sub-01_run-2')
    assert find_mask(scan, [root], WANTED, alone=True)
    with pytest.raises(ImageError, match='no brain mask of sub-01_run-2'):
        find_mask(scan, [root], WANTED, alone=False)
    touch(root, 'sub-01/anat/sub-01_run-2_desc-brain_mask.nii.gz')
    assert find_mask(scan, [root], WANTED, alone=False).name.startswith('sub-01_run-2')
    with pytest.raises(ImageError, match='2 brain masks of sub-01_run-2.*--brain-mask-filter'):
        find_mask(scan, [root], WANTED, alone=True)


def test_a_scan_that_was_selected_among_several_is_not_alone(tmp_path):
    anat = tmp_path / 'bids' / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    scan = Scan(anat / 'sub-01_run-1_T1w.nii.gz', '01', None, 'sub-01_run-1')
    here = 'sub-01_run-1_T1w.nii.gz'
    for name in (here, 'sub-01_run-1_T1w.json', 'sub-01_T2w.nii.gz', f'._{here}'):
        (anat / name).touch()
    assert is_alone(scan)
    (anat / 'sub-01_ce-gad_T1w.nii').touch()
    assert not is_alone(scan)


@pytest.mark.parametrize('name', ['mask.mgz', 'brainmask.mgz'])
@pytest.mark.parametrize(('stem', 'folder'), [
    ('sub-01', 'sub-01'), ('sub-01_ses-a_acq-x', 'sub-01_ses-a'),
])  # fmt: skip
def test_the_masks_of_freesurfer_and_fastsurfer(tmp_path, name, stem, folder):
    root = touch(tmp_path / 'subjects', f'{folder}/mri/{name}')
    scan = scan_of(tmp_path, stem)
    assert find_mask(scan, [root], WANTED, alone=True) == root / folder / 'mri' / name
    with pytest.raises(ImageError):
        find_mask(scan, [root], WANTED, alone=False)


def test_a_filter_chooses_another_mask(tmp_path):
    root = touch(
        tmp_path / 'm',
        'sub-01/anat/sub-01_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_label-brain_desc-manual_mask.nii.gz',
    )
    file = tmp_path / 'f.json'
    file.write_text('{"desc": "manual"}')
    found = find_mask(scan_of(tmp_path, 'sub-01'), [root], read_mask_filter(file), alone=True)
    assert found.name == 'sub-01_label-brain_desc-manual_mask.nii.gz'


def test_a_filter_may_name_what_tells_scans_apart(tmp_path):
    root = touch(
        tmp_path / 'm',
        'sub-01/anat/sub-01_acq-a_run-1_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_acq-a_run-2_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_acq-b_run-1_desc-brain_mask.nii.gz',
    )
    for chosen in ({'acq': 'a'}, {'run': '2'}, {'acq': 'a', 'run': '2'}):
        scan = scan_of(tmp_path, 'sub-01_acq-a_run-2')
        found = find_mask(scan, [root], {**WANTED, **chosen}, alone=False)
        assert found.name == 'sub-01_acq-a_run-2_desc-brain_mask.nii.gz'
    with pytest.raises(ImageError, match='no brain mask of sub-01_acq-b_run-1'):
        find_mask(
            scan_of(tmp_path, 'sub-01_acq-b_run-1'), [root], {**WANTED, 'acq': 'a'}, alone=False
        )


@pytest.mark.parametrize('content', ['', '[]', '{"desc": 3}', '{"desc": ["a"]}'])
def test_a_filter_that_is_none_is_refused(tmp_path, content):
    (tmp_path / 'f.json').write_text(content)
    with pytest.raises(UsageError, match='--brain-mask-filter'):
        read_mask_filter(tmp_path / 'f.json')


def test_what_is_recorded(tmp_path):
    mask = Extraction('mask', tmp_path, 'a' * 64)
    assert mask.record() == {'SkullStrip': 'mask', 'BrainMaskSHA256': 'a' * 64}
    assert mask.metadata() == {'SkullStripMethod': 'mask', 'BrainMaskSHA256': 'a' * 64}
    assert Extraction('deepbet').metadata() == {'SkullStripMethod': 'deepbet'}
