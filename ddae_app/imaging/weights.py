"""The weights of HD-BET: their files, and the check whether they may be loaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ddae_app.errors import WeightsError
from ddae_app.files import write_atomically

CHECKPOINT = Path('fold_all', 'checkpoint_final.pth')
WEIGHTS_FILES = (Path('plans.json'), Path('dataset.json'), CHECKPOINT)
RECORD = 'ddae-app.sha256'
"""File in which ``ddae-app-fetch`` records the digest of the weights that it downloaded."""


def weights_sha256(weights: Path) -> str:
    """SHA-256 of the three files of HD-BET, concatenated.

    All of them are security-relevant: the checkpoint is a pickle, which can run code, and the
    plans name the Python classes that nnU-Net calls. The same digest is given by
    ``cat plans.json dataset.json fold_all/checkpoint_final.pth | sha256sum``.

    Raises
    ------
    WeightsError
        A file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for name in WEIGHTS_FILES:
        try:
            with (weights / name).open('rb') as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except FileNotFoundError as e:
            raise WeightsError(
                f'{weights / name}: HD-BET weights are missing; run "ddae-app-fetch hd-bet" '
                'with network access, name their folder with --hd-bet-weights or HDBET_WEIGHTS, '
                'or choose --skull-strip deepbet, which needs none'
            ) from e
        except OSError as e:
            raise WeightsError(f'{weights / name}: cannot be read ({e.strerror})') from e
    return digest.hexdigest()


def check_weights(weights: Path, given: str | None = None) -> str:
    """SHA-256 of the weights of HD-BET, if they are trusted.

    Parameters
    ----------
    weights : Path
        Folder with ``plans.json``, ``dataset.json`` and ``fold_all/checkpoint_final.pth``.
    given : str or None
        SHA-256 (64 hexadecimal digits) of the weights that the user trusts; by default, the
        digest that ``ddae-app-fetch`` recorded when it downloaded them.

    Raises
    ------
    WeightsError
        A file is missing, no digest is known, or the weights have another digest.
    """
    digest = weights_sha256(weights)
    source, expected = ('--hd-bet-sha256', given) if given else (RECORD, _recorded(weights))
    if expected is None:
        raise WeightsError(
            f'{weights}: not downloaded by ddae-app-fetch, and loading a checkpoint can run code; '
            'run "ddae-app-fetch hd-bet", or, if you trust the source of these weights, use '
            f'--hd-bet-sha256 {digest}'
        )
    if digest != expected.lower():
        raise WeightsError(
            f'{weights}: SHA-256 of the weights is {digest}, but {source} says {expected[:64]}; '
            'fetch them again with "ddae-app-fetch hd-bet"'
        )
    return digest


def record_weights(weights: Path, sha256: str) -> None:
    """Record the digest of weights that were just downloaded, which marks them as trusted."""
    write_atomically(weights / RECORD, f'{sha256}\n')


def _recorded(weights: Path) -> str | None:
    try:
        text = (weights / RECORD).read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return None
    return text if re.fullmatch('[0-9a-f]{64}', text) else None
