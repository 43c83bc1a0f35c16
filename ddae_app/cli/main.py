"""From a command line to an exit code: arguments, settings, and the analysis level to run."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddae_app import __version__
from ddae_app.bids.layout import Layout, RunFiles
from ddae_app.bids.output_folder import check_locks, check_output_folder, leave_out_of_bids
from ddae_app.cli import runtime
from ddae_app.cli.feature_flags import check_feature_flags
from ddae_app.cli.parser import build_parser
from ddae_app.cli.values import default_nprocs
from ddae_app.errors import DdaeError, UsageError, lack_of_memory
from ddae_app.files import write_atomically
from ddae_app.processes import StopRequest, run_apart
from ddae_app.settings import RunSettings, Settings, absolute, from_flat, read_flat, to_toml

EVALUATED_AT_ONCE = 4
"""Methods, by the group level, unless the flags say otherwise."""

TARGET_HELP = 'help'
"""What ``--target-site`` is where the sites that can be targets are asked for."""

log = logging.getLogger('ddae_app')

RunLevel = Callable[[Settings, RunFiles], int]

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Errors of a disk that is full or broken, which are no defect of the program."""


def main(argv: Sequence[str] | None = None, *, own_process: bool | None = None) -> int:
    """Run ddae-app and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name. By default, those of this process.
    own_process : bool, optional
        Whether this process is the program's own: then the run gets another one, which can be
        ended at any moment. By default, it is where `argv` is not given.
    """
    arguments = vars(build_parser().parse_args(argv))
    runtime.log_to_terminal(arguments.get('verbose_count', 0))
    command = shlex.join(sys.argv[1:] if argv is None else argv)
    # A caller's process may have threads, which a fork of it would lose.
    own_process = argv is None if own_process is None else own_process
    run_level = _run_level_apart if own_process else _run_level_here
    with runtime.stop_signals():
        return _report(
            lambda: _run(resolve(arguments, os.environ), command, run_level),
            arguments.get('output_dir'),
        )


def _report(work: Callable[[], int], output_dir: Path | str | None) -> int:
    """The exit code of `work`; what a user can resolve is logged in one line."""
    try:
        return work()
    except DdaeError as error:
        log.error('%s', error)
        return error.exit_code
    except StopRequest as stop:
        then = ' to resume' if stop.resumes else ', which starts anew'
        log.error('%s; run the same command again%s', stop, then)
        return stop.exit_code
    except Exception as error:
        shortage = _shortage(error, output_dir)
        if shortage is None:
            raise
        log.error('%s', shortage)
        return 1


