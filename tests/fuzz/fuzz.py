"""Mutated inputs of every kind: each is read or refused with a message, in limited time.

    python -m tests.fuzz.fuzz [--cases 10000] [--seed 0] [--kinds nifti table ...]

A few hundred inputs of each kind are part of the test suite (``test_fuzz.py``). A case that fails
is named by its kind, seed and number, from which it can be reproduced.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from ddae_app.errors import DdaeError
from tests.fuzz.inputs import KINDS, Kind

SECONDS = 20
"""Time limit of one case."""

NASTY = (
    b'', b'\x00', b'\xff' * 8, b'-1', b'1e999', b'nan', b'NaN', b'"', b'\\', b'\n', b'\t', b'\r\n',
    b'../../..', b'/etc/passwd', b'<script>', b'%s%n', b'{{7*7}}', b'\xef\xbb\xbf', b'9' * 40,
    b'null', b'[' * 60, b'{"a":' * 60, b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f', b'n/a',
)  # fmt: skip


def mutate(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    """A few random edits of some bytes, or of the first `within` bytes."""
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


def mutated(kind: Kind, rng: random.Random) -> tuple[bytes, ...]:
    """The parts of an input, some of them mutated."""
    parts = list(kind.example)
    for at in {rng.randrange(len(parts)) for _ in range(rng.randint(1, 3))}:
        parts[at] = mutate(parts[at], rng, kind.header if rng.random() < 0.9 else None)
    return tuple(parts)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the block takes too long."""

    def over(number: int, frame: object) -> None:
        raise TimeoutError(f'took more than {seconds} s')

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def failure(kind: Kind, parts: tuple[bytes, ...], folder: Path) -> str | None:
    """What is wrong with an input that is neither read nor refused with a message, or None."""
    here = folder / 'here'
    here.mkdir()
    try:
        with limited(SECONDS):
            kind.read(parts, here)
    except DdaeError as e:
        if not str(e).strip() or '\n' in str(e):
            return f'expected a message of one line, found {str(e)!r}'
    except Exception:
        return traceback.format_exc()
    finally:
        shutil.rmtree(here)
    left = list(folder.rglob('*'))
    return f'files left outside: {left}' if left else None


def failures(kind: str, seed: int, cases: range) -> Iterator[tuple[int, str]]:
    """The number of each mutated input that fails, and the reason."""
    with tempfile.TemporaryDirectory() as name:
        made = KINDS[kind](Path(name))
        for number in cases:
            parts = mutated(made, random.Random(f'{kind} {seed} {number}'))
            if reason := failure(made, parts, Path(name)):
                yield number, reason


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cases', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    logging.disable()
    total = 0
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
        total += bad
    return 1 if total else 0


if __name__ == '__main__':
    sys.exit(main())
