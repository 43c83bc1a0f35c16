"""What the linear probe of the site sees: one thing at a time is taken away from the outputs.

``python -m benchmarks.real ... --take-away`` writes ``take-away.md`` and ``take-away.tsv``, with a
row for what was taken away and a column for each method, and the picture ``where.png``. Every row
is the balanced accuracy of the linear probe, trained and tested as ``site_linear`` is. With
``--probe-sites A B``, the probe tells only the people of these sites apart, in the same outputs;
the sites are then part of the names of the tables.

Rows. The whole slice: whole; shuffled (with the sites dealt to other people: what chance makes of
so few); mask (1 in the brain); low-passed and high-passed (a Gaussian of 4 and of 2 pixels, over
the brain alone). All other rows see only the pixels that are brain in everybody and six from the
edge, and filters see no others: inside; low-passed and high-passed; age and sex regressed (on age,
sex and site, in the people to train on); shading removed (divided by the low-passed image, 8
pixels, and multiplied by that of the mean of all); shading alone (that ratio); levels matched (one
curve through the medians of CSF, gray and white matter of each scan); levels alone (these three
numbers); histogram removed (ranks of intensities); blurred to the softest (each scan, until it has
no more fine detail than the softest); levels, shading and blur (these three in turn); and tissues
alone (each pixel is CSF, gray or white matter: the anatomy, as far as contrast lets tell).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from benchmarks.real_scans import Scans
from benchmarks.real_tables import Ends, write_intervals
from ddae_app.evaluation import estimates
from ddae_app.evaluation.probes import INVERSE_PENALTY, Components
from ddae_app.imaging.anatomy import TISSUES, tissue_thresholds

LOW_PIXELS, HIGH_PIXELS, SHADING_PIXELS = 4.0, 2.0, 8.0
FINE_PIXELS, MIDDLE_PIXELS = 1.0, 4.0
"""Detail finer than the first, as a share of that finer than the second, says how sharp a scan is.
Levels of tissue and a gain of the scan do not change it."""

BLURS = np.linspace(0, 2, 41)
"""Standard deviations that are tried, pixels."""

USUAL = 'source', 'histogram', 'combat', 'ddae-calibrated'

Features = Callable[[np.ndarray], np.ndarray]
"""Takes the rows to train on, which some features depend on, to features of all, (N, ...)."""

Take = Callable[[np.ndarray, Scans], Features]
"""Takes outputs, shape (N, H, W), and their scans, to what is left of the outputs."""


def take_away(
    scans: Scans,
    outputs: Mapping[str, Sequence[np.ndarray]],
    folder: Path,
    sites: Sequence[str] | None = None,
) -> None:
    """Write the table and the picture of the usual methods, of every deal that was made.

    Parameters
    ----------
    scans : Scans
    outputs : mapping of str to sequence of np.ndarray, each (N, H, W)
        By method, of the half to judge on in each deal, from the first on.
    folder : Path
    sites : sequence of str, optional
        That probes have to tell apart; all by default. They are part of the table's name.
    """
    some = {name: outputs[name] for name in USUAL if outputs.get(name)}
    rows: dict[str, dict[str, list[Ends]]] = {name: {} for name in KINDS}
    for method, deals in some.items():
        for number, images in enumerate(deals):
            half = scans.take(scans.deal(number)[1])
            asked = np.flatnonzero(np.isin(half.sites, sites or half.sites))
            some_scans, some_images = half.take(asked), images[asked]
            for name, take in KINDS.items():
                left = take(some_images, some_scans)
                found = accuracy(some_scans, left, number, shuffled=name == SHUFFLED)
                rows[name].setdefault(method, []).append(found)
        print(f'  {method}: inside {np.mean(rows["inside"][method], axis=0)[0]:.2f}', flush=True)
    table = '-'.join(['take-away', *(sites or ())])
    write_intervals(folder, table, rows, first='left')
    print((folder / f'{table}.md').read_text())
    draw(scans, some, folder / 'where.png')


def accuracy(half: Scans, features: Features, seed: int, *, shuffled: bool = False) -> Ends:
    """Balanced accuracy of the linear probe on people whom the networks never saw."""
    sites, found = half.sites, np.full(len(half.sites), '', dtype=object)
    if shuffled:
        sites = np.random.default_rng(seed).permutation(sites)
    for train, test in half.probe_folds(seed):
        left = features(train)
        classify = Components.fit(left[train], seed).fit_classifier(sites[train])
        found[test] = classify(left[test])
    score = estimates.balanced_accuracy(sites, found.astype(str))
    one = estimates.bootstrap_estimate(score, half.judged, half.subjects, sites, seed)
    return one.value, one.low, one.high


def fixed(change: Callable[[np.ndarray], np.ndarray]) -> Take:
    """What a change of each whole slice leaves."""

    def take(images: np.ndarray, half: Scans) -> Features:
        left = change(images)
        return lambda train: left

    return take


def inside(change: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Take:
    """What a change leaves of the interior, which it sees alone, with the tissues of the scans."""

    def take(images: np.ndarray, half: Scans) -> Features:
        tissues = np.stack([tissue_classes(image) for image in images])
        where = half.interior
        left = change(np.where(where, images, 0), where, tissues)
        left = left[:, where] if left.ndim == 3 else left
        return lambda train: left

    return take


def smooth(images: np.ndarray, where: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-weighted means over some pixels, shape (N, H, W); 0 elsewhere.

    Parameters
    ----------
    images : np.ndarray, shape (N, H, W)
    where : np.ndarray of bool, shape (H, W) or (N, H, W)
    sigma : float
        Pixels.
    """
    where = np.broadcast_to(where, images.shape)
    total, weight = (
        gaussian_filter(np.where(where, values, 0).astype(np.float32), (0, sigma, sigma))
        for values in (images, where)
    )
    return np.where(where, total / np.maximum(weight, 1e-6), 0)


