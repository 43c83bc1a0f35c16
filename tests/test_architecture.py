"""Who may import whom: the rules of the house, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddae_app

ROOT = Path(ddae_app.__file__).parent
MODULES = sorted(ROOT.rglob('*.py'))
EVERYONE = {'', 'errors', 'settings', 'files'}  # '' is the version
MAY_IMPORT = {
    '__main__': {'cli'},
    'cli': {'levels', 'phantom', 'imaging'},
    'levels': {
        'workflows', 'training', 'evaluation', 'harmonize', 'bids', 'reports', 'imaging',
    },
    'workflows': {'interfaces', 'bids'},
    'interfaces': {'imaging', 'harmonize', 'reports'},
    'evaluation': {'harmonize', 'imaging'},
    'harmonize': {'model', 'training', 'imaging'},
    'training': {'model', 'imaging'},
    'model': {'imaging'},
    'phantom': {'imaging', 'bids'},
}  # fmt: skip
EXCEPTIONS = {('workflows', 'ddae_app.imaging.templates.TemplateFiles')}
FORBIDDEN = {
    'model': {'nipype', 'pandas', 'bids', 'nibabel'},
    'imaging': {'torch', 'nipype', 'pandas', 'bids'},
    'evaluation': {'nipype', 'bids'},
    'bids': {'torch', 'nipype'},
    'settings': {'torch', 'nipype', 'bids'},
}
MAY_USE_TORCH = ROOT / 'imaging' / 'brain.py'


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def _imported(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_module_imports_only_what_its_room_may(path):
    names = {name for name in _imported(path) if (_room(path), name) not in EXCEPTIONS}
    own = [name.split('.')[1] for name in names if name.startswith('ddae_app.')]
    rooms = {name if (ROOT / name).is_dir() or (ROOT / f'{name}.py').is_file() else ''
             for name in own}  # fmt: skip
    assert rooms - {_room(path)} - EVERYONE <= MAY_IMPORT.get(_room(path), set())


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_module_uses_only_libraries_that_its_room_may(path):
    libraries = {name.split('.')[0] for name in _imported(path)}
    forbidden = FORBIDDEN.get(_room(path), set())
    allowed = {'torch'} if path == MAY_USE_TORCH else {'bids'} if _room(path) == 'bids' else set()
    assert not libraries & (forbidden - allowed)


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_only_the_command_line_reads_the_environment(path):
    text = path.read_text(encoding='utf-8')
    assert _room(path) == 'cli' or not ('os.environ' in text or 'getenv' in text)


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_module_can_be_read_in_one_go(path):
    assert len(path.read_text(encoding='utf-8').splitlines()) <= 400


def test_the_rules_see_the_imports(tmp_path):
    path = tmp_path / 'x.py'
    path.write_text('import a.b\ndef f():\n    from ddae_app.bids import layout\n')
    assert _imported(path) == {'a.b', 'ddae_app.bids.layout'}


def test_preprocessing_alone_needs_no_torch():
    """200 MB in every process of a run, in the way of --stage preproc on small nodes."""
    code = 'import sys, ddae_app.levels.participant.level; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
