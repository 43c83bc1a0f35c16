"""A scan as if acquired at another site: edited, denoised and corrected."""

from __future__ import annotations

import torch
from torch import Tensor

from ddae_app.imaging.intensities import CEILING
from ddae_app.imaging.noise import noise_sd
from ddae_app.methods.base import DARKEST
from ddae_app.methods.condition import Condition
from ddae_app.methods.ddae.appearance import Appearance
from ddae_app.methods.ddae.config import BATCH_SIZE
from ddae_app.methods.ddae.editing import denoise_at_site, edit_to_site
from ddae_app.methods.ddae.intensity import edge_depth
from ddae_app.methods.ddae.model import DDAE

STEPS = 4
"""Noise levels; fewer or more change next to nothing."""

STEPS_TO_MEASURE = 2
"""The same for the many scans in which the residual correction is measured, which does not change
for it (docs/method.md)."""


@torch.inference_mode()
def render(
    model: DDAE,
    x: Tensor,
    source: Condition,
    target: Condition,
    steps: int = STEPS,
    appearance: Appearance | None = None,
    *,
    keep_noise: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Scans as if acquired at the target site.

    Parameters
    ----------
    model : DDAE
    x : torch.Tensor, shape (B, n, H, W), range [0, 1]
        Slices of scans, from the position of `source` on; 0 outside the brain.
    source, target, steps, appearance
        As :func:`~ddae_app.methods.ddae.editing.edit_to_site` takes them.
    keep_noise : bool
        Whether to leave each scan the noise it has. Then there is no residual correction either,
        because it was measured on denoised scans.
    batch_size : int
        Slices that the networks see at once.

    Returns
    -------
    torch.Tensor, shape (B, n, H, W)
        0 where ``x`` is 0, and nowhere else.
    """
    n = x.shape[1]
    appearance = appearance or model.appearance_of(source, n)
    noise = noise_of(model, x, appearance)
    y = edit_to_site(model, x, source, target, steps, appearance, noise, batch_size)
    y = _in_brain(y, x)
    if not keep_noise:
        noise = noise_of(model, y, model.appearance_of(target, n))
        y = denoise_at_site(model, y, target, noise, batch_size)
        y = _in_brain(_corrected(model, _in_brain(y, x), source, target), x)
        y = _in_brain(model.remaining(y, source.site, target.site), x)
    return y


def render_to_measure(model: DDAE, x: Tensor, source: Condition, target: Condition) -> Tensor:
    """Scans as :func:`render` has them, which takes the same arguments, in two thirds of the time.

    It is what the residual correction of a model is measured in.
    """
    return render(model, x, source, target, STEPS_TO_MEASURE, batch_size=2 * BATCH_SIZE)


def _in_brain(y: Tensor, x: Tensor) -> Tensor:
    """`y` with the brain of `x`, as :func:`ddae_app.methods.base.in_brain` has it."""
    return torch.where(x > 0, torch.maximum(y, x.clamp(max=DARKEST)), 0)


def noise_of(model: DDAE, x: Tensor, appearance: Appearance) -> Tensor:
    """Standard deviation of the noise of scans on the common scale, shape (B,).

    It is 0, and then no noise is removed, where a scan shows too little brain for an estimate.
    """
    common = model.appearance.to_common(x.clamp(min=0), appearance).cpu().numpy()
    return torch.tensor([noise_sd(scan) for scan in common]).nan_to_num(0).to(x)


def _corrected(model: DDAE, y: Tensor, source: Condition, target: Condition) -> Tensor:
    """Rendered scans after residual correction; unchanged where it is none.

    What exceeds ``CEILING`` is added again at the end.
    """
    same = model.residuals.changes_nothing(source.site, target.site)
    if same.all():
        return y
    sites, n, seen = model.appearance, y.shape[1], y.clamp(max=CEILING)
    appearance, average = model.appearance_of(target, n), sites.average_at(source.position, n)
    # It was measured in scans around the average of all sites, which those of the target are not.
    common, aside = sites.to_common(seen, appearance), appearance.average - average
    centered = torch.where(common > 0, (common - aside).clamp(min=DARKEST), 0)
    common = (
        common
        - centered
        + model.residuals(centered, average, source.position, source.site, target.site)
    )
    corrected = y - seen + sites.from_common(common, appearance, edge_depth(seen))
    return torch.where(same[:, None, None, None], y, corrected)
