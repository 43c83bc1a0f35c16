"""What the networks are given: labels of scans, and slices, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddae_app.imaging.intensities import CEILING
from ddae_app.methods.data import SEXES, SliceData


@dataclass(frozen=True)
class Condition:
    """What is known of each scan, or slice of one: ``c = (age, sex, site)`` and its position.

    Attributes
    ----------
    age : torch.Tensor, shape (B,), float32
        Years; NaN where unknown.
    sex : torch.Tensor, shape (B,), int64
        0 male, 1 female, -1 unknown.
    site : torch.Tensor, shape (B,), int64
        Index into the model's list of sites; -1 unknown.
    position : torch.Tensor, shape (B,), int64
        Of the first slice, among those of a whole scan.
    """

    age: Tensor
    sex: Tensor
    site: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.age)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        return Condition(self.age[rows], self.sex[rows], self.site[rows], self.position[rows])

    def slices(self, scan: Tensor, depth: Tensor) -> Condition:
        """Of single slices: the scan of each, and its depth from the scan's position."""
        return replace(self[scan], position=self.position[scan] + depth)

    def to(self, device: torch.device) -> Condition:
        """The same on another device."""
        parts = (self.age, self.sex, self.site, self.position)
        return Condition(*(part.to(device) for part in parts))

    def at_unknown_site(self) -> Condition:
        """The same subjects at an unknown site."""
        return replace(self, site=torch.full_like(self.site, -1))

    def dropped(self, probability: float, generator: torch.Generator) -> Condition:
        """Each of the three labels of each image made unknown with this probability."""
        shape = (3, len(self))
        drop = torch.rand(shape, generator=generator, device=generator.device) < probability
        drop = drop.to(self.age.device)
        return Condition(
            self.age.masked_fill(drop[0], torch.nan),
            self.sex.masked_fill(drop[1], -1),
            self.site.masked_fill(drop[2], -1),
            self.position,
        )


def make_condition(
    ages: Sequence[float] | np.ndarray,
    sexes: Sequence[str | None],
    sites: Sequence[int],
    positions: Sequence[int] | np.ndarray | None = None,
) -> Condition:
    """Labels as tensors.

    Parameters
    ----------
    ages : sequence of float
        Years; NaN where unknown.
    sexes : sequence of {'M', 'F', None}
    sites : sequence of int
        Index of each site; -1 unknown.
    positions : sequence of int, optional
        Of the first slice; 0 where it is not given.
    """
    first = np.zeros(len(sites)) if positions is None else positions
    return Condition(
        torch.tensor(np.asarray(ages), dtype=torch.float32),
        torch.tensor([SEXES[s] for s in sexes], dtype=torch.int64),
        torch.tensor(np.asarray(sites), dtype=torch.int64),
        torch.tensor(np.asarray(first), dtype=torch.int64),
    )


def label_blind(sites: Sequence[int], positions: np.ndarray | None = None) -> Condition:
    """Conditions of known sites and unknown ages and sexes."""
    n = len(sites)
    return make_condition([np.nan] * n, [None] * n, sites, positions)


def condition_of(
    data: SliceData, rows: np.ndarray, positions: np.ndarray | None = None
) -> Condition:
    """The labels of some scans; sites are indices into ``data.site_names``."""
    index = {site: i for i, site in enumerate(data.site_names)}
    return make_condition(
        [data.ages[i] for i in rows],
        [data.sexes[i] for i in rows],
        [index[data.sites[i]] for i in rows],
        positions,
    )


def batch_of(
    data: SliceData, rows: np.ndarray, positions: np.ndarray | None = None, context: int = 0
) -> Tensor:
    """Some scans, clipped to what the networks see.

    Returns
    -------
    torch.Tensor, shape (B, D, H, W), range [0, CEILING]
        With `positions`, one slice of each and its `context` neighbors on either side.
    """
    if positions is None:
        images = data.images[rows]
    else:
        near = np.asarray(positions)[:, None] + np.arange(-context, context + 1)
        images = data.images[np.asarray(rows)[:, None], near.clip(0, data.depth - 1)]
    return torch.from_numpy(np.clip(images, 0, CEILING))
