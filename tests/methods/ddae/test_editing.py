"""The noise process, against identities and a data distribution whose denoiser is known."""

from types import SimpleNamespace

import pytest
import torch

from ddae_app.methods.ddae.appearance import CEILING, Look, map_intensities
from ddae_app.methods.ddae.editing import (
    ddim_decode,
    ddim_invert,
    denoise_at_site,
    noise_level,
    noise_schedule,
    noise_times,
    q_sample,
    render_at_site,
    split_prediction,
    step_times,
    training_target,
)
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.ddae.losses import denoising_loss, training_times

MEAN, SD = 0.3, 0.5


def gaussian_denoiser(alpha_bar, mean=MEAN, sd=SD):
    """The exact denoiser of data distributed as N(mean, sd^2), each pixel by itself."""

    def denoise(x_t, t):
        a = alpha_bar[t]
        x_0 = mean + a.sqrt() * sd**2 * (x_t - a.sqrt() * mean) / (a * sd**2 + 1 - a)
        return x_0, (x_t - a.sqrt() * x_0) / (1 - a).sqrt()

    return denoise


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
    found_x_0, found_noise = split_prediction(prediction, answer, x_t, alpha_bar)
    torch.testing.assert_close(found_x_0, x_0, atol=1e-4, rtol=0)
    torch.testing.assert_close(found_noise, noise, atol=1e-4, rtol=0)


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


class Exact:
    """The model that would be learnt from two sites whose pixels are Gaussian."""

    config = SimpleNamespace(
        site_average=False, prediction='v', times='lognormal', condition_dropout=0.0,
        noise_corrected=True, z_u_dim=1, context=0,
    )  # fmt: skip
    deviation, noise = torch.tensor(1.0), torch.zeros(1)

    def __init__(self, means, sds):
        self.alpha_bar = noise_schedule('cosine', 1000)
        self.means, self.sds = torch.tensor(means), torch.tensor(sds)

    def look(self, condition, n=1):
        none = torch.zeros(len(condition), 1)
        return Look(none, none, none[:, :, None, None])

    def to_common(self, x, look):
        return x

    def normalise(self, common, look):
        return common

    def restore(self, x_0, look, depth):
        return x_0

    def encode(self, x, position):
        return torch.zeros(len(x), 1)

    def embed(self, condition):
        return condition.site[:, None].float()

    def neighbours(self, depth, n):
        return depth[:, None]

    def __call__(self, x_t, t, z_k, z_u):
        rows = z_k[:, 0].long()
        mean, sd = (v[rows][:, None, None, None] for v in (self.means, self.sds))
        a = self.alpha_bar[t][:, None, None, None]
        x_0 = mean + a.sqrt() * sd**2 * (x_t - a.sqrt() * mean) / (a * sd**2 + 1 - a)
        noise = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * x_0


@pytest.mark.parametrize('spread', [(0.5, 0.5), (0.5, 0.7)])
def test_rendering_moves_one_gaussian_onto_another(spread):
    """With exact denoisers of two Gaussians; the mean moves wholly, the spread in part."""
    model = Exact((0.0, 0.4), spread)
    x = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(1, dtype=torch.int64)
    at = [Condition(zero.float(), zero, zero + site, zero) for site in (0, 1)]
    out = render_at_site(model, x, *at, 64)
    expected = 0.4 + x * spread[1] / spread[0]
    mean_alone = x + 0.4
    left = (mean_alone - expected).abs().mean()
    assert (out - expected).abs().mean() < 0.01 + 0.5 * left
    assert torch.equal(render_at_site(model, x, at[0], at[0], 8), x)


def test_noise_times_fall_between_their_ends():
    alpha_bar = noise_schedule('cosine', 1000)
    times = noise_times(alpha_bar, 3.0, 0.1, 8)
    levels = [noise_level(alpha_bar[t]).item() for t in times]
    assert levels[0] == pytest.approx(3.0, rel=0.01)
    assert levels[-1] == pytest.approx(0.1, rel=0.05)
    assert times == sorted(times, reverse=True) and len(set(times)) == 8


def test_denoising_is_the_posterior_mean_at_the_noise_of_each_image():
    model, sd = Exact((0.0, 0.4), (0.5, 0.5)), torch.tensor([0.0, 0.2, 0.5])
    x = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    at_b = Condition(torch.zeros(3), *torch.tensor([[0] * 3, [1] * 3, [0] * 3]))
    out = denoise_at_site(model, x, at_b, sd)
    kept = (0.25 / (0.25 + sd**2))[:, None, None, None]
    torch.testing.assert_close(out, 0.4 + kept * (x - 0.4), atol=2e-3, rtol=0)
    assert torch.equal(out[0], x[0])
    brighter = x + 1
    excess = denoise_at_site(model, brighter, at_b, sd) - denoise_at_site(
        model, brighter.clamp(max=CEILING), at_b, sd
    )
    torch.testing.assert_close(excess, brighter - brighter.clamp(max=CEILING), atol=1e-5, rtol=0)


@pytest.mark.parametrize('own', [0.0, 0.3])
def test_the_loss_is_least_for_what_tells_the_clean_image(own):
    """Clean pixels of spread 0.5 that are seen with noise: the answer must be of spread 0.5."""
    generator = torch.Generator().manual_seed(0)
    n, spread = 4000, 0.5
    x_0, seen, noise = (torch.randn((n, 1, 4, 4), generator=generator) for _ in range(3))
    x_0 = spread * x_0 + own * seen
    share = torch.rand(n, generator=generator)
    losses = {}
    for answer in (0.4, spread, (spread**2 + 0.3**2) ** 0.5):
        model, z_k = Exact((0.0,), (answer,)), torch.zeros(n, 1)
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


def test_intensities_follow_the_curve_and_go_on_above_it():
    given, wanted = torch.tensor([[0.0, 0.5, 1.0]] * 2), torch.tensor([[0.0, 0.2, 0.8]] * 2)
    x = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.2]).reshape(1, 1, 2, 3).repeat(2, 1, 1, 1)
    y = map_intensities(x, given, wanted)
    assert y[1].flatten().tolist() == pytest.approx([0, 0.1, 0.2, 0.5, 0.8, 1.0])
    torch.testing.assert_close(map_intensities(y, wanted, given), x)
