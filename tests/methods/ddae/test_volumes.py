"""Training on whole scans, from the store to what a rendering is rid of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ddae_app.errors import UsageError
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.train import train
from ddae_app.settings import Protocol

from .toy import MODEL, TRAIN, changed, slices

DEPTH = 6
DEEP = replace(
    MODEL, depth=DEPTH, neighbours=1, site_curve=True, site_edge=True, site_average=True,
    coordinates=True, noise_corrected=True, times='lognormal',
)  # fmt: skip
PROTOCOL = Protocol(grid=(16, 16, DEPTH), slices='all', slice_shape=(16, 16))


def scans() -> SliceData:
    """Ellipses that shrink upwards, brighter in the middle; the lowest slice shows nothing."""
    data, rng = slices(), np.random.default_rng(0)
    images = np.repeat(data.images, DEPTH, axis=1)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    for z in range(DEPTH):
        images[:, z] *= (np.hypot(x, y) < 0.9 - 0.08 * z) * (0.8 + 0.04 * z)
    images[:, 0] = 0
    noise = rng.normal(0, 0.02, images.shape)
    return changed(data, images=np.where(images > 0, images + noise, 0).astype(np.float32))


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return train(scans(), DEEP, TRAIN, PROTOCOL, tmp_path_factory.mktemp('whole'))


def test_the_bundle_knows_every_slice(path):
    bundle = load_bundle(path)
    assert bundle.info.protocol.depth == bundle.model.config.depth == DEPTH
    means = bundle.model.average.mean(dim=(1, 2))
    assert means[0] == 0 and (means[1:] > 0.01).all()
    # The second site is brighter, and not only in one slice.
    assert (bundle.model.curve[1, 1:] > bundle.model.curve[0, 1:]).all()
    assert bundle.model.noise[:2].tolist() == pytest.approx([0.02] * 2, rel=0.5)


def test_it_harmonises_whole_scans_and_nothing_else(path):
    harmonizer, data = DDAEHarmonizer.load(path, 'cpu'), scans()
    cohort = pd.DataFrame({'site': data.sites[8:12]})
    out = harmonizer.transform(data.images[8:12], cohort, 'B')
    assert out.shape == (4, DEPTH, 16, 16)
    assert ((out > 0) <= (data.images[8:12] > 0)).all()
    brain = data.images[8:10] > 0
    wanted = data.images[10:12][data.images[10:12] > 0].mean()
    before, after = data.images[8:10][brain].mean(), out[:2][brain].mean()
    assert abs(after - wanted) < 0.5 * abs(before - wanted)
    one_by_one = replace(harmonizer, batch_size=1).transform(data.images[8:12], cohort, 'B')
    np.testing.assert_allclose(one_by_one, out, atol=1e-4)
    with pytest.raises(UsageError, match=r'takes \(6, 16, 16\)'):
        harmonizer.transform(data.images[8:12, :5], cohort, 'B')


def test_an_unknown_site_is_measured_over_the_whole_scan(path):
    harmonizer, data = DDAEHarmonizer.load(path, 'cpu'), scans()
    cohort = pd.DataFrame({'site': ['C'] * 6})
    adapted = harmonizer.adapted(data.images[10:], 'C', data.subjects[10:])
    assert adapted.looks['C'].average.shape == (1, DEPTH, 16, 16)
    for ready in (
        replace(harmonizer, unseen_site='agnostic'),
        replace(adapted, unseen_site='adapt'),
    ):
        out = ready.transform(data.images[10:16], cohort, 'A')
        assert np.isfinite(out).all()
        brain = data.images[10:16] > 0
        target = data.images[:10][data.images[:10] > 0].mean()
        errors = [abs(x[brain].mean() - target) for x in (out, data.images[10:16])]
        assert errors[0] < 0.6 * errors[1]


def test_a_resumed_run_writes_the_same_bytes(path, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(report):
        if report.images_seen >= TRAIN.images // 2:
            raise Stopped

    try:
        undisturbed = train(scans(), DEEP, TRAIN, PROTOCOL, tmp_path / 'a')
        with pytest.raises(Stopped):
            train(
                scans(), DEEP, TRAIN, PROTOCOL, tmp_path / 'b', progress=stop, checkpoint_seconds=0
            )
        resumed = train(scans(), DEEP, TRAIN, PROTOCOL, tmp_path / 'b')
    finally:
        torch.set_num_threads(threads)
    assert undisturbed.read_bytes() == resumed.read_bytes()


def test_a_site_without_brain_is_refused(tmp_path):
    data = scans()
    images = data.images.copy()
    images[:10] = 0
    with pytest.raises(UsageError, match='no slice of site A shows brain'):
        train(changed(data, images=images), DEEP, TRAIN, PROTOCOL, tmp_path)
