"""The sink: what it writes, in which order, and what an interruption leaves."""

from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest

from ddae_app.imaging import volumes
from ddae_app.interfaces.derivatives import DerivativeSink


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'work' / 'image.nii'
    path.parent.mkdir()
    volumes.write(path, np.ones((3, 4, 5), np.float32), np.eye(4))
    return path


@pytest.fixture
def sink(image, tmp_path):
    """The sink of the image that stands for a stage."""
    return DerivativeSink(
        in_file=str(image),
        out_path=str(tmp_path / 'out' / 'a_T1w.nii.gz'),
        sidecar=str(tmp_path / 'out' / 'a_T1w.json'),
        metadata={'Description': 'x'},
        results=[{'ssim': 0.5, 'cjv': float('nan')}, {'Device': 'cpu'}],
        record={'MadeFrom': {'Model': 'm'}},
    )


def content_of(path):
    return json.loads(path.read_text())


def test_image_and_sidecar(sink, tmp_path):
    sink.run()
    assert nib.load(tmp_path / 'out' / 'a_T1w.nii.gz').shape == (3, 4, 5)
    assert content_of(tmp_path / 'out' / 'a_T1w.json') == {
        'Description': 'x', 'ssim': 0.5, 'Device': 'cpu', 'MadeFrom': {'Model': 'm'},
    }  # fmt: skip
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a_T1w.json', 'a_T1w.nii.gz']


def test_a_record_is_told_only_once_the_image_is_there(sink, tmp_path, monkeypatch):
    sink.run()

    def killed(*_, **__):
        assert 'MadeFrom' not in content_of(tmp_path / 'out' / 'a_T1w.json')
        raise KeyboardInterrupt

    monkeypatch.setattr(volumes, 'write', killed)
    with pytest.raises(KeyboardInterrupt):
        sink.run()
    assert 'MadeFrom' not in content_of(tmp_path / 'out' / 'a_T1w.json')


def test_an_image_is_on_the_disk_before_its_record_is(sink, tmp_path, monkeypatch):
    """Else the record may survive a power failure that the image does not."""
    written, fsync = [], os.fsync

    def seen(file):
        written.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr(os, 'fsync', seen)
    sink.run()
    out = tmp_path / 'out'
    image, record = ((out / f'a_T1w{ending}').stat().st_size for ending in ('.nii.gz', '.json'))
    assert written[-2:] == [image, record]


def test_whatever_is_written_first_takes_the_record_away(sink, image, tmp_path):
    sink.run()
    sidecar = tmp_path / 'out' / 'a_T1w.json'
    other = DerivativeSink(
        in_file=str(image),
        out_path=str(tmp_path / 'out' / 'mask.nii.gz'),
        voids=[(str(sidecar), 'MadeFrom')],
    )
    other.run()
    assert content_of(sidecar) == {'Description': 'x', 'ssim': 0.5, 'Device': 'cpu'}
    sidecar.unlink()
    other.run()  # where there is none, there is nothing to take away
    assert not sidecar.exists()


@pytest.mark.parametrize('text', ['{"MadeFrom"', '[' * 100_000, '[]'])
def test_a_damaged_sidecar_has_no_record_to_take_away(image, tmp_path, text):
    sidecar = tmp_path / 'a_T1w.json'
    sidecar.write_text(text)
    voids = [(str(sidecar), 'MadeFrom')]
    out = tmp_path / 'out' / 'mask.nii.gz'
    DerivativeSink(in_file=str(image), out_path=str(out), voids=voids).run()
    assert out.is_file() and sidecar.read_text() == text


def test_other_files_are_copied(tmp_path):
    source = tmp_path / 'affine.txt'
    source.write_text('1 0 0')
    DerivativeSink(in_file=str(source), out_path=str(tmp_path / 'out' / 'xfm.txt')).run()
    assert (tmp_path / 'out' / 'xfm.txt').read_text() == '1 0 0'
