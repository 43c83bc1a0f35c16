"""Sites that the networks were not trained on, measured in their scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ddae_app.errors import UsageError
from ddae_app.methods.base import TrainingRequest
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae import trainer
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle, load_bundle, save_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.modelfile import ModelIdentity, read_model_info
from ddae_app.methods.site_effects import Prior
from tests.methods import toy


@pytest.fixture(scope='module')
def bundle():
    """A model of the sites A and B, with random networks."""
    model = toy.random_model(toy.DEEP)
    data = toy.scans()
    model.appearance = fit_site_appearance(toy.DEEP, data, np.arange(len(data)))
    info = toy.info(toy.DEEP, protocol=toy.DEEP_PROTOCOL)
    return Bundle(model, info, Path('model'), 'a' * 64)


@pytest.fixture(scope='module')
def elsewhere():
    """Scans of two other sites, C and D, in other contrasts."""
    data = toy.scans()
    rename = {'A': 'C', 'B': 'D'}
    gamma = np.array([0.6 if site == 'A' else 1.5 for site in data.sites])
    images = (data.images ** gamma[:, None, None, None]).astype(np.float32)
    return replace(data, images=images, sites=tuple(rename[site] for site in data.sites))


@pytest.fixture(scope='module')
def calibrated(bundle, elsewhere):
    return calibrate(bundle, elsewhere)


def test_the_networks_do_not_change(bundle, elsewhere):
    before = {k: v.clone() for k, v in bundle.model.state_dict().items()}
    result = calibrate(bundle, elsewhere)
    assert all(torch.equal(v, before[k]) for k, v in bundle.model.state_dict().items())
    after = result.model.networks.state_dict()
    null = after.pop('condition.site')
    assert all(torch.equal(v, before[f'networks.{k}']) for k, v in after.items())
    assert torch.equal(null, before['networks.condition.site'][[-1, -1, -1]])
    assert result.info.sites == ('C', 'D')
    assert result.info.training.subjects_per_site == (10, 10)


@pytest.mark.parametrize('phantom', [True, False])
def test_networks_of_phantoms_stay_so_whatever_they_are_calibrated_to(
    bundle, elsewhere, tmp_path, phantom
):
    path = tmp_path / 'model.safetensors'
    save_bundle(path, bundle.model, replace(bundle.info, phantom=phantom))
    identity = ModelIdentity('ours', 'real scans', phantom=False)
    request = TrainingRequest(
        elsewhere, toy.DEEP_PROTOCOL, tmp_path, identity, device='cpu', initial=path
    )
    assert read_model_info(trainer.calibrated(request).path).phantom is phantom


def test_the_common_scale_is_that_of_the_networks(bundle, calibrated):
    new, old = calibrated.model.appearance, bundle.model.appearance
    assert torch.equal(new.curve[-1], old.curve[-1]) and torch.equal(new.average, old.average)
    assert not torch.equal(new.curve[0], old.curve[0])


def test_scans_are_harmonized_between_the_new_sites(calibrated, elsewhere):
    harmonizer = DDAEHarmonizer(bundle=calibrated, keep_noise=True)
    sites = np.array(elsewhere.sites)
    source, target = (elsewhere.images[sites == site] for site in 'CD')
    cohort = pd.DataFrame({'site': ['C'] * len(source)})
    after = harmonizer.transform(source, cohort, 'D')

    def median(images):
        return np.median(images[images > 0])

    assert abs(median(after) - median(target)) < abs(median(source) - median(target)) / 3
    assert (after[source == 0] == 0).all()


def test_who_was_scanned_is_no_difference_to_an_unknown_site(bundle, elsewhere):
    """Brains that are brighter than those of the first calibration, at both sites."""
    first = calibrate(bundle, elsewhere)
    sites, dark = np.array(elsewhere.sites), [np.quantile(x[x > 0], 0.3) for x in elsewhere.images]
    of_sites = (np.flatnonzero(sites == site) for site in 'CD')
    rows = np.concatenate([i[np.argsort(np.array(dark)[i])[len(i) // 2 :]] for i in of_sites])
    brighter = SliceData(
        elsewhere.images[rows], tuple(sites[rows]), elsewhere.ages[rows],
        tuple(elsewhere.sexes[i] for i in rows), tuple(elsewhere.subjects[i] for i in rows),
    )  # fmt: skip
    rendered = calibrate(first, brighter).model.residuals.rendered
    assert torch.equal(rendered[-1], first.model.residuals.rendered[-1])
    # Twice as much where the brains themselves count as what all sites add.
    assert (rendered[:-1].mean(dim=0) - rendered[-1]).abs().max() < 0.008


def test_what_is_known_of_scanners_is_stored_and_passed_on(bundle, elsewhere, tmp_path):
    first = calibrate(bundle, elsewhere)
    assert first.model.evidence is not None
    assert all(not e.priors for e in first.model.evidence.evidence().values())
    # Where scanners differ in nothing, nothing that a scan shows is attributed to its site.
    shapes = {'quantiles': (33, 33), 'average': first.model.appearance.effect.shape[1:]}
    priors = {
        name: Prior(np.zeros(shape), np.eye(*shape) if len(shape) == 2 else np.ones(shape))
        for name, shape in shapes.items()
    }
    first.model.evidence.set_priors(priors)
    save_bundle(tmp_path / 'first.safetensors', first.model, first.info)
    others = replace(elsewhere, sites=tuple({'C': 'E', 'D': 'F'}[s] for s in elsewhere.sites))
    second = calibrate(load_bundle(tmp_path / 'first.safetensors'), others)
    assert second.model.evidence is not None
    known = second.model.evidence.evidence()['appearance'].priors
    assert known.keys() == priors.keys()
    assert np.array_equal(known['quantiles'].within, np.eye(33))
    curve = second.model.appearance.curve[:-1]
    assert torch.allclose(curve, curve[:1], atol=1e-6)
    plain = calibrate(bundle, others)
    assert not torch.allclose(plain.model.appearance.curve[0], plain.model.appearance.curve[1])


def test_a_calibrated_model_is_a_file_like_any_other(calibrated, elsewhere, tmp_path):
    path = tmp_path / 'sites.safetensors'
    save_bundle(path, calibrated.model, calibrated.info)
    loaded = load_bundle(path)
    assert loaded.info == calibrated.info
    x, cohort = elsewhere.images[:2], pd.DataFrame({'site': ['C', 'C']})
    first, second = (
        DDAEHarmonizer(bundle=one).transform(x, cohort, 'D') for one in (calibrated, loaded)
    )
    assert np.allclose(first, second, atol=1e-6)


def test_a_site_that_the_networks_know_keeps_its_code(bundle):
    def codes(model):
        return model.model.networks.condition.site

    a, b, null = codes(bundle)
    assert torch.equal(codes(calibrate(bundle, toy.scans())), torch.stack([a, b, null]))
    # Beside a site that is new, and through a second calibration.
    data = toy.scans()
    mixed = replace(data, sites=tuple('C' if site == 'A' else site for site in data.sites))
    once = calibrate(bundle, mixed)
    assert once.info.sites == ('B', 'C')
    assert torch.equal(codes(once), torch.stack([b, null, null]))
    assert torch.equal(codes(calibrate(once, mixed)), codes(once))


def test_scans_of_another_size_are_refused(bundle):
    with pytest.raises(UsageError, match='preprocess with the protocol'):
        calibrate(bundle, toy.slices())


def test_a_site_without_brain_is_refused(bundle, elsewhere):
    images = elsewhere.images.copy()
    images[np.array(elsewhere.sites) == 'D'] = 0
    with pytest.raises(UsageError, match='no slice of site D shows brain'):
        calibrate(bundle, replace(elsewhere, images=images))


def test_sites_of_an_earlier_calibration_stay_targets(calibrated, elsewhere):
    third = replace(elsewhere, sites=('E',) * len(elsewhere))
    once = calibrate(calibrated, third)
    assert once.info.sites == ('E', 'C', 'D')
    assert once.info.training.subjects_per_site == (20, 10, 10)
    assert len(once.info.quantiles.median) == 3
    new, old = once.model, calibrated.model
    for part, names in (('appearance', ('noise',)), ('residuals', ('spread', 'softness'))):
        for name in names:
            kept = getattr(getattr(new, part), name)[1:3]
            assert torch.equal(kept, getattr(getattr(old, part), name)[:2])
    assert torch.equal(new.appearance.curve[-1], old.appearance.curve[-1])
    assert torch.equal(new.residuals.white, old.residuals.white)
    assert once.info.evidence == ('E', 'C', 'D')


def test_what_remains_is_measured_at_each_target(calibrated, elsewhere):
    pairs = calibrated.model.remaining.quantiles
    assert not torch.equal(pairs[0, 1], pairs[0, 0])
    names = {'C': 'E', 'D': 'F'}
    once = calibrate(calibrated, replace(elsewhere, sites=tuple(map(names.get, elsewhere.sites))))
    assert once.info.sites == ('E', 'F', 'C', 'D')
    at_c = once.model.remaining.quantiles[2]
    assert torch.equal(at_c[3], at_c[2]) and torch.equal(at_c[-1], at_c[2])  # no scans of these
    sources = at_c[:2].mean(dim=0)[1:]
    torch.testing.assert_close(sources, at_c[2, 1:], atol=2e-3, rtol=0)


def test_one_site_alone_is_brought_to_a_site_of_an_earlier_calibration(calibrated, elsewhere):
    sites = np.array(elsewhere.sites)
    of_c = elsewhere.images[sites == 'C']
    rows = np.flatnonzero(sites == 'C')
    alone = SliceData(
        of_c,
        ('X',) * len(rows),
        elsewhere.ages[rows],
        tuple(elsewhere.sexes[i] for i in rows),
        tuple(elsewhere.subjects[i] for i in rows),
    )
    model = calibrate(calibrated, alone)
    after = DDAEHarmonizer(bundle=model, keep_noise=True).transform(
        of_c, pd.DataFrame({'site': ['X'] * len(rows)}), 'D'
    )
    target = elsewhere.images[sites == 'D']

    def median(images):
        return np.median(images[images > 0])

    assert abs(median(after) - median(target)) < abs(median(of_c) - median(target)) / 3


def test_a_site_that_is_calibrated_again_is_measured_anew(calibrated, elsewhere, caplog):
    with caplog.at_level('INFO', logger='ddae_app'):
        again = calibrate(calibrated, elsewhere)
    assert again.info.sites == ('C', 'D') and again.info.evidence == ('C', 'D', '', '')
    assert 'site C is measured in the scans of this dataset' in caplog.text


def test_what_was_measured_survives_in_the_file(calibrated, elsewhere, tmp_path):
    path = tmp_path / 'sites.safetensors'
    save_bundle(path, calibrated.model, calibrated.info)
    third = replace(elsewhere, sites=('E',) * len(elsewhere))
    first, second = (calibrate(one, third) for one in (calibrated, load_bundle(path)))
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(value, second.model.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_half_precision_takes_half_the_space(calibrated, tmp_path):
    paths = [tmp_path / f'{name}.safetensors' for name in ('single', 'half')]
    for path, half in zip(paths, (False, True), strict=True):
        save_bundle(path, calibrated.model, calibrated.info, half=half)
    sizes = [path.stat().st_size for path in paths]
    assert sizes[1] < 0.75 * sizes[0]  # evidence stays as it is
    single, half = (load_bundle(path).model.state_dict() for path in paths)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, single[name], atol=1e-3, rtol=1e-3)
    for name in ('evidence.average_cross', 'evidence.quantiles_square'):
        assert torch.equal(half[name], single[name])
