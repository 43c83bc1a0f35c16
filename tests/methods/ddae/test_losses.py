"""The training loss, against a data distribution whose denoiser is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ddae_app.methods.ddae.losses import denoising_loss, training_times
from ddae_app.methods.ddae.schedule import noise_level, noise_schedule

from .exact import ExactModel


@pytest.mark.parametrize('own', [0.0, 0.3])
def test_the_loss_is_least_for_the_denoiser_of_the_clean_images(own):
    """Clean pixels of spread 0.5 that are seen with noise: the denoiser must be of spread 0.5."""
    generator = torch.Generator().manual_seed(0)
    n, spread = 4000, 0.5
    x_0, seen, noise = (torch.randn((n, 1, 4, 4), generator=generator) for _ in range(3))
    x_0 = spread * x_0 + own * seen
    share = torch.rand(n, generator=generator)
    losses = {}
    for answer in (0.4, spread, (spread**2 + 0.3**2) ** 0.5):
        model, z_k = ExactModel((0.0,), (answer,)), torch.zeros(n, 1)
        loss = denoising_loss(model, x_0, z_k, z_k, share, noise, torch.full((n,), own))
        losses[answer] = loss.mean().item()
    assert min(losses, key=losses.__getitem__) == spread


@pytest.mark.parametrize('times', ['uniform', 'lognormal'])
def test_training_times_leave_out_what_is_less_noisy_than_the_image(times):
    alpha_bar, share = noise_schedule('cosine', 1000), torch.linspace(0, 0.9999, 50)
    model = SimpleNamespace(alpha_bar=alpha_bar, config=SimpleNamespace(times=times))
    own = torch.tensor([0.0, 0.3, 1e9])[:, None].expand(3, 50).flatten()
    t = training_times(model, share.repeat(3), own).reshape(3, 50)
    assert t[0, 0] == 1 and (t[:, -1] > 950).all() and t.max() <= 1000
    assert noise_level(alpha_bar[t[1, 0]]) >= 1.25 * 0.3 > noise_level(alpha_bar[t[1, 0] - 1])
    assert (t[2] > 990).all()
    assert (t.diff(dim=1) >= 0).all()
    levels = noise_level(alpha_bar[t[0, 1:-1]]).log()
    if times == 'lognormal':
        assert levels.mean().item() == pytest.approx(-0.5, abs=0.1)
        assert levels.std().item() == pytest.approx(1.2, abs=0.15)
    else:
        assert t[0].diff().float().std() < 1
