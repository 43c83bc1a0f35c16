"""The documentation builds, and says what is there."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.sidecars import DESCRIPTIONS
from ddae_app.cli.parser import build_parser
from ddae_app.evaluation.protocol import MEANING
from tests.levels.conftest import write_model

DOCS = Path(__file__).parent.parent / 'docs'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The pages, built anew with every warning an error."""
    folder = tmp_path_factory.mktemp('docs')
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html']
    result = subprocess.run(
        [*command, str(DOCS), str(folder)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_built_and_every_flag_is_told(built):
    pages = {path.stem for path in DOCS.iterdir() if path.suffix in ('.md', '.rst')}
    assert pages <= {path.stem for path in built.glob('*.html')}
    usage = (built / 'usage.html').read_text(encoding='utf-8')
    flags = {s for a in build_parser()._actions for s in a.option_strings if s.startswith('--')}
    assert len(flags) > 40
    assert not [flag for flag in flags - {'--help'} if flag not in usage]


def test_every_measure_of_the_group_level_is_explained():
    evaluation = (DOCS / 'evaluation.md').read_text(encoding='utf-8')
    missing = [name for name in MEANING if f'`{name}`' not in evaluation]
    assert not missing, f'{missing}: explain it in docs/evaluation.md'


def test_the_sidecars_that_are_shown_are_those_that_are_written():
    outputs = (DOCS / 'outputs.md').read_text(encoding='utf-8')
    shown = [json.loads(block) for block in re.findall(r'```json\n(.*?)```', outputs, re.DOTALL)]
    assert [sidecar['Description'] for sidecar in shown] == [
        DESCRIPTIONS[kind] for kind in ('harmonized', 'preproc')
    ]
    assert all('MadeFrom' in sidecar for sidecar in shown)


def test_the_page_of_measures_is_that_of_the_table():
    spec = importlib.util.spec_from_file_location('write_measures', DOCS / 'write_measures.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding='utf-8')
    assert page == module.content(), 'run python docs/write_measures.py'


def test_links_lead_somewhere():
    for page in DOCS.glob('*.md'):
        for target in re.findall(r'\]\((?!https?:)([^)#]+)', page.read_text(encoding='utf-8')):
            assert (DOCS / target).is_file(), f'{page.name} links to {target}'


def test_the_example_of_slices_in_python_is_right(tmp_path, monkeypatch):
    page = (DOCS / 'api.rst').read_text(encoding='utf-8')
    start = page.index('    import nibabel')
    example = textwrap.dedent(page[start : page.index('\n\nOne scan', start)])
    slices = np.zeros((128, 128, 1), np.float32)
    slices[30:100, 30:100] = 0.5
    name = 'sub-01_space-MNI152NLin2009aSym_res-130_desc-slices_T1w.nii.gz'
    nib.save(nib.Nifti1Image(slices, np.eye(4)), tmp_path / name)
    write_model(tmp_path / 'models' / 'calibrated.safetensors')
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(example.replace('ScannerA', 'PhantomA').replace('IXI', 'PhantomB'), found)
    assert found['after'].shape == (1, 128, 128)
    assert ((found['after'][0] > 0) <= (slices[..., 0] > 0)).all()
