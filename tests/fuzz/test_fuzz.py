"""A few hundred mutated inputs of each kind; ten thousand are `make fuzz`."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.fuzz import failure, failures, mutate
from tests.fuzz.inputs import KINDS, Kind


@pytest.mark.parametrize('kind', sorted(KINDS))
@pytest.mark.filterwarnings('ignore')  # of nibabel, about headers that it mends
def test_mutated_input_is_read_or_refused_in_words(kind):
    assert list(failures(kind, 1, range(60 if kind == 'bundle' else 250))) == []


def test_a_failure_would_be_seen(monkeypatch, tmp_path):
    def broken(folder):
        def read(parts, path):
            (path.parent / 'escaped').touch()
            return 1 // (parts[0] == b'participant_id')

        return Kind((b'participant_id',), read)

    monkeypatch.setitem(KINDS, 'broken', broken)
    reports = list(failures('broken', 0, range(20)))
    assert 'ZeroDivisionError' in reports[0][1]
    assert failure(broken(None), (b'participant_id',), tmp_path).startswith('files left outside')


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_the_examples_are_read(kind, tmp_path):
    made = KINDS[kind](tmp_path)
    assert made.read(made.example, tmp_path) is not None


def test_mutations_differ_and_repeat():
    first, again, other = (mutate(b'participant_id' * 9, random.Random(s)) for s in (1, 1, 2))
    assert first == again != other
