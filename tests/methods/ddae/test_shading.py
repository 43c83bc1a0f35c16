"""The shading of a scan is removed by its white matter; the subject's own brightness stays."""

from __future__ import annotations

import pytest
import torch

from ddae_app.methods.ddae.shading import remove_shading, white_matter

SIZE = 64
LEVEL = torch.tensor(0.7)
FIRST = torch.zeros(1, dtype=torch.int64)
RAMP = torch.linspace(-1, 1, SIZE)


def brain(white=0.9, gray=0.5):
    """Gray matter with a cross of white matter, and nothing around it."""
    x = torch.full((1, 1, SIZE, SIZE), gray)
    x[..., 28:36, :] = x[..., :, 20:44] = white
    x[..., :6, :] = x[..., -6:, :] = x[..., :, :6] = x[..., :, -6:] = 0
    return x


@pytest.fixture
def usual():
    x = brain()
    return torch.where(white_matter(x, LEVEL), x, 0)[0]


@pytest.mark.parametrize('down', [-0.1, 0, 0.1])
def test_a_planted_plane_is_divided_out(usual, down):
    x = brain() * (1 + down * RAMP[:, None] + 0.05 * RAMP)
    out = remove_shading(x, usual, LEVEL, FIRST)
    error = (out - brain()).abs().max()
    assert error < 0.1 * (x - brain()).abs().max()


def test_bright_white_matter_and_dark_gray_matter_stay(usual):
    x = brain(white=0.95, gray=0.4)
    torch.testing.assert_close(remove_shading(x, usual, LEVEL, FIRST), x)


def test_each_image_by_itself(usual):
    x = torch.cat([brain(), brain() * (1 + 0.1 * RAMP)])
    together = remove_shading(x, usual, LEVEL, FIRST.repeat(2))
    torch.testing.assert_close(together[1:], remove_shading(x[1:], usual, LEVEL, FIRST))
    torch.testing.assert_close(together[:1], brain())


def test_without_white_matter_nothing_changes(usual):
    for x in (brain(white=0.5), torch.zeros_like(brain())):
        assert torch.equal(remove_shading(x, usual, LEVEL, FIRST), x)


def test_no_pixel_changes_by_more_than_bias_correction_leaves(usual):
    x = brain() * (1 + 0.6 * RAMP)
    ratio = (x / remove_shading(x, usual, LEVEL, FIRST))[x > 0]
    assert ratio.max() <= 1.2501 and ratio.min() >= 0.7999


def test_white_matter_is_bright_and_not_at_the_edge():
    white = white_matter(brain(), LEVEL)[0, 0]
    assert white[32, 32] and not white[32, 8] and not white[15, 15]


def test_a_plane_through_the_slices_is_divided_out_too():
    deep = brain().repeat(1, 12, 1, 1)
    usual = torch.where(white_matter(deep, LEVEL), deep, 0)[0]
    shading = 1 + 0.1 * torch.linspace(-1, 1, 12)[:, None, None]
    out = remove_shading(deep * shading, usual, LEVEL, FIRST)
    assert (out - deep).abs().max() < 0.01
    # A few slices of the scan show the same slopes in their plane.
    part = deep[:, 4:6] * (1 + 0.1 * RAMP)
    out = remove_shading(part, usual, LEVEL, FIRST + 4)
    assert (out - deep[:, 4:6]).abs().max() < 0.01
