"""What the methods of brain extraction are given."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from ddae_app.imaging import brain
from ddae_app.interfaces.preproc import ExtractBrain


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
