"""Scans are processed some after others, and one that fails does not affect any other."""

from __future__ import annotations

import errno
import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from nipype import Function
from nipype.pipeline import engine as pe

from ddae_app.bids.layout import RunFiles
from ddae_app.bids.scan import Scan
from ddae_app.engine import run as execution
from ddae_app.errors import UsageError
from ddae_app.settings import RunSettings


def note(step, file):
    """What a step of the toy workflow does; a second scan fails at its first."""
    from pathlib import Path  # nipype takes the function's text alone

    with Path(file).open('a') as stream:
        stream.write(f'{step}\n')
    if step == 'sub-2 first':
        raise ValueError('broken')
    return file


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Runs three scans of two steps each; what was done, in turn, and what failed."""

    def run(scans_per_process, **settings):
        monkeypatch.setattr(execution, 'SCANS_PER_PROCESS', scans_per_process)
        scans = [Scan(Path(f'sub-{i}_T1w.nii'), f'{i}', None, f'sub-{i}') for i in (1, 2, 3)]
        diary = tmp_path / 'diary.txt'
        asked = replace(RunSettings(work_dir=tmp_path / 'work', nprocs=1), **settings)
        failures = execution.run_workflow(
            lambda some: two_steps(some, diary), scans, asked, RunFiles(tmp_path)
        )
        return diary.read_text().splitlines(), {scan.stem: why for scan, why in failures.items()}

    return run


def two_steps(scans, diary):
    """A workflow of two steps for each scan."""
    workflow = pe.Workflow('ddae_wf')
    for scan in scans:
        steps = [
            pe.Node(Function(['step', 'file'], ['file'], note), name) for name in ('first', 'last')
        ]
        for node in steps:
            node.inputs.step = f'{scan.stem} {node.name}'
        steps[0].inputs.file = str(diary)
        part = pe.Workflow(scan.workflow)
        part.connect(steps[0], 'file', steps[1], 'file')
        workflow.add_nodes([part])
    return workflow


def test_those_that_are_begun_first_are_finished_first(work):
    done, failures = work(scans_per_process=1)
    assert done == ['sub-1 first', 'sub-1 last', 'sub-2 first', 'sub-3 first', 'sub-3 last']
    assert list(failures) == ['sub-2'] and 'broken' in failures['sub-2']


def test_all_that_are_given_at_a_time(work):
    done, failures = work(scans_per_process=2)
    assert set(done[:2]) == {'sub-1 first', 'sub-2 first'}
    assert done[2:] == ['sub-1 last', 'sub-3 first', 'sub-3 last']
    assert list(failures) == ['sub-2']


def test_no_more_are_built_than_are_run_together(work, monkeypatch):
    """Nipype compares each that is added with all others: 10,000 would take it minutes."""

    def spy(scans, diary):
        built.append(len(scans))
        return build(scans, diary)

    built, build = [], two_steps
    monkeypatch.setitem(globals(), 'two_steps', spy)
    work(scans_per_process=2)
    assert built == [2, 1]


def test_no_further_ones_after_the_first_crash(work):
    done, failures = work(scans_per_process=1, stop_on_first_crash=True)
    assert done == ['sub-1 first', 'sub-1 last', 'sub-2 first']
    assert list(failures) == ['sub-2']


def test_a_graph_that_cannot_be_drawn_stops_nothing(work, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('PATH', str(tmp_path))  # where there is no Graphviz
    done, failures = work(scans_per_process=3, write_graph=True)
    assert len(done) == 5 and list(failures) == ['sub-2']
    assert (tmp_path / 'graph.dot').is_file()
    assert 'install Graphviz' in caplog.text


def test_too_little_room_for_the_steps_is_said_before_they_begin(work, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=30_000_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
    with pytest.raises(UsageError, match=r'work has 30 MB of free space, and .* of 200 MB'):
        work(scans_per_process=1)
    assert not (tmp_path / 'diary.txt').exists()


def test_the_garbage_collector_passes_over_what_was_there(work, monkeypatch):
    """Nipype runs it before each step: with all libraries, it took longer than the step."""

    def spy(node, **options):
        seen.append(len(gc.get_objects()))
        return run(node, **options)

    seen, run, before = [], pe.Node.run, len(gc.get_objects())
    monkeypatch.setattr(pe.Node, 'run', spy)
    work(scans_per_process=3)
    assert seen and max(seen) < before / 10
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(('scans', 'workers'), [(1, 1), (2, 2), (9, 3)])
def test_no_more_processes_than_scans(tmp_path, scans, workers):
    """Each job of an array, of one scan, would start others for steps of a second."""
    names = [f'sub-{i}' for i in range(scans)]
    units = [Scan(Path(f'{name}_T1w.nii'), name[4:], None, name) for name in names]
    plugin, arguments = execution._plugin(RunSettings(work_dir=tmp_path, nprocs=3), units)
    assert (plugin.pool._max_workers, plugin.processors) == (workers, 3)
    plugin.pool.shutdown()


def test_processes_that_cannot_be_synchronized(work, monkeypatch):
    """As where /dev/shm is full or not writable."""

    def refuse(plugin_args):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(execution, 'SteadyPool', refuse)
    with pytest.raises(UsageError, match=r'--nprocs 2: .*Read-only file system.*give --nprocs 1'):
        work(scans_per_process=1, nprocs=2)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('plugin: Foo', "nipype has no plugin 'Foo'; it has .*MultiProc.*SLURM"),
        ('plugin: [Linear]', 'nipype has no plugin'),
        ('[Linear]', 'expected YAML with "plugin"'),
        ('{plugin: MultiProc, plugin_args: {n_procs: two}}', 'MultiProc cannot be made .*TypeErr'),
    ],
)
def test_a_plugin_that_cannot_be_made(work, tmp_path, content, message):
    file = tmp_path / 'plugin.yml'
    file.write_text(content)
    with pytest.raises(UsageError, match=f'--use-plugin .*plugin.yml: .*{message}'):
        work(scans_per_process=1, use_plugin=file)


def test_a_plugin_that_submits_no_job(work, tmp_path, monkeypatch):
    """As where the command of the batch system is not there."""

    def refuse(*arguments, **options):
        raise OSError(errno.ENOENT, 'No sbatch')

    monkeypatch.setattr(execution.plugins.LinearPlugin, 'run', refuse)
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: Linear')
    with pytest.raises(UsageError, match='--use-plugin .*FileNotFoundError.*No sbatch'):
        work(scans_per_process=1, use_plugin=file)


def test_a_plugin_of_the_user_takes_all_scans(work, tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: Linear')
    done, failures = work(scans_per_process=1, use_plugin=file)
    assert len(done) == 5 and list(failures) == ['sub-2']
