from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import pytest

from ddae_app.errors import WeightsError
from ddae_app.imaging.weights import (
    CHECKPOINT,
    RECORD,
    WEIGHTS_FILES,
    check_weights,
    record_weights,
    weights_sha256,
)
from tests.imaging.nnunet_model import write_model


@pytest.fixture
def weights(tmp_path) -> Path:
    return write_model(tmp_path / 'weights', threshold=0.25)


def test_the_digest_is_that_of_the_three_files(weights):
    whole = b''.join((weights / name).read_bytes() for name in WEIGHTS_FILES)
    assert weights_sha256(weights) == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize('name', WEIGHTS_FILES)
def test_missing_weights(weights, name):
    (weights / name).unlink()
    with pytest.raises(WeightsError, match='are missing; run "ddae-app-fetch hd-bet"') as caught:
        check_weights(weights)
    assert str(weights / name) in str(caught.value)
    # The packaged template has no skull, so that --skull-strip template would fail on whole heads.
    assert str(caught.value).endswith('or choose --skull-strip deepbet, which needs none')


def test_weights_that_nobody_vouches_for(weights):
    with pytest.raises(WeightsError, match='can run code') as caught:
        check_weights(weights)
    # The message ends with the flag that would do.
    given = str(caught.value).split('--hd-bet-sha256 ')[1]
    assert check_weights(weights, given) == given == weights_sha256(weights)
    assert check_weights(weights, given.upper()) == given


@pytest.mark.parametrize('text', ['', 'x' * 64, 'ab', '\xff\xfe'])
def test_a_record_that_is_none(weights, text):
    (weights / RECORD).write_text(text)
    with pytest.raises(WeightsError, match='not downloaded by ddae-app-fetch'):
        check_weights(weights)


def test_weights_that_were_fetched(weights):
    record_weights(weights, weights_sha256(weights))
    assert check_weights(weights) == weights_sha256(weights)


@pytest.mark.parametrize('name', WEIGHTS_FILES)
def test_weights_changed_after_they_were_fetched(weights, name):
    record_weights(weights, weights_sha256(weights))
    with (weights / name).open('ab') as file:
        file.write(b' ')
    with pytest.raises(WeightsError, match=f'but {RECORD} says'):
        check_weights(weights)


def test_what_the_user_gives_counts_more_than_the_record(weights):
    record_weights(weights, weights_sha256(weights))
    with pytest.raises(WeightsError, match='but --hd-bet-sha256 says 0000'):
        check_weights(weights, '0' * 64)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def test_a_hostile_checkpoint_is_never_opened(weights, tmp_path):
    honest = shutil.copytree(weights, tmp_path / 'honest')
    (weights / CHECKPOINT).write_bytes(pickle.dumps(Trap(tmp_path / 'trapped')))
    with pytest.raises(WeightsError):
        check_weights(weights)
    with pytest.raises(WeightsError):
        check_weights(weights, weights_sha256(honest))
    assert not (tmp_path / 'trapped').exists()
    pickle.loads((weights / CHECKPOINT).read_bytes())
    assert (tmp_path / 'trapped').exists()
