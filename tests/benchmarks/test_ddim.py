"""DDIM against a data distribution whose exact denoiser and flow are known."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ddim import ddim_decode, ddim_invert, step_times
from ddae_app.methods.ddae.schedule import noise_schedule

MEAN, SD = 0.3, 0.5


def gaussian_denoiser(alpha_bar, mean=MEAN, sd=SD):
    """The exact denoiser of data distributed as N(mean, sd^2), each pixel by itself."""

    def denoise(x_t, t):
        a = alpha_bar[t]
        x_0 = mean + a.sqrt() * sd**2 * (x_t - a.sqrt() * mean) / (a * sd**2 + 1 - a)
        return x_0, (x_t - a.sqrt() * x_0) / (1 - a).sqrt()

    return denoise


@pytest.mark.parametrize('steps', [1, 7, 16, 100])
def test_step_times_rise_from_0_to_T(steps):
    times = step_times(100, steps)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (0, 100)
    assert all(a < b for a, b in zip(times, times[1:], strict=False))


def test_decode_carries_noise_onto_the_data():
    alpha_bar = noise_schedule('cosine', 1000)
    x_T = torch.randn((1, 1, 100, 100), generator=torch.Generator().manual_seed(0))
    x_0 = ddim_decode(gaussian_denoiser(alpha_bar), x_T, alpha_bar, 200)
    # The flow of a Gaussian is known in closed form: x_0 = mean + sd x_T.
    torch.testing.assert_close(x_0, MEAN + SD * x_T, atol=0.02, rtol=0)


def test_inversion_finds_the_noise():
    alpha_bar = noise_schedule('cosine', 1000)
    x_0 = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    x_T = ddim_invert(gaussian_denoiser(alpha_bar), x_0, alpha_bar, 200)
    torch.testing.assert_close(x_T, (x_0 - MEAN) / SD, atol=0.04, rtol=0)


def test_round_trip_error_falls_with_steps():
    alpha_bar = noise_schedule('cosine', 1000)
    denoise = gaussian_denoiser(alpha_bar)
    x_0 = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    errors = []
    for steps in (4, 16, 64, 256):
        x_T = ddim_invert(denoise, x_0, alpha_bar, steps)
        errors.append((ddim_decode(denoise, x_T, alpha_bar, steps) - x_0).abs().max().item())
    assert all(later < earlier / 2 for earlier, later in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 0.02


def test_the_difference_cancels_the_error_of_inversion():
    # The site is a shift and a gain: the exact map from A to B is known.
    alpha_bar = noise_schedule('cosine', 1000)
    site_a, site_b = (gaussian_denoiser(alpha_bar, m, s) for m, s in ((0.0, 0.5), (0.2, 0.6)))
    x = torch.linspace(-0.5, 0.5, 64).reshape(1, 1, 8, 8)
    truth = 0.2 + 0.6 / 0.5 * x
    x_T = ddim_invert(site_a, x, alpha_bar, 16)
    at_a, at_b = (ddim_decode(d, x_T, alpha_bar, 16) for d in (site_a, site_b))
    plain, difference = (at_b - truth).abs().mean(), (x + at_b - at_a - truth).abs().mean()
    assert difference < plain / 2
