"""Take out of the environment of an image what no command of ddae-app loads.

    ENVIRONMENT/bin/python3 scripts/slim_image.py

The Dockerfile and Singularity.def run it when everything is installed. It changes the environment
whose Python runs it, for good: nothing can be installed there afterwards. It needs ``strip``, of
the binutils.

What it takes out is said here and nowhere else, each with the reason why nothing needs it.
``tests/containers/test_slim_image.py`` imports what ddae-app imports without it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import pkgutil
import py_compile
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = {
    'imagecodecs': 'decodes compressed TIFF for tifffile, which nnU-Net imports and which has '
    'codecs of its own; ddae-app reads no TIFF',
    'dicom2nifti': 'required by nnU-Net, which converts datasets for training with it',
    'python-gdcm': 'decodes the pixels of DICOM files for dicom2nifti; pydicom and nibabel do '
    'without it',
    'setuptools': 'required by torch, to compile extensions; the image has no compiler',
    'pip': 'installs packages; the image is read-only',
}
"""Packages that pip installs because others name them, and that none of those imports when
ddae-app runs. They are uninstalled; ``pip`` comes last, because it does that."""

FILES = {
    '**/tests/': 'tests of packages',
    '**/test/': 'tests of packages',
    'torch/bin/test_*': 'tests of torch, which are programs',
    'torch/bin/*Test': 'tests of torch, which are programs',
    'torch/bin/protoc*': 'a compiler of protocols, for builds of torch',
    'torch/lib/*_test.so': 'libraries for tests of torch',
    'torch/include/': 'headers, for compilers',
    'torch/share/': 'settings of CMake, for compilers',
    '**/*.a': 'static libraries, for linkers',
    '**/*.c': 'sources of compiled modules',
    '**/*.cpp': 'sources of compiled modules',
    '**/*.pyx': 'sources of compiled modules',
    '**/*.pxd': 'declarations, for Cython',
    '**/*.pxi': 'declarations, for Cython',
    '**/*.h': 'headers, for compilers',
    '**/*.hpp': 'headers, for compilers',
    '**/*.js.map': 'line numbers of the sources that a program in JavaScript was made from',
    'matplotlib/mpl-data/sample_data/': 'data for examples',
    'nilearn/_assets/js/': 'viewers for pages that nilearn writes; ddae-app writes none of them',
    'nipype/testing/data/': 'data for tests',
    'skimage/data/*.jpg': 'pictures for examples',
    'skimage/data/*.np?': 'pictures for examples',
    'skimage/data/*.png': 'pictures for examples',
    'skimage/data/*.tif': 'pictures for examples',
    'sklearn/datasets/images/*.jpg': 'pictures for examples',
    'statsmodels/datasets/*/*.csv': 'data for examples',
    'statsmodels/datasets/*/src/': 'data for examples',
    'traits/examples/': 'examples',
}
"""Files, by patterns below the folder of packages; those of folders end in a slash. Stubs (.pyi)
are not among them, because scikit-image reads its own when it is imported."""

UNTOUCHED = ('nvidia', 'triton', 'cuda')
"""Folders of packages for GPUs, which compile and link at run time with headers and libraries of
their own: nothing is taken out of them, and nothing in them is stripped."""

LAZY = (
    'HD_BET.checkpoint_download',
    'PIL.BmpImagePlugin',
    'PIL.GifImagePlugin',
    'PIL.JpegImagePlugin',
    'PIL.PpmImagePlugin',
    'contourpy.convert',
    'matplotlib.backends.backend_agg',
    'matplotlib.backends.backend_svg',
    'nipype.interfaces.utility',
    'nipype.pipeline.plugins.multiproc',
    'nnunetv2.inference.predict_from_raw_data',
    'nnunetv2.training.nnUNetTrainer.nnUNetTrainer',
    'pybtex.database.input.bibtex',
    'pybtex.style.formatting.unsrt',
    'sqlalchemy.dialects.sqlite',
    'torch._dynamo',
    'umap',
)
"""Modules that others import only when a command runs; their bytecode is worth its room."""


# Of the ELF format, of libraries.
LOAD, NO_BITS, ALLOCATED, PAGE = 1, 8, 2, 4096


def main() -> None:
    packages = Path(sysconfig.get_path('purelib'))
    if sys.prefix == sys.base_prefix:
        sys.exit('slim_image.py changes the environment that runs it: expected a virtual one')
    if shutil.which('strip') is None:
        sys.exit('slim_image.py needs the program strip, of the package binutils')
    before = size(Path(sys.prefix))
    uninstall()
    remove(packages)
    strip(packages)
    keep_bytecode(packages)
    print(f'{sys.prefix}: {before / 1e6:.0f} MB, now {size(Path(sys.prefix)) / 1e6:.0f} MB')


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.lstat().st_size for p in folder.rglob('*') if p.is_file())


def uninstall() -> None:
    """Uninstall the packages that nothing imports."""
    subprocess.run([sys.executable, '-m', 'pip', 'uninstall', '--yes', *PACKAGES], check=True)


def removed(packages: Path) -> Iterator[tuple[str, Path]]:
    """The pattern and the path of every file and folder that is taken out."""
    for pattern in FILES:
        for path in sorted(packages.glob(pattern.rstrip('/'))):
            if path.is_dir() == pattern.endswith('/') and not for_gpus(path, packages):
                yield pattern, path


def for_gpus(path: Path, packages: Path) -> bool:
    return path.relative_to(packages).parts[0] in UNTOUCHED


def remove(packages: Path) -> None:
    """Remove the files that nothing loads."""
    for _, path in removed(packages):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(packages: Path) -> None:
    """Take the symbols for debuggers and linkers out of compiled modules and libraries.

    ``strip`` breaks some of the libraries that the builder of a package patched (that of OpenMP of
    numba, for example). What it makes is only taken where all that is loaded is as it was.
    """
    for path in sorted(packages.rglob('*.so*')):
        if path.is_symlink() or not path.is_file() or for_gpus(path, packages):
            continue
        before, stripped = loaded(path), path.with_name(f'{path.name}.stripped')
        if before is None:
            continue
        subprocess.run(['strip', '--strip-unneeded', '-o', stripped, path], check=True)
        if loaded(stripped) == before and stripped.stat().st_size < path.stat().st_size:
            shutil.copymode(path, stripped)
            stripped.replace(path)
        else:
            stripped.unlink()


def loaded(path: Path) -> set[tuple[int, int, bytes]] | None:
    """Address, size and digest of each section of a library that a program loads.

    None if this is no 64-bit little-endian ELF file, or if its loader could not map a section.
    """
    data = path.read_bytes()
    if data[:6] != b'\x7fELF\x02\x01':
        return None
    segments_at, sections_at = struct.unpack_from('<QQ', data, 32)
    segment_size, n_segments, section_size, n_sections = struct.unpack_from('<4H', data, 54)
    mapped = []
    for i in range(n_segments):
        kind, _, offset, address, _, size, *_ = struct.unpack_from(
            '<IIQQQQQQ', data, segments_at + i * segment_size
        )
        if kind == LOAD:
            mapped.append((address, address + size, address - offset))
    if any(shift % PAGE for _, _, shift in mapped):
        return None
    found = set()
    for i in range(n_sections):
        _, kind, flags, address, offset, size, *_ = struct.unpack_from(
            '<IIQQQQIIQQ', data, sections_at + i * section_size
        )
        if not flags & ALLOCATED or not size:
            continue
        if kind == NO_BITS:
            found.add((address, size, b''))
            continue
        if (address - offset) not in {
            shift for start, end, shift in mapped if start <= address and address + size <= end
        }:
            return None
        found.add((address, size, hashlib.sha256(data[offset : offset + size]).digest()))
    return found


def keep_bytecode(packages: Path) -> None:
    """Keep the bytecode of what ddae-app imports, which is a third of all.

    It is compiled anew without the time of its source, which copies of the image may not keep.
    """
    # -P: what is installed, not the sources of ddae_app that may lie beside this script.
    command = [sys.executable, '-P', __file__, '--imported']
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    for folder in list(packages.rglob('__pycache__')):
        shutil.rmtree(folder)
    for line in listed.stdout.splitlines():
        if Path(line).is_relative_to(packages):
            py_compile.compile(
                line, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )


def import_all() -> None:
    """Import all that ddae-app imports, wherever it does."""
    for name in [*imports_of('ddae_app'), *LAZY]:
        importlib.import_module(name)


def print_imported() -> None:
    """Print the sources of all modules that ddae-app imports."""
    import_all()
    for module in list(sys.modules.values()):
        if (source := getattr(module, '__file__', None) or '').endswith('.py'):
            print(source)


def imports_of(package: str) -> list[str]:
    """Modules of a package, and all that they import, within functions too."""
    found = {package}
    root = importlib.import_module(package)
    for info in pkgutil.walk_packages(root.__path__, f'{package}.'):
        found.add(info.name)
        spec = importlib.util.find_spec(info.name)
        for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
                for alias in node.names:
                    if is_module(f'{node.module}.{alias.name}'):
                        found.add(f'{node.module}.{alias.name}')
    return sorted(found)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


if __name__ == '__main__':
    if sys.argv[1:] == ['--imported']:
        print_imported()
    else:
        main()
