"""The noise process, against identities and published values."""

from __future__ import annotations

import pytest
import torch

from ddae_app.methods.ddae.schedule import (
    noise_level,
    noise_schedule,
    noise_times,
    q_sample,
    split_prediction,
    training_target,
)


@pytest.mark.parametrize('name', ['linear', 'cosine'])
@pytest.mark.parametrize('timesteps', [100, 1000])
def test_schedule_falls_from_all_signal_to_almost_none(name, timesteps):
    alpha_bar = noise_schedule(name, timesteps)
    assert alpha_bar.shape == (timesteps + 1,)
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all()
    assert 0 < alpha_bar[-1] < 1e-4


def test_schedules_are_the_published_ones():
    linear, cosine = noise_schedule('linear', 1000), noise_schedule('cosine', 1000)
    assert linear[1] == pytest.approx(1 - 1e-4)
    assert linear[1000].sqrt() == pytest.approx(0.00635, abs=1e-5)
    assert cosine[500] == pytest.approx(0.494, abs=1e-3)


@pytest.mark.parametrize('prediction', ['epsilon', 'v'])
def test_conversion_undoes_q_sample(prediction):
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand((4, 1, 8, 8), generator=generator) * 2 - 1
    noise = torch.randn(x_0.shape, generator=generator)
    alpha_bar = noise_schedule('linear', 100)[[1, 20, 50, 80]][:, None, None, None]
    x_t = q_sample(x_0, noise, alpha_bar)
    answer = training_target(prediction, x_0, noise, alpha_bar)
    implied_x_0, implied_noise = split_prediction(prediction, answer, x_t, alpha_bar)
    torch.testing.assert_close(implied_x_0, x_0, atol=1e-4, rtol=0)
    torch.testing.assert_close(implied_noise, noise, atol=1e-4, rtol=0)


def test_noise_times_fall_between_their_ends():
    alpha_bar = noise_schedule('cosine', 1000)
    times = noise_times(alpha_bar, 3.0, 0.1, 8)
    levels = [noise_level(alpha_bar[t]).item() for t in times]
    assert levels[0] == pytest.approx(3.0, rel=0.01)
    assert levels[-1] == pytest.approx(0.1, rel=0.05)
    assert times == sorted(times, reverse=True) and len(set(times)) == 8
