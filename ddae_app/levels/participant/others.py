"""What the dataset and earlier runs say of scans that a run did not select."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddae_app.bids.cohort import read_cohort
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.dataset import read_scans
from ddae_app.bids.layout import RunFiles, SpaceLayout
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import scans_in
from ddae_app.engine.run import Crashes, crash_reason, is_taken
from ddae_app.errors import InvalidBIDSError, UsageError
from ddae_app.settings import Settings

MOST_RUNS = 500
"""The latest runs, in which failures of these scans are looked for: each of many jobs does."""


@dataclass(frozen=True)
class OtherScans:
    """The scans that the dataset has of the participants of a run, without those of the run.

    Attributes
    ----------
    layout : SpaceLayout
        Of the output folder.
    scans : tuple of Scan
    covariates : mapping of str to Covariates
        What the tables say of them, by their names.
    crashes : Crashes
        Of the latest runs.
    """

    layout: SpaceLayout
    scans: tuple[Scan, ...]
    covariates: Mapping[str, Covariates]
    crashes: Crashes

    @classmethod
    def of(cls, settings: Settings, layout: SpaceLayout, selected: Sequence[Scan]) -> OtherScans:
        """Those of a run that selected these, by the names of files."""
        own = {scan.stem for scan in selected}
        scans = [
            scan
            for participant in dict.fromkeys(scan.participant for scan in selected)
            for scan in scans_in(settings.bids_dir, participant)
            if scan.stem not in own
        ]
        covariates: Mapping[str, Covariates] = {}
        runs: Sequence[RunFiles] = ()
        if scans:
            runs = layout.runs()[:MOST_RUNS]
            # With those of the run, of which some may alone have the field of --site-column.
            # --source-site may have been another one where they were selected.
            column = settings.select.site_column
            # Tables that were spoiled since the run began are no reason to end it without a page.
            with suppress(UsageError, InvalidBIDSError):
                cohort = read_cohort(settings.bids_dir, [*selected, *scans], site_column=column)
                covariates = cohort.covariates
        return cls(layout, tuple(scans), covariates, Crashes(runs))

    def known(self, scan: Scan, entries: Mapping[str, Any]) -> Covariates | None:
        """Site, age and sex with which a scan was harmonized, or else those of the tables.

        None if the scan is not harmonized, and the dataset has it no more.
        """
        if 'TargetSite' in entries:
            return _recorded(entries)
        told = self.covariates.get(scan.stem)
        if told is None or told.site is not None:
            return told
        site = self._site_in_table(scan)
        return replace(told, site=site, site_from='as recorded') if site else told

    def failed(
        self, participant: str, whole: Collection[str]
    ) -> Iterator[tuple[Scan, RunFiles, Path]]:
        """Scans of a participant that failed in an earlier run, that run, and its crash file.

        Parameters
        ----------
        participant : str
        whole : collection of str
            Names of the scans that have outputs, whatever failed before.
        """
        for scan in self.scans:
            if scan.participant == participant and scan.stem not in whole:
                found = self.crashes.of(scan)
                if found and not is_taken(crash_reason(found[1])):
                    yield scan, *found

    def _site_in_table(self, scan: Scan) -> str | None:
        """The site that the run that preprocessed a scan wrote beside its measures."""
        table = self.layout.scans_table(scan)
        image = self.layout.image('preproc', scan).relative_to(table.parent).as_posix()
        rows: list[dict[str, str]] = []
        with suppress(OSError, InvalidBIDSError):  # not there, or of somebody else
            rows = read_scans(table)
        site = next((row.get('source_site') for row in rows if row['filename'] == image), None)
        return None if site in (None, 'n/a') else site


def _recorded(entries: Mapping[str, Any]) -> Covariates:
    site, age, sex = (entries.get(name) for name in ('SourceSite', 'Age', 'Sex'))
    return Covariates(
        site=None if site in (None, 'n/a') else str(site),
        age=float(age) if isinstance(age, int | float) else math.nan,
        sex=None if sex is None else str(sex),
        site_from=str(entries.get('SourceSiteFrom', 'as recorded')),
    )
