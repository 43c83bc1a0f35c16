"""What every harmoniser can do, and the checks they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from ddae_app.errors import UsageError
from ddae_app.training.dataset import SliceData


class Harmonizer(Protocol):
    """Learns sites from slices, then renders slices as if acquired at one of them."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites it was fitted on; any of them can be a target."""

    def fit(self, data: SliceData) -> Self:
        """A copy fitted to these slices; the harmoniser itself does not change."""

    def transform(
        self,
        images: np.ndarray,
        source_sites: str | Sequence[str],
        target_site: str,
        ages: Sequence[float] | None = None,
        sexes: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Render slices at the target site.

        Parameters
        ----------
        images : np.ndarray, shape (N, H, W), float32, range [0, 1]
            0 outside the brain; a few pixels may exceed 1.
        source_sites : str or sequence of str, length N
            Where each slice was acquired.
        target_site : str
            One of ``sites``.
        ages : sequence of float, length N, optional
            Years, NaN where unknown; for methods that adjust for covariates.
        sexes : sequence of {'M', 'F', None}, length N, optional

        Returns
        -------
        np.ndarray, shape (N, H, W), float32
            At least 0; exactly 0 where the input is 0.

        Raises
        ------
        UsageError
            If the target site is unknown, or the lengths differ.
        """

    def save(self, path: str | Path) -> None:
        """Write the fitted harmoniser to one file."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""


def check_request(
    images: np.ndarray,
    source_sites: str | Sequence[str],
    target_site: str,
    known: Sequence[str],
) -> list[str]:
    """The source site of each image, after checking a request to ``transform``.

    Raises
    ------
    UsageError
        If the images are not float (N, H, W), finite and non-negative, the numbers of images and
        sites differ, or the target is not a known site.
    """
    if images.ndim != 3 or images.dtype != np.float32:
        raise UsageError(f'images are {images.dtype} {images.shape}; give float32 (N, H, W)')
    if not (np.isfinite(images).all() and (images >= 0).all()):
        raise UsageError('images hold negative or non-finite values; give finite values from 0')
    if target_site not in known:
        raise UsageError(
            f'--target-site {target_site!r} is not a site of the model; it knows '
            f'{", ".join(known)}'
        )
    n = len(images)
    sources = [source_sites] * n if isinstance(source_sites, str) else list(source_sites)
    if len(sources) != n:
        raise UsageError(f'{n} images with {len(sources)} source sites; give one to each')
    return sources
