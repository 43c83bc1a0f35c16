"""Running a workflow: progress in the log, and one line for each scan that failed."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import nipype
import yaml
from nipype.pipeline import engine as pe
from nipype.pipeline import plugins

from ddae_app.bids.layout import RunFiles
from ddae_app.engine.plugin import SteadyPool, frozen_heap, monotonic_clock
from ddae_app.errors import UsageError, lack_of_memory
from ddae_app.settings import RunSettings

log = logging.getLogger('ddae_app')


class Unit(Protocol):
    """What a workflow processes independently of others: a scan, or a site."""

    @property
    def stem(self) -> str:
        """Its name in the log."""

    @property
    def workflow(self) -> str:
        """Name of its sub-workflow."""


Key = TypeVar('Key', bound=Unit)

STEPS = {
    'conform': 'conform',
    'register_mni': 'register to MNI',
    'correct_bias': 'correct bias field',
    'extract_brain': 'extract brain',
    'measure_appearance': 'measure site appearance',
    'harmonize': 'harmonize',
    'bring_back': 'bring back to its own space',
}
"""Nodes whose end is reported."""

WRITES = {
    'ds_preproc': 'write the preprocessed image',
    'ds_harmonized': 'write the harmonized image',
}
"""Nodes that are reported only if they fail: they take no time."""

TAKEN = re.compile(r'^File(NotFound|Exists)Error.*_unfinished\.json')
"""The file that nipype has while it runs a step, which another run has removed or made."""

ANOTHER_RUN = 'another run works on this scan in the same work directory'

OUR_ERROR = re.compile(r'ddae_app\.errors\.\w+: (.+)')

SCANS_PER_PROCESS = 16
"""How many scans nipype is given at a time.

It runs one step of all scans before the next step of any, and searches all that is left five
times a second. Given thousands of scans, it would finish none for hours.
"""

ROOM_MB = 200
"""What a process needs of the work directory: images of a step, and the fields that ANTs writes
while it registers."""


def run_workflow(
    build: Callable[[Sequence[Key]], pe.Workflow],
    scans: Sequence[Key],
    run: RunSettings,
    logs: RunFiles,
) -> dict[Key, str]:
    """Run the workflows of independent scans, or sites, to their end, some after others.

    Parameters
    ----------
    build : callable
        Makes a workflow of some of the scans: one sub-workflow per scan, named by its
        ``workflow``. Only those that are run together are built together, since nipype compares
        what is added to a workflow with all that is in it.
    scans : sequence of Unit
        The scans, or sites.
    run : RunSettings
        Processes, memory and what to do when a scan fails.
    logs : RunFiles
        For crash files.

    Returns
    -------
    dict of Unit to str
        The reason of each that failed, in one line.
    """
    _check_room(run)
    if run.write_graph:
        _write_graph(_configured(build(scans), run, logs), logs)
    # A plugin of the user, for example of a batch system, is given all scans at once.
    at_once = len(scans) if run.use_plugin else run.nprocs * SCANS_PER_PROCESS
    failures: dict[Key, str] = {}
    for first in range(0, len(scans), at_once):
        some = scans[first : first + at_once]
        if first:
            log.info('%d of %d scans processed', first, len(scans))
        failures |= _run(_configured(build(some), run, logs), some, run, logs)
        if failures and run.stop_on_first_crash:
            break
    return failures


def _run(
    workflow: pe.Workflow, scans: Sequence[Key], run: RunSettings, logs: RunFiles
) -> dict[Key, str]:
    plugin, arguments = _plugin(run, scans)
    before = set(logs.crashes())
    try:
        with monotonic_clock(), frozen_heap():
            workflow.run(plugin=plugin, plugin_args=arguments)
    except Exception as e:
        # Nipype raises once at the end, whatever failed; the crash files hold the reasons.
        failures = _failures(scans, set(logs.crashes()) - before)
        if not failures and run.use_plugin:
            log.debug('--use-plugin', exc_info=True)
            raise UsageError(
                f'--use-plugin {run.use_plugin}: {_named(e)}; details in {logs.log}'
            ) from e
        if not failures:
            raise
        log.debug('nipype: %s', e)
        return failures
    return {}


def _write_graph(workflow: pe.Workflow, logs: RunFiles) -> None:
    try:
        workflow.write_graph(str(logs.graph), graph2use='colored', simple_form=True, format='svg')
    except OSError as e:
        # The graph itself is written before it is drawn.
        log.warning(
            '--write-graph: %s was written, but not drawn (%s); install Graphviz, and draw it '
            'with dot -Tsvg', logs.graph, e,
        )  # fmt: skip


def _check_room(run: RunSettings) -> None:
    folder = run.work_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = ROOM_MB * run.nprocs, shutil.disk_usage(folder).free / 1e6
    if free < needed:
        raise UsageError(
            f'the work directory {folder} has {free:.0f} MB of free space, and the steps write '
            f'files of {needed} MB at the same time; free some, name another with -w, or lower '
            '--nprocs'
        )


def _configured(workflow: pe.Workflow, run: RunSettings, logs: RunFiles) -> pe.Workflow:
    workflow.base_dir = str(run.work_dir.resolve())
    workflow.config['execution'] = {
        'crashdump_dir': str(logs.folder),
        'crashfile_format': 'txt',
        # Times of files change when a dataset is copied; contents do not.
        'hash_method': 'content',
        'poll_sleep_duration': 0.2,
        'stop_on_first_crash': str(run.stop_on_first_crash).lower(),
        'check_version': 'false',
        # Pages of each step, and of each workflow, which jobs that share a folder would write at
        # once.
        'create_report': 'false',
    }
    workflow.config['monitoring'] = {'enabled': str(run.resource_monitor).lower()}
    nipype.config.update_config({'monitoring': workflow.config['monitoring']})
    if run.resource_monitor:
        nipype.config.enable_resource_monitor()
    return workflow


def _plugin(run: RunSettings, scans: Sequence[Unit]) -> tuple[Any, dict[str, Any]]:
    callback = {'status_callback': _Narrator(scans)}
    if run.use_plugin is not None:
        return _plugin_of_user(run.use_plugin, callback)
    if run.nprocs == 1:
        return 'Linear', callback
    arguments: dict[str, Any] = callback | {
        'n_procs': run.nprocs,
        # Most steps of a scan follow each other, and a process takes longer to start than those
        # that do not.
        'n_workers': min(run.nprocs, len(scans)),
        'raise_insufficient': False,
        # A forked child of a process that has used torch or ITK may hang; a new one does not.
        'mp_context': 'spawn',
    }
    if run.mem_mb:
        arguments['memory_gb'] = run.mem_mb / 1000
    try:
        return SteadyPool(plugin_args=arguments), arguments
    except OSError as e:
        raise UsageError(
            f'--nprocs {run.nprocs}: processes cannot be synchronized here ({e.strerror}); let '
            '/dev/shm be writable, with some megabytes of room, or give --nprocs 1'
        ) from e


def _plugin_of_user(file: Path, callback: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The plugin of nipype that a file names, with its arguments."""
    try:
        content = yaml.safe_load(file.read_text())
        name, arguments = content['plugin'], dict(content.get('plugin_args') or {}) | callback
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as e:
        raise UsageError(
            f'--use-plugin {file}: expected YAML with "plugin" and "plugin_args" ({e})'
        ) from e
    kind = getattr(plugins, f'{name}Plugin', None)
    if kind is None:
        known = ', '.join(n[:-6] for n in sorted(vars(plugins)) if n.endswith('Plugin'))
        raise UsageError(f'--use-plugin {file}: nipype has no plugin {name!r}; it has {known}')
    try:
        return kind(plugin_args=arguments), arguments
    except Exception as e:  # whatever a plugin makes of arguments, or of libraries that it needs
        raise UsageError(
            f'--use-plugin {file}: the plugin {name} cannot be made with these arguments '
            f"({_named(e)}); the page of nipype's plugins says what it takes"
        ) from e


