"""From a command line to an exit code; the only place that reads the environment."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from ddae_app import __version__
from ddae_app.bids.layout import RunFiles
from ddae_app.cli.parser import build_parser
from ddae_app.cli.values import default_nprocs
from ddae_app.errors import DdaeError, UsageError, lack_of_memory
from ddae_app.files import write_atomically
from ddae_app.settings import Settings, from_flat, read_flat, to_toml

log = logging.getLogger('ddae_app')

# Every process of a run reads it; what nipype has to say is in its crash files.
_NIPYPE_CONFIG = '[logging]\n' + ''.join(
    f'{name}_level = CRITICAL\n' for name in ('workflow', 'interface', 'utils')
)


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""What a disk says that is full or broken: no defect of the program."""


STOPS: dict[int, str] = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated'}
"""Signals that ask the program to end; it leaves with 128 and their number, as shells say it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ddae-app; returns its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; else those of the process.
    """
    arguments = vars(build_parser().parse_args(argv))
    _say_on_terminal(arguments.get('verbose_count', 0))
    before = {number: signal.getsignal(number) for number in STOPS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and shells ask for jobs in the background
            signal.signal(number, _stop)
    try:
        return _run(resolve(arguments, os.environ), shlex.join(argv or sys.argv[1:]))
    except DdaeError as error:
        log.error('%s', error)
        return error.exit_code
    except _Stopped as stopped:
        _kill_children()
        log.error('%s; run the same command again to go on', STOPS[stopped.number])
        return 128 + stopped.number
    except Exception as error:
        lacking = _lacking(error, arguments.get('output_dir'))
        if lacking is None:
            raise
        log.error('%s', lacking)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lacking(error: Exception, output_dir: Path | None) -> str | None:
    """What the machine lacks, where an error is no more than that."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return (
            f'{error.filename or output_dir}: {error.strerror}; make room, and run the same '
            'command again to go on'
        )
    return lack_of_memory(f'{type(error).__name__}: {error}')


class _Stopped(BaseException):
    """Somebody at a terminal, or a batch system, asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def _kill_children() -> None:
    """End the processes of the pool: a scheduler that asks once kills the next time."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            # Python's own housekeeper ends by itself, and complains if it is killed.
            if 'resource_tracker' not in ' '.join(child.cmdline()):
                child.kill()


def _stop(number: int, frame: object) -> None:
    # Once is enough: whoever asks a whole group of processes may ask this one twice.
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def resolve(arguments: dict[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from flags, a settings file and the environment, in this order of weight.

    Raises
    ------
    UsageError
        A file that cannot be read, or values that cannot be.
    """
    given = dict(arguments)
    file = given.pop('config_file', None)
    values = (read_flat(file) if file else {}) | given
    nprocs = values.setdefault('nprocs', default_nprocs())
    if values['analysis_level'] == 'train':
        # torchrun starts several processes on a node, which share its CPUs.
        local = int(environment.get('LOCAL_WORLD_SIZE', '1'))
        values.setdefault('omp_nthreads', max(1, nprocs // local))
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
    settings = from_flat(values)
    settings = replace(
        settings,
        bids_dir=settings.bids_dir.absolute(),
        output_dir=settings.output_dir.absolute(),
    )
    _check_folders(settings)
    return settings


def _check_folders(settings: Settings) -> None:
    bids_dir, output_dir = settings.bids_dir.resolve(), settings.output_dir.resolve()
    work_dir = settings.run.work_dir.resolve()
    if not bids_dir.is_dir():
        raise UsageError(f'{settings.bids_dir}: no such folder; expected a BIDS dataset')
    if output_dir == bids_dir:
        raise UsageError(
            'the output folder is the dataset itself, which is never written to; name another, '
            f'for example {settings.bids_dir / "derivatives" / "ddae-app"}'
        )
    inside = output_dir.relative_to(bids_dir).parts if bids_dir in output_dir.parents else ()
    if inside and inside[0] != 'derivatives':
        raise UsageError(
            f'the output folder {output_dir} lies inside the dataset, which is never written to; '
            f'only {bids_dir / "derivatives"} may hold outputs'
        )
    if (work_dir == bids_dir or bids_dir in work_dir.parents) and output_dir not in (
        work_dir,
        *work_dir.parents,
    ):
        raise UsageError(
            f'the work directory {work_dir} lies inside the dataset, which is never written to; '
            'name another with -w'
        )
    if settings.run.clean_workdir:
        held = [f for f in (bids_dir, output_dir) if work_dir in (f, *f.parents)]
        if held:
            raise UsageError(
                f'--clean-workdir would delete {held[0]}, which lies in the work directory '
                f'{work_dir}; name another with -w'
            )
    if settings.run.dry_run:
        return
    for what, folder in (('output folder', output_dir), ('work directory', work_dir)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f'.probe-{uuid.uuid4().hex}'
            probe.touch()
            probe.unlink()
        except OSError as e:
            raise UsageError(
                f'the {what} {folder} cannot be written to ({e.strerror}); name another'
            ) from e


def _run(settings: Settings, command: str) -> int:
    if settings.run.dry_run:
        return _dry_run(settings)
    _prepare_environment(settings)
    if settings.run.clean_workdir and os.environ.get('RANK', '0') == '0':
        for entry in settings.run.work_dir.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    run_id = f'{time.strftime("%Y%m%d-%H%M%S")}_{uuid.uuid4()}'
    # Of the processes that torchrun starts, the first speaks for all.
    first = os.environ.get('RANK', '0') == '0'
    log_dir = (settings.output_dir if first else settings.run.work_dir.resolve()) / 'logs' / run_id
    if not first:
        log.handlers[0].setLevel(logging.ERROR)
    log_dir.mkdir(parents=True)
    write_atomically(log_dir / 'settings.toml', to_toml(settings))
    write_atomically(log_dir / 'command.txt', f'ddae-app {command}\n')
    _say_in_file(log_dir / 'ddae-app.log')
    log.info('ddae-app %s, run %s', __version__, run_id)
    log.debug('command: ddae-app %s', command)
    started = time.monotonic()
    code = _run_level(settings, log_dir)
    log.info('finished in %.0f s with exit code %d', time.monotonic() - started, code)
    return code


def _dry_run(settings: Settings) -> int:
    """What comes before the work; nothing is written but into a folder that does not stay."""
    if settings.analysis_level == 'group':
        raise UsageError('--dry-run: the group level has nothing to list; leave the flag out')
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = replace(settings.run, work_dir=Path(folder), clean_workdir=False)
        settings = replace(settings, run=elsewhere)
        _prepare_environment(settings)
        return _run_level(settings, Path(folder))


def _run_level(settings: Settings, log_dir: Path) -> int:
    # Imported here so that --help and wrong usage do not wait for torch and nipype.
    if settings.analysis_level == 'participant':
        from ddae_app.levels.participant.level import run_participant

        named = os.environ.get('DDAE_MODEL')
        return run_participant(settings, RunFiles(log_dir), Path(named) if named else None)
    if settings.analysis_level == 'train':
        from ddae_app.levels.train.level import run_train

        return run_train(settings, RunFiles(log_dir), int(os.environ.get('LOCAL_WORLD_SIZE', '1')))
    from ddae_app.levels.group.level import run_group

    named = os.environ.get('DDAE_MODEL')
    return run_group(settings, Path(named) if named else None)


def _prepare_environment(settings: Settings) -> None:
    """Threads, seeds and silence, for this process and those that it starts."""
    threads, work_dir = str(settings.run.omp_nthreads), settings.run.work_dir.resolve()
    os.environ |= {
        # ANTs gives the same result twice only on one thread and with this seed, both of which
        # it reads when it is loaded.
        'ANTS_RANDOM_SEED': '14193',
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': '1',
        'OMP_NUM_THREADS': threads,
        'MKL_NUM_THREADS': threads,
        'OPENBLAS_NUM_THREADS': threads,
        'TEMPLATEFLOW_AUTOUPDATE': 'off',
        'NO_ET': '1',
        'NIPYPE_NO_ET': '1',
        'MPLBACKEND': 'Agg',
        # Else matplotlib does so in the home directory.
        'MPLCONFIGDIR': str(work_dir / 'matplotlib'),
        # Else numba writes beside its own code, which an image does not allow.
        'NUMBA_CACHE_DIR': str(work_dir / 'numba'),
        # Else nipype makes a folder in the home directory, which may not be writable.
        'NIPYPE_CONFIG_DIR': str(work_dir / 'nipype'),
    }
    write_atomically(work_dir / 'nipype' / 'nipype.cfg', _NIPYPE_CONFIG)
    # nnU-Net complains on standard output where these are missing; it does not need them here.
    for name in ('nnUNet_raw', 'nnUNet_preprocessed', 'nnUNet_results'):
        os.environ.setdefault(name, str(work_dir))


def _say_on_terminal(verbosity: int) -> None:
    log.handlers = [logging.StreamHandler()]
    pattern = '%(message)s' if sys.stderr.isatty() else '%(asctime)s %(levelname)s %(message)s'
    log.handlers[0].setFormatter(_Terminal(pattern))
    log.handlers[0].setLevel(logging.DEBUG if verbosity else logging.INFO)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    # It says on its own which precision it was told to use.
    logging.getLogger('lightning_fabric').setLevel(logging.WARNING)


def _say_in_file(path: Path) -> None:
    # On a full disk the log cannot be written either, which is no reason for a trace a line.
    logging.raiseExceptions = False
    handler = logging.FileHandler(path)
    handler.setFormatter(_OneLine('%(asctime)s %(levelname)s %(message)s'))
    log.addHandler(handler)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return ' '.join(super().format(record).splitlines())


class _Terminal(_OneLine):
    """Errors look as those of argparse do, wherever they are read."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.ERROR:
            return f'ddae-app: error: {" ".join(record.getMessage().splitlines())}'
        return super().format(record)
