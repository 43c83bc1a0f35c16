"""Simulated slices and volumes of many subjects in template space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.phantom_lesions import Lesion
from ddae_app.phantom.anatomy import BRAIN_CENTER_MM
from ddae_app.phantom.population import Subject, draw_subjects
from ddae_app.phantom.scanner import Scanner, draw_scanner, render, with_tissue_contrast
from ddae_app.phantom.seeds import generator


@dataclass(frozen=True)
class PhantomSlices:
    """One slice of each of N subjects.

    Attributes
    ----------
    images : np.ndarray, shape (N, H, W), float32
        Scanner units, before any normalization; 0 outside the brain.
    mask : np.ndarray, shape (N, H, W), bool
        The brain.
    site, sex, subject : np.ndarray, shape (N,), str
    age : np.ndarray, shape (N,), float32
        Years.
    truth : np.ndarray, shape (N, H, W), float32, or None
        The same slices in the scanner of the target site, without noise.
    retest : np.ndarray, shape (N, H, W), float32, or None
        The same slices in the scanner of the target site, with noise.
    """

    images: np.ndarray
    mask: np.ndarray
    site: np.ndarray
    age: np.ndarray
    sex: np.ndarray
    subject: np.ndarray
    truth: np.ndarray | None
    retest: np.ndarray | None


@dataclass(frozen=True)
class Visit:
    """Images of one subject; all arrays have the shape of the points without the last axis.

    Attributes
    ----------
    image : np.ndarray, float32
        Scanner units, before any normalization; 0 outside the brain.
    mask : np.ndarray, bool
        The brain.
    truth, retest : np.ndarray, float32, or None
        In the scanner of the target site, without noise and with noise.
    """

    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None
    retest: np.ndarray | None


def draw_visit(
    subject: Subject,
    scanner: Scanner,
    seed: int,
    points: np.ndarray,
    target: Scanner | None = None,
    bias_strength: float = 0.3,
    lesions: Sequence[Lesion] = (),
) -> Visit:
    """Scan one subject in a scanner and in the scanner of the target.

    Parameters
    ----------
    subject : Subject
    scanner : Scanner
    seed : int
        Seed of the noise.
    points : np.ndarray, shape (..., 3)
        Positions in template mm, a regular grid in two or three dimensions.
    target : Scanner, optional
        Scanner of the truth and the retest.
    bias_strength : float
        Share of the bias field that bias correction leaves; 1 for a raw scan.
    lesions : sequence of Lesion
        Lesions of the subject.
    """
    tissues = subject.anatomy().tissues(points)
    for lesion in lesions:
        tissues = lesion.put_into(tissues, points)
    place = points - np.array(BRAIN_CENTER_MM)
    rng = generator(seed, 'slice', subject.label)
    image = render(scanner, tissues, place, rng, bias_strength)
    truth = retest = None
    if target is not None:
        truth = render(target, tissues, place, None, bias_strength)
        rng = generator(seed, 'retest', subject.label)
        retest = render(target, tissues, place, rng, bias_strength)
    csf, gm, wm, _ = tissues
    return Visit(image, csf + gm + wm > 0.5, truth, retest)


DrawVisit = Callable[[Subject, Scanner, int, np.ndarray, Scanner | None, float], Visit]
"""Maps subject, scanner, seed, points, target and bias strength to a visit."""


def draw_scanners(
    sites: tuple[str, ...], seed: int, *, tissue_contrast: bool = False
) -> dict[str, Scanner]:
    """The scanners of some sites by name, optionally with a contrast that differs by tissue."""
    scanners = {site: draw_scanner(site, seed) for site in sites}
    if tissue_contrast:
        scanners = {s: with_tissue_contrast(scanner, seed) for s, scanner in scanners.items()}
    return scanners


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
    draw: DrawVisit = draw_visit,
) -> PhantomSlices:
    """Draw subjects, and one slice of each as after preprocessing.

    The subjects are those that :func:`~ddae_app.phantom.dataset.write_dataset` draws from the same
    seed. They are in template space as after affine registration, which removes differences in
    head size but not in shape.

    Parameters
    ----------
    n_per_site : int
        Number of subjects of each site.
    sites : tuple of str
        See :func:`~ddae_app.phantom.population.site_names`.
    seed : int
        Seed of the subjects and the noise.
    points : np.ndarray, shape (H, W, 3)
        Positions of the slice's pixels in template mm, a regular grid.
    target : str, optional
        Site of the truth and the retest.
    scanner_seed : int
        Seed of the scanners.
    bias_strength : float
        Share of the bias field that bias correction leaves; 1 for a raw scan.
    tissue_contrast : bool
        Whether the contrast of each scanner differs by tissue.
    draw : callable
        :func:`draw_visit`, or :func:`~benchmarks.phantom_resampling.resampled_visit`.

    Returns
    -------
    PhantomSlices
        N = ``len(sites) * n_per_site``, site after site.
    """
    everywhere = sites if target is None else (*sites, target)
    scanners = draw_scanners(everywhere, scanner_seed, tissue_contrast=tissue_contrast)
    target_scanner = None if target is None else scanners[target]
    subjects = [
        subject
        for site in sites
        for subject in draw_subjects(site, n_per_site, seed, scanner_seed)
    ]
    shape = (len(subjects), *points.shape[:-1])
    images, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
    truth, retest = (None if target is None else np.zeros(shape, np.float32) for _ in range(2))
    for n, subject in enumerate(subjects):
        scanner = scanners[subject.site]
        visit = draw(subject, scanner, seed, points, target_scanner, bias_strength)
        images[n], mask[n] = visit.image, visit.mask
        if truth is not None and retest is not None:
            truth[n], retest[n] = visit.truth, visit.retest
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
