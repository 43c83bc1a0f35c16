"""The Boutiques descriptor: valid, complete, and what it runs is understood."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ddae_app.cli.parser import build_parser
from ddae_app.settings import flag_names, from_flat


def bosh(*words: str) -> str:
    """What the Boutiques program says."""
    program = Path(sys.executable).with_name('bosh')
    result = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture
def descriptor(capsys, tmp_path):
    """The file as a user would make it."""
    with pytest.raises(SystemExit) as left:
        build_parser().parse_args(['--bids-exec-spec'])
    assert left.value.code == 0
    path = tmp_path / 'ddae-app.json'
    path.write_text(capsys.readouterr().out)
    return path


def test_boutiques_takes_it(descriptor):
    assert bosh('validate', str(descriptor)).strip() == 'OK'
    ids = [item['id'] for item in json.loads(descriptor.read_text())['inputs']]
    assert set(ids) == {*flag_names(), 'config_file'} - {'templateflow_home', 'container'}
    assert len(set(ids)) == len(ids)


def test_what_boutiques_would_run_is_understood(descriptor, tmp_path):
    asked = {
        'bids_dir': '/bids', 'output_dir': '/out', 'analysis_level': 'group',
        'participant_label': ['01', '02'], 'biology': ['group'], 'nprocs': 3, 'max_hours': 11.5,
        'mem_mb': '16G', 'sloppy': True, 'unseen_site': 'adapt',
    }  # fmt: skip
    invocation = tmp_path / 'invocation.json'
    invocation.write_text(json.dumps(asked))
    said = bosh('exec', 'simulate', str(descriptor), '-i', str(invocation))
    name, *words = shlex.split(said.strip().splitlines()[-1])
    assert name == 'ddae-app'
    settings = from_flat(vars(build_parser().parse_args(words)))
    assert settings.select.participant_label == ('01', '02')
    assert settings.evaluate.biology == ('group',) and settings.harmonize.unseen_site == 'adapt'
    assert (settings.run.nprocs, settings.run.mem_mb) == (3, 16000)
    assert settings.train.max_hours == 11.5 and settings.preproc.sloppy
    assert str(settings.bids_dir) == '/bids'
