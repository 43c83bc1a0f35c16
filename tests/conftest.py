"""Fixtures for all tests; the environment is set before anything imports ANTs or torch."""

from __future__ import annotations

import logging
import os

os.environ.update(
    OMP_NUM_THREADS='1', ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS='1', ANTS_RANDOM_SEED='14193'
)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

REPOSITORY = Path(__file__).parents[1]

LONGEST = (
    'faults/test_faults.py', 'levels/test_calibration.py', 'levels/test_participant.py',
    'levels/test_train.py', 'methods/test_slice_networks.py', 'levels/test_kill.py',
    'levels/test_baselines.py', 'levels/test_group.py', 'test_processes.py',
    'evaluation/test_protocol.py', 'levels/test_rerun.py',
)  # fmt: skip
"""Files that take half a minute or more, the longest first."""


def pytest_collection_modifyitems(items):
    """Begin with what takes longest: at the end, no process is left alone with one such file."""
    ranks = {REPOSITORY / 'tests' / name: rank for rank, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in ranks)
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def untouched_log():
    """The log as a program finds it that imports the package, whatever earlier tests have run.

    The command sets its log up once a process, and a log that does not propagate gets pytest's
    handler, so that a message would be captured twice or not at all by the order of the tests.
    """
    log = logging.getLogger('ddae_app')
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope='session')
def test_data() -> Path:
    """Folder with real scans, from DDAE_TEST_DATA; the test is skipped where it is not there."""
    folder = Path(os.environ.get('DDAE_TEST_DATA') or REPOSITORY.parent / 'shared')
    if not (folder / 'data').is_dir():
        pytest.skip(
            f'real scans are not at hand: {folder / "data"} is no folder; '
            'the environment variable DDAE_TEST_DATA names the folder that holds data/'
        )
    return folder


@pytest.fixture(scope='session')
def templateflow_home(test_data) -> Path:
    """A TEMPLATEFLOW_HOME with MNI152NLin2009cAsym at 2 mm."""
    home = test_data / 'templateflow'
    if not (home / 'tpl-MNI152NLin2009cAsym').is_dir():
        pytest.skip(
            f'{home} holds no tpl-MNI152NLin2009cAsym; '
            'the environment variable DDAE_TEST_DATA names the folder that holds templateflow/'
        )
    return home


@pytest.fixture(scope='session')
def stripped_scan(tmp_path_factory) -> Path:
    """A phantom's T1w as its scanner wrote it: skull-stripped, 3 mm, moved; read-only."""
    from ddae_app.phantom.dataset import Design, write_dataset

    folder = tmp_path_factory.mktemp('stripped_scan') / 'bids'
    design = Design(n_sites=1, subjects_per_site=1, voxel_mm=3.0)
    (path,) = write_dataset(folder, design)
    return path
