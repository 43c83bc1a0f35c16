"""Runs of the program as forks of one process, which has loaded its libraries.

To load torch, ANTs and nipype takes longer than most runs of the tests. A fork is a process of
its own: whatever a run does to its variables, its log or the libraries ends with it. That a new
process does the same, the tests see that start one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TextIO

LONGEST = 1_000_000
"""Bytes of a request: the arguments, the environment and the current folder of a run."""

NUMBER = struct.Struct('i')
"""How a process id and an exit code are sent."""


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, in the current folder."""
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        code = Job(arguments, environment, out.fileno(), err.fileno()).wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def start(arguments: list[str], environment: dict[str, str]) -> Job:
    """Start the program in the background, in the current folder, and throw its output away."""
    reader, writer = os.pipe()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    job = Job(arguments, environment, nowhere, writer)
    os.close(writer)
    os.close(nowhere)
    job.stderr = os.fdopen(reader)
    return job


class Job:
    """A run that may go on in the background; what it has in common with `Popen` is alike.

    Attributes
    ----------
    pid : int
    returncode : int or None
        None as long as nobody has seen it end.
    stderr : text file
        What it says, if it was started in the background.
    """

    stderr: TextIO

    def __init__(
        self, arguments: list[str], environment: dict[str, str], out: int, err: int
    ) -> None:
        asked = {'arguments': arguments, 'environment': environment, 'cwd': str(Path.cwd())}
        request = json.dumps(asked).encode() + b'\n'
        assert len(request) < LONGEST
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address())
        socket.send_fds(self._connection, [request], [out, err])
        self.pid = self._receive()
        self.returncode: int | None = None

    def _receive(self) -> int:
        return NUMBER.unpack(self._connection.recv(NUMBER.size, socket.MSG_WAITALL))[0]

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired('ddae-app', timeout or 0) from None
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float = 600) -> tuple[None, str]:
        """All that it says until it ends; it is killed if that takes longer, in seconds."""
        late = threading.Timer(timeout, self.kill)
        late.start()
        with self.stderr:
            said = self.stderr.read()
        late.cancel()
        self.wait()
        return None, said


@functools.cache
def _address() -> str:
    """Where the server listens, which is started for the first run and ends with this process."""
    folder = tempfile.mkdtemp(prefix='ddae-tests-')
    server = subprocess.Popen(
        [sys.executable, '-m', 'tests.levels.forked', folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,  # a group of its own, which can be ended as a whole
    )
    atexit.register(_end, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline() == b'ready\n', 'the libraries of the program do not load'
    return str(Path(folder) / 'socket')


def _end(server: subprocess.Popen[bytes], folder: str) -> None:
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()
    with contextlib.suppress(OSError):
        (Path(folder) / 'socket').unlink()
        Path(folder).rmdir()


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each request; ends with the process that started it, also where that is killed."""

    parent = os.getppid()
    request_queue_size = 64
    max_children = 64

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != self.parent:
            os.killpg(0, signal.SIGTERM)


class _Handler(socketserver.BaseRequestHandler):
    """In the fork: forks once more for the program, and answers with its number and exit code."""

    def handle(self) -> None:
        request, descriptors, _, _ = socket.recv_fds(self.request, LONGEST, 2)
        while not request.endswith(b'\n'):
            request += self.request.recv(LONGEST)
        child = os.fork()
        if child == 0:
            _become_program(json.loads(request), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self.request.sendall(NUMBER.pack(child))
        _, status = os.waitpid(child, 0)
        self.request.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _become_program(asked: dict, descriptors: list[int]) -> None:
    code = 1
    try:
        os.environ.clear()
        os.environ.update(asked['environment'])
        os.chdir(asked['cwd'])
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
        sys.argv = ['ddae-app', *asked['arguments']]
        runpy.run_module('ddae_app', run_name='__main__', alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _load() -> None:
    """Load every module of the program, with the variables that it sets before it does so."""
    import ddae_app
    from ddae_app.cli import runtime
    from ddae_app.settings import from_flat

    # Libraries read their settings here, and keep nothing.
    with tempfile.TemporaryDirectory() as folder:
        flags = {'bids_dir': folder, 'output_dir': folder, 'work_dir': folder}
        runtime.prepare_environment(from_flat(flags | {'analysis_level': 'participant'}))
        for module in pkgutil.walk_packages(ddae_app.__path__, 'ddae_app.'):
            if not module.name.endswith('__main__'):
                importlib.import_module(module.name)
        # What functions load, and what pybids and the program do at first use.
        for name in ('bids', 'nilearn.datasets', 'nilearn.image', 'torch'):
            importlib.import_module(name)
        importlib.import_module('sqlalchemy.orm').configure_mappers()
        templates = importlib.import_module('ddae_app.imaging.templates')
        templates.load_template('MNI152NLin2009aSym', None)
    # The garbage collector of a fork need not look at all of this, which would also copy it.
    gc.collect()
    gc.freeze()
    # A fork has none but the thread that forks.
    assert len(list(Path('/proc/self/task').iterdir())) == 1


if __name__ == '__main__':
    _load()
    with _Server(str(Path(sys.argv[1]) / 'socket'), _Handler) as listening:
        print('ready', flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        listening.serve_forever()
