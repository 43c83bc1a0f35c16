"""A small DDAE that was trained on two toy scanners."""

from __future__ import annotations

import pytest
import torch

from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer

from ..toy_sites import PRESET, PROTOCOL, cohort


@pytest.fixture(scope='session')
def fitted() -> DDAEHarmonizer:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    harmonizer = DDAEHarmonizer(preset=PRESET, protocol=PROTOCOL, device='cpu').fit(*cohort())
    torch.set_num_threads(threads)
    return harmonizer
