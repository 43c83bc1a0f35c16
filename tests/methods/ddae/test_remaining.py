"""What all steps leave of the contrast of a site is measured in the outputs, and removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddae_app.imaging.similarity import brain_quantiles
from ddae_app.methods.condition import batch_of, condition_of, label_blind
from ddae_app.methods.ddae.appearance import fit_site_appearance
from ddae_app.methods.ddae.intensity import tissue_quantiles
from ddae_app.methods.ddae.remaining import RemainingContrast, fit_remaining_contrast
from ddae_app.methods.ddae.render import render
from ddae_app.methods.ddae.residuals import KNOTS, LEVELS, ResidualCorrection
from ddae_app.methods.site_effects import site_effects

from ..toy import random_model
from .test_residuals import CURVES, SIZE, flawed, population


@pytest.fixture(scope='module')
def outputs():
    """Scans of A and B, of which rendering leaves B softer and darker."""
    data = population(60)
    rows = np.arange(len(data))
    appearance = fit_site_appearance(CURVES, data, rows)
    source = label_blind(condition_of(data, rows).site.tolist())
    y = flawed(appearance)(batch_of(data, rows), source, source.at_unknown_site())
    residuals = ResidualCorrection((1, SIZE, SIZE), 2)
    before = tissue_quantiles(appearance.common_scans(data, rows), LEVELS)
    return appearance, residuals, data, rows, before, rows, [(y, source)]


def test_outputs_of_a_source_get_the_contrast_of_the_target(outputs):
    remaining = fit_remaining_contrast(*outputs)
    appearance, _, data, rows, *_, [(y, source)] = outputs
    target = torch.zeros(len(rows), dtype=torch.int64)
    here, unknown = (appearance(site, target) for site in (target, target - 1))
    there = appearance.from_common(appearance.to_common(y, unknown), here, (y > 0).long())
    corrected = remaining(there, source.site, target)

    def left(images):  # at equal age and sex: those of B are older and darker
        middle = np.stack([brain_quantiles(x.numpy(), [0.25, 0.5, 0.75]) for x in images])
        effects, _, _ = site_effects(data, rows, [middle])
        return np.abs(effects[1] - effects[0]).mean()

    assert left(corrected) < left(there) / 4
    torch.testing.assert_close(
        corrected[source.site == 0], there[source.site == 0], rtol=0, atol=0
    )


def test_who_is_rendered_does_not_shift_the_contrast(outputs):
    """Of whole volumes few are rendered: here the brightest of A and the darkest of B."""
    appearance, residuals, data, rows, before, _, [(y, source)] = outputs
    order = np.argsort(before.mean(axis=1))
    at_b = np.array(data.sites)[order] == 'B'
    chosen = np.sort(np.concatenate([order[~at_b][-20:], order[at_b][:20]]))
    few = [(y[chosen], source[torch.from_numpy(chosen)])]

    def step(*given):
        quantiles = fit_remaining_contrast(appearance, residuals, data, *given).quantiles
        return (quantiles[0, 1] - quantiles[0, 0]).numpy()[1:]

    expected = step(rows, before, rows, outputs[-1])
    helped = step(rows, before, chosen, few)
    alone = step(rows[chosen], before[chosen], np.arange(40), few)
    assert np.abs(helped - expected).mean() < np.abs(alone - expected).mean() / 2


def test_a_source_that_is_not_measured_is_left_alone(outputs):
    remaining = fit_remaining_contrast(*outputs)
    y = outputs[-1][0][0][:2]
    unknown = torch.tensor([-1, -1])
    assert torch.equal(remaining(y, unknown, torch.tensor([0, 1])), y)
    assert torch.equal(RemainingContrast(2)(y, torch.tensor([0, 1]), torch.tensor([1, 0])), y)


def test_it_is_the_last_step_of_rendering_and_needs_denoised_scans():
    model = random_model()
    plain = random_model()
    model.remaining.quantiles[0, 1] = 1.1 * torch.linspace(0, 1, KNOTS)
    x = torch.zeros(1, 1, 16, 16)
    x[:, :, 3:13, 3:13] = 0.3 + 0.5 * torch.rand(
        10, 10, generator=torch.Generator().manual_seed(0)
    )
    there, here = label_blind([1]), label_blind([0])
    one, other = render(model, x, there, here), render(plain, x, there, here)
    inside = (x > 0) & (other < 1)
    assert inside.sum() > 20
    torch.testing.assert_close(one[inside], other[inside] / 1.1)
    noisy = render(model, x, there, here, keep_noise=True)
    torch.testing.assert_close(noisy, render(plain, x, there, here, keep_noise=True))
