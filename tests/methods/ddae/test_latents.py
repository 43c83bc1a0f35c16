"""The latents that figures show, and reconstructions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ddae_app.methods.ddae.bundle import Bundle
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.latents import BATCH, latents_of, reconstructed

from ..toy import CONFIG, info, random_model, slices
from ..toy_sites import anatomy, render, rmse, scan


def harmonizer(config=CONFIG):
    bundle = Bundle(random_model(config), info(), Path('toy.safetensors'), '')
    return DDAEHarmonizer(bundle, device='cpu')


def test_latents_are_of_the_site_that_is_given_and_of_the_scan():
    data, ready = slices(20), harmonizer()
    images, n = data.images[:, 0], len(data)
    assert n > BATCH  # in several batches
    there, elsewhere = ['A'] * n, ['B'] * n
    latents = latents_of(ready, images, data.sites, there)
    assert latents.shape == (n, CONFIG.z_k_dim + CONFIG.z_u_dim)
    z_k, z_u = np.split(latents, [CONFIG.z_k_dim], axis=1)
    assert (z_k == z_k[0]).all() and np.ptp(z_u, axis=0).min() > 0
    other = latents_of(ready, images, data.sites, elsewhere)
    assert np.array_equal(other[:, CONFIG.z_k_dim :], z_u)
    changed = (other != latents).all(axis=0)
    assert changed.nonzero()[0].tolist() == [*range(CONFIG.age_dim + CONFIG.sex_dim, z_k.shape[1])]
    one = latents_of(ready, images[-1:], data.sites[-1:], there[-1:])
    np.testing.assert_allclose(one, latents[-1:], atol=1e-5)


def test_a_model_of_whole_scans_takes_the_medial_slice():
    data, ready = slices(2), harmonizer(replace(CONFIG, depth=6))
    latents = latents_of(ready, data.images[:, 0], data.sites, data.sites)
    assert latents.shape == (4, replace(CONFIG, depth=6).z_k_dim + CONFIG.z_u_dim)
    waves = latents[:, CONFIG.age_dim + CONFIG.sex_dim + CONFIG.site_dim : -CONFIG.z_u_dim]
    assert (waves == waves[0]).all()
    angle = np.pi * 3 / 5 * np.arange(1, 9)
    np.testing.assert_allclose(waves[0], [*np.sin(angle), *np.cos(angle)], atol=1e-5)


def test_a_reconstruction_is_the_rendering_at_the_own_site(fitted):
    sites = ['A', 'B'] * 5
    scans = np.stack([scan(anatomy(1000 + i), site) for i, site in enumerate(sites)])
    out = reconstructed(fitted, scans, sites)
    at_home = [render(fitted, scans[i::2], site, site) for i, site in enumerate('AB')]
    for i, expected in enumerate(at_home):
        np.testing.assert_allclose(out[i::2], expected, atol=1e-4)
    assert rmse(out, scans) < 0.05
