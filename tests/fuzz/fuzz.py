"""Mutated inputs of every kind: each is read, or refused in words, and never takes long.

    python -m tests.fuzz.fuzz [--cases 10000] [--seed 0] [--kinds nifti table ...]

A few hundred of each are part of the test suite (``test_fuzz.py``). A case that fails is kept, and
named by kind, seed and number, so that it can be made again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from ddae_app.bids.cohort import read_cohort
from ddae_app.bids.names import Scan
from ddae_app.bids.query import read_filters
from ddae_app.bids.records import read_record
from ddae_app.cli.main import resolve
from ddae_app.cli.parser import build_parser
from ddae_app.errors import DdaeError
from ddae_app.harmonize.models import find_model
from ddae_app.imaging.conform import conform, load_t1w
from ddae_app.settings import from_flat, read_flat, to_toml

SECONDS = 20
"""Longest that a case may take."""

NASTY = (
    b'', b'\x00', b'\xff' * 8, b'-1', b'1e999', b'nan', b'NaN', b'"', b'\\', b'\n', b'\t', b'\r\n',
    b'../../..', b'/etc/passwd', b'<script>', b'%s%n', b'{{7*7}}', b'\xef\xbb\xbf', b'9' * 40,
    b'null', b'[' * 60, b'{"a":' * 60, b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f', b'n/a',
)  # fmt: skip


def mutate(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    """A few random edits of some bytes, of the first `within` where that is given."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        end = min(len(out), within or len(out))
        at = rng.randrange(end + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at:at] = rng.choice(NASTY)
        elif kind == 2:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 3:
            piece = rng.choice(NASTY)
            out[at : at + len(piece)] = piece
        else:
            other = rng.randrange(end + 1)
            out[at:at] = out[other : other + rng.randint(1, 40)]
    return bytes(out)


Case = Callable[[random.Random, Path], object]


def nifti(folder: Path) -> Case:
    """Headers of a small image, and now and then its data."""
    data = np.arange(24 * 24 * 24, dtype=np.int16).reshape(24, 24, 24)
    whole = nib.Nifti1Image(data, np.diag([5.0, 5.0, 5.0, 1.0])).to_bytes()

    def case(rng: random.Random, path: Path) -> object:
        file = path / 'sub-01_T1w.nii'
        file.write_bytes(mutate(whole, rng, 348 if rng.random() < 0.9 else None))
        return conform(load_t1w(file))

    return case


def table(folder: Path) -> Case:
    """participants.tsv and its dictionary."""
    rows = b'participant_id\tage\tsex\tsite\nsub-01\t30\tF\tA\nsub-02\t89+\tmale\tn/a\n'
    levels = json.dumps({'age': {'Units': 'year'}, 'sex': {'Levels': {'F': 'female'}}}).encode()

    def case(rng: random.Random, path: Path) -> object:
        (path / 'participants.tsv').write_bytes(mutate(rows, rng))
        (path / 'participants.json').write_bytes(mutate(levels, rng))
        scans = [Scan(path / 'x.nii', label, None, f'sub-{label}') for label in ('01', '02')]
        cohort = read_cohort(path, scans, site_column=None, source_site=None)
        return cohort.summary(scans)

    return case


def filters(folder: Path) -> Case:
    """BIDS filter files."""
    text = b'{"t1w": {"session": ["01", null], "acquisition": "*", "run": 1}}'

    def case(rng: random.Random, path: Path) -> object:
        (path / 'filters.json').write_bytes(mutate(text, rng))
        return read_filters(path / 'filters.json')

    return case


def sidecar(folder: Path) -> Case:
    """Sidecars of outputs that an earlier run left."""
    text = b'{"MadeFrom": {"RawSHA256": "ab", "Grid": [1, 2, 3]}, "ssim": 0.5}'

    def case(rng: random.Random, path: Path) -> object:
        (path / 'sub-01_T1w.json').write_bytes(mutate(text, rng))
        return read_record(path / 'sub-01_T1w.nii.gz')

    return case


def settings(folder: Path) -> Case:
    """Settings files, with every setting in them."""
    some = {'bids_dir': 'in', 'output_dir': 'out', 'analysis_level': 'train', 'biology': ['a']}
    text = to_toml(from_flat(some | {'target_site': 'A', 'max_hours': 2.5})).encode()

    def case(rng: random.Random, path: Path) -> object:
        (path / 'settings.toml').write_bytes(mutate(text, rng))
        return read_flat(path / 'settings.toml')

    return case


def bundle(folder: Path) -> Case:
    """Model files: the length of their header, the header, and the first weights."""
    model = find_model(None, None, folder).path.read_bytes()
    header = 8 + int.from_bytes(model[:8], 'little')
    start = model[: header + 4096]

    def case(rng: random.Random, path: Path) -> object:
        (path / 'model.safetensors').write_bytes(mutate(start, rng, header) + model[len(start) :])
        return find_model(path / 'model.safetensors', None, path)

    return case


def arguments(folder: Path) -> Case:
    """Command lines; argparse ends with 2 what it cannot read."""
    words = [
        'participant', '--target-site', 'A', '--nprocs', '2', '--mem', '4G', '-w', 'W', '--device',
        'cpu', '-v', '--max-hours', '1.5', '--random-seed', '3', '--stage', 'all',
    ]  # fmt: skip

    def case(rng: random.Random, path: Path) -> object:
        line = [str(path / 'bids'), str(path / 'out'), *words]
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(line))
            text = mutate(line[at].encode(), rng).decode('utf-8', 'replace').replace('\0', '0')
            # A mutated path must not lead out of the folder of this case.
            line[at] = text.replace('/', '_') if at > 1 else line[at]
        (path / 'bids').mkdir()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                given = vars(build_parser().parse_args(line))
            except SystemExit as e:
                return e.code
            given['work_dir'] = path / 'work'
            return resolve(given, {'HOME': '/nowhere'})

    return case


KINDS = {f.__name__: f for f in (nifti, table, filters, sidecar, settings, bundle, arguments)}


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where something takes too long."""

    def over(number: int, frame: object) -> None:
        raise TimeoutError(f'took more than {seconds} s')

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def failures(kind: str, seed: int, cases: range) -> Iterator[tuple[int, str]]:
    """Number and traceback of each case that is neither read nor refused in words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = KINDS[kind](folder)
        for number in cases:
            here = folder / str(number)
            here.mkdir()
            try:
                with limited(SECONDS):
                    case(random.Random(f'{kind} {seed} {number}'), here)
            except DdaeError as e:
                if not str(e).strip():
                    yield number, 'refused without a word'
            except Exception:
                yield number, traceback.format_exc()
            finally:
                for file in sorted(here.rglob('*'), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
                here.rmdir()
        left = list(folder.rglob('*'))
        if left:
            yield -1, f'files left outside: {left}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cases', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    found = 0
    for kind in args.kinds:
        started, bad = time.monotonic(), 0
        for number, text in failures(kind, args.seed, range(args.cases)):
            bad += 1
            if bad <= 3:
                print(f'{kind}, seed {args.seed}, case {number}:\n{text}', flush=True)
        print(
            f'{kind}: {args.cases} cases, {bad} failed, {time.monotonic() - started:.0f} s',
            flush=True,
        )
        found += bad
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
