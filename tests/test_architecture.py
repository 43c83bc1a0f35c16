"""Who may import whom: the rules of docs/architecture.md, held against the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddae_app

ROOT = Path(ddae_app.__file__).parent
DOCS = ROOT.parent / 'docs'
MODULES = sorted(ROOT.rglob('*.py'))
LEAVES = {'', 'errors', 'settings', 'files', 'processes', 'methods.registry'}  # '' is the version
"""What every package may import; these import nothing but each other."""

MAY_IMPORT = {
    '__main__': {'cli'},
    'cli': {'levels', 'bids', 'phantom', 'imaging'},
    'levels': {
        'engine', 'workflows', 'features', 'methods', 'evaluation', 'reports', 'bids', 'imaging',
    },
    'engine': {'workflows', 'methods', 'bids', 'imaging'},
    'workflows': {'interfaces', 'bids'},
    'interfaces': {'methods', 'reports', 'imaging'},
    'features': {'methods', 'evaluation', 'bids', 'imaging'},
    'evaluation': {'methods', 'imaging'},
    'methods': {'imaging'},
    'bids': {'imaging'},
}  # fmt: skip
EXCEPTIONS = {('workflows', 'ddae_app.imaging.templates.TemplateFiles')}
FORBIDDEN = {
    'methods': {'nipype', 'bids', 'nibabel'},
    'imaging': {'torch', 'nipype', 'pandas', 'bids'},
    'evaluation': {'nipype', 'bids'},
    'features': {'torch', 'nipype', 'bids', 'nibabel'},
    'bids': {'torch', 'nipype'},
    'reports': {'torch', 'nipype', 'bids'},
    'settings': {'torch', 'nipype', 'bids'},
}
MAY_USE_TORCH = {ROOT / 'imaging' / 'brain.py', ROOT / 'imaging' / 'deepbet.py'}


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


def _own(path: Path) -> set[str]:
    """Modules of ours that a module imports, without ``ddae_app.``, typing included."""
    modules = {_dotted(module) for module in MODULES}
    own = set()
    for name in _imported(path):
        if (_room(path), name) in EXCEPTIONS or not name.startswith('ddae_app.'):
            continue
        parts = name.removeprefix('ddae_app.').split('.')
        prefixes = ('.'.join(parts[:n]) for n in range(len(parts), 0, -1))
        own.add(next((prefix for prefix in prefixes if prefix in modules), ''))
    return own


def _dotted(path: Path) -> str:
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_module_imports_only_what_its_package_may(path):
    packages = {name.split('.')[0] for name in _own(path) - LEAVES}
    if _dotted(path) in LEAVES:
        assert not packages
    assert packages - {_room(path)} <= MAY_IMPORT.get(_room(path), set())


def test_the_documentation_shows_these_rules():
    text = (DOCS / 'architecture.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| `(\w+)` \| ([^|]+) \|', text, re.MULTILINE)
    shown = {name: {part.strip(' `') for part in parts.split(',')} for name, parts in rows}
    rules = {name: parts for name, parts in MAY_IMPORT.items() if name != '__main__'}
    assert {name: parts - {'nothing'} for name, parts in shown.items()} == (
        dict.fromkeys(('imaging', 'phantom', 'reports'), set()) | rules
    )


def test_no_module_imports_itself_through_others():
    """No circle, imports for typing and inside functions included."""
    graph = {_dotted(path): _own(path) - {''} for path in MODULES}
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            module = waiting.pop()
            assert module != start, f'{start} is imported by what it imports'
            if module not in seen:
                seen.add(module)
                waiting += graph[module]


def test_inside_methods_only_what_loads_them_knows_the_registry():
    knowing = {_dotted(path) for path in MODULES if 'methods.registry' in _own(path)}
    methods = {name for name in knowing if name.startswith('methods.')}
    assert methods == {'methods.modelfile', 'methods.find', 'methods.compatibility'}


def test_harmonizing_needs_nothing_of_training():
    code = (
        'import sys, ddae_app.methods.ddae.harmonizer; '
        'sys.exit(any(f"ddae_app.methods.ddae.{name}" in sys.modules '
        'for name in ("train", "trainer", "losses", "augment", "checkpoint")))'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_who_learns_a_name_loads_neither_torch_nor_nipype():
    code = (
        'import sys, ddae_app.bids.layout, ddae_app.engine.decision, ddae_app.methods.registry; '
        'sys.exit(bool({"torch", "nipype"} & set(sys.modules)))'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_module_uses_only_libraries_that_its_room_may(path):
    libraries = {name.split('.')[0] for name in _imported(path)}
    forbidden = FORBIDDEN.get(_room(path), set())
    allowed = {'torch'} if path in MAY_USE_TORCH else {'bids'} if _room(path) == 'bids' else set()
    assert not libraries & (forbidden - allowed)


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_only_the_command_line_reads_the_environment(path):
    text = path.read_text(encoding='utf-8')
    assert _room(path) == 'cli' or not ('os.environ' in text or 'getenv' in text)


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_module_can_be_read_in_one_go(path):
    assert len(path.read_text(encoding='utf-8').splitlines()) <= 400


@pytest.mark.parametrize('path', MODULES, ids=_id)
def test_a_function_fits_on_a_screen(path):
    """At most 80 lines, without the docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.FunctionDef):
            told = ast.get_docstring(node, clean=False) or ''
            lines = node.end_lineno - node.lineno + 1 - len(told.splitlines())
            assert lines <= 80, f'{node.name}: {lines} lines'


def test_the_rules_see_the_imports(tmp_path):
    path = tmp_path / 'x.py'
    path.write_text('import a.b\ndef f():\n    from ddae_app.bids import layout\n')
    assert _imported(path) == {'a.b', 'ddae_app.bids.layout'}


def test_harmonizing_a_table_needs_no_torch():
    code = 'import sys, ddae_app.levels.features.run; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_preprocessing_alone_needs_no_torch():
    """200 MB in every process of a run, in the way of --stage preproc on small nodes."""
    code = 'import sys, ddae_app.levels.participant.level; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
