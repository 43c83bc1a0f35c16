"""The scripts of docs/slurm, with a Slurm that only says what it was asked for."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def scripts(tmp_path):
    """A copy of the scripts, filled in for five participants, of whom two have no scan."""
    folder = shutil.copytree(REPOSITORY / 'docs' / 'slurm', tmp_path / 'scripts')
    bids = tmp_path / 'bids'
    for name, inside in (('1', 'anat'), ('2', 'ses-1/anat'), ('4', 'anat'), ('5', 'func')):
        scan = bids / f'sub-{name}' / inside / f'sub-{name}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        scan.symlink_to('not-fetched')
    rows = ''.join(f'sub-{i}\tA\n' for i in range(1, 6))
    (bids / 'participants.tsv').write_text(f'participant_id\tsite\n{rows}')
    (tmp_path / 'bin').mkdir()
    for name, says in (
        ('sbatch', f'echo "$*" >> {tmp_path}/queued; echo 7'),
        ('scontrol', 'echo "MaxArraySize            = 4"'),
    ):
        program = tmp_path / 'bin' / name
        program.write_text(f'#!/bin/sh\n{says}\n')
        program.chmod(0o755)
    return folder


@pytest.fixture
def run(scripts, tmp_path):
    """Runs one of them with a chunk size."""

    def run(shell, name, chunk=None, **variables):
        (scripts / 'settings.sh').write_text(
            f'BIDS={tmp_path}/bids OUT=out WORK=work TARGET=IXI ARGS= TRAIN_ARGS= APP="echo did"\n'
            + (f'CHUNK={chunk}\n' if chunk else '')
        )
        path = f'{tmp_path}/bin:{os.environ["PATH"]}'
        variables |= {'PATH': path, 'SLURM_SUBMIT_DIR': '.', 'SLURM_CPUS_PER_TASK': '2'}
        return subprocess.run(
            [shell, name], cwd=scripts, env=variables, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize(
    ('chunk', 'task', 'taken'),
    [
        (None, 2, 'sub-2'),
        (None, 3, 'sub-3'),  # alone, so that the program says what is missing
        (2, 1, 'sub-1 sub-2'),
        (3, 1, 'sub-1 sub-2'),
        (2, 2, 'sub-4'),
        (3, 2, 'sub-4'),
        (9, 1, 'sub-1 sub-2 sub-4'),
    ],
)
def test_a_task_takes_the_rows_of_its_number(run, chunk, task, taken):
    result = run('bash', 'preproc.sbatch', chunk, SLURM_ARRAY_TASK_ID=str(task))
    assert f'--participant-label {taken} -w work ' in result.stdout, result


@pytest.mark.parametrize(('chunk', 'array'), [(2, '1-3%50'), (5, '1-1%50')])
def test_an_array_has_as_many_tasks_as_chunks(run, tmp_path, chunk, array):
    assert run('sh', 'submit.sh', chunk).returncode == 0
    queued = (tmp_path / 'queued').read_text().splitlines()
    minutes = 45 + 15 * chunk
    assert queued[0] == f'--parsable --array={array} --time={minutes} preproc.sbatch'
    assert [line.split()[-1] for line in queued[1:]] == [
        'train.sbatch', 'harmonize.sbatch', 'group.sbatch'
    ]  # fmt: skip


@pytest.mark.parametrize('end', ['', '\n\n\n'])
def test_an_array_has_a_task_for_the_last_row_whatever_ends_it(run, tmp_path, end):
    table = tmp_path / 'bids' / 'participants.tsv'
    table.write_text(table.read_text().rstrip('\n') + end)
    assert run('sh', 'submit.sh', 2).returncode == 0
    assert '--array=1-3%50 ' in (tmp_path / 'queued').read_text()


def test_more_tasks_than_the_scheduler_numbers_are_refused_with_the_remedy(run, tmp_path):
    result = run('sh', 'submit.sh')
    assert result.returncode == 2 and not (tmp_path / 'queued').exists()
    assert result.stderr == (
        '5 participants, and arrays of at most 3 tasks here; set CHUNK in settings.sh to 2 or '
        'more\n'
    )
