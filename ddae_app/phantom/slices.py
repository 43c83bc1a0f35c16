"""Single slices of many people, fast: for training and benchmarks, without files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddae_app.phantom.anatomy import BRAIN_CENTRE_MM
from ddae_app.phantom.population import draw_subjects
from ddae_app.phantom.scanner import draw_scanner, render, with_tissue_contrast
from ddae_app.phantom.seeds import generator


@dataclass(frozen=True)
class PhantomSlices:
    """One slice of each of N people.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W), float32
        Scanner units, before any normalisation; 0 outside the brain.
    mask : np.ndarray, shape (N, H, W), bool
        The brain.
    site, sex, subject : np.ndarray, shape (N,), str
    age : np.ndarray, shape (N,), float32
        Years.
    truth : np.ndarray, shape (N, H, W), float32, or None
        The same slices in the target site's scanner, without noise.
    retest : np.ndarray, shape (N, H, W), float32, or None
        The same slices as a real visit to the target site would show them, noise and all.
    """

    images: np.ndarray
    mask: np.ndarray
    site: np.ndarray
    age: np.ndarray
    sex: np.ndarray
    subject: np.ndarray
    truth: np.ndarray | None
    retest: np.ndarray | None


def draw_slices(
    n_per_site: int,
    sites: tuple[str, ...],
    seed: int,
    points: np.ndarray,
    *,
    target: str | None = None,
    scanner_seed: int = 0,
    bias_strength: float = 0.3,
    tissue_contrast: bool = False,
) -> PhantomSlices:
    """Draw people, and one slice of each as it comes out of preprocessing.

    The people are those that :func:`~ddae_app.phantom.dataset.write_dataset` draws from the same
    seed. They lie in template space as registration leaves them: head size is gone, shape is not.

    Parameters
    ----------
    n_per_site : int
        People of each site.
    sites : tuple of str
        See :func:`~ddae_app.phantom.population.site_names`.
    seed : int
        Makes the people and the noise.
    points : np.ndarray, shape (H, W, 3)
        Positions of the slice's pixels in template mm, a regular grid.
    target : str, optional
        Site whose scanner renders the truth.
    scanner_seed : int
        Makes the scanners.
    bias_strength : float
        Part of the bias field left by bias correction; 1 for a raw scan.
    tissue_contrast : bool
        Whether the contrast of each scanner differs by tissue.

    Returns
    -------
    PhantomSlices
        N = ``len(sites) * n_per_site``, site after site.
    """
    everywhere = dict.fromkeys([*sites, *([] if target is None else [target])])
    scanners = {site: draw_scanner(site, scanner_seed) for site in everywhere}
    if tissue_contrast:
        scanners = {s: with_tissue_contrast(scanners[s], scanner_seed) for s in scanners}
    target_scanner = None if target is None else scanners[target]
    subjects = [
        subject
        for site in sites
        for subject in draw_subjects(site, n_per_site, seed, scanner_seed)
    ]
    shape = (len(subjects), *points.shape[:-1])
    images, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
    truth, retest = (None if target is None else np.zeros(shape, np.float32) for _ in range(2))
    in_scanner = points - np.array(BRAIN_CENTRE_MM)
    for n, subject in enumerate(subjects):
        tissues = subject.anatomy().tissues(points)
        rng = generator(seed, 'slice', subject.label)
        images[n] = render(scanners[subject.site], tissues, in_scanner, rng, bias_strength)
        mask[n] = sum(tissues[:3]) > 0.5
        if truth is not None and retest is not None and target_scanner is not None:
            truth[n] = render(target_scanner, tissues, in_scanner, None, bias_strength)
            visit = generator(seed, 'retest', subject.label)
            retest[n] = render(target_scanner, tissues, in_scanner, visit, bias_strength)
    return PhantomSlices(
        images=images,
        mask=mask,
        site=np.array([subject.site for subject in subjects]),
        age=np.array([subject.age for subject in subjects], np.float32),
        sex=np.array([subject.sex for subject in subjects]),
        subject=np.array([subject.label for subject in subjects]),
        truth=truth,
        retest=retest,
    )
