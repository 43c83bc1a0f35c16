"""Cost of a dataset that outgrows one machine: arrays of Slurm, and one process or more.

    WORK=WORK_DIR CPUS=2 sh -ec '. tests/slurm/cluster.sh; python -m benchmarks.arrays "$WORK"'

One simulated scan is preprocessed. Datasets are made of it, under other names, and processed again
by ``docs/slurm/preproc.sbatch`` with steps that sleep instead of computing and copy what they once
made (:mod:`benchmarks.stand_ins`); all else is the program's own. The parts:

- ``single``: an array of one participant a task, in datasets of which all others are done;
- ``chunks``: an array that processes whole datasets, several participants a task;
- ``pool``: the same datasets in one run of two processes, whose outputs are compared with those
  of the array, byte for byte;
- ``again``: an array over the largest dataset, of which all is done, and one more run over it, as
  of a later stage, which reads what the tasks remember of the scans;
- ``steps``: every step of one scan as a job, by nipype's plugin for Slurm.

Printed are CPU seconds and peak memory, by task and by scan, and what the diaries of the tasks
say: how often a raw scan was read as a whole, how many folders of the dataset were listed, and how
many files of the output were written by more than one task. Aims: no more CPU a scan in larger
datasets, each raw scan read twice (to know it, and to process it), no file written by two tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.jobs import contents
from benchmarks.stand_ins import environment
from ddae_app.phantom.dataset import Design, write_dataset

SCRIPTS = Path(__file__).parents[1] / 'docs' / 'slurm'
FLAGS = ('--skull-strip', 'deepbet', '--omp-nthreads', '1')
NAME = 'A01'
"""The participant that all others are copies of."""

PARTS = 'single', 'chunks', 'pool', 'again', 'steps'

SINGLE_TASKS = 2
"""How many tasks of one participant are run in each dataset."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--datasets', nargs='+', type=int, default=[100, 1000, 10000])
    parser.add_argument('--processed', nargs='+', type=int, default=[100, 300])
    parser.add_argument('--chunk', type=int, default=50, help='participants a task that works')
    parser.add_argument('--chunk-again', type=int, default=200, help='of one that finds all done')
    args = parser.parse_args()
    work = args.work.resolve()
    first_scan(work)
    print('run\tscans\ttasks\tCPU a task, s\tCPU a scan, s\tpeak, GB\twall, s', flush=True)
    if 'single' in args.parts:
        for scans in args.datasets:
            dataset = Dataset(work, f'single-{scans}', scans, to_do=SINGLE_TASKS)
            dataset.array('one a task', SINGLE_TASKS, chunk=1)
            dataset.array('one a task, done', SINGLE_TASKS, chunk=1)
    for scans in args.processed:
        if not {'chunks', 'pool'} & set(args.parts):
            continue
        dataset = Dataset(work, f'processed-{scans}', scans, to_do=scans)
        outputs = dataset.folder / 'out', dataset.folder / 'by-array'
        if 'chunks' in args.parts:
            dataset.array('chunks', -(-scans // args.chunk), args.chunk)
            shutil.rmtree(dataset.folder / 'work')
            outputs[0].rename(outputs[1])
        if 'pool' in args.parts:
            dataset.run('one run', '--nprocs', '2')
            shutil.rmtree(dataset.folder / 'work')
        if all(folder.is_dir() for folder in outputs):
            compare(*outputs)
    if 'again' in args.parts:
        dataset = Dataset(work, 'again', max(args.datasets), to_do=0)
        dataset.array('chunks, done', -(-dataset.scans // args.chunk_again), args.chunk_again)
        dataset.run('one run, done', '--nprocs', '1')
    if 'steps' in args.parts:
        steps_as_jobs(Dataset(work, 'steps', 1, to_do=1))


def first_scan(work: Path) -> None:
    """Preprocess one scan, and keep what its steps wrote."""
    one = work / 'one'
    if (one / 'out').is_dir():
        return
    design = Design(n_sites=1, subjects_per_site=1, voxel_mm=1.0, seed=11)
    write_dataset(one / 'bids', design)
    subprocess.run([sys.executable, '-m', 'ddae_app', *arguments(one)], check=True)


def arguments(folder: Path) -> list[str]:
    """The command line that preprocesses the dataset in a folder."""
    bids, out, work = (str(folder / name) for name in ('bids', 'out', 'work'))
    words = [bids, out, 'participant', '--stage', 'preproc', '-w', work, '--skip-bids-validation']
    return [*words, *FLAGS]


class Dataset:
    """A dataset of copies of one scan, in a folder with outputs and work directory.

    Parameters
    ----------
    work : Path
        Folder of the benchmark.
    name : str
        Of a folder in it.
    scans : int
    to_do : int
        How many of the scans are still to be processed; the others are done.
    """

    def __init__(self, work: Path, name: str, scans: int, to_do: int) -> None:
        self.scans, self.to_do = scans, to_do
        self.folder, self.one = work / name, work / 'one'
        shutil.rmtree(self.folder, ignore_errors=True)
        names = [f'sub-{number:05}' for number in range(scans)]
        self._copy('bids', names)
        self._copy('out', names[to_do:])
        table = (self.folder / 'bids' / 'participants.tsv').read_text().splitlines()
        rows = [table[1].replace(f'sub-{NAME}', each) for each in names]
        table = '\n'.join([table[0], *rows]) + '\n'
        (self.folder / 'bids' / 'participants.tsv').write_text(table)
        (steps,) = self.one.glob(f'work/*/ddae_wf/sub_{NAME}_wf')
        watched = [self.folder / 'bids', self.folder / 'out']
        self.environment = environment(steps, watched, work / 'site')
        time.sleep(3)  # what was just written is not remembered as unchanged

    def _copy(self, part: str, names: Sequence[str]) -> None:
        """Copy all of the one participant, and what lies beside; large files are links.

        Each of the copies has logs of its own, as from an array of one participant a task.
        """
        source, target = self.one / part, self.folder / part
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in source.rglob('*') if p.is_file()):
            relative = path.relative_to(source)
            if relative.parts[0] == 'derivatives':
                continue
            run = relative.parts[1] if relative.parts[0] == 'logs' else None
            own = run or NAME in str(relative)
            if not own and (names or part == 'bids'):
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / relative)
            texts = ('.json', '.tsv', '.html')
            text = path.read_text() if path.suffix in texts and not run else None
            for name in names if own else ():
                new = str(relative).replace(f'sub-{NAME}', name)
                copy = target / (new.replace(run, f'{run}-{name}') if run else new)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if text is None:
                    os.link(path, copy)
                else:
                    copy.write_text(text.replace(f'sub-{NAME}', name))

    def array(self, what: str, tasks: int, chunk: int) -> None:
        """Queue the array of docs/slurm, wait for its end, and print what it cost."""
        scripts = self.folder / 'scripts'
        shutil.copytree(SCRIPTS, scripts, dirs_exist_ok=True)
        app = ' '.join([sys.executable, '-m', 'benchmarks.stand_ins', '$OUT/../diaries-$CHUNK'])
        (scripts / 'settings.sh').write_text(
            f'BIDS={self.folder}/bids OUT={self.folder}/out WORK={self.folder}/work\n'
            f'CHUNK={chunk} ARGS="{" ".join(FLAGS)}"\n'
            f'APP="{app} {sys.executable} -m ddae_app"\n'
        )
        diaries = self._diaries(f'diaries-{chunk}')
        subprocess.run(
            ['sbatch', '--wait', f'--array=1-{tasks}', '-o', 'task-%a.log', 'preproc.sbatch'],
            cwd=scripts, env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL,
            check=True,
        )  # fmt: skip
        report(what, self.folder, diaries, min(tasks * chunk, self.scans))

    def run(self, what: str, *flags: str) -> None:
        """Run the program on the whole dataset, and print what it cost."""
        diaries = self._diaries('diaries')
        with (self.folder / 'run.log').open('w') as log:
            subprocess.run(
                [sys.executable, '-m', 'benchmarks.stand_ins', str(diaries), sys.executable,
                 '-m', 'ddae_app', *arguments(self.folder), *flags],
                env={**os.environ, **self.environment}, stdout=log, stderr=log, check=True,
            )  # fmt: skip
        report(what, self.folder, diaries, self.scans)

    def _diaries(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def report(what: str, folder: Path, diaries: Path, scans: int) -> None:
    """Print what some tasks cost, and what their diaries say."""
    costs = [json.loads(path.read_text()) for path in diaries.glob('*.json')]
    assert costs and not any(cost['code'] for cost in costs), f'a task failed: {diaries}'
    cpu = [cost['cpu'] for cost in costs]
    wall = max(cost['ended'] for cost in costs) - min(cost['began'] for cost in costs)
    print(
        f'{what}\t{scans} of {len(list((folder / "bids").glob("sub-*")))}\t{len(costs)}\t'
        f'{statistics.median(cpu):.2f}\t{sum(cpu) / scans:.3f}\t'
        f'{max(cost["peak"] for cost in costs):.2f}\t{wall:.0f}'
    )
    reads, listed, writers = Counter[str](), Counter[str](), defaultdict[str, set[str]](set)
    for diary in diaries.glob('*.tsv'):
        for event, path in entries(diary):
            if event == 'list':
                listed['bids' if f'{folder}/bids' in path else 'out'] += 1
            elif event == 'write':
                writers[path].add(diary.name)
            else:
                reads[event] += 1
    by_two = sorted(path for path, tasks in writers.items() if len(tasks) > 1)
    counts = ', '.join(f'{name} {n / scans:g}' for name, n in sorted(reads.items()))
    print(
        f'  raw scans opened, times of each: {counts or "none"}; listed folders, of each'
        f' task: {", ".join(f"{name} {n / len(costs):g}" for name, n in listed.items())}; files '
        f'that appeared: {len(writers)}, by more than one task: {len(by_two)} {by_two[:3]}',
        flush=True,
    )


def entries(diary: Path) -> Iterator[tuple[str, str]]:
    """What happened, and to which file or folder."""
    for line in diary.read_text().splitlines():
        event, _, path = line.partition('\t')
        yield event, path


def compare(one: Path, many: Path) -> None:
    """Print how many files of two output folders differ."""
    expected, found = contents(one), contents(many)
    names = {*expected, *found}
    differing = sorted(name for name in names if expected.get(name) != found.get(name))
    tables = sum(name.endswith('.tsv') for name in names)
    print(
        f'  {len(differing)} of {len(names)} files, {tables} of them tables, differ between one '
        f'run and the array: {differing[:5]}',
        flush=True,
    )


def steps_as_jobs(dataset: Dataset) -> None:
    """Have nipype queue each step of a dataset, and print how many jobs that took."""
    plugin = dataset.folder / 'slurm.yml'
    plugin.write_text(
        'plugin: SLURM\nplugin_args: {sbatch_args: "--mem=4G", dont_resubmit_completed_jobs: true}'
    )
    before = _next_job()
    dataset.run('every step a job', '--use-plugin', str(plugin))
    print(f'  jobs that nipype queued: {_next_job() - before - 1}')


def _next_job() -> int:
    """The number of a job that does nothing."""
    command = ['sbatch', '--parsable', '-o', '/dev/null', '--wrap', 'true']
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == '__main__':
    main()
