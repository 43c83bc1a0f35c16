"""A run ends within seconds when it is asked to, whatever it does, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

SOON = 20
"""Seconds; the tests themselves may have to wait for a busy machine."""

PROGRAM = """
import ctypes, itertools, subprocess, sys, time
from pathlib import Path
from ddae_app.cli.runtime import stop_signals
from ddae_app.files import staged
from ddae_app.processes import StopRequest, run_apart

folder = Path(sys.argv[1])

def begun():
    (folder / 'begun').touch()

def python():
    begun()
    while True:
        time.sleep(0.01)

def library():
    begun()
    ctypes.CDLL(None).sleep(1000)

def library_that_holds_the_interpreter():  # no handler or thread runs meanwhile; so does ANTs
    begun()
    sum(itertools.repeat(0))

def writing():
    with staged(folder / 'image') as temporary:
        temporary.write_text('half an im')
        python()

def children():
    for command in ('sleep 1000', 'trap "" TERM INT; touch begun; while :; do sleep 1; done'):
        subprocess.Popen(['sh', '-c', command], cwd=folder)
    time.sleep(1000)

def catching():  # as nipype does
    while True:
        try:
            python()
        except BaseException:
            (folder / 'failed').touch()

def step():
    import nipype
    from nipype.interfaces.utility import Function
    from nipype.pipeline import engine as pe
    from ddae_app.bids.layout import RunFiles
    from ddae_app.engine.run import run_workflow
    from ddae_app.settings import RunSettings

    class Scan:
        stem = workflow = 'scan'

    def block(folder):
        import itertools, pathlib
        (pathlib.Path(folder) / 'begun').touch()
        sum(itertools.repeat(0))

    node = pe.Node(Function(function=block, input_names=['folder']), name='block')
    node.inputs.folder = str(folder)
    inner = pe.Workflow('scan')
    inner.add_nodes([node])
    outer = pe.Workflow('all')
    outer.add_nodes([inner])
    settings = RunSettings(work_dir=folder / 'work', nprocs=int(sys.argv[3]))
    logs = RunFiles(folder / 'logs')
    logs.folder.mkdir()
    return len(run_workflow(lambda scans: outer, [Scan()], settings, logs))

if __name__ == '__main__':
    with stop_signals():
        try:
            sys.exit(run_apart(globals()[sys.argv[2]]))
        except StopRequest as stop:
            print(stop)
            sys.exit(stop.exit_code)
"""


@pytest.fixture
def begin(tmp_path):
    """Start a program, and wait until it does what it is to be stopped in."""
    (tmp_path / 'program.py').write_text(PROGRAM)
    processes = []
    # A program in the background, as this one may be, ignores it, and so do those that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def started(*what):
        command = [sys.executable, tmp_path / 'program.py', tmp_path, *map(str, what)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        while not (tmp_path / 'begun').exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        return process

    yield started
    signal.signal(signal.SIGINT, before)
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive(family):
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


ACTIVITIES = [
    ('python',), ('library',), ('library_that_holds_the_interpreter',), ('writing',),
    ('children',), ('catching',), ('step', 1), ('step', 2),
]  # fmt: skip


# Batch systems ask one process or all, a terminal asks all.
@pytest.mark.parametrize(
    ('number', 'whole_group'),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)],
)
@pytest.mark.parametrize('what', ACTIVITIES, ids=lambda what: '-'.join(map(str, what)))
def test_stopped_in_the_middle(begin, tmp_path, number, what, whole_group):
    process = begin(*what)
    family = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    for _ in range(3):  # a second signal does not disturb the first
        (os.killpg if whole_group else os.kill)(process.pid, number)
        time.sleep(0.05)
    said = process.communicate(timeout=SOON)[0]
    assert time.monotonic() - started < SOON
    assert process.returncode == 128 + number, said
    word = 'terminated' if number == signal.SIGTERM else 'interrupted'
    assert word in said and 'Traceback' not in said
    assert family and alive(family) == []
    assert not list(tmp_path.rglob('.tmp-*')) and not list(tmp_path.rglob('crash-*'))
    assert not (tmp_path / 'image').exists() and not (tmp_path / 'failed').exists()


@pytest.mark.parametrize('what', ACTIVITIES, ids=lambda what: '-'.join(map(str, what)))
def test_killed_with_its_first_process(begin, what):
    """As a batch system does at last, which kills the process that it started."""
    if what == ('children',):
        pytest.skip('programs of others do not end with their parent')
    process = begin(*what)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    gone, _ = psutil.wait_procs(family, timeout=SOON)
    assert family and alive(family) == []


def test_a_killed_run_says_so(begin):
    process = begin('python')
    (run,) = psutil.Process(process.pid).children()
    run.kill()
    said = process.communicate(timeout=SOON)[0]
    assert process.returncode == 1 and 'the run was killed, most likely for lack of memory' in said


def test_a_run_that_alone_is_asked_to_stop(begin):
    process = begin('python')
    (run,) = psutil.Process(process.pid).children()
    run.terminate()
    said = process.communicate(timeout=SOON)[0]
    assert process.returncode == 143 and 'terminated' in said
