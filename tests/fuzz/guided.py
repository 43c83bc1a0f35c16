"""The same inputs, mutated by atheris, which keeps inputs that reach new lines of the program.

    python -m tests.fuzz.guided KIND [-runs=10000] [-max_total_time=600] [other flags of libFuzzer]

It stops at the first input that is neither read nor refused with a message, and writes it to a
file.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=['ddae_app']):
    from tests.fuzz.inputs import KINDS

from tests.fuzz.fuzz import failure

SEPARATOR = b'\n--8<--\n'


def main() -> None:
    kind = sys.argv.pop(1)
    logging.disable()
    with tempfile.TemporaryDirectory() as name:
        folder, corpus = Path(name, 'work'), Path(name, 'corpus')
        folder.mkdir()
        corpus.mkdir()
        made = KINDS[kind](folder)
        (corpus / 'example').write_bytes(SEPARATOR.join(made.example))

        def one_input(data: bytes) -> None:
            parts = data.split(SEPARATOR)[: len(made.example)]
            missing = made.example[len(parts) :]
            if reason := failure(made, (*parts, *missing), folder):
                raise AssertionError(reason)

        longest = 2 * sum(map(len, made.example))
        atheris.Setup([sys.argv[0], f'-max_len={longest}', *sys.argv[1:], str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == '__main__':
    main()
