"""After a run: what is there, the quality tables, and a page per participant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import QC_MEANING, update_scans
from ddae_app.bids.names import Scan, sidecar
from ddae_app.harmonize.models import FoundModel
from ddae_app.settings import Settings
from ddae_app.workflows.derivatives import harmonized_path, mask_path, preproc_path, slices_path


def outputs_missing(
    output_dir: Path, scans: Sequence[Scan], space: sidecars.Space, *, harmonized: bool
) -> dict[Scan, str]:
    """Scans that lack an output, and which."""
    missing = {}
    for scan in scans:
        wanted = [preproc_path(scan, space), mask_path(scan, space)]
        if harmonized:
            wanted = [slices_path(scan, space), harmonized_path(scan, space)]
        absent = [path for path in wanted if not (output_dir / path).is_file()]
        if absent:
            missing[scan] = f'{absent[0]} was not written'
    return missing


def quality(output_dir: Path, scan: Scan, space: sidecars.Space) -> dict[str, Any]:
    """Everything that the sidecars of a scan say, the harmonised image's last."""
    facts: dict[str, Any] = {}
    for path in (preproc_path(scan, space), harmonized_path(scan, space)):
        file = output_dir / sidecar(path)
        if file.is_file():
            facts |= json.loads(file.read_text(encoding='utf-8'))
    return facts


def write_results(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    *,
    model: FoundModel | None,
    failures: Mapping[Scan, str],
    text: str,
    log_dir: Path,
) -> list[Path]:
    """Write ``*_scans.tsv`` and one HTML page per participant.

    Returns
    -------
    list of Path
        The pages.
    """
    rows = {}
    for scan in scans:
        facts = quality(settings.output_dir, scan, space)
        if facts and scan not in failures:
            sites = {'source_site': cohort[scan].site, 'target_site': facts.get('TargetSite')}
            rows[scan] = sites | {key: facts[key] for key in QC_MEANING if key in facts}
    image = preproc_path(Scan(Path(), '', None, ''), space).name
    update_scans(settings.output_dir, rows, image)
    return []
