"""Running a workflow: progress in words, and one line for each scan that failed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nipype
import yaml
from nipype.pipeline import engine as pe

from ddae_app.bids.layout import Scan
from ddae_app.engine.plugin import SteadyPool
from ddae_app.errors import UsageError, lack_of_memory
from ddae_app.settings import RunSettings

log = logging.getLogger('ddae_app')

STEPS = {
    'conform': 'conform',
    'register_mni': 'register to MNI',
    'correct_bias': 'correct bias field',
    'extract_brain': 'extract brain',
    'harmonize': 'harmonize',
    'ds_preproc': 'preprocessed',
    'ds_harmonized': 'harmonized',
}
"""Nodes whose end is worth a line."""

OUR_ERROR = re.compile(r'ddae_app\.errors\.\w+: (.+)')


SCANS_PER_PROCESS = 16
"""How many nipype is given at a time.

It does a step of all of them before the next step of any, and looks through all that is left five
times a second. Given thousands, it would finish none for hours, and be busy with itself.
"""


def run_workflow(
    workflow: pe.Workflow, scans: Sequence[Scan], run: RunSettings, log_dir: Path
) -> dict[Scan, str]:
    """Run a workflow of independent scans to its end, some scans after others.

    Parameters
    ----------
    workflow : pe.Workflow
        One sub-workflow per scan, named by `Scan.workflow`.
    scans : sequence of Scan
        The scans in it.
    run : RunSettings
        Processes, memory and what to do when a scan fails.
    log_dir : Path
        For crash files.

    Returns
    -------
    dict of Scan to str
        Why each scan that failed did, in one line.
    """
    _configure(workflow, run, log_dir)
    if run.write_graph:
        workflow.write_graph(
            str(log_dir / 'graph.dot'), graph2use='colored', simple_form=True, format='svg'
        )
    # A plugin of the user's, of a batch system perhaps, is given all that there is.
    at_once = len(scans) if run.use_plugin else run.nprocs * SCANS_PER_PROCESS
    failures: dict[Scan, str] = {}
    for first in range(0, len(scans), at_once):
        some = scans[first : first + at_once]
        if first:
            log.info('%d of %d scans worked on', first, len(scans))
        part = pe.Workflow(workflow.name, workflow.base_dir)
        part.config = workflow.config
        part.add_nodes([workflow.get_node(scan.workflow) for scan in some])
        failures |= _run(part, some, run, log_dir)
        if failures and run.stop_on_first_crash:
            break
    return failures


def _run(
    workflow: pe.Workflow, scans: Sequence[Scan], run: RunSettings, log_dir: Path
) -> dict[Scan, str]:
    plugin, arguments = _plugin(run, _Narrator(scans))
    before = set(log_dir.glob('crash-*.txt'))
    try:
        workflow.run(plugin=plugin, plugin_args=arguments)
    except Exception as e:
        # Nipype raises once at the end, for whatever failed; the crash files tell what.
        failures = _failures(scans, set(log_dir.glob('crash-*.txt')) - before)
        if not failures:
            raise
        log.debug('nipype: %s', e)
        return failures
    return {}


def _configure(workflow: pe.Workflow, run: RunSettings, log_dir: Path) -> None:
    workflow.base_dir = str(run.work_dir.resolve())
    workflow.config['execution'] = {
        'crashdump_dir': str(log_dir),
        'crashfile_format': 'txt',
        # Times of files change when a dataset is copied; contents do not.
        'hash_method': 'content',
        'poll_sleep_duration': 0.2,
        'stop_on_first_crash': str(run.stop_on_first_crash).lower(),
        'check_version': 'false',
    }
    workflow.config['monitoring'] = {'enabled': str(run.resource_monitor).lower()}
    nipype.config.update_config({'monitoring': workflow.config['monitoring']})
    if run.resource_monitor:
        nipype.config.enable_resource_monitor()


def _plugin(run: RunSettings, narrator: _Narrator) -> tuple[str | SteadyPool, dict[str, Any]]:
    told = {'status_callback': narrator}
    if run.use_plugin is not None:
        try:
            content = yaml.safe_load(run.use_plugin.read_text())
            return content['plugin'], dict(content.get('plugin_args') or {}) | told
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as e:
            raise UsageError(
                f'--use-plugin {run.use_plugin}: expected YAML with "plugin" and "plugin_args" '
                f'({e})'
            ) from e
    if run.nprocs == 1:
        return 'Linear', told
    arguments: dict[str, Any] = told | {
        'n_procs': run.nprocs,
        'raise_insufficient': False,
        # A forked child of a process that has used torch or ITK may hang; a new one does not.
        'mp_context': 'spawn',
    }
    if run.mem_mb:
        arguments['memory_gb'] = run.mem_mb / 1000
    return SteadyPool(plugin_args=arguments), arguments


class _Narrator:
    """Says what has been done, as nipype reports it."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        self.scans = {scan.workflow: scan for scan in scans}
        self.started: dict[str, float] = {}

    def __call__(self, node: Any, status: str) -> None:
        parts = str(node.fullname).split('.')
        scan = next((self.scans[part] for part in parts if part in self.scans), None)
        step = STEPS.get(parts[-1])
        if scan is None or step is None:
            return
        if status == 'start':
            self.started[node.fullname] = time.monotonic()
        elif status == 'end':
            # Steps after one that failed end as well, without having been started.
            if node.fullname in self.started:
                seconds = time.monotonic() - self.started[node.fullname]
                log.info('%s: %s (%.0f s)', scan.stem, step, seconds)
        else:
            log.warning('%s: %s failed', scan.stem, step)


def crash_file(scan: Scan, log_dir: Path) -> Path | None:
    """What nipype wrote of a scan that failed in this run, if a step of it did."""
    node = re.compile(rf'^Node: (\S+\.)?{re.escape(scan.workflow)}\.', re.MULTILINE)
    crashes = sorted(log_dir.glob('crash-*.txt'))
    return next((file for file in crashes if node.search(file.read_text(errors='replace'))), None)


def crash_reason(path: Path) -> str:
    """What a crash file says, in one line."""
    text = path.read_text(errors='replace')
    ours = OUR_ERROR.findall(text)
    if ours:
        return ours[-1].strip()
    node = re.search(r'^Node: (?:\S+\.)?(\S+)', text, re.MULTILINE)
    last = (text.strip().splitlines() or ['unknown'])[-1].strip()
    step = node[1] if node else 'unknown'
    if lacking := lack_of_memory(text):
        return f'step {step}: {lacking}'
    return f'step {step} failed unexpectedly ({last}); details in {path}'


def _failures(scans: Sequence[Scan], crashes: set[Path]) -> dict[Scan, str]:
    by_workflow = {scan.workflow: scan for scan in scans}
    found: dict[Scan, str] = {}
    for path in sorted(crashes):
        text = path.read_text(errors='replace')
        node = re.search(r'^Node: (\S+)', text, re.MULTILINE)
        parts = node[1].split('.') if node else []
        scan = next((by_workflow[part] for part in parts if part in by_workflow), None)
        if scan is not None:
            found[scan] = crash_reason(path)
    return found
