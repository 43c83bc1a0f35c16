"""What is taken out of the image: one list, of what nothing that ddae-app runs loads."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / 'scripts' / 'slim_image.py'
PACKAGES = Path(sysconfig.get_path('purelib'))
RECIPES = ('Dockerfile', 'Singularity.def')

WITHOUT = """
import os, pkgutil, sys
from importlib import import_module
from pathlib import Path
import slim_image

gone, weights, opened = set(sys.argv[1].split()), Path(sys.argv[2]), sys.argv[3]
listed = open(opened, 'w', buffering=1)
for name in [n for n in sys.modules if n.split('.')[0] in gone]:
    del sys.modules[name]

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in gone:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

def note(event, arguments):
    if event == 'open' and isinstance(arguments[0], str):
        print(os.path.realpath(arguments[0]), file=listed)

sys.meta_path.insert(0, Gone())
sys.addaudithook(note)
# nnU-Net looks for the classes that weights name in all modules of these.
for package in ('training.nnUNetTrainer', 'preprocessing', 'imageio'):
    root = import_module(f'nnunetv2.{package}')
    for module in pkgutil.walk_packages(root.__path__, f'{root.__name__}.'):
        import_module(module.name)
slim_image.import_all()

import nibabel as nib
import numpy as np
from ddae_app.imaging.brain import hd_bet_mask
from ddae_app.imaging.weights import weights_sha256
from tests.imaging.nnunet_model import write_model

write_model(weights, threshold=-0.5)
data = np.zeros((60, 60, 60), np.float32)
data[8:52, 8:52, 8:52] = 1 + np.random.default_rng(0).random((44, 44, 44))
image = nib.Nifti1Image(data, np.diag([3, 3, 3, 1]))
assert hd_bet_mask(image, weights, weights_sha256(weights), 'cpu').any()

from ddae_app.reports.cortex import CortexMap, draw_cortex

assert draw_cortex([CortexMap('thickness', dict.fromkeys('LR', np.arange(10242.0)), 'mm')])
print('without', *sorted(gone))
"""
"""Imports what ddae-app imports, where the packages are not, finds a brain with nnU-Net, and draws
a cortex, which both read files of packages."""


@pytest.fixture(scope='module')
def slim_image():
    spec = importlib.util.spec_from_file_location('slim_image', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_run_the_script_and_remove_nothing_else(name):
    recipe = (REPOSITORY / name).read_text(encoding='utf-8')
    assert re.search(r'^(COPY| +)\s*scripts/slim_image.py', recipe, re.MULTILINE)
    (run,) = re.findall(r'python3 \S*slim_image.py', recipe)
    assert recipe.rindex('pip install') < recipe.index(run)
    assert not re.findall(r'\b(?:rm|find|pip uninstall|compileall)\b.*', recipe)


def test_docker_is_given_the_script():
    assert '!scripts/slim_image.py' in (REPOSITORY / '.dockerignore').read_text().splitlines()


def test_what_is_taken_out_is_not_loaded(slim_image, tmp_path):
    distributions = packages_distributions()
    names = {d.lower().replace('_', '-') for d in slim_image.PACKAGES}
    gone = sorted(
        module
        for module, owners in distributions.items()
        if {owner.lower().replace('_', '-') for owner in owners} <= names
    )
    assert {'imagecodecs', 'gdcm', 'dicom2nifti', 'setuptools'} <= set(gone)
    result = subprocess.run(
        [sys.executable, '-c', WITHOUT, ' '.join(gone), tmp_path / 'weights', tmp_path / 'opened'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            'PATH': str(Path(sys.executable).parent),
            'HOME': str(tmp_path),
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': f'{SCRIPT.parent}:{REPOSITORY}',
        },
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f'without {" ".join(gone)}'
    opened = {Path(line) for line in (tmp_path / 'opened').read_text().splitlines()}
    assert any(path.is_relative_to(PACKAGES.resolve() / 'nnunetv2') for path in opened)
    taken = {path.resolve() for _, path in slim_image.removed(PACKAGES)}
    assert not [path for path in opened if taken & {path, *path.parents}]


def test_every_entry_of_the_list_is_there(slim_image):
    """What no package brings any more is to be struck off the list."""
    found = {pattern for pattern, _ in slim_image.removed(PACKAGES)}
    # Builds of torch differ in the programs that they bring.
    missing = {p for p in set(slim_image.FILES) - found if not p.startswith(('torch/', '**/*.a'))}
    assert not missing
    assert all(reason for reason in (*slim_image.FILES.values(), *slim_image.PACKAGES.values()))


def test_removing(slim_image, tmp_path):
    kept = [
        'skimage/data/__init__.pyi', 'torch/bin/torch_shm_manager', 'testing/tests.py',
        'nvidia/cu13/include/cuda.h', 'nvidia/cu13/lib/libculibos.a', 'triton/include/cuda.h',
    ]  # fmt: skip
    gone = ['torch/include/ATen/a.h', 'scipy/stats/tests/test_a.py', 'a/b.pyx', 'a/tests/test/t.a']
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    slim_image.remove(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*') if p.is_file()}
    assert left == set(kept)
    assert not (tmp_path / 'torch' / 'include').exists()


@pytest.mark.skipif(shutil.which('strip') is None, reason='there is no program strip')
def test_stripped_modules_work(slim_image, tmp_path):
    shutil.copytree(PACKAGES / 'kiwisolver', tmp_path / 'kiwisolver')
    (module,) = (tmp_path / 'kiwisolver').glob('_cext*.so')
    untouched = tmp_path / 'nvidia' / module.name
    untouched.parent.mkdir()
    shutil.copy(module, untouched)
    slim_image.strip(tmp_path)
    assert module.stat().st_size < untouched.stat().st_size
    solve = 'import kiwisolver as k; x = k.Variable("x"); s = k.Solver(); s.addConstraint(x == 3)'
    done = subprocess.run(
        [sys.executable, '-c', f'{solve}; s.updateVariables(); print(x.value(), k.__file__)'],
        capture_output=True, text=True, env={'PYTHONPATH': str(tmp_path)}, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ['3.0', str(tmp_path / 'kiwisolver' / '__init__.py')]


@pytest.mark.skipif(shutil.which('strip') is None, reason='there is no program strip')
def test_a_library_that_strip_breaks_stays_as_it_is(slim_image, tmp_path):
    """As the one by which umap runs numba's loops in OpenMP's threads."""
    (source,) = (PACKAGES / 'numba' / 'np' / 'ufunc').glob('omppool.*.so')
    module = Path(shutil.copy(source, tmp_path))
    before = slim_image.loaded(module)
    slim_image.strip(tmp_path)
    assert slim_image.loaded(module) == before
    assert list(tmp_path.iterdir()) == [module]
    subprocess.run(
        [sys.executable, '-c', 'import omppool'], env={'PYTHONPATH': tmp_path}, check=True
    )


def test_imports_within_functions_are_found(slim_image, tmp_path, monkeypatch):
    package = tmp_path / 'some_package'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'module.py').write_text('def f():\n    import wave\n    from xml import dom\n')
    monkeypatch.syspath_prepend(tmp_path)
    expected = ['some_package', 'some_package.module', 'wave', 'xml', 'xml.dom']
    assert slim_image.imports_of('some_package') == expected


def test_packages_are_those_of_others(slim_image):
    """Nothing that ddae-app itself requires is taken out."""
    own = {re.match(r'[\w.-]+', line).group().lower() for line in requires('ddae-app')}
    assert not own & set(slim_image.PACKAGES)
