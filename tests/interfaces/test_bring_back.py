"""What harmonization changes is brought back into the scan, which is read once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddae_app.errors import ImageError
from ddae_app.files import digest_of
from ddae_app.imaging.registration import write_itk_affine
from ddae_app.interfaces.harmonize import BringBack

AFFINE = nib.affines.from_matvec(np.diag([4.0, 4, 4]), [-60, -60, -60])


@pytest.fixture
def step(tmp_path):
    rng = np.random.default_rng(0)
    ball = np.linalg.norm(np.indices((30, 30, 30)) - 15, axis=0) < 10
    images = {
        't1w': 1000 * ball + rng.uniform(0, 100, ball.shape),
        'slices': 0.8 * ball,
        'difference': 0.1 * ball,
    }
    files = {name: str(tmp_path / f'{name}.nii.gz') for name in images}
    for name, data in images.items():
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), files[name])
    write_itk_affine(np.eye(4), tmp_path / 'xfm.txt')
    digest = digest_of(tmp_path / 't1w.nii.gz')
    return BringBack(**files, xfm=str(tmp_path / 'xfm.txt'), sha256=digest)


def test_the_scan_gets_what_harmonization_adds(step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = nib.load(step.run().outputs.out_file).get_fdata()
    scan = nib.load(step.inputs.t1w).get_fdata()
    # A share of .1 of .8 is an eighth of the scan's own units.
    np.testing.assert_allclose((out / scan)[12:18, 12:18, 12:18], 1.125, atol=0.03)
    np.testing.assert_array_equal(out[0], scan[0])


def test_a_scan_that_changed_since_the_run_was_planned_is_refused(step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed(Path(step.inputs.t1w))
    with pytest.raises(ImageError, match='changed while the run went on'):
        step.run()


def test_the_scan_is_read_once(step, tmp_path, monkeypatch):
    """What happens to the file afterwards does not matter: two readings could differ."""
    monkeypatch.chdir(tmp_path)
    expected = nib.load(step.run().outputs.out_file).get_fdata()

    def read_and_change(path):
        content = read_bytes(path)
        changed(path)
        return content

    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', read_and_change)
    np.testing.assert_array_equal(nib.load(step.run().outputs.out_file).get_fdata(), expected)


def test_fine_voxels_do_not_take_the_memory_of_a_node(step, tmp_path, monkeypatch):
    """A scan of 0.6 mm, of 49 million voxels, took 58 bytes a voxel, and the plan says 2 GB."""
    monkeypatch.chdir(tmp_path)
    affine = nib.affines.from_matvec(np.eye(3), AFFINE[:3, 3] - 15)
    scan = np.zeros((150, 150, 150), np.int16)
    scan[15:135, 15:135, 15:135] = np.kron(
        nib.load(step.inputs.t1w).get_fdata(), np.ones((4, 4, 4))
    )
    nib.save(nib.Nifti1Image(scan, affine), step.inputs.t1w)
    step.inputs.sha256 = digest_of(Path(step.inputs.t1w))
    step.run()
    tracemalloc.start()
    try:
        step.run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / scan.size < 30


def test_nipype_does_not_read_the_scan(step):
    """The digest stands for it."""
    before = step.inputs.get_hashval(hash_method='content')
    Path(step.inputs.t1w).unlink()
    assert step.inputs.get_hashval(hash_method='content') == before
    step.inputs.sha256 = 'of another'
    assert step.inputs.get_hashval(hash_method='content') != before


def changed(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(0.5 * image.get_fdata(), None, image.header), path)
