"""Killed at any moment and started again, a run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time

from tests.levels.conftest import contents, run, start_forked

KILLS = 10


def test_killed_ten_times_gives_the_same_bytes(bids_dir, model, tmp_path):
    flags = (
        'participant', '--target-site', 'PhantomA', '--model', model, '--skull-strip', 'none',
        '--sloppy', '--skip-bids-validation', '--nprocs', '1', '--participant-label', 'B01',
    )  # fmt: skip
    undisturbed = tmp_path / 'undisturbed'
    run('--version')  # what programs are forked from has been started then
    started = time.monotonic()
    first = run(bids_dir, undisturbed, *flags, '-w', tmp_path / 'work1')
    seconds = time.monotonic() - started
    assert first.returncode == 0, first.stderr
    killed, work = tmp_path / 'killed', tmp_path / 'work2'
    moments = random.Random(0)
    interrupted = attempts = 0
    left = seconds
    while interrupted < KILLS:
        attempts += 1
        assert attempts <= 5 * KILLS, 'the run ends before it can be killed'
        # Forked, so that no kill is spent on the loading of libraries.
        job = start_forked(bids_dir, killed, *flags, '-w', work)
        moment = moments.uniform(0.1, 0.95) * left
        try:
            job.wait(moment)
        except subprocess.TimeoutExpired:
            job.kill()
            interrupted += 1
            left = max(left - moment, seconds / 3)  # what is done is not done again
        else:  # it had been resumed and was done in time: start anew
            shutil.rmtree(work)
            shutil.rmtree(killed)
            left = seconds
        job.communicate()  # until all of its processes have ended
        # What is there is whole, at any moment.
        whole = contents(undisturbed)
        for name, content in contents(killed).items():
            if '/.tmp-' not in name and name.endswith(('.nii.gz', '.json', '.txt', '.svg')):
                assert is_whole(content, whole[name]), name
    last = run(bids_dir, killed, *flags, '-w', work)
    assert last.returncode == 0, last.stderr
    assert comparable(killed) == comparable(undisturbed)


def is_whole(content: bytes, expected: bytes) -> bool:
    """Whether a file is as expected; a sidecar gets its record last, when all else is written."""
    if content == expected or not expected.startswith(b'{'):
        return content == expected
    unfinished = json.loads(expected)
    unfinished.pop('MadeFrom', None)
    return json.loads(content) == unfinished


def comparable(folder):
    """All outputs but the pages, which name the run, and what a kill left beside the dataset's
    own files: other jobs may be writing there, so no run tidies up.
    """
    return {
        name: content
        for name, content in contents(folder).items()
        if not name.endswith('.html') and not name.startswith('.tmp-')
    }
