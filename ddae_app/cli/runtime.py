"""The process that a run lives in: signals, environment variables, threads and logging."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from ddae_app import __version__
from ddae_app.bids.layout import Layout
from ddae_app.errors import UsageError
from ddae_app.files import digest_of, write_atomically
from ddae_app.processes import STOP_SIGNALS, StopRequest
from ddae_app.settings import Settings, absolute

log = logging.getLogger('ddae_app')

# Every process of a run reads it. Nipype's own messages are in its crash files.
_NIPYPE_CONFIG = '[logging]\n' + ''.join(
    f'{name}_level = CRITICAL\n' for name in ('workflow', 'interface', 'utils')
)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Raise :class:`StopRequest` when a signal asks the program to stop, while this is open.

    Signals reach the main thread alone. In another one, of a program that calls this one, they
    stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup, and shells for jobs in the background, ignore it
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            # After a request to stop, further ones stay ignored until the process has ended.
            if signal.getsignal(number) == _stop:
                signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    # A signal to a whole group of processes can reach this one twice, but one is enough.
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise StopRequest(number)


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


def own_work_dir(settings: Settings) -> Path:
    """The folder of a dataset and an output folder in the work directory that was asked for.

    Nipype knows a scan by its labels alone, and other datasets have people of the same labels.
    In containers even the paths of two datasets are the same; the numbers of their folders in
    the file system are not.
    """
    output_dir, bids_dir = settings.output_dir.resolve(), settings.bids_dir.resolve()
    digest = sha256(__version__.encode())
    for folder in bids_dir, output_dir:
        digest.update(f'\0{folder}\0{folder.stat().st_ino}'.encode())
    digest.update(f'\0{digest_of(Layout(bids_dir).description)}'.encode())
    return settings.run.work_dir.resolve() / f'{output_dir.name}-{digest.hexdigest()[:12]}'


@contextlib.contextmanager
def scratch(work_dir: Path) -> Iterator[None]:
    """Let libraries keep temporary files in the work directory, and remove them at the end.

    ANTs writes images of many megabytes, for which the usual folder may be too small; and a
    process that is killed removes nothing.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix='tmp-', dir=work_dir)
    os.environ['TMPDIR'] = tempfile.tempdir = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        # It is not used, and warns where processes cannot be synchronized.
        'JOBLIB_MULTIPROCESSING': '0',
        # By default, matplotlib writes into the home directory.
        'MPLCONFIGDIR': str(work_dir / 'matplotlib'),
        # By default, numba writes into its installation, which a container image forbids.
        'NUMBA_CACHE_DIR': str(work_dir / 'numba'),
        # By default, nipype makes a folder in the home directory, which may not be writable.
        'NIPYPE_CONFIG_DIR': str(work_dir / 'nipype'),
        # Python's resource tracker says so where it tidies up after a run that was stopped.
        'PYTHONWARNINGS': ','.join(
            filter(None, (os.environ.get('PYTHONWARNINGS'), 'ignore:resource_tracker'))
        ),
    }
    # The user of a container may be none that its system knows, or one whose home is of another;
    # libraries look there on import.
    try:
        home = os.access(Path.home(), os.X_OK)
    except RuntimeError:
        home = False
    if not home:
        os.environ['HOME'] = str(work_dir)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    # Containers and services may not set it, and nipype's plugins of batch systems read no other.
    os.environ.setdefault('LOGNAME', user)
    write_atomically(work_dir / 'nipype' / 'nipype.cfg', _NIPYPE_CONFIG)
    # nnU-Net prints warnings where these are missing, although prediction does not need them.
    for name in ('nnUNet_raw', 'nnUNet_preprocessed', 'nnUNet_results'):
        os.environ.setdefault(name, str(work_dir))


def reserve_linear_algebra() -> None:
    """Let OpenBLAS take the memory that it works in, while there is some.

    It takes it at its first use and keeps it, and where it is refused then, tries again for ever.
    """
    import numpy as np

    np.linalg.inv(np.eye(4))


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
