"""Steps that sleep and copy what they once made, and a diary of what a process reads and writes.

    python -m benchmarks.stand_ins DIARIES COMMAND...

runs a command, and all Python processes that it starts, with these stand-ins, and leaves in the
folder what it cost and a diary. The variables of the environment that :func:`environment` makes
say where the steps of one scan were kept, and which folders the diary is about.

A step reads the raw scan if the real one does, sleeps, and writes the files and results that the
real one wrote of another scan. All else is the program's own: the index, the plan, the graphs,
nipype's nodes and hashes, the sinks with their compression, sidecars, tables, pages and locks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

REPLACED = ('ddae_app.interfaces.preproc', 'ddae_app.interfaces.harmonize',
            'ddae_app.interfaces.figures')  # fmt: skip
"""Modules of which every step is replaced."""

SECONDS = 0.05
"""How long a step sleeps."""

RAW = r'/sub-[^/_]+_T1w\.nii\.gz$'
"""What the raw scans of a benchmark are called."""

STEPS, WATCHED, DIARY = 'STAND_IN_STEPS', 'STAND_IN_WATCHED', 'STAND_IN_DIARY'
"""Variables of the environment: folder of the kept steps; folders, and the file, of the diary."""


def environment(steps: Path, watched: list[Path], site: Path) -> dict[str, str]:
    """The variables that let a process use the stand-ins; `site` is a folder for a module."""
    site.mkdir(parents=True, exist_ok=True)
    text = (
        f'import os\nif {DIARY!r} in os.environ:\n'
        '    from benchmarks.stand_ins import install\n    install()\n'
    )
    (site / 'sitecustomize.py').write_text(text)
    return {
        'PYTHONPATH': f'{site}:{Path(__file__).parents[1]}',
        STEPS: str(steps),
        WATCHED: ':'.join(map(str, watched)),
    }


def install() -> None:
    """Replace the steps when they are imported and begin a diary; ``sitecustomize`` calls it."""
    sys.meta_path.insert(0, _Replacing())
    _keep_diary(os.environ[DIARY], tuple(f'{f}/' for f in os.environ[WATCHED].split(':')))


class _Replacing(MetaPathFinder):
    """Imports a module as it is, and then replaces its steps."""

    def find_spec(self, name, path, target=None):
        if name not in REPLACED:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_replace(module):
            execute(module)
            for step in vars(module).values():
                if hasattr(step, '_run_interface') and step.__module__ == name:
                    step._run_interface = _stand_in

        spec.loader.exec_module = execute_and_replace
        return spec


def _stand_in(self, runtime):
    """Instead of a step's own work: the files and results of the same step of another scan."""
    from nipype.pipeline.engine.utils import load_resultfile

    from ddae_app.imaging.conform import check_unchanged

    cwd = Path(runtime.cwd)
    # Folders of nipype: workflow, scan, and the step in it.
    kept = Path(os.environ[STEPS], *cwd.parts[cwd.parts.index('ddae_wf') + 2 :])
    inputs = self.inputs.get()
    raw = inputs.get('t1w') or inputs['in_file'] if 'sha256' in inputs else None
    if raw:
        check_unchanged(Path(raw), inputs['sha256'])
    time.sleep(SECONDS)
    for file in kept.glob('[!_]*.*'):
        if file.suffix != '.pklz':
            shutil.copyfile(file, cwd / file.name)
    made = load_resultfile(kept / f'result_{kept.name}.pklz').outputs.get()
    self._results = {
        name: value.replace(str(kept), str(cwd)) if isinstance(value, str) else value
        for name, value in made.items()
    }
    return runtime


def _keep_diary(path: str, folders: tuple[str, ...]) -> None:
    """Note which folders are listed, which raw scans are read by whom, and which files appear."""
    diary = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(event: str, arguments: tuple) -> None:
        if event in ('os.scandir', 'os.listdir'):
            what, place = 'list', arguments[0]
        elif event == 'os.rename':
            what, place = 'write', arguments[1]
        elif event == 'open' and re.search(RAW, str(arguments[0])):
            what, place = _reader(), arguments[0]
        else:
            return
        place = os.fspath(place) if isinstance(place, str | os.PathLike) else ''
        if f'{place}/'.startswith(folders):
            os.write(diary, f'{what}\t{place}\n'.encode())

    sys.addaudithook(note)


def _reader() -> str:
    """The function of the program that opens a file."""
    frame = sys._getframe(2)
    while frame and '/ddae_app/' not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_name if frame else 'other'


def main() -> None:
    diaries, *command = sys.argv[1:]
    job, task = (os.environ.get(f'SLURM_ARRAY_{name}_ID', '0') for name in ('JOB', 'TASK'))
    name = Path(diaries, f'{job}-{task}-{os.getpid()}')
    began = time.time()
    child = os.spawnvpe(os.P_NOWAIT, command[0], command, {**os.environ, DIARY: f'{name}.tsv'})
    _, status, usage = os.wait4(child, 0)
    cost: Mapping[str, float] = {
        'task': int(task),
        'code': os.waitstatus_to_exitcode(status),
        'began': began,
        'ended': time.time(),
        'cpu': usage.ru_utime + usage.ru_stime,
        'peak': usage.ru_maxrss / 1e6,
    }
    Path(f'{name}.json').write_text(json.dumps(cost))
    sys.exit(cost['code'])


if __name__ == '__main__':
    main()
