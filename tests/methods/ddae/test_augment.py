"""Augmentation: what it may change, and what it may not."""

import pytest
import torch

from ddae_app.methods.ddae import augment


@pytest.fixture
def images():
    x = torch.rand((6, 1, 24, 24), generator=torch.Generator().manual_seed(0))
    x[:, :, :4] = 0
    return x


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_contrast_curve_is_strictly_monotone_and_differs_between_images():
    ramp = torch.linspace(0, 1, 400).reshape(1, 1, 20, 20).repeat(50, 1, 1, 1)
    curves = augment.monotone_curve(ramp, rng()).flatten(1)
    assert (curves.diff(dim=1) > 0).all()
    assert (curves[:, 0] == 0).all()
    assert ((curves[:, -1] >= 0.7) & (curves[:, -1] <= 1)).all()
    assert curves[:, 200].std() > 0.05


@pytest.mark.parametrize(
    'function',
    [
        augment.random_contrast,
        augment.monotone_curve,
        augment.bias_field,
        augment.blur,
        augment.rician_noise,
    ],
)
def test_same_generator_same_result(images, function):
    before = images.clone()
    once = function(images, rng(1))
    assert torch.equal(function(images, rng(1)), once)
    assert not torch.equal(function(images, rng(2)), once)
    assert torch.equal(images, before)
    assert once.shape == images.shape


def test_random_contrast_keeps_background_and_range(images):
    y = augment.random_contrast(images, rng())
    assert (y[images == 0] == 0).all()
    assert (y >= 0).all()
    assert (y <= 1).all()


def test_contrast_does_not_depend_on_the_other_images(images):
    # Nothing is normalized over the batch, which would carry labels of the batch into an image.
    other = images.clone()
    other[1:] = 0.5
    y, z = (augment.random_contrast(x, rng()) for x in (images, other))
    torch.testing.assert_close(y[0], z[0])


def test_blur_keeps_the_mean_and_lowers_the_variance():
    x = torch.zeros(4, 1, 31, 31)
    x[:, :, 10:21, 10:21] = torch.rand((11, 11), generator=rng())
    y = augment.blur(x, rng())
    torch.testing.assert_close(y.sum(dim=(1, 2, 3)), x.sum(dim=(1, 2, 3)))
    lower = x.std(dim=(1, 2, 3)) - y.std(dim=(1, 2, 3))
    assert (lower > -1e-6).all()
    assert lower.max() > 0.01


def test_bias_field_is_smooth_and_positive():
    field = augment.bias_field(torch.ones(20, 1, 64, 64), rng())
    assert (field > 0).all()
    assert field.diff(dim=2).abs().max() < 0.03
    assert field.std(dim=(2, 3)).min() > 0.01


def test_rician_noise_has_the_right_size():
    y = augment.rician_noise(torch.full((1, 1, 200, 200), 0.5), rng(3))
    sigma = 0.05 * torch.rand((1, 1, 1, 1), generator=rng(3)).item()
    assert y.std().item() == pytest.approx(sigma, rel=0.05)


def test_a_shift_moves_all_alike_by_at_most_what_it_says():
    x = torch.zeros(200, 1, 33, 33)
    x[:, :, 16, 16] = 1
    y, z = augment.random_shift((x, 2 * x), 2, rng())
    assert torch.equal(z, 2 * y) and y.sum() == x.sum()
    row, column = (y.sum(dim=d).squeeze(1) @ torch.arange(33.0) - 16 for d in (3, 2))
    assert set(row.tolist()) == set(column.tolist()) == {-2, -1, 0, 1, 2}
    assert not torch.equal(row, column)


def test_no_shift_is_the_image_itself(images):
    assert augment.random_shift((images,), 0, rng())[0] is images
