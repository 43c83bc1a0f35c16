"""Validating the input with the official BIDS validator."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddae_app.bids.scan import Scan
from ddae_app.errors import InvalidBIDSError

NOT_VALIDATED = {'code', 'derivatives', 'sourcedata', 'stimuli', '.git', '.datalad'}
"""Folders that the validator does not look into, and that may be large."""


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
    participants = {f'sub-{scan.participant}' for scan in scans}
    with _without_others(bids_dir, participants) as folder:
        report = run_validator(folder, Path(str(config)))
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
        short = textwrap.shorten(text.strip().rstrip('.'), 200, placeholder=' ...')
        why = f' ({short})' if short else ''
        others = len(errors) - 1
        more = f', and {others} more error{"s" * (others != 1)}' if others else ''
        raise InvalidBIDSError(
            f'{bids_dir / place}: not valid BIDS: {rule}{why}{more}; run bids-validator-deno to '
            'see all, mend them, or use --skip-bids-validation'
        )


@contextmanager
def _without_others(bids_dir: Path, participants: Set[str]) -> Iterator[Path]:
    """The dataset without other participants: a folder of links, if there are others.

    The validator reads every file that it finds, and each job of an array would have it read those
    of the whole dataset.
    """
    entries = list(os.scandir(bids_dir))
    kept = [e for e in entries if not e.name.startswith('sub-') or e.name in participants]
    if len(kept) == len(entries):
        yield bids_dir
        return
    with tempfile.TemporaryDirectory() as temporary:
        for entry in kept:
            link = Path(temporary, entry.name)
            if entry.name in NOT_VALIDATED:
                link.mkdir()
            else:
                _link(Path(entry.path).absolute(), link)
        yield Path(temporary)


def _link(path: Path, link: Path) -> None:
    """Link to a file, or to all files of a folder: the validator takes a link for a file."""
    if path.is_symlink() or not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        link.symlink_to(path)
        return
    link.mkdir()
    for inner in path.iterdir():
        _link(inner, link / inner.name)


def _check_raw(bids_dir: Path) -> None:
    # The validator itself fails where it expects a raw dataset and finds another.
    path = bids_dir / 'dataset_description.json'
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError):
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
