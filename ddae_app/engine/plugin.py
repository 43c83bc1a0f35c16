"""Nipype's pool of processes, which continues where one of them is killed."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins import base
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer

from ddae_app.errors import MORE_MEMORY, WorkerKilledError
from ddae_app.processes import end_when_asked


@contextmanager
def monotonic_clock() -> Iterator[None]:
    """Let nipype's plugins measure time by a clock that is never set back.

    Between two polls, every plugin sleeps until a time of day; where the system
    clock is set back meanwhile, that can be hours.
    """
    time_of_day = base.time
    base.time = time.monotonic
    try:
        yield
    finally:
        base.time = time_of_day


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Let the garbage collector pass over all objects that are there already.

    Nipype's pool runs it before each step that it hands out, and the libraries of this program
    have so many objects that this takes longer than the shorter steps.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class SteadyPool(MultiProcPlugin):
    """MultiProc that survives the death of a worker.

    A process that the kernel kills, most often for lack of memory, breaks Python's pool, and
    nipype then waits for its result for ever. Here the steps that were being done fail, with the
    reason, and the others are done in a new pool. Of ``n_procs``, by which steps are counted,
    ``n_workers`` are started as processes; by default all.
    """

    pool: ProcessPoolExecutor

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool.shutdown()  # no process of it was started yet
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=self.plugin_args.get('n_workers', self.processors),
            initializer=_begin,
            initargs=(self._cwd,),
            mp_context=multiprocessing.get_context(self.plugin_args.get('mp_context')),
        )

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        try:
            return super()._submit_job(node, updatehash)
        except BrokenProcessPool:
            self.pool = self._new_pool()
            return super()._submit_job(node, updatehash)

    def _async_callback(self, args: Future) -> None:
        if not args.cancelled() and args.exception() is None:
            super()._async_callback(args)

    def _get_result(self, taskid: int) -> Any:
        future = self._task_obj.get(taskid)
        error = future.exception() if future is not None and future.done() else None
        if isinstance(error, BrokenProcessPool):
            error = WorkerKilledError(
                'a process was killed in the middle of this step, most likely for lack of memory; '
                + MORE_MEMORY
            )
        if error is not None:
            # Returned as by nipype's workers; nipype does not handle an error that is raised here.
            return {'taskid': taskid, 'result': None, 'traceback': format_exception(error)}
        return super()._get_result(taskid)


def _begin(cwd: str) -> None:
    """What a worker does first."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    end_when_asked(parent.pid)
    process_initializer(cwd)
