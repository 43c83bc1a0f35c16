"""Processes that end when they are asked to, whatever they do, and leave no other behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable

import psutil

from ddae_app import files
from ddae_app.errors import MORE_MEMORY, DdaeError

STOP_SIGNALS: dict[int, str] = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated'}
"""Signals that ask the program to stop, and how the log names them."""

GRACE = 3.0
"""Seconds that processes have to remove what they were writing, before they are killed."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of the system call ``prctl`` of Linux: a signal on the death of the parent, and to be
the parent of all whose parent died."""


class StopRequest(BaseException):  # noqa: N818 - like KeyboardInterrupt, it is no error
    """A user at a terminal or a batch system asked the program to stop.

    Attributes
    ----------
    number : int
        The signal, one of ``STOP_SIGNALS``.
    resumes : bool
        Whether the same command goes on where this one was stopped.
    """

    def __init__(self, number: int) -> None:
        self.number, self.resumes = number, True

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, which is the convention of shells."""
        return 128 + self.number

    def __str__(self) -> str:
        return STOP_SIGNALS[self.number]


def run_apart(work: Callable[[], int]) -> int:
    """Do work in a process of its own, and end it and all that it started on a stop signal.

    Neither an exception nor a thread can stop a process that computes: the handlers of Python
    run only when a call of a library returns, and nipype takes what they raise for the failure
    of a step. Another process can.

    Parameters
    ----------
    work : callable
        Returns an exit code. Nothing that has threads may have been imported yet.

    Returns
    -------
    int
        What `work` returned, or 1 if it raised, after its traceback.

    Raises
    ------
    StopRequest
        A handler of this process raised it, or somebody asked the other process to stop.
    DdaeError
        The other process was killed, or crashed.
    """
    own = os.getpid()
    _set_option(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    child = os.fork()
    if child == 0:
        end_when_asked(parent=own)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        _exit_with(work)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        _, status = os.waitpid(child, 0)
    finally:
        _end_children()
    code = os.waitstatus_to_exitcode(status)
    if code - 128 in STOP_SIGNALS:
        raise StopRequest(code - 128)
    if code == -signal.SIGKILL:
        raise DdaeError(f'the run was killed, most likely for lack of memory; {MORE_MEMORY}')
    if code < 0:
        raise DdaeError(
            f'the run crashed with {signal.Signals(-code).name} in a library; run the same '
            'command again, and report it if that happens again'
        )
    return code


def end_when_asked(parent: int) -> None:
    """Let this process end on SIGTERM and with its parent, without a word and nothing torn.

    SIGINT is ignored: a terminal sends it to all processes, and the first one ends the others.

    Parameters
    ----------
    parent : int
        Process id of the parent; where it has ended already, so does this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    _set_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end(number: int, frame: object) -> None:
    files.discard_unfinished()
    os._exit(128 + number)


def _exit_with(work: Callable[[], int]) -> None:
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        # Neither waits for threads nor returns into what the parent was doing.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _end_children() -> None:
    """End all processes that this one started, and those that they started."""
    own = psutil.Process()
    for end in psutil.Process.terminate, psutil.Process.kill:
        children = own.children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                # Python's resource tracker ends by itself, after removing what others left.
                if 'resource_tracker' not in ' '.join(child.cmdline()):
                    end(child)
        psutil.wait_procs(children, timeout=GRACE)


def _set_option(option: int, value: int) -> None:
    """Set an option of this process, where the operating system has such."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
