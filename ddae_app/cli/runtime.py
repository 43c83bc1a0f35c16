"""The process that a run lives in: signals, environment variables, threads and logging."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from ddae_app.errors import UsageError
from ddae_app.files import write_atomically
from ddae_app.settings import Settings, absolute

log = logging.getLogger('ddae_app')

STOP_SIGNALS: dict[int, str] = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated'}
"""Signals that ask the program to stop, and how the log names them."""

# Every process of a run reads it. Nipype's own messages are in its crash files.
_NIPYPE_CONFIG = '[logging]\n' + ''.join(
    f'{name}_level = CRITICAL\n' for name in ('workflow', 'interface', 'utils')
)


class StopRequest(BaseException):  # noqa: N818 - like KeyboardInterrupt, it is no error
    """A user at a terminal or a batch system asked the program to stop.

    Attributes
    ----------
    number : int
        The signal, one of ``STOP_SIGNALS``.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, which is the convention of shells."""
        return 128 + self.number

    def __str__(self) -> str:
        return STOP_SIGNALS[self.number]


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Raise :class:`StopRequest` when a signal asks the program to stop, while this is open."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup, and shells for jobs in the background, ignore it
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    # A signal to a whole group of processes can reach this one twice, but one is enough.
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise StopRequest(number)


def kill_children() -> None:
    """End the processes of the pool, because a scheduler sends its second signal to kill."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            # Python's resource tracker ends by itself and complains if it is killed.
            if 'resource_tracker' not in ' '.join(child.cmdline()):
                child.kill()


def is_first_process() -> bool:
    """Whether this is the only process of the run, or the first of those that torchrun starts."""
    return os.environ.get('RANK', '0') == '0'


def processes_per_node(environment: Mapping[str, str]) -> int:
    """How many processes torchrun started on this node; 1 without torchrun."""
    return int(environment.get('LOCAL_WORLD_SIZE', '1'))


def default_model() -> Path | None:
    """The model file that the environment variable DDAE_MODEL names, if any."""
    name = os.environ.get('DDAE_MODEL')
    return absolute(name, 'DDAE_MODEL') if name else None


def container(environment: Mapping[str, str]) -> dict[str, str]:
    """``Container`` in BIDS's ``GeneratedBy``; empty outside of an image of ddae-app.

    The images set DDAE_CONTAINER_TAG. Nothing inside an image knows its digest, so those who start
    it may say it in DDAE_CONTAINER_DIGEST.

    Raises
    ------
    UsageError
        The digest is none.
    """
    tag, digest = (environment.get(f'DDAE_CONTAINER_{name}') for name in ('TAG', 'DIGEST'))
    if not tag:
        return {}
    if digest and not re.fullmatch('sha256:[0-9a-f]{64}', digest):
        raise UsageError(
            f'DDAE_CONTAINER_DIGEST is {digest!r}; expected sha256: and 64 hexadecimal digits'
        )
    # Apptainer also runs images that were built for Docker.
    apptainer = {'APPTAINER_CONTAINER', 'SINGULARITY_CONTAINER'} & set(environment)
    uri = {'URI': f'docker://{tag.partition(":")[0]}@{digest}'} if digest else {}
    return {'Type': 'apptainer' if apptainer else 'docker', 'Tag': tag, **uri}


def empty_folder(folder: Path) -> None:
    """Delete everything in a folder; links are deleted, and what they point to stays."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def prepare_environment(settings: Settings) -> None:
    """Set threads, seeds and folders of libraries, for this process and those that it starts.

    Parameters
    ----------
    settings : Settings
        The number of threads, and the work directory, in which libraries keep their files.
    """
    threads, work_dir = str(settings.run.omp_nthreads), settings.run.work_dir.resolve()
    os.environ |= {
        # ANTs gives the same result twice only on one thread and with this seed. It reads both
        # when it is loaded.
        'ANTS_RANDOM_SEED': '14193',
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': '1',
        'OMP_NUM_THREADS': threads,
        'MKL_NUM_THREADS': threads,
        'OPENBLAS_NUM_THREADS': threads,
        'TEMPLATEFLOW_AUTOUPDATE': 'off',
        'NO_ET': '1',
        'NIPYPE_NO_ET': '1',
        'MPLBACKEND': 'Agg',
        # By default, matplotlib writes into the home directory.
        'MPLCONFIGDIR': str(work_dir / 'matplotlib'),
        # By default, numba writes into its installation, which a container image forbids.
        'NUMBA_CACHE_DIR': str(work_dir / 'numba'),
        # By default, nipype makes a folder in the home directory, which may not be writable.
        'NIPYPE_CONFIG_DIR': str(work_dir / 'nipype'),
    }
    write_atomically(work_dir / 'nipype' / 'nipype.cfg', _NIPYPE_CONFIG)
    # nnU-Net prints warnings where these are missing, although prediction does not need them.
    for name in ('nnUNet_raw', 'nnUNet_preprocessed', 'nnUNet_results'):
        os.environ.setdefault(name, str(work_dir))


def log_to_terminal(verbosity: int) -> None:
    """Write the program's log to standard error.

    Parameters
    ----------
    verbosity : int
        0 for messages of level INFO and above; more for DEBUG.
    """
    log.handlers = [logging.StreamHandler()]
    pattern = '%(message)s' if sys.stderr.isatty() else '%(asctime)s %(levelname)s %(message)s'
    log.handlers[0].setFormatter(_Terminal(pattern))
    log.handlers[0].setLevel(logging.DEBUG if verbosity else logging.INFO)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    # Lightning logs the precision that it was asked for, which the program logs as well.
    logging.getLogger('lightning_fabric').setLevel(logging.WARNING)


def silence_terminal() -> None:
    """Leave nothing but errors on standard error, where another process logs the same."""
    log.handlers[0].setLevel(logging.ERROR)


def log_to_file(path: Path) -> None:
    """Write the program's log, with all debug messages, to a file as well."""
    # On a full disk the log cannot be written either, and one traceback a line would not help.
    logging.raiseExceptions = False
    handler = logging.FileHandler(path)
    handler.setFormatter(_OneLine('%(asctime)s %(levelname)s %(message)s'))
    log.addHandler(handler)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return ' '.join(super().format(record).splitlines())


class _Terminal(_OneLine):
    """Errors have the form of those of argparse, so that all errors of the program look alike."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.ERROR:
            return f'ddae-app: error: {" ".join(record.getMessage().splitlines())}'
        return super().format(record)
