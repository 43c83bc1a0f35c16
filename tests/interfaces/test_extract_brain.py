"""What the methods of brain extraction are given."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.extraction import Extraction
from ddae_app.errors import ImageError
from ddae_app.files import digest_of
from ddae_app.imaging import brain
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.interfaces.preproc import ExtractBrain
from ddae_app.settings import Protocol
from ddae_app.workflows.preproc import init_preproc_wf


@pytest.mark.parametrize('spiked', [False, True])
def test_the_brain_is_found_in_a_scan_without_its_hot_voxels(tmp_path, monkeypatch, spiked):
    ball = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0) < 17
    scan = np.where(ball, np.random.default_rng(0).uniform(100, 900, ball.shape), 0)
    path, seen = tmp_path / 'scan.nii', []
    data = scan.astype(np.float32)
    if spiked:
        data[20, 20, 18:23] = 50_000
    nib.save(nib.Nifti1Image(data, np.diag([4.0, 4, 4, 1])), path)
    stripped = brain.stripped_mask
    monkeypatch.setattr(brain, 'stripped_mask', lambda x: seen.append(x) or stripped(x))
    monkeypatch.chdir(tmp_path)
    step = ExtractBrain(
        in_file=str(path), method='none', brain=str(path), mask=str(path),
        template='MNI152NLin2009aSym', protocol={},
    )  # fmt: skip
    mask = nib.load(step.run().outputs.out_mask).get_fdata() > 0
    assert mask[20, 20, 20] and (mask == ball).mean() > 0.99
    given = np.asarray(seen[0].dataobj)
    assert given.max() <= 900
    if not spiked:
        np.testing.assert_array_equal(given, data)


@pytest.mark.parametrize('kind', ['folder', 'gone'])
def test_a_brain_mask_that_cannot_be_read_fails_in_one_line(tmp_path, monkeypatch, kind):
    """The workflow is built without looking at it, so that only its own scan fails."""
    scan, given = tmp_path / 'scan.nii', tmp_path / 'mask.nii.gz'
    nib.save(nib.Nifti1Image(np.ones((40, 40, 40), np.float32), np.diag([4.0, 4, 4, 1])), scan)
    if kind == 'folder':
        given.mkdir()
    step = init_preproc_wf(
        protocol=Protocol(),
        template=TemplateFiles('MNI152NLin2009aSym', None, scan, scan, scan, scan),
        extraction=Extraction('mask', given, digest_of(given)),
        device='cpu',
    ).get_node('extract_brain')
    monkeypatch.chdir(tmp_path)
    step.interface.inputs.in_file = str(scan)
    with pytest.raises(
        ImageError, match=r'mask.nii.gz: the brain mask is not .*readable'
    ) as error:
        step.interface.run()
    assert '\n' not in str(error.value)


def test_a_brain_mask_counts_by_its_digest(tmp_path):
    step = ExtractBrain(method='mask', given=str(tmp_path / 'mask.nii.gz'), given_sha256='a')
    before = step.inputs.get_hashval(hash_method='content')
    step.inputs.given_sha256 = 'b'
    assert step.inputs.get_hashval(hash_method='content') != before
