"""Which slices a model is trained on where no flag says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddae_app.engine.inputs import protocol_without_model
from ddae_app.settings import HarmonizeSettings, PreprocSettings, Settings, TrainSettings


@pytest.mark.parametrize(
    ('slices', 'method', 'preset', 'expected'),
    [
        (None, None, 'base', 'all'),
        (None, 'combat', 'tiny', 'all'),
        (None, 'cvae', 'tiny', 'medial'),
        (None, 'ddae', 'paper', 'medial'),
        ('medial', None, 'base', 'medial'),
        ('all', 'ddae', 'paper', 'all'),
    ],
)
def test_all_slices_but_for_what_was_published(slices, method, preset, expected):
    settings = Settings(
        Path('/bids'),
        Path('/out'),
        'train',
        preproc=PreprocSettings(slices=slices),
        harmonize=HarmonizeSettings(method=method),
        train=TrainSettings(preset=preset),
    )
    protocol = protocol_without_model(settings)
    assert protocol.slices == expected
    assert protocol.depth == (130 if expected == 'all' else 1)
