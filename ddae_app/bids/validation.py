"""Validating the input with the official BIDS validator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddae_app.bids.scan import Scan
from ddae_app.errors import InvalidBIDSError


def validate_input(bids_dir: Path, scans: Sequence[Scan]) -> None:
    """Refuse a dataset in which the validator finds errors that concern the selected scans.

    The rules that do not apply, and why, are in ``bids_validator_config/``.

    Raises
    ------
    InvalidBIDSError
        With the first error, the file, and how many more there are.
    """
    _check_raw(bids_dir)
    config = files('ddae_app') / 'data' / 'bids_validator_config' / 'input.json'
    report = run_validator(bids_dir, Path(str(config)))
    participants = {f'sub-{scan.participant}' for scan in scans}
    meanings = report['issues'].get('codeMessages') or {}
    errors = []
    for issue in report['issues']['issues']:
        place = (issue.get('location') or '').lstrip('/')
        elsewhere = place.startswith('sub-') and place.split('/')[0] not in participants
        if issue.get('severity') == 'error' and not elsewhere:
            errors.append((place, issue))
    if errors:
        place, issue = errors[0]
        rule = f'{issue.get("code", "?")} {issue.get("subCode") or ""}'.strip()
        text = issue.get('issueMessage') or meanings.get(issue.get('code')) or ''
        why = f' ({" ".join(text.split())[:200].rstrip(".")})' if text.strip() else ''
        others = len(errors) - 1
        more = f', and {others} more error{"s" * (others != 1)}' if others else ''
        raise InvalidBIDSError(
            f'{bids_dir / place}: not valid BIDS: {rule}{why}{more}; run bids-validator-deno to '
            'see all, mend them, or use --skip-bids-validation'
        )


def _check_raw(bids_dir: Path) -> None:
    # The validator itself fails where it expects a raw dataset and finds another.
    path = bids_dir / 'dataset_description.json'
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError):
        return  # the validator reports what is wrong with it
    kind = content.get('DatasetType', 'raw') if isinstance(content, dict) else 'raw'
    if kind != 'raw':
        raise InvalidBIDSError(
            f'{path}: DatasetType is {kind!r}; expected a raw dataset, since preprocessing starts '
            'from the images of the scanner. Name the raw dataset, or use --skip-bids-validation'
        )


def run_validator(folder: Path, config: Path | None = None, kind: str = 'raw') -> dict[str, Any]:
    """Run the official validator and return its report.

    Parameters
    ----------
    folder : Path
        Root of a dataset.
    config : Path, optional
        Validator configuration.
    kind : {'raw', 'derivative'}
        Dataset type that is expected.

    Raises
    ------
    InvalidBIDSError
        The validator does not run.
    """
    beside = Path(sys.executable).with_name('bids-validator-deno')
    program = str(beside) if beside.is_file() else shutil.which('bids-validator-deno')
    if program is None:
        raise InvalidBIDSError(
            'bids-validator-deno is not installed; install it with pip or use '
            '--skip-bids-validation'
        )
    command = [program, str(folder), '--format', 'json', '--datasetTypes', kind]
    if config is not None:
        command += ['--config', str(config)]
    result = subprocess.run(command, capture_output=True, encoding='utf-8', check=False)
    try:
        return json.loads(result.stdout)
    except json.JSONDecodeError:
        output = re.sub(r'\x1b\[\d*m', '', result.stderr or result.stdout)  # without colors
        lines = output.strip().splitlines() or ['no output']
        raise InvalidBIDSError(
            f'{folder}: the BIDS validator failed ({lines[0]}); use --skip-bids-validation'
        ) from None
