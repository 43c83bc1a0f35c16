"""Small settings, and a bundle's worth of metadata, that tests share."""

from __future__ import annotations

import torch

from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.encoders import Condition
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.modelfile import BundleInfo, SiteQuantiles, TrainingRecord
from ddae_app.settings import Protocol

CONFIG = ModelConfig(
    image_size=16,
    unshuffle=2,
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    z_u_dim=8,
    z_u_noise=0.3,
    age_dim=4,
    sex_dim=2,
    site_dim=4,
    dropout=0.1,
    timesteps=100,
    schedule='cosine',
    prediction='v',
    condition_dropout=0.15,
    encoder_augment=True,
)


def random_model(config: ModelConfig = CONFIG, n_sites: int = 2) -> DDAE:
    """A network whose zero-initialised layers are random too, so that everything has effect."""
    model = DDAE(config, n_sites, age_mean=50.0, age_sd=15.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


def condition(age=(40.0, 60.0), sex=(0, 1), site=(0, 1)) -> Condition:
    """Labels of two scans, unless told otherwise."""
    first = torch.zeros(len(site), dtype=torch.int64)
    return Condition(torch.tensor(age), torch.tensor(sex), torch.tensor(site), first)


def info(config: ModelConfig = CONFIG, **changes) -> BundleInfo:
    """Metadata that fit ``random_model()``."""
    table = ((0.1, 0.9), (0.2, 0.8))
    values = {
        'name': 'toy',
        'config': config,
        'sites': ('A', 'B'),
        'age_mean': 50.0,
        'age_sd': 15.0,
        'protocol': Protocol(slice_shape=(config.image_size, config.image_size)),
        'quantiles': SiteQuantiles((0.0, 1.0), table, table, table),
        'training': TrainingRecord('phantoms', (10, 12), 0, 1000, 0.1, None),
        'versions': {'ddae-app': '0.1.0', 'torch': '2.2'},
        'phantom': True,
    }
    return BundleInfo(**(values | changes))
