"""Validating the input with the official BIDS validator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddae_app.bids.names import Scan
from ddae_app.errors import InvalidBIDSError


def validate_input(bids_dir: Path, scans: Sequence[Scan]) -> None:
    """Refuse a dataset in which the validator finds errors that concern the selected scans.

    The rules that do not apply, and why, are in ``bids_validator_config/``.

    Raises
    ------
    InvalidBIDSError
        With the first error, the file, and how many more there are.
    """
    config = files('ddae_app') / 'data' / 'bids_validator_config' / 'input.json'
    report = run_validator(bids_dir, Path(str(config)))
    participants = {f'sub-{scan.participant}' for scan in scans}
    errors = []
    for issue in report['issues']['issues']:
        place = str(issue.get('location', '')).lstrip('/')
        elsewhere = place.startswith('sub-') and place.split('/')[0] not in participants
        if issue.get('severity') == 'error' and not elsewhere:
            errors.append((issue.get('code', '?'), place, issue.get('issueMessage', '')))
    if errors:
        code, place, message = errors[0]
        others = f', and {len(errors) - 1} more errors' if len(errors) > 1 else ''
        raise InvalidBIDSError(
            f'{bids_dir}: not valid BIDS: {code} {place} {message}'.rstrip().rstrip('.')
            + f'{others}; run bids-validator-deno to see all, mend them, or use '
            '--skip-bids-validation'
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
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(result.stdout)
    except json.JSONDecodeError:
        lines = (result.stderr or result.stdout).strip().splitlines() or ['no output']
        raise InvalidBIDSError(
            f'{folder}: the BIDS validator failed ({lines[0]}); use --skip-bids-validation'
        ) from None