def _shortage(error: Exception, output_dir: Path | str | None) -> str | None:
    """The message for an error that means too little disk space or memory; None for others."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return (
            f'{error.filename or output_dir}: {error.strerror}; free some disk space and run the '
            'same command again'
        )
    return lack_of_memory(f'{type(error).__name__}: {error}')


def resolve(arguments: dict[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from flags, a settings file and the environment; the first of them wins.

    Parameters
    ----------
    arguments : dict
        The flags that were given, by name.
    environment : mapping of str to str
        Environment variables.

    Raises
    ------
    UsageError
        The settings file cannot be read, a value is not valid, or a folder is not usable.
    """
    given = dict(arguments)
    file = given.pop('config_file', None)
    values = ({} if file is None else read_flat(absolute(file, '--config-file'))) | given
    nprocs = values.setdefault('nprocs', default_nprocs())
    if values['analysis_level'] == 'train':
        # The processes that torchrun starts on a node share its CPUs.
        local = runtime.processes_per_node(environment)
        values.setdefault('omp_nthreads', max(1, nprocs // local))
    elif values['analysis_level'] == 'group':
        # It evaluates that many methods side by side.
        values.setdefault('omp_nthreads', max(1, nprocs // EVALUATED_AT_ONCE))
    values.setdefault('omp_nthreads', max(1, min(nprocs - 1, 8)))
    home = Path(environment.get('HOME') or '/')
    values.setdefault(
        'templateflow_home',
        environment.get('TEMPLATEFLOW_HOME') or home / '.cache' / 'templateflow',
    )
    values.setdefault(
        'hd_bet_weights',
        environment.get('HDBET_WEIGHTS') or home / 'hd-bet_params' / 'release_2.0.0',
    )
    values.setdefault('work_dir', RunSettings.work_dir)
    values['container'] = runtime.container(environment)
    settings = from_flat(values)
    check_feature_flags(settings, given)
    _check_level(settings)
    if _asks_for_targets(settings):
        # The answer is printed, and as little is written as by a dry run.
        settings = replace(settings, run=replace(settings.run, dry_run=True))
    _check_folders(settings)
    return settings


def _check_level(settings: Settings) -> None:
    """Refuse to do all work of a level where a part was asked for that it does not have."""
    level, run = settings.analysis_level, settings.run
    if level == 'participant':
        return
    for flag, given in (
        ('--reports-only', run.reports_only),
        ('--boilerplate-only', run.boilerplate_only),
        ('--stage preproc', level == 'train' and settings.harmonize.stage == 'preproc'),
        (f'--target-site {TARGET_HELP}', settings.harmonize.target_site == TARGET_HELP),
    ):
        if given:
            raise UsageError(
                f'{flag} is a part of the participant level, and the {level} level would do all '
                'that it does; leave the flag out, or give the participant level'
            )


def _asks_for_targets(settings: Settings) -> bool:
    return (
        settings.analysis_level == 'participant' and settings.harmonize.target_site == TARGET_HELP
    )


def _check_folders(settings: Settings) -> None:
    places = settings.bids_dir, settings.output_dir, settings.run.work_dir
    # Unlike Path.resolve, this bears links that lead in a circle.
    bids_dir, output_dir, work_dir = (Path(os.path.realpath(place)) for place in places)
    if not bids_dir.is_dir():
        raise UsageError(f'{settings.bids_dir}: no such folder; expected a BIDS dataset')
    if output_dir == bids_dir:
        raise UsageError(
            'the output folder is the dataset itself, which is never written to; name another, '
            f'for example {settings.bids_dir / "derivatives" / "ddae-app"}'
        )
    if _is_inside(output_dir, bids_dir) and not _is_inside(output_dir, bids_dir / 'derivatives'):
        raise UsageError(
            f'the output folder {output_dir} lies inside the dataset, which is never written to; '
            f'only {bids_dir / "derivatives"} may hold outputs'
        )
    if _is_inside(work_dir, bids_dir) and not _is_inside(work_dir, output_dir):
        raise UsageError(
            f'the work directory {work_dir} lies inside the dataset, which is never written to; '
            'name another with -w'
        )
    asked = settings.select.bids_database_dir
    database = Path(os.path.realpath(asked)) if asked else None
    if (
        database
        and _is_inside(database, bids_dir)
        and not _is_inside(database, bids_dir / 'derivatives')
    ):
        raise UsageError(
            f'--bids-database-dir {asked} lies inside the dataset, which is never written to; '
            'name another folder'
        )
    if work_dir == output_dir:
        raise UsageError(
            f'the work directory {work_dir} is the output folder; name another with -w'
        )
    check_output_folder(output_dir, work_dir)
    if settings.run.dry_run:
        return
    for what, folder in (('output folder', output_dir), ('work directory', work_dir)):
        _check_writable(what, folder)
    if settings.analysis_level != 'group':
        check_locks(output_dir)


def _is_inside(path: Path, folder: Path) -> bool:
    return folder in (path, *path.parents)


def _check_writable(what: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.probe-{uuid.uuid4().hex}'
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UsageError(
            f'the {what} {folder} cannot be written to ({e.strerror}); name another'
        ) from e


def _run(settings: Settings, command: str, run_level: RunLevel) -> int:
    if settings.run.dry_run:
        # Of the processes that torchrun starts, the first lists for all.
        return _dry_run(settings, run_level) if runtime.is_first_process() else 0
    asked = settings
    own = replace(settings.run, work_dir=runtime.own_work_dir(settings))
    settings = replace(settings, run=own)
    # torchrun starts several processes, of which the first logs for all.
    first = runtime.is_first_process()
    if settings.run.clean_workdir and first:
        shutil.rmtree(settings.run.work_dir, ignore_errors=True)
    # It may be of another user.
    _check_writable('folder of this dataset in the work directory', settings.run.work_dir)
    runtime.prepare_environment(settings)
    run_id = f'{time.strftime("%Y%m%d-%H%M%S")}_{uuid.uuid4()}'
    root = settings.output_dir if first else settings.run.work_dir
    logs = Layout(root).run(run_id)
    if not first:
        runtime.silence_terminal()
    logs.folder.mkdir(parents=True)
    if first:
        leave_out_of_bids(asked.run.work_dir, settings.output_dir)
    write_atomically(logs.settings, to_toml(_with_model(asked)))
    write_atomically(logs.command, f'ddae-app {command}\n')
    runtime.log_to_file(logs.log)
    log.info('ddae-app %s, run %s', __version__, run_id)
    log.debug('command: ddae-app %s', command)
    try:
        return run_level(settings, logs)
    except StopRequest as stop:
        stop.resumes = not settings.table.features
        raise


def _with_model(settings: Settings) -> Settings:
    """The settings that repeat a run where the environment names no model, or another."""
    asked = settings.harmonize
    if settings.analysis_level == 'train' or asked.model or settings.table.features:
        return settings
    return replace(settings, harmonize=replace(asked, model=runtime.default_model()))


def _dry_run(settings: Settings, run_level: RunLevel) -> int:
    """List what a run would do; files are written only into a temporary folder."""
    if settings.analysis_level == 'group':
        raise UsageError('--dry-run: the group level has nothing to list; leave the flag out')
    try:
        temporary_folder = tempfile.TemporaryDirectory()
    except OSError as e:
        raise UsageError(
            f'no folder for temporary files can be written to ({e.strerror}); set TMPDIR to one '
            'that can'
        ) from e
    with temporary_folder as folder:
        temporary = replace(settings.run, work_dir=Path(folder), clean_workdir=False)
        settings = replace(settings, run=temporary)
        runtime.prepare_environment(settings)
        return run_level(settings, RunFiles(Path(folder)))


def _run_level_apart(settings: Settings, logs: RunFiles) -> int:
    with runtime.scratch(settings.run.work_dir.resolve()):
        return run_apart(
            lambda: _report(lambda: _run_level_here(settings, logs), settings.output_dir)
        )


def _run_level_here(settings: Settings, logs: RunFiles) -> int:
    started = time.monotonic()
    runtime.reserve_linear_algebra()
    code = _run_level(settings, logs)
    if not settings.run.dry_run:
        log.info('finished in %.0f s with exit code %d', time.monotonic() - started, code)
    return code


def _run_level(settings: Settings, logs: RunFiles) -> int:
    # Imported here so that --help and usage errors do not wait for torch and nipype.
    if settings.table.features:
        from ddae_app.levels.features.run import list_feature_targets, run_features

        if _asks_for_targets(settings):
            return list_feature_targets(settings)
        return run_features(settings, logs)
    if settings.analysis_level == 'participant':
        from ddae_app.levels.participant.calibration import calibrate_first
        from ddae_app.levels.participant.level import run_participant
        from ddae_app.levels.participant.targets import list_targets

        default = runtime.default_model()
        if _asks_for_targets(settings):
            return list_targets(settings, default)
        settings, selected = calibrate_first(settings, logs, default)
        return run_participant(settings, logs, default, selected)
    if settings.analysis_level == 'train':
        from ddae_app.levels.train.level import run_train

        return run_train(settings, logs, runtime.processes_per_node(os.environ))
    from ddae_app.levels.group.level import run_group

    return run_group(settings, runtime.default_model())
