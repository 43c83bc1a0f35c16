"""Drawings of what happens to a scan, of the method, and of who reads and writes which file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from canvas import BLUE, GREEN, ORANGE, PAPER, PURPLE, Box, Drawing

PREPROCESSING = (
    ('conform', 'RAS axes,\n3D, float32'),
    ('brain', 'HD-BET, deepbet\nor your own mask'),
    ('register', 'affine to\nMNI152 (ANTs)'),
    ('resample', 'grid of\n130 x 130 x 130'),
    ('N4', 'bias field\ndivided out'),
)
"""Steps in their order, and what each does."""

HARMONIZATION = (
    ('slices', '128 x 128 pixels,\nbrain in [0, 1]'),
    ('DDAE', 'from the source site\nto the target site'),
    ('bring back', 'difference added to the\nraw scan (whole scans)'),
)
DERIVATIVES = (
    ('preproc', 'desc-preproc, mask, xfm'),
    ('slices', 'desc-slices'),
    ('harmonized', 'desc-harmonized'),
    ('', 'desc-harmonized'),
)
"""Which image is shown, and its name; the last is written by models of whole scans only."""

APPEARANCE = (
    ('contrast curve', '33 quantiles of\nintensity'),
    ('edge', 'mean at 4 depths\nbelow the surface'),
    ('average $m_s$', 'mean image on the\ncommon scale'),
)
"""What is measured of a site before the network is trained."""

RESIDUALS = (
    ('shading', 'plane through\nwhite matter', 'of the scan'),
    ('spread', 'distance from\nthe average', 'of the site'),
    ('sharpness', 'three taps along\neach axis', 'of the site'),
    ('contrast', 'curve through\n65 quantiles', 'of the site'),
    ('remaining', 'curve at each\ntarget, where\ncalibrated', 'contrast'),
)
"""What is corrected after denoising, in its order, and what it is of."""

FILES = (
    ('bids/', '', '', '', ''),
    ('    participants.tsv', 'site, age, sex', 'r', 'r', 'r'),
    ('    sub-01/anat/sub-01_T1w.nii.gz', 'raw scan', 'r', 'r', ''),
    ('out/', '', '', '', ''),
    ('    sub-01/anat/', '', '', '', ''),
    ('        …_desc-preproc_T1w.nii.gz', 'in MNI152, N4, brain only', 'w', 'w', 'r'),
    ('        …_desc-brain_mask.nii.gz', 'brain mask', 'w', 'w', 'r'),
    ('        …_from-T1w_to-…_xfm.txt', 'affine transform', 'w', 'w', ''),
    ('        …_desc-slices_T1w.nii.gz', 'input of the model', '', 'w', 'r'),
    ('        …_desc-harmonized_T1w.nii.gz', 'at the target site', '', 'w', 'r'),
    ('    sub-01/sub-01_scans.tsv', 'quality measures', '', 'w', 'r'),
    ('    sub-01.html, sub-01/figures/', 'page of the participant', '', 'w', ''),
    ('    models/ddae.safetensors', 'model', 'w', 'r', 'r'),
    ('    models/ddae_MODEL.md, …', 'model card, samples, losses', 'w', '', ''),
    ('    group_T1w.html', 'page of the group', '', '', 'w'),
    ('    group_metrics.json', 'evaluation, with intervals', '', '', 'w'),
    ('    group_T1w.tsv', 'quality of all scans', '', '', 'w'),
    ('    logs/<run id>/', 'settings, log, methods text', 'w', 'w', 'w'),
)
"""Files, what they are, and whether train, participant and group read (r) or write (w) them."""


def draw_pipeline(images: Mapping[str, np.ndarray], path: Path) -> None:
    """The participant level, from the raw image to the derivatives.

    Parameters
    ----------
    images : mapping of str to np.ndarray, shape (H, W), range [0, 1]
        The same scan as ``raw``, ``preproc``, ``slices`` and ``harmonized``.
    path : Path
        SVG file to write.
    """
    page = Drawing(700, 478)
    page.panel((8, 28, 684, 112))
    page.text((20, 18), 'Preprocessing of one scan; no GPU is needed', align='left', bold=True)
    raw = page.box((18, 36, 96, 96))
    page.picture(images['raw'], Box(32, 42, 68, 68))
    page.text((66, 120), 'raw T1w', size=11)
    steps = []
    for i, (title, text) in enumerate(PREPROCESSING):
        steps.append(page.box((134 + i * 111, 50, 103, 68), title, text, BLUE))
    for first, second in zip([raw, *steps], steps, strict=False):
        page.arrow((first.right[0], 84), second.left)

    page.panel((180, 184, 512, 96))
    page.text((682, 174), 'Harmonization, on a GPU or a CPU', align='right', bold=True)
    columns = (18, 188, 358, 528)
    rendering = []
    for x, (title, text) in zip(columns[1:], HARMONIZATION, strict=True):
        rendering.append(page.box((x, 198, 154, 68), title, text, ORANGE))
    for first, second in zip(rendering, rendering[1:], strict=False):
        page.arrow(first.right, second.left)

    page.text((110, 298), 'Derivatives', align='left', bold=True)
    results = []
    for x, (name, caption) in zip(columns, DERIVATIVES, strict=True):
        results.append(page.box((x, 314, 154, 118)))
        page.text((x + 77, 420), caption, size=11)
        if name:
            page.picture(images[name], Box(x + 33, 320, 88, 88))
        else:
            page.text((x + 77, 364), 'the scan in its own\nspace, resolution,\nscale and header')
    start = steps[-1].bottom
    page.elbow(start, (start[0], 154), (rendering[0].top[0], 154), rendering[0].top)
    page.elbow((rendering[0].top[0], 154), (95, 154), results[0].top)
    for box, result in zip(rendering, results[1:], strict=True):
        page.arrow(box.bottom, result.top)
    page.text(
        (350, 458), 'Every image has a JSON sidecar; every participant has a page, figures and '
        'quality measures.',
    )  # fmt: skip
    page.save(path)


def draw_method(before: np.ndarray, after: np.ndarray, path: Path) -> None:
    """What the DDAE does to a scan, and what was measured of its site beforehand.

    Parameters
    ----------
    before, after : np.ndarray, shape (H, W), range [0, 1]
        A slice at its own site and harmonized.
    path : Path
        SVG file to write.
    """
    page = Drawing(700, 606)
    page.text(
        (12, 14),
        'Site appearance, measured once: before training, or by calibration',
        align='left',
        bold=True,
    )
    page.panel((8, 24, 684, 88))
    page.text(
        (22, 68), 'regression on site,\nage, age² and sex;\nshrunk by what\nchance explains',
        align='left',
    )  # fmt: skip
    for i, (title, text) in enumerate(APPEARANCE):
        page.box((164 + i * 176, 33, 168, 70), title, text, GREEN)
    page.text((12, 132), 'Rendering of one scan', align='left', bold=True)
    page.box((8, 144, 120, 140))
    page.picture(before, Box(18, 152, 100, 106))
    page.text((68, 270), 'scan $x$, source site', size=10)
    common = page.box(
        (150, 166, 148, 96), 'common scale', 'curve and edge of\nthe source removed,\n'
        'its average subtracted', GREEN,
    )  # fmt: skip
    page.arrow((128, 214), common.left)
    latents = page.box(
        (8, 300, 290, 66), 'latents', '$z_u$: anatomy, by the encoder of the scan\n'
        '$z_k$: site; age and sex are left unknown', PURPLE,
    )  # fmt: skip
    page.arrow((68, 284), (68, 300))
    _draw_edit(page)
    page.arrow(common.right, (318, 214))
    page.arrow(latents.right, (318, 333))
    restored = page.box(
        (462, 386, 230, 62), 'appearance of the target', 'its average, edge and curve', GREEN
    )
    page.arrow((577, 366), restored.top)
    denoised = page.box(
        (150, 386, 290, 62), 'denoising', 'the expected clean scan, at the noise\n'
        'level that is measured in the scan', ORANGE,
    )  # fmt: skip
    page.arrow(restored.left, denoised.right)
    page.elbow(denoised.left, (68, 417), (68, 496))
    page.text(
        (150, 470), 'Residual correction, measured in rendered scans',
        align='left', bold=True,
    )  # fmt: skip
    steps = []
    for i, (title, text, whose) in enumerate(RESIDUALS):
        box = page.box((8 + i * 112, 496, 104, 96), f'{title}\n{whose}', text, BLUE)
        steps.append(box)
    for first, second in zip(steps, steps[1:], strict=False):
        page.arrow(first.right, second.left)
    page.box((572, 460, 120, 140))
    page.picture(after, Box(582, 468, 100, 106))
    page.text((632, 586), 'harmonized scan', size=10)
    page.arrow(steps[-1].right, (572, 544))
    page.save(path)


def _draw_edit(page: Drawing) -> None:
    """The edit between the source and the target under shared noise, on the right of the page."""
    page.panel((318, 144, 374, 222), ORANGE)
    page.text((332, 162), 'Shared-noise edit', align='left', bold=True, size=12)
    page.text((332, 181), 'four noise levels σ, the same noise $n$ in both', align='left')
    at_source = page.box(
        (330, 194, 168, 52), '', '$D_{source}(u + σn)$\nU-Net, source site', PAPER
    )
    at_target = page.box(
        (512, 194, 168, 52), '', '$D_{target}(u + c + σn)$\nU-Net, target site', PAPER
    )
    change = page.box((400, 272, 210, 44), '', 'their difference updates\nthe change $c$', PAPER)
    page.arrow(at_source.bottom, (465, 272))
    page.arrow(at_target.bottom, (545, 272))
    page.elbow(change.right, (650, 294), (650, 247))
    page.text(
        (505, 338), 'The errors common to both cancel,\nso the scan keeps its own detail.', size=11
    )


def draw_files(path: Path) -> None:
    """The folders of the input and of the output, and which level reads or writes each file."""
    columns = {'train': 500, 'participant': 580, 'group': 658}
    page = Drawing(700, 62 + 22 * len(FILES) + 34)
    for (name, x), color in zip(columns.items(), (GREEN, BLUE, ORANGE), strict=True):
        width = 90 if name == 'participant' else 60
        page.box((x - width / 2, 14, width, 26), name, color=color, size=11)
    page.text((12, 28), 'Files', align='left', bold=True, size=12)
    for i, (name, what, *levels) in enumerate(FILES):
        y = 62 + 22 * i
        if i % 2:
            page.stripe(y - 11, 22)
        page.text((12, y), name.replace(' ', '\u00a0'), align='left', mono=True, bold=not what)
        page.text((292, y), what, align='left')
        for x, use in zip(columns.values(), levels, strict=True):
            if use:
                page.dot((x, y), filled=use == 'w')
    y = 62 + 22 * len(FILES) + 10
    page.dot((300, y), filled=True)
    page.text((312, y), 'writes, unless it is up to date', align='left')
    page.dot((530, y), filled=False)
    page.text((542, y), 'reads', align='left')
    page.save(path)
