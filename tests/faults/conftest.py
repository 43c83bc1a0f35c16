"""A dataset of eight small scans, and what an undisturbed run makes of it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from ddae_app.phantom.dataset import Design, write_dataset
from tests.levels.conftest import command, contents, run, start_forked, write_model

FLAGS = (
    'participant', '--target-site', 'PhantomA', '--skull-strip', 'none', '--sloppy',
    '--skip-bids-validation',
)  # fmt: skip


@pytest.fixture(scope='package')
def eight(tmp_path_factory):
    """Dataset, model, and output folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp('eight')
    design = Design(n_sites=2, subjects_per_site=4, seed=5, voxel_mm=4.0)
    write_dataset(folder / 'bids', design)
    model = write_model(folder / 'random.safetensors')
    result = run(
        folder / 'bids', folder / 'out', *FLAGS, '--model', model, '-w', folder / 'work',
        '--nprocs', '1',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def heeds_interrupts():
    """Programs that are started heed SIGINT, also where this one runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def start(eight, tmp_path, heeds_interrupts):
    """Start a run in the background: ``start('A01', 'B02', nprocs=2)``.

    With `anew`, it is no fork, but a process that loads its libraries as that of a user does.
    """
    jobs = []

    def started(
        *labels, nprocs=1, bids=None, out=tmp_path / 'out', work=tmp_path / 'work', anew=False,
        under=(),
    ):  # fmt: skip
        labelled = ('--participant-label', *labels) if labels else ()
        asked = (
            bids or eight / 'bids', out, *FLAGS, '--model', eight / 'random.safetensors',
            '-w', work, '--nprocs', nprocs, *labelled,
        )  # fmt: skip
        if anew or under:
            job = subprocess.Popen(
                [*under, *command(*asked)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        else:
            job = start_forked(*asked)
        jobs.append(job)
        return job

    yield started
    for job in jobs:
        job.kill()
        job.wait()


def images(folder: Path) -> dict[str, bytes]:
    """Every image, sidecar, transform and figure that a run left."""
    return {
        name: content
        for name, content in contents(folder).items()
        if ('/anat/' in name or '/figures/' in name) and '.tmp-' not in name
    }


def torn(folder: Path) -> list[str]:
    """What was left half written."""
    return [str(path) for path in folder.rglob('.tmp-*')]