def tissue_classes(image: np.ndarray) -> np.ndarray:
    """1 in CSF, 2 in gray and 3 in white matter, as Otsu's thresholds tell them; 0 elsewhere."""
    thresholds = tissue_thresholds(image[image > 0])
    assert thresholds is not None  # scans show more than two intensities
    return np.where(image > 0, 1 + np.digitize(image, thresholds), 0)


def levels_of(images: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    """Median of CSF, gray and white matter of each image, shape (N, 3).

    A tissue that an image does not show has the median of the others.
    """
    levels = np.full((len(images), len(TISSUES)), np.nan)
    for row, image, classes in zip(levels, images, tissues, strict=True):
        for tissue in range(len(TISSUES)):
            inside = image[(classes == tissue + 1) & (image > 0)]
            if inside.size:
                row[tissue] = np.median(inside)
    return np.where(np.isnan(levels), np.nanmedian(levels, axis=0), levels)


def levels_matched(images: np.ndarray, where: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    levels = np.maximum.accumulate(levels_of(images, tissues), axis=1)
    wanted = np.array([0, *levels.mean(axis=0), levels.mean(axis=0)[-1] + 1])
    curves = [np.array([0, *own, own[-1] + 1]) for own in levels]
    matched = [np.interp(x, own, wanted) for x, own in zip(images, curves, strict=True)]
    return np.stack(matched)


def shading_of(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The low-passed images over the low-passed mean of all; 1 elsewhere."""
    mean = smooth(images.mean(axis=0)[None], where, SHADING_PIXELS)
    ratio = smooth(images, where, SHADING_PIXELS) / np.maximum(mean, 1e-6)
    return np.where(where, ratio, 1)


def without_shading(images: np.ndarray, where: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    return images / np.maximum(shading_of(images, where), 1e-6)


def sharpness(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Fine detail of each image as a share of middle detail, shape (N,)."""
    fine, middle = (
        np.square(images - smooth(images, where, sigma))[:, where].sum(axis=1)
        for sigma in (FINE_PIXELS, MIDDLE_PIXELS)
    )
    return fine / np.maximum(middle, 1e-12)


def blurred(images: np.ndarray, where: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    """Every image as soft as the softest."""
    softest = sharpness(images, where).min()
    left, out = np.arange(len(images)), images.copy()
    for sigma in BLURS[1:]:
        left = left[sharpness(out[left], where) > softest]
        if not left.size:
            break
        out[left] = smooth(images[left], where, sigma)
    return out


def three_in_turn(images: np.ndarray, where: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    for change in (levels_matched, without_shading, blurred):
        images = change(images, where, tissues)
    return images


def ranks(images: np.ndarray, where: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    out = np.zeros_like(images)
    out[:, where] = rankdata(images[:, where], axis=1) / where.sum()
    return out


def without_age_and_sex(images: np.ndarray, half: Scans) -> Features:
    """The interior, without what regression on people to train on says of age and sex."""
    flat, people = images[:, half.interior].astype(np.float64), half.people
    age = people['age'].to_numpy(float)
    effects = np.column_stack([age - age.mean(), (people['sex'] == 'M').to_numpy(float)])
    member = half.sites[:, None] == np.unique(half.sites)

    def features(train: np.ndarray) -> np.ndarray:
        design = np.concatenate([effects, member], axis=1)[train]
        slopes = np.linalg.lstsq(design, flat[train], rcond=None)[0][: effects.shape[1]]
        return flat - effects @ slopes

    return features


SHUFFLED = 'shuffled'
KINDS: dict[str, Take] = {
    'whole': fixed(lambda images: images),
    SHUFFLED: fixed(lambda images: images),
    'mask': fixed(lambda images: (images > 0).astype(np.float32)),
    'low-passed': fixed(lambda images: smooth(images, images > 0, LOW_PIXELS)),
    'high-passed': fixed(lambda images: images - smooth(images, images > 0, HIGH_PIXELS)),
    'inside': inside(lambda images, where, tissues: images),
    'inside, low-passed': inside(lambda images, where, _: smooth(images, where, LOW_PIXELS)),
    'inside, high-passed': inside(
        lambda images, where, _: images - smooth(images, where, HIGH_PIXELS)
    ),
    'inside, age and sex regressed': without_age_and_sex,
    'inside, shading removed': inside(without_shading),
    'inside, shading alone': inside(lambda images, where, _: shading_of(images, where)),
    'inside, levels matched': inside(levels_matched),
    'inside, levels alone': inside(lambda images, where, tissues: levels_of(images, tissues)),
    'inside, histogram removed': inside(ranks),
    'inside, blurred to the softest': inside(blurred),
    'inside, levels, shading and blur': inside(three_in_turn),
    'inside, tissues alone': inside(lambda images, where, tissues: tissues.astype(np.float32)),
}


def weights(images: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """How each pixel speaks for each site in the linear probe, up to a factor; (S, H, W)."""
    scores = Components.fit(images).training_scores
    probe = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000, class_weight='balanced')
    coefficients = probe.fit(scores, sites).coef_
    if len(coefficients) == 1:  # two sites share one
        coefficients = np.concatenate([-coefficients, coefficients])
    flat = images.reshape(len(images), -1)
    maps = coefficients @ np.linalg.pinv(scores) @ (flat - flat.mean(axis=0))
    return maps.reshape(-1, *images.shape[1:])


def draw(scans: Scans, outputs: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Draw the mean image of each site, its difference from the others', and the weights.

    Parameters
    ----------
    scans, outputs
        As in :func:`take_away`.
    path : Path
        Of the PNG image.
    """
    names = np.unique(scans.sites)
    figure = Figure(figsize=(1.5 * 3 * len(names), 1.75 * len(outputs) + 0.4), dpi=110)
    axes = figure.subplots(len(outputs), 3 * len(names), squeeze=False)
    for line, (method, deals) in zip(axes, outputs.items(), strict=True):
        halves = [scans.take(scans.deal(number)[1]) for number in range(len(deals))]
        sites = np.concatenate([half.sites for half in halves])
        everything = np.concatenate(deals)
        means = np.stack([everything[sites == name].mean(axis=0) for name in names])
        pairs = zip(deals, halves, strict=True)
        maps = np.mean([weights(images, half.sites) for images, half in pairs], axis=0)
        panels = [
            (means, 0, 1.1, 'gray'),
            (means - means.mean(axis=0), -0.12, 0.12, 'RdBu_r'),
            (maps / np.quantile(np.abs(maps), 0.999), -1, 1, 'PuOr_r'),
        ]
        line[0].set_ylabel(method, fontsize=9)
        for place, (stack, low, high, colors) in enumerate(panels):
            for number, image in enumerate(stack):
                ax = line[place * len(names) + number]
                ax.imshow(image.T, origin='lower', vmin=low, vmax=high, cmap=colors)
                if place:
                    ax.contour(scans.interior.T, [0.5], colors='0.4', linewidths=0.5)
                ax.set(xticks=[], yticks=[])
                ax.set_frame_on(False)
    titles = 'mean of', 'difference of', 'weights for'
    for number, ax in enumerate(axes[0]):
        ax.set_title(f'{titles[number // len(names)]}\n{names[number % len(names)]}', fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(path)
