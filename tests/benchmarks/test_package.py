"""Benchmarks lie beside the installed package, and each says how to run it."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from pathlib import Path

import pytest

import benchmarks
import ddae_app

FOLDER = Path(benchmarks.__file__).parent
PROGRAMS = sorted(p for p in FOLDER.glob('*.py') if "__name__ == '__main__'" in p.read_text())


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or '').split('.')[0])
    return names


@pytest.mark.parametrize('path', PROGRAMS, ids=lambda path: path.stem)
def test_the_head_says_how_to_run_it(path):
    head = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    assert head is not None and f'python -m benchmarks.{path.stem}' in head


SCRIPTS = [*FOLDER.glob('*.py'), *FOLDER.parent.glob('scripts/*.py')]


@pytest.mark.parametrize('path', sorted(SCRIPTS), ids=lambda path: path.stem)
def test_what_is_imported_from_the_package_is_there(path):
    """Within functions too, where nobody would notice before the script is run."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('ddae_app'):
            module = importlib.import_module(node.module)
            for alias in node.names:
                known = hasattr(module, alias.name)
                assert known or importlib.util.find_spec(f'{node.module}.{alias.name}')


def test_the_package_needs_no_benchmark_and_no_test():
    modules = list(Path(ddae_app.__file__).parent.rglob('*.py'))
    assert len(modules) > 100
    assert not [path for path in modules if imported(path) & {'benchmarks', 'tests'}]


def test_the_wheel_holds_the_package_alone():
    project = tomllib.loads((FOLDER.parent / 'pyproject.toml').read_text(encoding='utf-8'))
    assert project['tool']['hatch']['build']['targets']['wheel']['packages'] == ['ddae_app']
