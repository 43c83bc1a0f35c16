"""The harmonizer: it moves images towards the truth, and keeps its promises on the way."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ddae_app.errors import ModelError, UsageError
from ddae_app.imaging.noise import noise_sd
from ddae_app.methods.base import DARKEST, Harmonizer
from ddae_app.methods.condition import label_blind
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer

from ..toy_sites import anatomy, render, rmse, scan


@pytest.fixture(scope='module')
def brains():
    return [anatomy(1000 + i) for i in range(10)]


@pytest.fixture(scope='module')
def images(brains):
    return np.stack([scan(b, 'A') for b in brains])


@pytest.mark.parametrize(('source', 'target'), ['AB', 'BA'])
def test_images_move_towards_the_truth_at_the_target(fitted, brains, source, target):
    before, truth = (np.stack([scan(b, s) for b in brains]) for s in (source, target))
    after = render(fitted, before, source, target)
    assert after.shape == before.shape
    assert after.dtype == np.float32
    assert rmse(after, truth) < 0.5 * rmse(before, truth)


def test_source_equal_to_target_changes_nothing_but_noise(fitted, images):
    assert rmse(render(fitted, images, 'A', 'A'), images) < 0.05
    fitted = replace(fitted, keep_noise=True)
    assert np.array_equal(render(fitted, images, 'A', 'A'), images)
    mixed = render(fitted, images, ['A', 'B'] * 5, 'A')
    assert np.array_equal(mixed[::2], images[::2])
    assert not np.array_equal(mixed[1::2], images[1::2])


def test_background_and_range(fitted, images):
    fitted, bright = replace(fitted, keep_noise=True), images.copy()
    bright[:, 16, 8] = 1.6
    out = render(fitted, bright, 'A', 'B')
    assert (out[bright == 0] == 0).all()
    assert (out >= 0).all()
    at_ceiling = np.minimum(bright, 1.2)
    kept = out - render(fitted, at_ceiling, 'A', 'B')
    np.testing.assert_allclose(kept[:, 16, 8], 0.4, atol=1e-4)


def test_rendered_slices_are_denoised_as_much_as_they_are_noisy(fitted, images, monkeypatch):
    seen = []

    def spy(model, x, target, noise_sd, batch_size):
        seen.append((x[:, 0].numpy().copy(), noise_sd))
        return 0.5 * x

    monkeypatch.setattr('ddae_app.methods.ddae.render.denoise_at_site', spy)
    # What comes after it is no part of this.
    monkeypatch.setattr('ddae_app.methods.ddae.render._corrected', lambda model, y, *sites: y)
    out = render(fitted, images, 'A', 'B')
    kept = render(replace(fitted, keep_noise=True), images, 'A', 'B')
    rendered, sd = (np.concatenate(part) for part in zip(*seen, strict=True))
    model, n = fitted.bundle.model, len(rendered)
    appearance = model.appearance_of(label_blind([1] * n))
    slices = torch.from_numpy(rendered)[:, None]
    common = model.appearance.to_common(slices, appearance)[:, 0].numpy()
    assert sd.tolist() == pytest.approx([noise_sd(image) for image in common])
    assert (sd > 0).all()
    np.testing.assert_allclose(np.maximum(rendered, 0), kept, atol=1e-6)
    np.testing.assert_allclose(out, 0.5 * kept, atol=1e-6)


def test_deterministic_and_independent_of_the_batch(fitted, images):
    out = render(fitted, images, 'A', 'B')
    assert np.array_equal(render(fitted, images, 'A', 'B'), out)
    one_by_one = render(replace(fitted, batch_size=1), images, 'A', 'B')
    np.testing.assert_allclose(one_by_one, out, atol=1e-4)


def test_input_is_left_alone(fitted, images):
    before = images.copy()
    images.flags.writeable = False
    render(fitted, images, 'A', 'B')
    images.flags.writeable = True
    assert np.array_equal(images, before)


def test_blind_to_age_and_sex_unless_asked_to_use_them(fitted, images):
    ages, sexes = [20.0] * 10, ['M'] * 10
    blind = render(fitted, images, 'A', 'B')
    assert np.array_equal(render(fitted, images, 'A', 'B', ages, sexes), blind)
    aware = replace(fitted, use_covariates=True)
    assert not np.array_equal(render(aware, images, 'A', 'B', ages, sexes), blind)
    assert np.array_equal(render(aware, images, 'A', 'B'), blind)
    assert [x.facts()['LabelBlind'] for x in (fitted, aware)] == [True, False]


def test_unknown_target_lists_the_sites(fitted, images):
    with pytest.raises(UsageError, match="--target-site 'C' is not a site .* knows A, B"):
        render(fitted, images, 'A', 'C')


def test_unseen_source(fitted, images):
    with pytest.raises(UsageError, match='source site X was not seen .* --unseen-site agnostic'):
        render(fitted, images, 'X', 'B')
    agnostic = replace(fitted, unseen_site='agnostic')
    out = render(agnostic, images, ['X'] * 5 + ['A'] * 5, 'B')
    # Each by itself: nothing depends on the other scans.
    one = render(agnostic, images[:1], 'X', 'B')
    np.testing.assert_allclose(out[:1], one, atol=1e-4)
    assert np.array_equal(out, render(agnostic, images, ['Y'] * 5 + ['A'] * 5, 'B'))
    np.testing.assert_allclose(out[5:], render(fitted, images, 'A', 'B')[5:], atol=1e-4)


def test_a_site_with_the_name_of_a_packaged_one_is_measured_in_its_own_scans(fitted, images):
    bundle = replace(fitted.bundle, info=replace(fitted.info, references=('A',)))
    packaged = replace(fitted, bundle=bundle, unseen_site='agnostic')
    out = render(packaged, images, 'A', 'B')
    assert np.array_equal(out, render(packaged, images, 'X', 'B'))
    assert not np.array_equal(out, render(fitted, images, 'A', 'B'))
    assert not np.array_equal(render(packaged, images, 'B', 'A'), images)


@pytest.mark.parametrize('mode', ['agnostic', 'adapt'])
def test_a_site_never_seen_moves_towards_the_truth(fitted, brains, mode):
    before, others = (
        np.stack([0.9 * b**1.3 + 0.05 * (b > 0) for b in anatomies]).astype(np.float32)
        for anatomies in (brains, map(anatomy, range(2000, 2020)))
    )
    truth = np.stack([scan(b, 'A') for b in brains])
    ready = replace(fitted, unseen_site=mode).adapted(others, 'X', list(map(str, range(20))))
    after = render(ready, before, 'X', 'A')
    assert rmse(after, truth) < 0.6 * rmse(before, truth)


def test_a_site_that_was_measured_into_a_file_is_as_if_adapted(fitted, images, tmp_path):
    subjects, path = [f's{i}' for i in range(10)], tmp_path / 'site-X.safetensors'
    fitted = replace(fitted, unseen_site='adapt')
    adapted = fitted.adapted(images, 'X', subjects)
    fitted.measure_site(images, 'X', subjects, path)
    loaded = fitted.with_site('X', path)
    assert loaded.appearances['X'].equals(adapted.appearances['X']).all()
    first, second = (render(h, images, 'X', 'B') for h in (adapted, loaded))
    assert first.tobytes() == second.tobytes()
    with pytest.raises(UsageError, match='of 5 of its subjects, 4 are there'):
        fitted.measure_site(images, 'X', ['a', 'b', 'c', 'd', 'd'] * 2, tmp_path / 'few')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('keep', [0, 20, -1])
def test_a_broken_file_of_a_measured_site_is_refused(fitted, images, tmp_path, keep):
    path = tmp_path / 'site-X.safetensors'
    fitted.measure_site(images, 'X', [f's{i}' for i in range(10)], path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match='not the appearance of a site .* run the same command'):
        fitted.with_site('X', path)


def test_adapting_needs_scans_of_the_new_site(fitted, images):
    ready = replace(fitted, unseen_site='adapt')
    with pytest.raises(UsageError, match='source site X .* nor were its scans'):
        render(ready, images, 'X', 'B')
    with pytest.raises(UsageError, match='adapt needs .* of 5 of its subjects, 4 are there'):
        ready.adapted(images, 'X', ['a', 'b', 'c', 'd', 'd'] * 2)
    with pytest.raises(UsageError, match='10 images of 5 subjects; give the subject of each'):
        ready.adapted(images, 'X', ['a', 'b', 'c', 'd', 'e'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda x: x[0], r'float32 \(32, 32\)'),
        (lambda x: x.astype(float), 'float64'),
        (lambda x: x - 0.5, 'negative'),
        (lambda x: x * np.float32(np.nan), 'non-finite'),
        (lambda x: x[:, :16, :16], r'\(1, 16, 16\).* takes \(1, 32, 32\)'),
    ],
)
def test_wrong_images_are_refused(fitted, images, change, message):
    with pytest.raises(UsageError, match=message):
        render(fitted, change(images), 'A', 'B')
    wrong = change(images)
    with pytest.raises(UsageError, match=message):
        fitted.adapted(wrong, 'X', [f's{i}' for i in range(len(wrong))])


def test_wrong_numbers_of_labels_are_refused(fitted, images):
    with pytest.raises(UsageError, match='10 images with a cohort of 2 rows'):
        render(fitted, images, ['A', 'B'], 'B')
    with pytest.raises(UsageError, match='without the site of each image'):
        render(fitted, images, [*'ABABABABA', None], 'B')
    with pytest.raises(UsageError, match="sex 'male'; give M, F or nothing"):
        render(fitted, images, 'A', 'B', sexes=['male'] * 10)
    with pytest.raises(UsageError, match='without the subject of each image'):
        fitted.fit(images, pd.DataFrame({'site': ['A'] * 10}))


@pytest.mark.parametrize('source', ['A', 'unseen'])
def test_images_without_brain_stay_so(fitted, images, source):
    harmonizer = replace(fitted, unseen_site='agnostic')
    assert not render(harmonizer, np.zeros_like(images[:3]), source, 'B').any()


@pytest.mark.parametrize('source', ['A', 'unseen'])
def test_images_that_are_turned_round(fitted, images, source):
    harmonizer = replace(fitted, unseen_site='agnostic')
    turned = np.flip(images[:2], axis=1)
    assert np.array_equal(
        render(harmonizer, turned, source, 'B'), render(harmonizer, turned.copy(), source, 'B')
    )


def test_no_images(fitted):
    assert render(fitted, np.zeros((0, 32, 32), np.float32), 'A', 'B').shape == (0, 32, 32)


@pytest.mark.parametrize('options', [{'unseen_site': 'guess'}, {'steps': 0}, {'batch_size': 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UsageError):
        DDAEHarmonizer(**options)


def test_not_fitted(images):
    with pytest.raises(UsageError, match='call fit or load first'):
        render(DDAEHarmonizer(), images, 'A', 'B')


def test_without_condition_dropout_null_tokens_are_refused(fitted, images):
    bundle = fitted.bundle
    config = replace(bundle.info.config, condition_dropout=0.0)
    paper = replace(bundle, info=replace(bundle.info, config=config))
    plain = replace(fitted, bundle=paper)
    with pytest.raises(ModelError, match='without condition dropout'):
        render(plain, images, 'A', 'B')
    aware = replace(plain, use_covariates=True, unseen_site='agnostic')
    known = ([50.0] * 10, ['F'] * 10)
    assert render(aware, images, 'A', 'B', *known).shape == images.shape
    with pytest.raises(ModelError, match='without condition dropout'):
        render(aware, images, 'X', 'B', *known)


def test_save_and_load(fitted, images, tmp_path):
    path = tmp_path / 'model.safetensors'
    fitted.save(path)
    loaded: Harmonizer = DDAEHarmonizer.load(path, device='cpu')
    assert loaded.sites == fitted.sites == ('A', 'B')
    assert np.array_equal(render(loaded, images, 'A', 'B'), render(fitted, images, 'A', 'B'))


def test_a_model_file_is_read_once_until_it_changes(fitted, tmp_path, monkeypatch):
    reads = []

    def counted(*arguments):
        reads.append(arguments)
        return load_bundle(*arguments)

    monkeypatch.setattr('ddae_app.methods.ddae.harmonizer.load_bundle', counted)
    path = tmp_path / 'model.safetensors'
    fitted.save(path)
    first = DDAEHarmonizer.load(path, device='cpu')
    assert DDAEHarmonizer.load(path, device='cpu').bundle is first.bundle
    assert len(reads) == 1
    os.utime(path, ns=(1, 1))
    DDAEHarmonizer.load(path, device='cpu')
    assert len(reads) == 2


def test_a_missing_model_file_is_reported(tmp_path):
    with pytest.raises(ModelError, match='no such model file'):
        DDAEHarmonizer.load(tmp_path / 'none', device='cpu')


def test_nothing_is_negative_and_no_brain_is_lost(fitted, images, monkeypatch):
    monkeypatch.setattr('ddae_app.methods.ddae.render.edit_to_site', lambda _, x, *rest: x - 0.5)
    out = render(replace(fitted, keep_noise=True), images, 'A', 'B')
    np.testing.assert_array_equal(out, np.where(images > 0, np.maximum(images - 0.5, DARKEST), 0))
