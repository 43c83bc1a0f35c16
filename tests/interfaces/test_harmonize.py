"""A model that another takes the place of after a run was planned."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from ddae_app.errors import ImageError
from ddae_app.files import digest_of
from ddae_app.interfaces.harmonize import Harmonize, MeasureAppearance
from tests.levels.conftest import write_model


def test_a_model_that_changed_since_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, slices = write_model(tmp_path / 'm.safetensors'), tmp_path / 'slices.nii'
    inside = np.hypot(*np.mgrid[-1:1:128j, -1:1:128j]) < 0.7
    nib.save(nib.Nifti1Image((0.5 * inside)[:, :, None].astype(np.float32), np.eye(4)), slices)
    asked = {'model': str(model), 'model_sha256': digest_of(model), 'device': 'cpu'}
    harmonize = Harmonize(
        in_file=str(slices), source_site='PhantomA', target_site='PhantomB', sloppy=True, **asked
    )
    assert harmonize.run().outputs.out_file
    files = [str(slices)]
    measure = MeasureAppearance(
        images=files, masks=files, participants=['01'], site='new', **asked
    )
    write_model(model, phantom=False)
    for step in harmonize, measure:
        with pytest.raises(ImageError, match='m.safetensors: the file changed while the run'):
            step.run()
