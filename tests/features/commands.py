"""The program on tables, by the command line."""

from __future__ import annotations

from pathlib import Path

from ddae_app.cli.main import main


def run(bids_dir: Path, out: Path, level: str, table: Path, *flags: str) -> int:
    """The exit code of a level on a table."""
    arguments = [str(bids_dir), str(out), level, '--features', str(table), *flags]
    return main([*arguments, '-w', str(out.parent / 'work'), '--nprocs', '1'])


def logged(capsys) -> str:
    """What was logged since the last time."""
    return capsys.readouterr().err


def refused(capsys, code: int, *arguments) -> str:
    """The one line that says why a run was refused."""
    assert run(*arguments) == code
    lines = [line for line in logged(capsys).splitlines() if 'error:' in line]
    assert len(lines) == 1
    return lines[0]
