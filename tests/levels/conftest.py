"""A small phantom dataset, a model with random weights, and a way to run the program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddae_app.bids.dataset import locked
from ddae_app.methods.ddae.bundle import build_network, save_bundle
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.modelfile import SiteQuantiles, TrainingRecord
from ddae_app.phantom.dataset import Design, write_dataset
from ddae_app.settings import Protocol
from tests.levels import forked

TEMPLATE = 'MNI152NLin2009aSym'
SITES = ('PhantomA', 'PhantomB')


FAST = ('--skull-strip', 'none', '--sloppy', '--skip-bids-validation', '--nprocs', '1')


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    """Make a folder once for all workers of pytest, which only read it: ``shared(name, make)``."""
    root = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        root = root.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = root / f'shared-{name}', root / f'shared-{name}.made'
        with locked(made):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed to make it
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return once


@pytest.fixture(scope='session')
def bids_dir(shared):
    """Two sites, one person each, coarse voxels."""
    design = Design(n_sites=2, subjects_per_site=1, seed=5, voxel_mm=3.0)
    return shared('phantoms', lambda folder: write_dataset(folder / 'bids', design)) / 'bids'


@pytest.fixture(scope='session')
def model(shared):
    """A model with random weights: wrong pictures, right plumbing."""
    name = 'random.safetensors'
    return shared('model', lambda folder: write_model(folder / name)) / name


@pytest.fixture(scope='session')
def done(bids_dir, model, shared):
    """Output folder of an undisturbed run to site PhantomA, validation of the input included."""

    def make(folder):
        fast = [flag for flag in FAST if flag != '--skip-bids-validation']
        result = run_anew(
            bids_dir, folder / 'out', 'participant', '--target-site', 'PhantomA', '--model', model,
            '-w', folder / 'work', *fast,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert '2 T1w of 2 participants' in result.stderr
        assert "sites (column 'site'): PhantomA 1, PhantomB 1" in result.stderr
        assert 'PHANTOM model' in result.stderr

    return shared('done', make) / 'out'


def write_model(path: Path, *, phantom: bool = True, protocol: Protocol | None = None) -> Path:
    protocol = protocol or Protocol(template=TEMPLATE)
    config = ModelConfig(
        image_size=protocol.slice_shape[0], depth=protocol.depth, neighbors=1, unshuffle=4,
        channels=8, multipliers=(1, 2), blocks=1, attention=(), z_u_dim=4,
        schedule='cosine', prediction='v', condition_dropout=0.1,
    )  # fmt: skip
    levels = tuple(np.linspace(0, 1, 11))
    table = tuple(tuple(np.linspace(0.1, 0.9, 11)) for _ in SITES)
    info = DDAEInfo(
        name='random',
        config=config,
        sites=SITES,
        age_mean=50.0,
        age_sd=15.0,
        protocol=protocol,
        quantiles=SiteQuantiles(levels, table, table, table),
        training=TrainingRecord('none', (1, 1), 0, 0, None, None),
        versions={'ddae-app': '0', 'torch': '0'},
        phantom=phantom,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(info)
        for parameter in network.parameters():  # the last layers start at zero
            torch.nn.init.normal_(parameter, std=0.05)
    save_bundle(path, network, info)
    return path


def command(*arguments) -> list[str]:
    return [sys.executable, '-m', 'ddae_app', *map(str, arguments)]


def run(*arguments, **environment) -> subprocess.CompletedProcess[str]:
    """Run the program in another process: its exit code and what it says."""
    return forked.run([*map(str, arguments)], {**os.environ, **environment})


def start_forked(*arguments) -> forked.Job:
    """Start the program in the background, in another process."""
    return forked.start([*map(str, arguments)], dict(os.environ))


def run_anew(*arguments, **environment) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, who has not loaded its libraries.

    For the first run of each level, and where it matters that it is no fork of a process.
    """
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def error_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if 'error:' in line]


def contents(folder: Path) -> dict[str, bytes]:
    """Every output but the logs, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and 'logs' not in path.parts
    }