def _named(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())


class _Narrator:
    """Logs what has been done, as nipype reports it."""

    def __init__(self, scans: Sequence[Unit]) -> None:
        self.scans = {scan.workflow: scan for scan in scans}
        self.started: dict[str, float] = {}

    def __call__(self, node: Any, status: str) -> None:
        parts = str(node.fullname).split('.')
        scan = next((self.scans[part] for part in parts if part in self.scans), None)
        name = parts[-1]
        step = STEPS.get(name) or WRITES.get(name)
        if scan is None or step is None:
            return
        if status == 'start':
            self.started[node.fullname] = time.monotonic()
        elif status == 'end':
            # Steps after one that failed end as well, without having been started.
            if node.fullname in self.started and name in STEPS:
                seconds = time.monotonic() - self.started[node.fullname]
                log.info('%s: %s (%.0f s)', scan.stem, step, seconds)
        else:
            log.warning('%s: %s failed', scan.stem, step)


@dataclass(frozen=True)
class Crashes:
    """What nipype wrote of the steps that failed in some runs; each file is read once.

    Attributes
    ----------
    runs : sequence of RunFiles
        The latest first.
    """

    runs: Sequence[RunFiles]

    def of(self, scan: Unit) -> tuple[RunFiles, Path] | None:
        """The latest run in which a step of a scan failed, and the file that says so."""
        return self._by_workflow.get(scan.workflow)

    @cached_property
    def _by_workflow(self) -> dict[str, tuple[RunFiles, Path]]:
        found: dict[str, tuple[RunFiles, Path]] = {}
        for run in self.runs:
            for file in run.crashes():
                text = ''
                with suppress(OSError):  # a folder of that name, or it was removed meanwhile
                    text = file.read_text(errors='replace')
                for part in _node_of(text)[:-1]:
                    found.setdefault(part, (run, file))
        return found


def _node_of(crash: str) -> list[str]:
    """The workflows that held the node of which a crash file tells, and its name."""
    node = re.search(r'^Node: (\S+)', crash, re.MULTILINE)
    return node[1].split('.') if node else []


def crash_reason(path: Path) -> str:
    """The reason in a crash file, in one line."""
    text = path.read_text(errors='replace')
    ours = OUR_ERROR.findall(text)
    if ours:
        return ours[-1].strip()
    node = re.search(r'^Node: (?:\S+\.)?(\S+)', text, re.MULTILINE)
    last = (text.strip().splitlines() or ['unknown'])[-1].strip()
    step = node[1] if node else 'unknown'
    if lacking := lack_of_memory(text):
        return f'step {step}: {lacking}'
    if TAKEN.search(last):
        return (
            f'step {step}: {ANOTHER_RUN}; run the same command again when it has ended, or give '
            'another work directory with -w'
        )
    return f'step {step} failed unexpectedly ({last}); details in {path}'


def is_taken(reason: str) -> bool:
    """Whether a scan failed since another run works on it, which says what becomes of it."""
    return ANOTHER_RUN in reason


def _failures(scans: Sequence[Key], crashes: set[Path]) -> dict[Key, str]:
    by_workflow = {scan.workflow: scan for scan in scans}
    failures: dict[Key, str] = {}
    for path in sorted(crashes):
        parts = _node_of(path.read_text(errors='replace'))
        scan = next((by_workflow[part] for part in parts if part in by_workflow), None)
        if scan is not None:
            failures[scan] = crash_reason(path)
    return failures
