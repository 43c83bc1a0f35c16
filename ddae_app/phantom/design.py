"""The design of a phantom dataset: how many, of whom, where, and what changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ddae_app.errors import UsageError
from ddae_app.phantom.atrophy import MAX_LOSS_PERCENT

YEARS_BETWEEN_SESSIONS = 2
"""For datasets whose sessions differ."""


@dataclass(frozen=True)
class Design:
    """The design of a phantom dataset.

    Attributes
    ----------
    n_sites : int
        1 to 26.
    subjects_per_site : int
    seed : int
        Seed of the subjects, their positions in the scanner and the noise.
    scanner_seed : int
        Seed of the scanners and the populations of the sites.
    sessions, runs : int
        Number of repeated scans of each subject, at other positions. 0 omits ``ses-`` or ``run-``
        from the names.
    traveling : bool
        Whether every scan is also rendered, without noise, at every other site.
    voxel_mm : float, optional
        Size of cubic voxels at every site, instead of the voxel size of the scanner.
    whole_head : bool
        Whether scans show the head around the brain. The masks of the brains are written as truth.
    atrophy : float, optional
        Loss of gray matter from one session to the next, in percent of its volume at the first.
        The volumes at each session are written as truth.
    change_scanner : bool
        Whether each session is in the scanner of the next site.
    """

    n_sites: int = 7
    subjects_per_site: int = 4
    seed: int = 0
    scanner_seed: int = 0
    sessions: int = 0
    runs: int = 0
    traveling: bool = False
    voxel_mm: float | None = None
    # Told in the README only where they are used, so that other datasets keep their bytes.
    whole_head: bool = field(default=False, repr=False)
    atrophy: float | None = field(default=None, repr=False)
    change_scanner: bool = field(default=False, repr=False)

    @property
    def longitudinal(self) -> bool:
        """Whether sessions differ in age, and in anatomy or scanner."""
        return self.atrophy is not None or self.change_scanner

    def check(self) -> None:
        """Raise ``UsageError`` for a design that cannot be."""
        for name, value, low in (
            ('subjects per site', self.subjects_per_site, 1),
            ('sessions', self.sessions, 0),
            ('runs', self.runs, 0),
            ('seed', self.seed, 0),
            ('scanner seed', self.scanner_seed, 0),
        ):
            if value < low:
                raise UsageError(f'{value} for {name}; expected {low} or more')
        if self.longitudinal and self.sessions < 2:
            raise UsageError(
                f'{self.sessions} sessions, which cannot differ; expected 2 or more (--sessions)'
            )
        if self.change_scanner and self.n_sites < 2:
            raise UsageError(
                f'{self.n_sites} sites; expected 2 or more to change the scanner (--sites)'
            )
        loss = (self.atrophy or 0) * (self.sessions - 1)
        if not 0 <= loss <= MAX_LOSS_PERCENT:
            raise UsageError(
                f'{self.atrophy}% for atrophy, {loss}% until the last session; expected 0 to '
                f'{MAX_LOSS_PERCENT:g}% until the last session'
            )
        if self.voxel_mm is not None and not 0.5 <= self.voxel_mm <= 10:
            raise UsageError(f'voxels of {self.voxel_mm} mm; expected 0.5 to 10 mm')
