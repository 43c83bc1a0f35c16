"""A small phantom dataset, a model with random weights, and a way to run the program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddae_app.methods.ddae.bundle import build_network, save_bundle
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.modelfile import SiteQuantiles, TrainingRecord
from ddae_app.phantom.dataset import Design, write_dataset
from ddae_app.settings import Protocol
from tests.levels import forked

TEMPLATE = 'MNI152NLin2009aSym'
SITES = ('PhantomA', 'PhantomB')


@pytest.fixture(scope='session')
def bids_dir(tmp_path_factory):
    """Two sites, one person each, coarse voxels."""
    folder = tmp_path_factory.mktemp('phantoms') / 'bids'
    write_dataset(folder, Design(n_sites=2, subjects_per_site=1, seed=5, voxel_mm=3.0))
    return folder


@pytest.fixture(scope='session')
def model(tmp_path_factory):
    """A model with random weights: wrong pictures, right plumbing."""
    return write_model(tmp_path_factory.mktemp('model') / 'random.safetensors')


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
