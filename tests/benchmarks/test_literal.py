"""The DDAE as its paper describes it, on a network with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.literal import Literal
from ddae_app.methods.ddae.bundle import Bundle
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from tests.methods.toy import info, random_model, slices


def test_slices_do_not_depend_on_the_size_of_batches():
    data = slices(3)
    images = data.images[:, 0]
    cohort = pd.DataFrame({'site': data.sites, 'age': 50.0, 'sex': 'F'})
    bundle = Bundle(random_model(), info(), Path('toy.safetensors'), 'f' * 64)
    trained = DDAEHarmonizer(bundle=bundle)
    whole, parts = (
        Literal(trained, random=False, steps=2, batch_size=size).transform(images, cohort, 'A')
        for size in (len(images), 2)
    )
    assert whole.shape == images.shape
    assert np.abs(parts - whole).max() < 1e-4
    assert (whole[images == 0] == 0).all() and np.ptp(whole) > 0
