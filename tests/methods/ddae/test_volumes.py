"""Training on whole scans, from the data to what is harmonized with the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ddae_app.errors import UsageError
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.train import TrainingControl, train

from ..toy import DEEP, DEEP_PROTOCOL, DEPTH, TRAIN, scans


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return train(scans(), DEEP, TRAIN, DEEP_PROTOCOL, tmp_path_factory.mktemp('whole'))


def test_the_model_knows_every_slice(path):
    bundle = load_bundle(path)
    assert bundle.info.protocol.depth == bundle.model.config.depth == DEPTH
    appearance = bundle.model.appearance
    means = appearance.average.mean(dim=(1, 2))
    assert means[0] == 0 and (means[1:] > 0.01).all()
    # The second site is brighter, and not only in one slice.
    assert (appearance.curve[1, 1:] > appearance.curve[0, 1:]).all()
    assert appearance.noise[:2].tolist() == pytest.approx([0.02] * 2, rel=0.5)


def test_it_harmonizes_whole_scans_and_nothing_else(path):
    harmonizer, data = DDAEHarmonizer.load(path, device='cpu'), scans()
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
    harmonizer, data = DDAEHarmonizer.load(path, device='cpu'), scans()
    cohort = pd.DataFrame({'site': ['C'] * 6})
    adapted = harmonizer.adapted(data.images[10:], 'C', data.subjects[10:])
    assert adapted.appearances['C'].average.shape == (1, DEPTH, 16, 16)
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

    def stop(progress):
        if progress.images_seen >= TRAIN.images // 2:
            raise Stopped

    def run(folder, control=None):
        return train(scans(), DEEP, TRAIN, DEEP_PROTOCOL, tmp_path / folder, control=control)

    try:
        undisturbed = run('a')
        with pytest.raises(Stopped):
            run('b', TrainingControl(progress=stop, checkpoint_seconds=0))
        resumed = run('b')
    finally:
        torch.set_num_threads(threads)
    assert undisturbed.read_bytes() == resumed.read_bytes()


def test_a_site_without_brain_is_refused(tmp_path):
    data = scans()
    images = data.images.copy()
    images[:10] = 0
    with pytest.raises(UsageError, match='no slice of site A shows brain'):
        train(replace(data, images=images), DEEP, TRAIN, DEEP_PROTOCOL, tmp_path)
